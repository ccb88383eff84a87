"""Starting one machine: from the template, of the first type that is to be had, on the market that is asked for.

The template says all but the market, the type and the tags, so that one serves spot and on-demand. Whoever starts a
machine does so here: a day, a job, the drill, the bake; and the schedule sends the same request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from launch.aws import Cloud, code_of
from launch.budget import refuse_if_spent
from launch.config import RESERVATION, Config
from launch.errors import Away, LaunchError
from launch.find import ENDING, need_template, state_of, tagged

CAPACITY = {
    "InsufficientInstanceCapacity", "InsufficientCapacityOnHost", "SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded",
    "InsufficientHostCapacity", "ReservationCapacityExceeded", "Unsupported",
}  # fmt: skip
_OPTIONS: dict[str, dict[str, Any]] = {
    "spot": {"SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}},
    RESERVATION: {},
}  # of a market whose machines AWS may take back


CAPACITY_WAIT_S, CAPACITY_EVERY_S = 6 * 3600, 1800  # of a day or a job, as long as the schedule tries


class NoCapacity(Away):
    """EC2 has no machine of any of the types in the zone."""


def market(config: Config, lost: int) -> str:
    """The market of the next machine of a day or a job, of which ``lost`` machines went before: config.market, until
    `spot_interruptions` of its machines are lost, then on-demand.

    A function of that number alone, which is kept on AWS, so that a start that is repeated asks for the same.
    """
    return config.market if lost < config.spot_interruptions else "on-demand"


def start(cloud: Cloud, key: str, market: str, **tags: str) -> str:
    """Start one machine with these tags (driver, day, volume); its id. NoCapacity if there is none of any type,
    LaunchError if the month's budget is spent.

    ``key`` names this start within the experiment: however often it is repeated, it is one machine. Empty: that machine
    was there and is gone.
    """
    refuse_if_spent(cloud)
    template = need_template(cloud)
    refused = []
    for kind in cloud.config.instance_types:
        token = hashlib.sha256(f"{cloud.config.experiment} {key} {kind}".encode()).hexdigest()
        asked = {"ClientToken": token, "InstanceType": kind, **request(cloud, template, market, **tags)}
        try:
            made = cloud.settle({"InvalidParameterValue"}, "ec2", "run_instances", **asked)
        except ClientError as error:
            if code_of(error) == "IdempotentInstanceTerminated":
                return ""
            if code_of(error) == "IdempotentParameterMismatch":
                raise LaunchError(
                    f"This machine ({key}) was started with other settings. Go back to them, or try again tomorrow."
                    f" ({error})"
                ) from error
            if code_of(error) not in CAPACITY:
                raise
            refused.append(f"{kind}: {code_of(error)}")
            continue
        instance = made["Instances"][0]
        return "" if state_of(instance) in ENDING else str(instance["InstanceId"])
    raise NoCapacity(f"There is no machine to be had in {cloud.config.zone} ({'; '.join(refused)}).")


def when_possible(cloud: Cloud, up: Callable[[], str]) -> str:
    """What ``up`` returns, tried again while EC2 has no machine to give, for six hours at most."""
    until = cloud.now().timestamp() + CAPACITY_WAIT_S
    while True:
        try:
            return up()
        except NoCapacity as error:
            if cloud.now().timestamp() + CAPACITY_EVERY_S > until:
                raise
            cloud.say(f"{error} Trying again in {CAPACITY_EVERY_S // 60} min.")
        cloud.sleep(CAPACITY_EVERY_S)


def request(cloud: Cloud, template: str, market: str, **tags: str) -> dict[str, Any]:
    """What RunInstances is asked for one machine, but for its type and client token."""
    kinds = ["volume", "network-interface"] + (["spot-instances-request"] if market == "spot" else [])
    asked: dict[str, Any] = {
        "MinCount": 1,
        "MaxCount": 1,
        "LaunchTemplate": {"LaunchTemplateId": template, "Version": "$Default"},
        "TagSpecifications": machine_tags(cloud, kinds, **tags),
    }
    if market in _OPTIONS:
        asked["InstanceMarketOptions"] = {"MarketType": market, **_OPTIONS[market]}
    if market == RESERVATION:
        target = {"CapacityReservationId": cloud.config.capacity_reservation}
        asked["CapacityReservationSpecification"] = {"CapacityReservationTarget": target}
    return asked


def machine_tags(cloud: Cloud, kinds: list[str], **of_the_machine: str) -> list[dict[str, Any]]:
    """Tags of a machine and of what is made with it; its own say who started it, for which day and volume."""
    return [tagged("instance", cloud, **of_the_machine), *(tagged(kind, cloud, role="machine") for kind in kinds)]
