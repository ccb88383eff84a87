"""The way out: all that `setup` and `bake` made goes, the data stays, and what stays is told with what it costs.

Everything is found by name or tag and not by what an earlier run saw, so a run that was cut off anywhere is run again.
"""

from __future__ import annotations

from launch.audit import inventory, line_of
from launch.aws import Cloud
from launch.budget import remove_budget
from launch.drill import ROLE as DRILL_VOLUME
from launch.errors import LaunchError
from launch.find import found, machines
from launch.managed import NAMES, remove_managed
from launch.notice import remove_notice
from launch.setup import ROLES


def teardown(cloud: Cloud) -> None:
    """Take away all that `setup`, `bake` and a drill made, but never the volume, nor its daily snapshots."""
    alive = machines(cloud)
    if alive:
        raise LaunchError(f"{', '.join(i['InstanceId'] for i in alive)} still run. Run `python -m launch down` first.")
    name = cloud.config.name
    found(cloud, "scheduler", "delete_schedule", Name=name)
    _remove_images(cloud)  # what costs money goes first, lest something that is free stands in its way
    for copy in cloud.mine("describe_volumes", "Volumes", role=DRILL_VOLUME):
        found(cloud, "ec2", "delete_volume", ("VolumeInUse",), VolumeId=copy["VolumeId"])
    queue = found(cloud, "sqs", "get_queue_url", QueueName=name)
    if queue is not None:
        found(cloud, "sqs", "delete_queue", QueueUrl=queue["QueueUrl"])
    for template in cloud.mine("describe_launch_templates", "LaunchTemplates"):
        found(cloud, "ec2", "delete_launch_template", LaunchTemplateId=template["LaunchTemplateId"])
    profile = f"{name}-machine"
    found(cloud, "iam", "remove_role_from_instance_profile", InstanceProfileName=profile, RoleName=profile)
    found(cloud, "iam", "delete_instance_profile", InstanceProfileName=profile)
    remove_notice(cloud)
    remove_budget(cloud)
    for role in ROLES:
        found(cloud, "iam", "delete_role_policy", RoleName=f"{name}-{role}", PolicyName="zoobot")
        found(cloud, "iam", "delete_role", RoleName=f"{name}-{role}")
    for managed in NAMES:
        remove_managed(cloud, managed)
    for group in cloud.mine("describe_security_groups", "SecurityGroups"):
        found(cloud, "ec2", "delete_security_group", ("DependencyViolation",), GroupId=group["GroupId"])
    _tell_what_stays(cloud)


def _remove_images(cloud: Cloud) -> None:
    """Images, and then their snapshots, which are found by their own tag: the image may have gone in an earlier run."""
    cloud.wait("an image that is being made; then run teardown again", lambda: not _pending(cloud), 1800, 30)
    for image in cloud.mine("describe_images", "Images"):
        found(cloud, "ec2", "deregister_image", ImageId=image["ImageId"])
    for snapshot in cloud.mine("describe_snapshots", "Snapshots", role="image"):
        in_use = ("InvalidSnapshot.InUse",)  # for a moment after the image went
        found(cloud, "ec2", "delete_snapshot", in_use, SnapshotId=snapshot["SnapshotId"])


def _pending(cloud: Cloud) -> bool:
    return any(image["State"] == "pending" for image in cloud.mine("describe_images", "Images"))


def _tell_what_stays(cloud: Cloud) -> None:
    left = [thing for thing in inventory(cloud) if thing.experiment == cloud.config.experiment]
    cloud.say("All but the data is gone. What is left costs money until you delete it:" if left else "Nothing is left.")
    for thing in left:
        cloud.say(f"{line_of(thing)}\n             {thing.remove}" if not thing.unused else line_of(thing))
    if cloud.config.secrets:
        names = " ".join(sorted({*cloud.config.secrets.values()}))
        cloud.say(f"  Your secrets are free and stay: aws ssm delete-parameters --names {names}")
