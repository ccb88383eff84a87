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


def points(operations: list[str]) -> list[int]:
    """The numbers of the calls, but the third and later of a kind: polling does the same again and again."""
    return [n for n, name in enumerate(operations, 1) if operations[:n].count(name) <= 2]


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
    made = fingerprint(world)
    for n in points(whole.operations):
        for answered in (False, True):
            world.reset()
            with pytest.raises(Killed):
                setup(cloud_of(world, config, at=n, answered=answered))
            setup(cloud_of(world, config))
            assert fingerprint(world) == made, f"call {n}, {whole.operations[n - 1]}, answered: {answered}"


def fingerprint(world: World) -> dict[str, Any]:
    """What an account holds, without the ids."""
    ec2, iam = world.client("ec2"), world.client("iam")
    (template,) = ec2.describe_launch_templates()["LaunchTemplates"]
    return {
        "volumes": [(v["Size"], v["Encrypted"], tags_of(v)) for v in ec2.describe_volumes()["Volumes"]],
        "groups": [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"] if g.get("Tags")],
        "template": (template["LaunchTemplateName"], template["LatestVersionNumber"]),
        "roles": {r["RoleName"]: iam.list_role_policies(RoleName=r["RoleName"])["PolicyNames"] for r in iam.list_roles()["Roles"]},
        "profiles": [[r["RoleName"] for r in p["Roles"]] for p in iam.list_instance_profiles()["InstanceProfiles"]],
        "queues": len(world.client("sqs").list_queues().get("QueueUrls", [])),
        "schedules": [s["Name"] for s in world.client("scheduler").list_schedules()["Schedules"]],
    }  # fmt: skip


def test_a_kill_at_every_call_of_a_day_and_the_command_again(world: World, config: Config) -> None:
    setup(cloud_of(world, config))
    whole = cloud_of(world, config)
    day(whole)
    tried = points(whole.operations)
    for n in tried:
        for answered in (False, True):
            world.reset()
            setup(cloud_of(world, config))
            with pytest.raises(Killed):
                day(cloud_of(world, config, at=n, answered=answered))
            assert day(cloud_of(world, config)) == "done: iteration_0", f"call {n}, {whole.operations[n - 1]}"
            settled(world)
            assert len(world.trainings) == 1 and len(world.snapshots) == 1
    assert 2 * len(tried) >= 40, "with the calls of setup: more than 60 points"
