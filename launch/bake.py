"""An image with the packages on it, so that the first day, and each day after a new lock, need not install them."""

from __future__ import annotations

from launch.aws import DRIVER, Cloud, tags_of
from launch.day import down
from launch.errors import Away, LaunchError
from launch.find import driver_of, machines, state_of, tagged
from launch.start import start

_READY = "for i in $(seq 3600); do test -e /run/zoobot/ready && sync && exit 0; sleep 1; done; exit 1"


def bake(cloud: Cloud) -> str:
    """Start a machine that installs the packages and takes no volume, make an image of it, end it; the image's id."""
    others = [i["InstanceId"] for i in machines(cloud) if driver_of(i) != "bake"]
    if others:
        raise LaunchError(f"{others[0]} runs. Wait until it is done, or end it: python -m launch down", 1)
    instance = _start(cloud)
    try:
        cloud.wait(f"{instance} to be reachable", lambda: _online(cloud, instance), 600)
        sent = cloud.call(
            "ssm", "send_command", InstanceIds=[instance], DocumentName="AWS-RunShellScript", Comment="bake",
            Parameters={"commands": [_READY], "executionTimeout": ["3600"]},
        )["Command"]["CommandId"]  # fmt: skip
        cloud.sleep(5)
        cloud.wait("the packages", lambda: _ended(cloud, instance, sent), 3900, 30)
        made = cloud.call(
            "ec2", "create_image", InstanceId=instance, NoReboot=True,  # its dead-man timers would not survive one
            Name=f"{cloud.config.name}-{cloud.now():%Y%m%dT%H%M%S}",
            TagSpecifications=[tagged("image", cloud), tagged("snapshot", cloud, role="image")],
        )  # fmt: skip
        image = str(made["ImageId"])
        cloud.wait(f"{image}", lambda: _available(cloud, image), 3600, 30)
    finally:
        down(cloud, "bake")
    cloud.say(f"{image} is baked. Set `ami: baked`, then run `python -m launch setup`.")
    return image


def _start(cloud: Cloud) -> str:
    there = [i for i in machines(cloud) if state_of(i) != "shutting-down" and tags_of(i).get(DRIVER) == "bake"]
    if there:
        return str(there[0]["InstanceId"])
    return start(cloud, f"bake {cloud.now():%Y%m%dT%H%M%S}", "on-demand", driver="bake", day=cloud.today)


def _online(cloud: Cloud, instance: str) -> bool:
    filters = [{"Key": "InstanceIds", "Values": [instance]}]
    known = cloud.pages("ssm", "describe_instance_information", "InstanceInformationList", Filters=filters)
    return any(k["PingStatus"] == "Online" for k in known)


def _ended(cloud: Cloud, instance: str, command: str) -> bool:
    status = cloud.call("ssm", "get_command_invocation", CommandId=command, InstanceId=instance)["Status"]
    if status not in ("Pending", "InProgress", "Delayed", "Success"):
        raise Away(
            f"The packages could not be installed on {instance} ({status}): see /var/log/cloud-init-output.log there."
        )
    return bool(status == "Success")


def _available(cloud: Cloud, image: str) -> bool:
    filters = [{"Name": "image-id", "Values": [image]}]
    found = cloud.pages("ec2", "describe_images", "Images", Filters=filters)
    if any(i["State"] == "failed" for i in found):
        raise Away(f"EC2 could not make {image}.")
    return any(i["State"] == "available" for i in found)
