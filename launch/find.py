"""What exists: everything of an experiment carries its tag, so nothing about it is kept on this computer."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from launch.aws import DAY, DRIVER, RESULT, WORKING_VOLUME, Cloud, code_of, tag_list, tags_of
from launch.errors import LaunchError

ENDING = ("shutting-down", "terminated")
_MISSING = ("NoSuchEntity", "NotFound", "NonExistentQueue", "DoesNotExist")


def found(
    cloud: Cloud, service: str, operation: str, busy: tuple[str, ...] = (), **parameters: Any
) -> dict[str, Any] | None:
    """The answer to a call, or None if what it names does not exist; for a minute it may be ``busy`` (codes of AWS)."""
    try:
        return cloud.settle(busy, service, operation, **parameters)
    except ClientError as error:
        if any(word in code_of(error) for word in _MISSING):
            return None
        raise


def find_volume(cloud: Cloud, role: str = WORKING_VOLUME) -> dict[str, Any] | None:
    """The experiment's volume; two are an error, because nobody could say which holds the state."""
    volumes = [v for v in cloud.mine("describe_volumes", "Volumes", role=role) if not v["State"].startswith("delet")]
    if len(volumes) > 1:
        ids = ", ".join(sorted(v["VolumeId"] for v in volumes))
        raise LaunchError(
            f"{ids} are all tagged as the {role} of {cloud.config.experiment}. Take the tag off all but one."
        )
    return volumes[0] if volumes else None


def need_volume(cloud: Cloud) -> dict[str, Any]:
    """The same, or LaunchError if `setup` was not run."""
    volume = find_volume(cloud)
    if volume is None:
        raise LaunchError(f"{cloud.config.experiment} has no volume. Run `python -m launch setup` first.")
    return volume


def need_template(cloud: Cloud) -> str:
    """The id of the launch template, or LaunchError if `setup` was not run."""
    templates = cloud.mine("describe_launch_templates", "LaunchTemplates")
    if not templates:
        raise LaunchError(f"{cloud.config.experiment} has no launch template. Run `python -m launch setup` first.")
    return str(templates[0]["LaunchTemplateId"])


def result_of(volume: dict[str, Any], day: str) -> str:
    """How the iteration of ``day`` ended, as the machine said; empty if it said nothing (yet)."""
    tags = tags_of(volume)
    return tags.get(RESULT, "") if tags.get(DAY) == day else ""


def machines(cloud: Cloud) -> list[dict[str, Any]]:
    """The experiment's machines that are not gone, oldest first."""
    filters = [
        {"Name": "tag:zoobot:experiment", "Values": [cloud.config.experiment]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "shutting-down", "stopping", "stopped"]},
    ]
    reservations = cloud.pages("ec2", "describe_instances", "Reservations", Filters=filters)
    return sorted((i for r in reservations for i in r["Instances"]), key=lambda i: (i["LaunchTime"], i["InstanceId"]))


def describe_machine(cloud: Cloud, instance_id: str) -> dict[str, Any]:
    """One machine; empty if EC2 does not know it, or not yet."""
    filters = [{"Name": "instance-id", "Values": [instance_id]}]
    reservations = cloud.pages("ec2", "describe_instances", "Reservations", Filters=filters)
    return next((i for r in reservations for i in r["Instances"]), {})


def state_of(instance: dict[str, Any]) -> str:
    """pending, running, shutting-down, terminated, …; empty if unknown."""
    return str(instance.get("State", {}).get("Name", ""))


def driver_of(instance: dict[str, Any]) -> str:
    """Who started a machine: operator, schedule, drill or bake."""
    return tags_of(instance).get(DRIVER, "")


def tagged(kind: str, cloud: Cloud, **tags: str) -> dict[str, Any]:
    """The tags of a thing that is being made."""
    return {"ResourceType": kind, "Tags": tag_list(experiment=cloud.config.experiment, **tags)}
