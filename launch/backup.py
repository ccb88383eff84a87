"""Snapshots: one a day, the newest kept; a new volume from one; and (launch/drill.py) a drill."""

from __future__ import annotations

from typing import Any

from launch.aws import DAY, ROLE, WORKING_VOLUME, Cloud, tag_list, tags_of
from launch.errors import LaunchError
from launch.find import find_volume, machines, need_volume, tagged


def snapshot(cloud: Cloud) -> str:
    """Today's snapshot, made unless it is there (a scheduled machine makes its own); old ones are deleted."""
    volume = need_volume(cloud)["VolumeId"]
    there = [s for s in snapshots(cloud) if tags_of(s).get(DAY) == cloud.today and s["State"] != "error"]
    if there:
        made = str(there[-1]["SnapshotId"])
    else:
        made = str(cloud.call(
            "ec2", "create_snapshot", VolumeId=volume, Description=f"zoobot {cloud.config.experiment} {cloud.today}",
            TagSpecifications=[tagged("snapshot", cloud, day=cloud.today, role="daily")],
        )["SnapshotId"])  # fmt: skip
        cloud.say(f"{made} is today's snapshot of {volume}")
    prune(cloud)
    return made


def prune(cloud: Cloud) -> list[str]:
    """Delete daily snapshots but the newest that are whole; nothing is deleted while none is."""
    whole = [s for s in snapshots(cloud) if s["State"] == "completed"]
    old = [str(s["SnapshotId"]) for s in whole[: -cloud.config.snapshots_kept]]
    for snapshot_id in old:
        cloud.call("ec2", "delete_snapshot", SnapshotId=snapshot_id)
    return old


def snapshots(cloud: Cloud) -> list[dict[str, Any]]:
    """The experiment's daily snapshots, oldest first."""
    found = cloud.mine("describe_snapshots", "Snapshots", role="daily")
    return sorted(found, key=lambda s: (s["StartTime"], s["SnapshotId"]))


def restore(cloud: Cloud, snapshot_id: str = "") -> str:
    """A volume from a snapshot (the newest whole one, if none is named) takes the place of the volume, which stays.

    The new one gets the tag that the old one loses first, so a run cut off between the two leaves no doubt.
    """
    if machines(cloud):
        raise LaunchError("A machine runs. Wait until it is done, or end it: python -m launch down", 1)
    source = choose(cloud, snapshot_id)
    old = find_volume(cloud)
    if old is not None and old.get("SnapshotId") == source["SnapshotId"] and DAY not in tags_of(old):
        cloud.say(f"{old['VolumeId']} was made of {source['SnapshotId']}, and no machine used it since: nothing to do")
        return str(old["VolumeId"])
    restored = find_volume(cloud, "restored_volume") or make_volume(cloud, source, "restored_volume")
    if old is not None:
        cloud.call("ec2", "create_tags", Resources=[old["VolumeId"]], Tags=tag_list(role="replaced_volume"))
        cloud.say(f"{old['VolumeId']} is put aside, tagged {ROLE}=replaced_volume; it costs money until you delete it")
    cloud.call("ec2", "create_tags", Resources=[restored["VolumeId"]], Tags=tag_list(role=WORKING_VOLUME))
    cloud.say(f"{restored['VolumeId']}, of {source['SnapshotId']}, is the volume now. Run `python -m launch setup`.")
    return str(restored["VolumeId"])


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
