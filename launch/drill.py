"""The restore drill: would the newest snapshot do? A machine mounts a copy of it and checks every file and digest."""

from __future__ import annotations

from launch.aws import Cloud
from launch.backup import choose, make_volume
from launch.day import down
from launch.errors import LaunchError
from launch.find import find_volume, machine_tags, machines, need_template, result_of

ROLE = "drill_volume"


def drill(cloud: Cloud, snapshot_id: str = "") -> str:
    """What the machine found; the copy is deleted again. LaunchError if anything on it is not as it was written."""
    if machines(cloud):
        raise LaunchError("A machine runs. Wait until it is done, or end it: python -m launch down", 1)
    source = choose(cloud, snapshot_id)
    volume = str((find_volume(cloud, ROLE) or make_volume(cloud, source, ROLE))["VolumeId"])
    cloud.say(f"{volume} is a copy of {source['SnapshotId']}; a machine checks it")
    try:
        cloud.call(
            "ec2", "run_instances", MinCount=1, MaxCount=1, ClientToken=f"drill-{volume}",
            LaunchTemplate={"LaunchTemplateId": need_template(cloud), "Version": "$Default"},
            TagSpecifications=machine_tags(cloud, driver="drill", day=cloud.today, volume=volume),
        )  # fmt: skip
        cloud.wait("the drill", lambda: not machines(cloud), cloud.config.max_runtime_s, 30)
        result = result_of(find_volume(cloud, ROLE) or {}, cloud.today)
    finally:
        down(cloud, "drill")
        cloud.call("ec2", "delete_volume", VolumeId=volume)
    if not result.startswith("done"):
        raise LaunchError(f"The drill with {source['SnapshotId']} failed: {result or 'the machine said nothing'}.", 1)
    cloud.say(f"{source['SnapshotId']}: {result}")
    return result
