"""What all experiments in the region cost a month, and what of it nobody uses any more. Changes nothing.

Found by the tag zoobot:experiment, whichever settings made it. The Resource Groups Tagging API lists every kind that
carries the tag, so one that nobody thought of is shown as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from botocore.exceptions import ClientError

from launch import cost
from launch.aws import DAY, EXPERIMENT, ROLE, WORKING_VOLUME, Cloud, code_of, tags_of
from launch.backup import old
from launch.errors import LaunchError
from launch.find import ENDING, driver_of, state_of

_LONGEST_S = 23.25 * 3600  # that settings allow a machine
_GRACE_S = 900
_SEEN = ("ec2:instance", "ec2:volume", "ec2:snapshot", "ec2:image", "ec2:elastic-ip")  # described one by one
_FREE = ("ec2:launch-template", "ec2:security-group", "ec2:network-interface", "ec2:spot-instances-request", "iam:",
         "sqs:", "scheduler:", "budgets:", "ssm:parameter")  # fmt: skip
_LAST_COPY = "it may be the last copy of all state, so look before you delete it"
_LEFT = {"drill_volume": "a drill that was cut off left it", "restored_volume": "run restore again, which was cut off"}


@dataclass(frozen=True)
class Thing:
    """What costs money: US dollars a month (None: nobody here knows), why nobody uses it, how to remove it."""

    experiment: str
    kind: str
    name: str
    since: str
    usd: float | None
    remove: str
    unused: str = ""


@dataclass
class Account:
    """All that EC2 has with the tag, of every experiment."""

    cloud: Cloud
    things: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Ask EC2 for all kinds."""
        tagged = [{"Name": "tag-key", "Values": [EXPERIMENT]}]
        for operation, key, whose in (
            ("describe_instances", "Reservations", {}), ("describe_volumes", "Volumes", {}),
            ("describe_snapshots", "Snapshots", {"OwnerIds": ["self"]}),
            ("describe_images", "Images", {"Owners": ["self"]}),
            ("describe_launch_templates", "LaunchTemplates", {}),
        ):  # fmt: skip
            self.things[key] = self.cloud.pages("ec2", operation, key, Filters=tagged, **whose)
        self.things["Addresses"] = self.cloud.call("ec2", "describe_addresses", Filters=tagged)["Addresses"]
        all_machines = [i for r in self.things["Reservations"] for i in r["Instances"]]
        self.things["Instances"] = [i for i in all_machines if state_of(i) not in ENDING]

    def of(self, key: str, experiment: str, role: str = "") -> list[dict[str, Any]]:
        """The things of one kind of an experiment, with a role if one is given."""
        mine = [thing for thing in self.things[key] if tags_of(thing)[EXPERIMENT] == experiment]
        return [thing for thing in mine if role in ("", tags_of(thing).get(ROLE))]


def audit(cloud: Cloud) -> None:
    """Print all that costs money, by experiment. LaunchError if some of it is used by nobody."""
    things = inventory(cloud)
    for experiment in sorted({thing.experiment for thing in things}):
        cloud.say(experiment)
        for thing in [t for t in things if t.experiment == experiment]:
            cloud.say(line_of(thing))
    cloud.say(
        f"together ${_sum(things):.2f} a month in {cloud.config.region}, if machines run all month and volumes are full"
    )
    unused = [thing for thing in things if thing.unused]
    if unused:
        raise LaunchError(f"Nobody uses {len(unused)} of {len(things)} things: ${_sum(unused):.2f} a month. See above.")


def line_of(thing: Thing) -> str:
    """One thing on a line; how to remove it on the next, if nobody uses it."""
    usd = "unknown" if thing.usd is None else f"${thing.usd:.2f}"
    text = f"  {usd:>9} a month  {thing.kind:<9} {thing.name}, since {thing.since or '?'}"
    return f"{text}\n             NOT USED: {thing.unused}. {thing.remove}" if thing.unused else text


def inventory(cloud: Cloud) -> list[Thing]:
    """All that costs money and carries the tag, in the region of the settings; and their logs in S3."""
    account = Account(cloud)
    found = [*_machines(account), *_volumes(account), *_images(account), *_snapshots(account), *_addresses(account)]
    found += [*_schedules(account), *_objects(cloud), *_others(cloud)]
    where = f" --region {cloud.config.region}"
    return [replace(thing, remove=thing.remove + where) if thing.remove else thing for thing in found]


def _machines(account: Account) -> Iterator[Thing]:
    cloud = account.cloud
    for instance in account.things["Instances"]:
        experiment, name = tags_of(instance)[EXPERIMENT], str(instance["InstanceId"])
        mine = experiment == cloud.config.experiment
        longest = (cloud.config.max_runtime_s if mine else _LONGEST_S) + _GRACE_S
        age_s = (cloud.now() - instance["LaunchTime"]).total_seconds()
        market = "spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand"
        usd = cost.always_on(instance["InstanceType"], market)
        unused = f"it is {age_s / 3600:.1f} h old, past its time" if age_s > longest else ""
        unused = "it is stopped, and nobody here stops machines" if "stop" in state_of(instance) else unused
        about = f"{name} ({instance['InstanceType']}, {market}, {driver_of(instance)}; while it runs)"
        end = f"aws ec2 terminate-instances --instance-ids {name}"
        yield Thing(experiment, "machine", about, _day(instance["LaunchTime"]), usd, end, unused)


def _volumes(account: Account) -> Iterator[Thing]:
    for volume in account.things["Volumes"]:
        tags, name = tags_of(volume), str(volume["VolumeId"])
        experiment, role = tags[EXPERIMENT], tags.get(ROLE, "no role")
        set_up, running = account.of("LaunchTemplates", experiment), account.of("Instances", experiment)
        unused = ""
        if role == WORKING_VOLUME:
            unused = "" if set_up else f"the experiment was torn down; {_LAST_COPY}"
        elif role == "replaced_volume":
            unused = "a restore put it aside"
        elif not volume.get("Attachments") and not running:
            unused = _LEFT.get(role, "its machine is gone")
        usd = volume["Size"] * cost.PRICES["gp3_gb_month"]
        remove = f"aws ec2 delete-volume --volume-id {name}"
        last = f", last day {tags[DAY]}" if DAY in tags else ""
        about = f"{name} ({role}, {volume['Size']} GB{last})"
        yield Thing(experiment, "volume", about, _day(volume["CreateTime"]), usd, remove, unused)


def _images(account: Account) -> Iterator[Thing]:
    for image in account.things["Images"]:
        experiment, name = tags_of(image)[EXPERIMENT], str(image["ImageId"])
        newest = max(account.of("Images", experiment), key=lambda i: str(i["CreationDate"]))
        unused = "" if image is newest else f"{newest['ImageId']} is newer"
        unused = "making it failed" if image["State"] == "failed" else unused
        sizes = [disk["Ebs"].get("VolumeSize", 0) for disk in image["BlockDeviceMappings"] if "Ebs" in disk]
        remove = f"aws ec2 deregister-image --image-id {name} --delete-associated-snapshots"
        usd = sum(sizes) * cost.PRICES["snapshot_gb_month"]
        yield Thing(
            experiment, "image", f"{name} ({sum(sizes)} GB)", str(image["CreationDate"])[:10], usd, remove, unused
        )


def _snapshots(account: Account) -> Iterator[Thing]:
    """Daily ones, and those of images that are gone; the first of a volume is whole, the next hold what changed."""
    disks = [disk.get("Ebs", {}) for image in account.things["Images"] for disk in image["BlockDeviceMappings"]]
    of_images = {disk.get("SnapshotId") for disk in disks}
    first = set[str]()
    for snapshot in sorted(account.things["Snapshots"], key=lambda s: s["StartTime"]):
        tags, name = tags_of(snapshot), str(snapshot["SnapshotId"])
        if name in of_images:
            continue
        share = cost.CHANGED_PER_DAY if snapshot["VolumeId"] in first else 1
        first.add(snapshot["VolumeId"])
        usd = snapshot["VolumeSize"] * share * cost.PRICES["snapshot_gb_month"]
        about = f"{name} ({tags.get(ROLE, 'no role')}, of {snapshot['VolumeId']})"
        remove = f"aws ec2 delete-snapshot --snapshot-id {name}"
        unused = _unused_snapshot(account, snapshot, tags)
        yield Thing(tags[EXPERIMENT], "snapshot", about, _day(snapshot["StartTime"]), usd, remove, unused)


def _unused_snapshot(account: Account, snapshot: dict[str, Any], tags: dict[str, str]) -> str:
    config = account.cloud.config
    if snapshot["State"] == "error":
        return "making it failed"
    if tags.get(ROLE) == "image":
        return "its image is gone"
    if not account.of("Volumes", tags[EXPERIMENT], WORKING_VOLUME):
        return f"its volume is gone; {_LAST_COPY}"
    daily = sorted(account.of("Snapshots", tags[EXPERIMENT], "daily"), key=lambda s: (s["StartTime"], s["SnapshotId"]))
    is_old = tags[EXPERIMENT] == config.experiment and snapshot in old(daily, config.snapshots_kept)
    return f"{config.snapshots_kept} newer days have one; `python -m launch status` deletes it" if is_old else ""


def _addresses(account: Account) -> Iterator[Thing]:
    """Addresses of their own: nothing here makes any; that of a machine is in the machine's price, and goes with it."""
    for address in account.things["Addresses"]:
        remove = f"aws ec2 release-address --allocation-id {address.get('AllocationId')}"
        usd = cost.HOURS_PER_MONTH * float(cost.PRICES["public_ipv4_hour"])
        experiment = tags_of(address)[EXPERIMENT]
        yield Thing(experiment, "address", str(address.get("PublicIp")), "", usd, remove, "nothing here makes one")


def _schedules(account: Account) -> Iterator[Thing]:
    """Schedules are free, but one that is on starts machines; they carry no tag, so their name says whose they are."""
    for schedule in account.cloud.pages("scheduler", "list_schedules", "Schedules", NamePrefix="zoobot-"):
        experiment = str(schedule["Name"]).removeprefix("zoobot-")
        if schedule["State"] == "ENABLED":
            gone = "" if account.of("Volumes", experiment, WORKING_VOLUME) else "its machines will find no volume"
            remove = f"aws scheduler delete-schedule --name {schedule['Name']}"
            about = f"{schedule['Name']} (on: it starts machines)"
            yield Thing(experiment, "schedule", about, _day(schedule["CreationDate"]), 0, remove, gone)


def _objects(cloud: Cloud) -> Iterator[Thing]:
    """What the experiment of the settings has in S3."""
    for setting, below in (("logs", cloud.config.experiment), ("results", cloud.config.experiment), ("staging", "")):
        bucket, _, prefix = str(getattr(cloud.config, setting, "")).removeprefix("s3://").partition("/")
        start = "/".join((*filter(None, (prefix.strip("/"), below)), ""))
        objects = _listed(cloud, bucket, start) if bucket else []
        if objects:
            usd = sum(item["Size"] for item in objects) / 1e9 * cost.PRICES["s3_gb_month"]
            since, name = min(_day(item["LastModified"]) for item in objects), f"s3://{bucket}/{start}"
            about = f"{name} ({len(objects)} files)"
            yield Thing(cloud.config.experiment, setting, about, since, usd, f"aws s3 rm --recursive {name}")


def _listed(cloud: Cloud, bucket: str, prefix: str) -> list[dict[str, Any]]:
    try:
        return cloud.pages("s3", "list_objects_v2", "Contents", Bucket=bucket, Prefix=prefix)
    except ClientError as error:
        if code_of(error) == "NoSuchBucket":
            return []
        raise


def _others(cloud: Cloud) -> Iterator[Thing]:
    """What carries the tag and is of none of the kinds above, nor known to be free."""
    tagged = cloud.pages(
        "resourcegroupstaggingapi", "get_resources", "ResourceTagMappingList", TagFilters=[{"Key": EXPERIMENT}]
    )
    for thing in tagged:
        arn = str(thing["ResourceARN"])
        service, rest = arn.split(":", 5)[2::3]
        if not f"{service}:{rest}".startswith((*(f"{kind}/" for kind in _SEEN), *_FREE)):
            unused = "launch makes no such thing: look what it is and what it costs"
            yield Thing(tags_of(thing)[EXPERIMENT], service, arn, "", None, "", unused)


def _sum(things: list[Thing]) -> float:
    return sum(thing.usd or 0 for thing in things)


def _day(at: Any) -> str:
    return f"{at:%Y-%m-%d}"
