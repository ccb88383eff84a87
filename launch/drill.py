"""The restore drill: would the newest snapshot do? A machine mounts a copy of it and checks every file and digest."""

from __future__ import annotations

from launch.aws import Cloud
from launch.day import down
from launch.errors import LaunchError
from launch.find import find_volume, machines, result_of
from launch.restore import choose, make_volume
from launch.start import start

ROLE = "drill_volume"


def drill(cloud: Cloud, snapshot_id: str = "") -> str:
    """What the machine found; the copy is deleted again. LaunchError if anything on it is not as it was written."""
    if machines(cloud):
        raise LaunchError("A machine runs. Wait until it is done, or end it: python -m launch down", 1)
    source = choose(cloud, snapshot_id)
    left = find_volume(cloud, ROLE)
    if left is not None and left["SnapshotId"] != source["SnapshotId"]:  # of a drill that was cut off
        cloud.call("ec2", "delete_volume", VolumeId=left["VolumeId"])
        left = None
    volume = str((left or make_volume(cloud, source, ROLE))["VolumeId"])
    cloud.say(f"{volume} is a copy of {source['SnapshotId']}; a machine checks it")
    try:
        start(cloud, f"drill {volume}", "on-demand", driver="drill", day=cloud.today, volume=volume)
        cloud.wait("the drill", lambda: not machines(cloud), cloud.config.max_runtime_s, 30)
        result = result_of(find_volume(cloud, ROLE) or {}, cloud.today)
    finally:
        down(cloud, "drill")
        cloud.call("ec2", "delete_volume", VolumeId=volume)
    if not result.startswith("done"):
        raise LaunchError(f"The drill with {source['SnapshotId']} failed: {result or 'the machine said nothing'}.", 1)
    cloud.say(f"{source['SnapshotId']}: {result}")
    return result
