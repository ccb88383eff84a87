"""The notice that a capacity reservation is taken back. AWS tells a spot machine in its metadata (spot_watch.sh); of an
interruptible reservation it tells EventBridge only, two minutes before (EC2 User Guide, "Interruptible Capacity
Reservations for capacity consumers"). So a rule has Systems Manager run `environment.sh interrupted` on the machine.
The rule hears of every machine of the account: each compares the id with its own.
"""

from __future__ import annotations

import json
from typing import Any

from launch.arns import Arns
from launch.aws import EXPERIMENT, Cloud
from launch.config import RESERVATION
from launch.find import found

_PATTERN = {"source": ["aws.ec2"], "detail-type": ["EC2 Capacity Reservation Instance Interruption Warning"]}
_COMMAND = '{"commands":["/opt/zoobot/launch/environment.sh interrupted <id>"]}'


def ensure_notice(cloud: Cloud) -> None:
    """The rule and its target, if the market is such a reservation; else none."""
    if cloud.config.market != RESERVATION:
        remove_notice(cloud)
        return
    name, target = cloud.config.name, _target(cloud)
    there = found(cloud, "events", "describe_rule", Name=name)
    if there is None or json.loads(there["EventPattern"]) != _PATTERN:
        cloud.call("events", "put_rule", Name=name, EventPattern=json.dumps(_PATTERN))
    targets = found(cloud, "events", "list_targets_by_rule", Rule=name)
    if targets is None or targets.get("Targets") != [target]:
        cloud.call("events", "put_targets", Rule=name, Targets=[target])


def remove_notice(cloud: Cloud) -> None:
    """Take the rule away, if there is one."""
    name = cloud.config.name
    if found(cloud, "events", "describe_rule", Name=name):
        found(cloud, "events", "remove_targets", Rule=name, Ids=["machine"])
        found(cloud, "events", "delete_rule", Name=name)


def _target(cloud: Cloud) -> dict[str, Any]:
    arns = Arns(cloud.config, cloud.account)
    ours = [{"Key": f"tag:{EXPERIMENT}", "Values": [cloud.config.experiment]}]
    return {
        "Id": "machine",
        "Arn": arns.document,
        "RoleArn": arns.role("events"),
        "InputTransformer": {"InputPathsMap": {"id": "$.detail.instance-id"}, "InputTemplate": _COMMAND},
        "RunCommandParameters": {"RunCommandTargets": ours},
    }
