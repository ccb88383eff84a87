"""Thirty days with everything that goes wrong on EC2: an iteration for each, or a reason, and the budget holds."""

from __future__ import annotations

import dataclasses
import os
import random
from collections import Counter
from datetime import timedelta
from functools import partial

import pytest

from launch.config import Config
from launch.day import day
from launch.errors import LaunchError
from launch.find import need_volume, result_of
from launch.setup import setup
from tests.aws import Call, World
from tests.launching import ALL, cloud_of, command, settled

DAYS = 30
SEED = os.environ.get("EC2_SEED", "0")
LONG = pytest.mark.skipif(not ALL, reason="takes six seconds: make test-ec2")
# What goes wrong on which day; every other day is good.
INTERRUPTED, HANGING, STUCK, NO_CAPACITY, THROTTLED, HALF_DETACHED = {3, 17}, {6, 20}, {9}, {12, 13}, {15, 16}, {5, 24}


class Throttle:
    """Refuses a third of some calls. Which, is drawn from the seed, the day, and how many of its kind it is that day.

    So the same run has the same faults, whatever ids AWS gives.
    """

    def __init__(self, seed: str, number: int) -> None:
        self.seed, self.number = seed, number
        self.seen: Counter[str] = Counter()
        self.refused: list[str] = []

    def __call__(self, call: Call) -> str | None:
        if call.operation not in ("DescribeInstances", "SendCommand", "TerminateInstances"):
            return None
        self.seen[call.operation] += 1
        name = f"day {self.number} {call.operation} {self.seen[call.operation]}"
        if random.Random(f"{self.seed} {name}").random() >= 1 / 3:
            return None
        self.refused.append(name)
        return "RequestLimitExceeded"


def no_capacity(number: int, call: Call) -> str | None:
    if call.operation != "RunInstances" or (number != 12 and call.parameters["InstanceType"] != "g4dn.xlarge"):
        return None
    return "InsufficientInstanceCapacity"


@pytest.mark.parametrize("driver", [pytest.param("operator", marks=LONG), "schedule"])
def test_thirty_days(world: World, ec2: Config, driver: str) -> None:
    throttled = [Throttle(SEED, number) for number in range(DAYS + 1)]
    try:
        thirty_days(world, ec2, driver, throttled)
    except Exception as error:
        refused = [name for throttle in throttled for name in throttle.refused]
        error.add_note(f"Again by EC2_SEED={SEED}. Throttled: {'; '.join(refused) or 'none'}. Last: {world.calls[-1]}")
        raise


def thirty_days(world: World, ec2: Config, driver: str, throttled: list[Throttle]) -> None:
    config = dataclasses.replace(ec2, max_runtime_h=0.25, budget_usd=70)
    world.max_runtime_s = config.max_runtime_s
    setup(cloud_of(world, config))
    if driver == "schedule":
        assert command(world, config, "schedule", "on") == 0
    start = world.now()
    reasons: dict[int, str] = {}
    tried: list[str] = []
    for number in range(1, DAYS + 1):
        world.sleep((start + timedelta(days=number) - world.now()).total_seconds())
        world.training_of = partial(plan, number, tried)
        world.faults = [partial(no_capacity, number)] if number in NO_CAPACITY else []
        world.faults += [throttled[number]] if number in THROTTLED else []
        world.detach_s = partial(detach_s, number)
        before = len(world.disk.iterations) if world.disks else 0
        reason = operated(world, config) if driver == "operator" else scheduled(world, config)
        if len(world.disk.iterations) == before:
            reasons[number] = reason
    world.faults, world.detach_s = [], lambda machine: 9
    world.sleep(86400)
    assert command(world, config, "down") == 0
    assert command(world, config, "status") == 0
    settled(world, iterations=DAYS - len(reasons), started=len(world.machines))
    expected = HANGING | STUCK | {12}
    assert set(reasons) <= expected | (set() if driver == "operator" else INTERRUPTED | {13} | {d + 1 for d in HANGING})
    assert all(reasons.values()), "each missing day has its reason"
    assert len(world.disk.iterations) + len(reasons) == DAYS
    assert 0 < world.spent() <= config.worst_month().machine <= config.budget_usd
    assert len(world.ec2.snapshots) <= config.snapshots_kept + 1


def plan(number: int, tried: list[str], day: str) -> str:
    """How training goes; an interrupted day is interrupted once."""
    tried.append(day)
    if number in INTERRUPTED and tried.count(day) == 1:
        return "interrupted"
    return "hang" if number in HANGING else "stuck" if number in STUCK else "good"


def detach_s(number: int, machine: str) -> float:
    return 10**7 if number in HALF_DETACHED else 9


def operated(world: World, config: Config) -> str:
    """`day`, and again by the hand that sees that AWS was away; the reason if there is no iteration."""
    for _ in range(3):
        try:
            return day(cloud_of(world, config))
        except LaunchError as error:
            reason = str(error)
            if "asks for patience" not in reason:
                return reason
    return reason


def scheduled(world: World, config: Config) -> str:
    """The schedule fires, and nobody looks until the day is over."""
    world.fire(config.name, world.now())
    world.sleep(3600)
    cloud = cloud_of(world, config)
    return result_of(need_volume(cloud), cloud.today) or "no machine could be started, or it hangs"


def test_the_same_seed_throttles_the_same_calls(world: World, ec2: Config) -> None:
    runs: list[list[str]] = []
    for _ in range(2):
        world.reset()
        setup(cloud_of(world, ec2))
        throttle = Throttle("0", 15)
        world.faults = [throttle]
        operated(world, ec2)
        runs.append(throttle.refused)
    assert runs[0] == runs[1] != []
    assert draw("0") == [1, 5, 8, 10, 11] != draw("1"), "in any process"


def draw(seed: str) -> list[int]:
    throttle = Throttle(seed, 15)
    return [n for n in range(1, 13) if throttle(Call("ec2", "DescribeInstances", {}))]
