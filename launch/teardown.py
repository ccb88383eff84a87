"""The way out: all that `setup` and `bake` made goes, the data stays."""

from __future__ import annotations

from launch.aws import Cloud
from launch.budget import remove_budget
from launch.errors import LaunchError
from launch.find import find_volume, found, machines
from launch.managed import NAMES, remove_managed
from launch.notice import remove_notice
from launch.setup import ROLES


def teardown(cloud: Cloud) -> None:
    """Take away all that `setup` and `bake` made, but never the volume, nor its snapshots."""
    alive = machines(cloud)
    if alive:
        raise LaunchError(f"{', '.join(i['InstanceId'] for i in alive)} still run. Run `python -m launch down` first.")
    name = cloud.config.name
    found(cloud, "scheduler", "delete_schedule", Name=name)
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
    for made in cloud.mine("describe_images", "Images"):
        disks = [d["Ebs"]["SnapshotId"] for d in made["BlockDeviceMappings"] if "SnapshotId" in d.get("Ebs", {})]
        found(cloud, "ec2", "deregister_image", ImageId=made["ImageId"])
        for snapshot in disks:
            found(cloud, "ec2", "delete_snapshot", SnapshotId=snapshot)
    for group in cloud.mine("describe_security_groups", "SecurityGroups"):
        cloud.settle({"DependencyViolation"}, "ec2", "delete_security_group", GroupId=group["GroupId"])
    volume = find_volume(cloud)
    cost = (
        f"{volume['VolumeId']} with all state stays, and costs money; so do its snapshots."
        if volume
        else "No volume is left."
    )
    cloud.say(f"All but the data is gone. {cost} docs/ec2.md says how to delete them by hand.")
