"""A day on EC2, against AWS's stand-in: as it should go, with a kill and with a failure at every call."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from launch import budget
from launch.arns import Arns
from launch.config import RESERVATION, Config
from launch.day import day
from launch.errors import LaunchError
from launch.managed import NAMES
from launch.setup import ROLES, setup
from tests.aws import Call, World
from tests.launching import ALL, READS, Killed, cloud_of, command, points, settled


def test_a_day_from_an_empty_account(world: World, ec2: Config) -> None:
    """Over HTTP, and with clients of its own."""
    cloud = cloud_of(world, ec2, connect=lambda client: None, lent={})
    setup(cloud)
    assert day(cloud) == "done: iteration_0"
    settled(world)
    assert world.disk.iterations == ["2026-03-01"] and world.trainings == [(*world.machines, "2026-03-01")]
    assert len(world.snapshots) == 1
    steps = [json.loads(line) for line in Path(ec2.record, "decals_live.jsonl").read_text().splitlines()]
    started = [s for s in steps if s["step"] == "ec2:run_instances"]
    assert "done" not in started[0] and set(started[1]["done"]) & set(world.machines), (
        "a line before the call, one after"
    )


def test_a_second_day_the_same_day_does_nothing(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    day(cloud_of(world, ec2))
    calls = len(world.calls)
    day(cloud_of(world, ec2))
    settled(world)
    assert {c.operation for c in world.calls[calls:]} <= {"DescribeVolumes", "DescribeInstances", "DescribeSnapshots"}


def test_setup_again_changes_nothing_and_fixes_what_differs(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    calls = len(world.calls)
    setup(cloud_of(world, ec2))
    assert [c.operation for c in world.calls[calls:] if not c.operation.startswith(READS)] == []
    group = next(g for g in world.client("ec2").describe_security_groups()["SecurityGroups"] if g["Tags"])
    world.client("ec2").authorize_security_group_ingress(
        GroupId=group["GroupId"], IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0"
    )
    setup(cloud_of(world, dataclasses.replace(ec2, max_runtime_h=2, schedule="cron(30 4 * * ? *)")))
    (group,) = world.client("ec2").describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"]
    assert group["IpPermissions"] == []
    (template,) = world.client("ec2").describe_launch_templates()["LaunchTemplates"]
    assert (template["DefaultVersionNumber"], template["LatestVersionNumber"]) == (2, 2)
    assert (
        world.client("scheduler").get_schedule(Name="zoobot-decals_live")["ScheduleExpression"] == "cron(30 4 * * ? *)"
    )


def test_an_experiment_lives_in_one_region(world: World, ec2: Config) -> None:
    """IAM's names are those of the account, so a second setup elsewhere would change the roles of the first."""
    setup(cloud_of(world, ec2))
    before, role = len(world.calls), f"{ec2.name}-machine"
    elsewhere = cloud_of(world, dataclasses.replace(ec2, region="eu-west-1", zone="eu-west-1a"), lent={})
    with pytest.raises(LaunchError, match="is set up in us-east-1 already, and its roles"):
        setup(elsewhere)
    assert [c.operation for c in world.calls[before:]] == ["GetRole"]
    iam = world.client("iam")
    iam.untag_role(RoleName=role, TagKeys=["zoobot:region"])  # as it was made once
    setup(cloud_of(world, ec2))
    assert {"Key": "zoobot:region", "Value": "us-east-1"} in iam.get_role(RoleName=role)["Role"]["Tags"]


def test_a_kill_at_every_call_of_setup(world: World, ec2: Config) -> None:
    whole = cloud_of(world, ec2)
    setup(whole)
    made = fingerprint(world, ec2)
    tried = points(whole.operations)
    assert len(tried) >= (34 if ALL else 9)
    for n, answered in tried:
        other = dataclasses.replace(ec2, experiment=f"at{n}{'answered' if answered else ''}")
        with pytest.raises(Killed):
            setup(cloud_of(world, other, at=n, answered=answered))
        setup(cloud_of(world, other))
        assert fingerprint(world, other) == made, f"call {n}, {whole.operations[n - 1]}, answered: {answered}"


def fingerprint(world: World, ec2: Config) -> list[str]:
    """What an account holds of an experiment, without the ids."""
    cloud = cloud_of(world, ec2)
    found = [f"volume {v['Size']} {v['Encrypted']}" for v in cloud.mine("describe_volumes", "Volumes")]
    found += [f"group {g['IpPermissions']}" for g in cloud.mine("describe_security_groups", "SecurityGroups")]
    templates = cloud.mine("describe_launch_templates", "LaunchTemplates")
    found += [f"template, version {t['DefaultVersionNumber']} of {t['LatestVersionNumber']}" for t in templates]
    iam, sqs, scheduler = (world.client(service) for service in ("iam", "sqs", "scheduler"))
    for role in (r for page in iam.get_paginator("list_roles").paginate() for r in page["Roles"]):
        if ec2.name in role["RoleName"]:
            found.append(f"role, policies {iam.list_role_policies(RoleName=role['RoleName'])['PolicyNames']}")
    profile = iam.get_instance_profile(InstanceProfileName=f"{ec2.name}-machine")["InstanceProfile"]
    found.append(f"profile, {len(profile['Roles'])} roles")
    found.append(f"queue {sqs.get_queue_url(QueueName=ec2.name)['QueueUrl'].endswith(ec2.name)}")
    found.append(f"schedule {scheduler.get_schedule(Name=ec2.name)['State']}")
    arns = Arns(ec2, cloud.account)
    for role in ROLES if ec2.market == RESERVATION else [r for r in ROLES if r != "events"]:
        bound = iam.get_role(RoleName=f"{ec2.name}-{role}")["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"]
        found.append(f"{role} is inside the boundary: {bound == arns.managed('boundary')}")
    versions = [iam.get_policy(PolicyArn=arns.managed(name))["Policy"]["DefaultVersionId"] for name in NAMES]
    found.append(f"managed policies, versions {versions}")
    return [*found, f"budget {budget.describe(cloud)}"]


def test_a_kill_at_every_call_of_a_day_and_the_command_again(world: World, ec2: Config) -> None:
    ec2 = dataclasses.replace(ec2, snapshots_kept=3)
    setup(cloud_of(world, ec2))
    whole = cloud_of(world, ec2)
    day(whole)
    tried = points(whole.operations)
    assert len(tried) >= (28 if ALL else 5)
    for days, (n, answered) in enumerate(tried, 2):
        world.sleep(86400)
        with pytest.raises(Killed):
            day(cloud_of(world, ec2, at=n, answered=answered))
        assert day(cloud_of(world, ec2)).startswith("done"), f"call {n}, {whole.operations[n - 1]}"
        settled(world, iterations=days, started=days)
        assert len(world.trainings) == days
        assert len(world.ec2.snapshots) == min(days, 4), "three whole ones, and the one being made"


def test_a_kill_and_nobody_comes_until_the_next_morning(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    whole = cloud_of(world, ec2)
    day(whole)
    changes = [n for n, name in enumerate(whole.operations, 1) if not name.startswith(READS)]
    for n in changes:
        world.sleep(86400)
        before = len(world.disk.iterations)
        with pytest.raises(Killed):
            day(cloud_of(world, ec2, at=n, answered=True))
        world.sleep(ec2.max_runtime_s + 900)
        settled(world, iterations=len(world.disk.iterations), started=len(world.machines))
        assert len(world.disk.iterations) <= before + 1
        world.sleep(86400 - ec2.max_runtime_s)
        assert day(cloud_of(world, ec2)).startswith("done")
    assert world.spent() < len(world.machines) * 5 * 0.6


def test_a_refusal_at_every_call_of_a_day_and_the_command_again(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    whole = cloud_of(world, ec2)
    day(whole)
    for n in [n for n, name in enumerate(whole.operations, 1) if whole.operations[:n].count(name) == 1][
        :: 1 if ALL else 2
    ]:
        world.sleep(86400)
        numbers = itertools.count(1)
        world.faults = [partial(refuse_at, n, numbers)]
        started = len(world.machines)
        assert command(world, ec2, "day") == 2, whole.operations[n - 1]
        world.faults = []
        assert command(world, ec2, "day") == 0
        settled(world, iterations=len(world.disk.iterations), started=len(world.machines))
        assert world.disk.iterations[-1] == f"{world.now():%Y-%m-%d}" and len(world.machines) <= started + 2


def refuse_at(n: int, numbers: Iterator[int], call: Call) -> str | None:
    return "UnauthorizedOperation" if next(numbers) == n else None


def test_every_call_throttled_twice_is_no_failure(world: World, ec2: Config) -> None:
    seen: dict[str, int] = {}

    def throttle(call: Call) -> str | None:
        seen[call.operation] = seen.get(call.operation, 0) + 1
        return "RequestLimitExceeded" if seen[call.operation] <= 2 else None

    world.faults = [throttle]
    assert command(world, ec2, "setup") == command(world, ec2, "day") == 0
    settled(world)
    world.faults = [lambda call: "RequestLimitExceeded"]
    assert command(world, ec2, "status") == 1, "AWS asks for patience for long: try again later"
