"""A volume from a snapshot, in the place of the volume (restore) or only to be looked at (launch/drill.py)."""

from __future__ import annotations

from typing import Any

from launch.aws import COUNTS, DAY, PROGRESS, ROLE, WORKING_VOLUME, Cloud, tag_list, tags_of
from launch.backup import snapshots
from launch.errors import LaunchError
from launch.find import find_volume, found, machines, need_template, tagged
from launch.setup import ensure_schedule


def restore(cloud: Cloud, snapshot_id: str = "") -> str:
    """A volume from a snapshot (the newest whole one, if none is named) takes the place of the volume, which stays.

    The new one gets the tag that the old one loses first, so a run cut off between the two leaves no doubt. The
    schedule is told last, and again by each later run: until then its machines would take the volume put aside.
    """
    if machines(cloud):
        raise LaunchError("A machine runs. Wait until it is done, or end it: python -m launch down", 1)
    source = choose(cloud, snapshot_id)
    old = find_volume(cloud)
    if old is not None and old.get("SnapshotId") == source["SnapshotId"] and not {DAY, PROGRESS} & {*tags_of(old)}:
        cloud.say(f"{old['VolumeId']} was made of {source['SnapshotId']}, and no machine used it since: nothing to do")
        return _tell_the_schedule(cloud, str(old["VolumeId"]))
    restored = _half_done(cloud, source) or make_volume(cloud, source, "restored_volume")
    if old is not None:
        counts = [tag for tag in old["Tags"] if tag["Key"] in COUNTS]
        if counts:
            cloud.call("ec2", "create_tags", Resources=[restored["VolumeId"]], Tags=counts)
        cloud.call("ec2", "create_tags", Resources=[old["VolumeId"]], Tags=tag_list(role="replaced_volume"))
        cloud.say(f"{old['VolumeId']} is put aside, tagged {ROLE}=replaced_volume; it costs money until you delete it")
    cloud.call("ec2", "create_tags", Resources=[restored["VolumeId"]], Tags=tag_list(role=WORKING_VOLUME))
    cloud.say(f"{restored['VolumeId']}, of {source['SnapshotId']}, is the volume now.")
    return _tell_the_schedule(cloud, str(restored["VolumeId"]))


def _half_done(cloud: Cloud, source: dict[str, Any]) -> dict[str, Any] | None:
    """What a restore of the same snapshot made before it was cut off. LaunchError if it was of another snapshot."""
    left = find_volume(cloud, "restored_volume")
    if left is not None and left["SnapshotId"] != source["SnapshotId"]:
        raise LaunchError(
            f"{left['VolumeId']} is left of a restore of {left['SnapshotId']} that was cut off, and this one is of"
            f" {source['SnapshotId']}. Finish that (restore --snapshot {left['SnapshotId']}), or delete it:"
            f" aws ec2 delete-volume --volume-id {left['VolumeId']}"
        )
    return left


def _tell_the_schedule(cloud: Cloud, volume: str) -> str:
    if found(cloud, "scheduler", "get_schedule", Name=cloud.config.name) is not None:
        ensure_schedule(cloud, need_template(cloud), volume, state=None)
    return volume


def choose(cloud: Cloud, snapshot_id: str) -> dict[str, Any]:
    """A whole snapshot by its id, or the newest."""
    whole = [s for s in snapshots(cloud) if s["State"] == "completed"]
    chosen = [s for s in whole if snapshot_id in ("", s["SnapshotId"])]
    if not chosen:
        names = ", ".join(f"{s['SnapshotId']} ({tags_of(s).get(DAY)})" for s in whole) or "none"
        raise LaunchError(f"There is no whole snapshot {snapshot_id} of {cloud.config.experiment}; there are: {names}.")
    return chosen[-1]


def make_volume(cloud: Cloud, source: dict[str, Any], role: str) -> dict[str, Any]:
    """A volume from a snapshot, ready to be attached."""
    made = cloud.call(
        "ec2", "create_volume", AvailabilityZone=cloud.config.zone, SnapshotId=source["SnapshotId"], VolumeType="gp3",
        Encrypted=True, TagSpecifications=[tagged("volume", cloud, role=role)],
    )  # fmt: skip
    cloud.wait(f"{made['VolumeId']}", lambda: (find_volume(cloud, role) or {}).get("State") == "available", 600)
    return made
