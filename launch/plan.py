"""`plan`: the calls that `setup` and `day` would make, by letting them run while nothing is sent that changes anything.

Setup reads what is there, so its plan is what is missing. The day is played on a day when all goes well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from launch import cost
from launch.aws import READS, Cloud, tag_list
from launch.day import day
from launch.errors import NoCredentials
from launch.setup import setup

ACCOUNT = "ACCOUNT"  # in the place of the account's number; no policy with it is valid
_MADE: dict[str, dict[str, Any]] = {
    "get_caller_identity": {"Account": "ACCOUNT"},
    "create_volume": {"VolumeId": "vol-NEW"},
    "create_security_group": {"GroupId": "sg-NEW"},
    "create_instance_profile": {"InstanceProfile": {"Roles": []}},
    "create_launch_template": {"LaunchTemplate": {"LaunchTemplateId": "lt-NEW"}},
    "create_launch_template_version": {"LaunchTemplateVersion": {"VersionNumber": "NEW"}},
    "create_snapshot": {"SnapshotId": "snap-NEW"},
    "send_command": {"Command": {"CommandId": "command-NEW"}},
    "run_instances": {"Instances": [{"InstanceId": "i-NEW", "State": {"Name": "pending"}}]},
}


@dataclass
class Pretence(Cloud):
    """AWS that is only asked: what would change something is printed instead."""

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """As in Cloud."""
        if operation.startswith(READS):
            return super().call(service, operation, **parameters)
        self.say(f"  {service}:{operation}{_about(parameters)}")
        return _MADE.get(operation, {})

    def commit(self) -> str:
        """As in Cloud; a branch is not looked up."""
        return self.config.revision


@dataclass
class Blank(Pretence):
    """An empty account, as it can be known without credentials: only what AWS makes for every account is there."""

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """As in Cloud."""
        if operation == "get_caller_identity":
            return {"Account": ACCOUNT}
        if operation == "get_parameter":
            return {"Parameter": {"Value": f"ami-OF-{parameters['Name']}"}}
        if operation.startswith(READS):
            raise ClientError({"Error": {"Code": "NoSuchEntity", "Message": "the account is empty"}}, operation)
        return super().call(service, operation, **parameters)

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """As in Cloud."""
        always: dict[str, list[dict[str, Any]]] = {
            "describe_subnets": [{"SubnetId": "subnet-DEFAULT", "VpcId": "vpc-DEFAULT"}],
            "describe_images": [{"ImageId": "ami-BAKED", "CreationDate": ""}],  # for `ami: baked`
        }
        return always.get(operation, [])


@dataclass
class Rehearsal(Pretence):
    """AWS on a day when all goes well, after setup; nothing is asked either."""

    _passed: timedelta = field(default_factory=timedelta)
    _running: bool = False
    _day_tags: list[dict[str, str]] = field(default_factory=list)

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """As in Cloud."""
        self._running = operation == "run_instances" or (self._running and operation != "terminate_instances")
        if operation == "get_command_invocation":
            self._day_tags = tag_list(day=self.today, result="done")
            self.say(f"  {service}:{operation}, every 30 s until it is over")
            return {"Status": "Success"}
        if operation.startswith(READS):
            self.say(f"  {service}:{operation}")
            return _MADE.get(operation, {})
        return super().call(service, operation, **parameters)

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """As in Cloud."""
        self.say(f"  {service}:{operation}")
        machine = {
            "InstanceId": "i-NEW", "State": {"Name": "running"}, "LaunchTime": self.now(),
            "Tags": tag_list(driver="operator", day=self.today),
        }  # fmt: skip
        answers: dict[str, list[dict[str, Any]]] = {
            "describe_volumes": [{"VolumeId": "vol-NEW", "State": "available", "Tags": self._day_tags}],
            "describe_launch_templates": [{"LaunchTemplateId": "lt-NEW"}],
            "describe_instances": [{"Instances": [machine]}] if self._running else [],
            "describe_instance_information": [{"PingStatus": "Online"}],
        }
        return answers.get(operation, [])


def plan(cloud: Cloud) -> None:
    """Print the calls of `setup` as things are, those of a day, and what a month costs."""
    config = cloud.config
    asked = Pretence if account_of(cloud) != ACCOUNT else Blank
    if asked is Blank:
        cloud.say("There are no AWS credentials, so this is for an empty account.")
    nothing = lambda _: None  # noqa: E731
    cloud.say("setup would call (and read what is there before):")
    setup(asked(config, say=lambda text: cloud.say(text) if text.startswith("  ") else None))
    cloud.say("a day calls:")
    day(
        Rehearsal(
            config, now=cloud.now, sleep=nothing, say=lambda text: cloud.say(text) if text.startswith("  ") else None
        )
    )
    worst = config.worst_month()
    kind, hourly = config.instance_types[0], cost.hourly(config.instance_types[0], config.market)
    usual = cost.month(kind, config.market, 30, config.root_gb, config.volume_gb, config.snapshots_kept)
    prices = cost.PRICES
    cloud.say(f"a month, by prices of {prices['region']} of {prices['as_of']} (launch/prices.yaml; they change):")
    cloud.say(f"  {kind} {config.market}, with its address: ${hourly:.3f} an hour; an hour a day: ${usual.machine:.2f}")
    cloud.say(f"  volume of {config.volume_gb} GB: ${usual.volume:.2f}, used or not")
    cloud.say(f"  {config.snapshots_kept} snapshots, if the volume is full: ${usual.snapshots:.2f}")
    cloud.say(
        f"  together ${usual.total:.2f}; the worst month ${worst.total:.2f}, of a budget of ${config.budget_usd:.2f}"
    )


def account_of(cloud: Cloud) -> str:
    """The number of the account, or ACCOUNT if there are no credentials to ask with."""
    try:
        return cloud.account
    except NoCredentials:
        return ACCOUNT


def _about(parameters: dict[str, Any]) -> str:
    """The few parameters that say what a call is about."""
    names = [k for k in parameters if k.endswith(("Name", "Id", "Ids", "Resources", "InstanceType", "Size", "Comment"))]
    return "".join(f" {name}={parameters[name]}" for name in names)
