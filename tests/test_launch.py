"""A day on EC2, against AWS's stand-in: as it should go, with a kill and with a failure at every call."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launch import __main__ as launch
from launch.aws import Cloud, tags_of
from launch.config import Config, load
from launch.day import day, down, run, sweep, up
from launch.errors import Away, LaunchError
from launch.find import machines
from launch.setup import ensure_schedule, setup
from launch.teardown import teardown
from tests import aws
from tests.aws import Call, World

ROOT = Path(__file__).resolve().parents[1]


class Killed(BaseException):
    """The process is gone: nothing after this is sent, whatever `finally` says."""


@dataclass
class Doomed(Cloud):
    """AWS for a process that is killed at its call number ``at``: before it is sent, or before its answer is read."""

    at: int = 10**9
    answered: bool = False
    operations: list[str] = field(default_factory=list)

    def client(self, service: str) -> Any:
        new = service not in self._clients
        client = super().client(service)
        if new:
            client.meta.events.register("before-send", self._before)
            client.meta.events.register("after-call", self._after)
        return client

    def _before(self, request: Any, event_name: str, **_: Any) -> None:
        if len(self.operations) >= self.at:
            raise Killed
        self.operations.append(event_name.rpartition(".")[2])
        if len(self.operations) == self.at and not self.answered:
            raise Killed

    def _after(self, **_: Any) -> None:
        if len(self.operations) == self.at:
            raise Killed


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return dataclasses.replace(load(ROOT / "launch" / "ec2.yaml"), record=str(tmp_path / "record"))


@pytest.fixture(autouse=True)
def quick(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes a minute, and botocore does not wait before it tries again."""
    monkeypatch.setattr(aws, "TRAIN_S", 60)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


def cloud_of(world: World, config: Config, **more: Any) -> Doomed:
    return Doomed(config, "test", now=world.now, sleep=world.sleep, say=lambda _: None, **more)


def settled(world: World, iterations: int = 1, started: int = 1) -> None:
    """No machine left, no second iteration, volume or format, and the state is whole."""
    world.sleep(600)
    assert world.running() == []
    assert len(world.machines) == started
    assert len(world.volumes("working_volume")) == 1
    (volume,) = world.volumes("working_volume")
    assert volume.attachment is None
    assert len(world.disk.iterations) == len(set(world.disk.iterations)) == iterations
    assert world.disk.formatted == 1


def points(operations: list[str]) -> list[tuple[int, bool]]:
    """Where to kill: at which call, and whether it was answered. A call that only reads is the same either way, and
    the sixth and later of a kind are polling.
    """
    found = []
    for n, name in enumerate(operations, 1):
        if operations[:n].count(name) <= 5:
            found += [(n, False)] if name.startswith(("Describe", "Get", "List")) else [(n, False), (n, True)]
    return found


def test_a_day_from_an_empty_account(world: World, config: Config) -> None:
    cloud = cloud_of(world, config)
    setup(cloud)
    assert day(cloud) == "done: iteration_0"
    settled(world)
    assert world.disk.iterations == ["2026-03-01"] and world.trainings == [(*world.machines, "2026-03-01")]
    assert len(world.snapshots) == 1
    steps = [json.loads(line) for line in Path(config.record, "decals_live.jsonl").read_text().splitlines()]
    started = [s for s in steps if s["step"] == "ec2:run_instances"]
    assert "done" not in started[0] and set(started[1]["done"]) & set(world.machines), "a line before the call, one after"


def test_a_second_day_the_same_day_does_nothing(world: World, config: Config) -> None:
    setup(cloud_of(world, config))
    day(cloud_of(world, config))
    calls = len(world.calls)
    day(cloud_of(world, config))
    settled(world)
    assert {c.operation for c in world.calls[calls:]} <= {"DescribeVolumes", "DescribeInstances", "DescribeSnapshots"}


def test_setup_again_changes_nothing_and_mends_what_differs(world: World, config: Config) -> None:
    setup(cloud_of(world, config))
    calls = len(world.calls)
    setup(cloud_of(world, config))
    assert [c.operation for c in world.calls[calls:] if not c.operation.startswith(("Describe", "Get", "List"))] == []
    group = next(g for g in world.client("ec2").describe_security_groups()["SecurityGroups"] if g["Tags"])
    world.client("ec2").authorize_security_group_ingress(
        GroupId=group["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )
    setup(cloud_of(world, dataclasses.replace(config, max_runtime_h=2, schedule="cron(30 4 * * ? *)")))
    (group,) = world.client("ec2").describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    assert group["IpPermissions"] == []
    (template,) = world.client("ec2").describe_launch_templates()["LaunchTemplates"]
    assert (template["DefaultVersionNumber"], template["LatestVersionNumber"]) == (2, 2)
    assert world.client("scheduler").get_schedule(Name="zoobot-decals_live")["ScheduleExpression"] == "cron(30 4 * * ? *)"


def test_a_kill_at_every_call_of_setup(world: World, config: Config) -> None:
    whole = cloud_of(world, config)
    setup(whole)
    made = fingerprint(world, config)
    tried = points(whole.operations)
    assert len(tried) >= 34
    for n, answered in tried:
        other = dataclasses.replace(config, experiment=f"at{n}{'answered' if answered else ''}")
        with pytest.raises(Killed):
            setup(cloud_of(world, other, at=n, answered=answered))
        setup(cloud_of(world, other))
        assert fingerprint(world, other) == made, f"call {n}, {whole.operations[n - 1]}, answered: {answered}"


def fingerprint(world: World, config: Config) -> list[str]:
    """What an account holds of an experiment, without the ids."""
    cloud = Cloud(config)
    found = [f"volume {v['Size']} {v['Encrypted']}" for v in cloud.mine("describe_volumes", "Volumes")]
    found += [f"group {g['IpPermissions']}" for g in cloud.mine("describe_security_groups", "SecurityGroups")]
    templates = cloud.mine("describe_launch_templates", "LaunchTemplates")
    found += [f"template, version {t['DefaultVersionNumber']} of {t['LatestVersionNumber']}" for t in templates]
    iam, sqs, scheduler = (world.client(service) for service in ("iam", "sqs", "scheduler"))
    for role in iam.list_roles()["Roles"]:
        if config.name in role["RoleName"]:
            found.append(f"role, policies {iam.list_role_policies(RoleName=role['RoleName'])['PolicyNames']}")
    profile = iam.get_instance_profile(InstanceProfileName=f"{config.name}-machine")["InstanceProfile"]
    found.append(f"profile, {len(profile['Roles'])} roles")
    found.append(f"queue {sqs.get_queue_url(QueueName=config.name)['QueueUrl'].endswith(config.name)}")
    found.append(f"schedule {scheduler.get_schedule(Name=config.name)['State']}")
    return found


def test_a_kill_at_every_call_of_a_day_and_the_command_again(world: World, config: Config) -> None:
    setup(cloud_of(world, config))
    whole = cloud_of(world, config)
    day(whole)
    tried = points(whole.operations)
    assert len(tried) >= 30
    for days, (n, answered) in enumerate(tried, 2):
        world.sleep(86400)
        with pytest.raises(Killed):
            day(cloud_of(world, config, at=n, answered=answered))
        assert day(cloud_of(world, config)).startswith("done"), f"call {n}, {whole.operations[n - 1]}"
        settled(world, iterations=days, started=days)
        assert len(world.trainings) == days and len(world.ec2.snapshots) == min(days, 15)  # 14 whole ones, and the one being made


def test_a_kill_and_nobody_comes_until_the_next_morning(world: World, config: Config) -> None:
    setup(cloud_of(world, config))
    whole = cloud_of(world, config)
    day(whole)
    changes = [n for n, name in enumerate(whole.operations, 1) if not name.startswith(("Describe", "Get", "List"))]
    for n in changes:
        world.sleep(86400)
        before = len(world.disk.iterations)
        with pytest.raises(Killed):
            day(cloud_of(world, config, at=n, answered=True))
        world.sleep(config.max_runtime_s + 900)
        settled(world, iterations=len(world.disk.iterations), started=len(world.machines))
        assert len(world.disk.iterations) <= before + 1
        world.sleep(86400 - config.max_runtime_s)
        assert day(cloud_of(world, config)).startswith("done")
    assert world.spent() < len(world.machines) * 5 * 0.6


def test_a_refusal_at_every_call_of_a_day_and_the_command_again(world: World, config: Config) -> None:
    setup(cloud_of(world, config))
    whole = cloud_of(world, config)
    day(whole)
    for n in [n for n, name in enumerate(whole.operations, 1) if whole.operations[:n].count(name) == 1]:
        world.sleep(86400)
        ordinal = iter(range(1, 1000))
        world.faults = [lambda call, n=n, ordinal=ordinal: "UnauthorizedOperation" if next(ordinal) == n else None]
        started = len(world.machines)
        assert command(world, config, "day") == 2, whole.operations[n - 1]
        world.faults = []
        assert command(world, config, "day") == 0
        settled(world, iterations=len(world.disk.iterations), started=len(world.machines))
        assert world.disk.iterations[-1] == f"{world.now():%Y-%m-%d}" and len(world.machines) <= started + 2


def test_every_call_throttled_twice_is_no_failure(world: World, config: Config) -> None:
    seen: dict[str, int] = {}

    def throttle(call: Call) -> str | None:
        seen[call.operation] = seen.get(call.operation, 0) + 1
        return "RequestLimitExceeded" if seen[call.operation] <= 2 else None

    world.faults = [throttle]
    assert command(world, config, "setup") == command(world, config, "day") == 0
    settled(world)
    world.faults = [lambda call: "RequestLimitExceeded"]
    assert command(world, config, "status") == 1, "AWS asks for patience for long: try again later"


def command(world: World, config: Config, *words: str) -> int:
    """The exit status of a command line, with the clock of the test."""
    path = Path(config.record).parent / "ec2.yaml"
    settings = {**dataclasses.asdict(config), "instance_types": list(config.instance_types), "arguments": list(config.arguments)}
    path.write_text(json.dumps(settings))  # JSON is YAML
    make: Callable[..., Cloud] = lambda config, command: cloud_of(world, config)  # noqa: E731
    return launch.main([words[0], "--config", str(path), *words[1:]], make)
