"""Snapshots: one a day, those of the newest days kept. A volume from one: launch/restore.py."""

from __future__ import annotations

from typing import Any

from launch.aws import DAY, Cloud, tags_of
from launch.find import need_volume, tagged


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
    """Delete daily snapshots that are old; nothing is deleted while none is whole."""
    gone = [str(s["SnapshotId"]) for s in old(snapshots(cloud), cloud.config.snapshots_kept)]
    for snapshot_id in gone:
        cloud.call("ec2", "delete_snapshot", SnapshotId=snapshot_id)
    return gone


def old(daily: list[dict[str, Any]], kept: int) -> list[dict[str, Any]]:
    """Of daily snapshots, oldest first: the whole ones but the last of each of the newest ``kept`` days.

    Days are those of AWS's own clock, not of the tag. A machine may make snapshots, so an intruder on one could make a
    hundred today; they take the place of one day's backup, not of all.
    """
    whole = [s for s in daily if s["State"] == "completed"]
    last_of_day = {s["StartTime"].date(): s["SnapshotId"] for s in whole}
    keep = set(list(last_of_day.values())[-kept:])
    return [s for s in whole if s["SnapshotId"] not in keep]


def snapshots(cloud: Cloud) -> list[dict[str, Any]]:
    """The experiment's daily snapshots, oldest first."""
    found = cloud.mine("describe_snapshots", "Snapshots", role="daily")
    return sorted(found, key=lambda s: (s["StartTime"], s["SnapshotId"]))
