"""Nothing is left behind: teardown, cut off or refused at any call; and the audit, which names what costs money."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launch import audit, cost
from launch.arns import allow, document
from launch.aws import tags_of
from launch.backup import snapshot
from launch.bake import bake
from launch.config import Config
from launch.day import day, down, up
from launch.errors import Away, LaunchError
from launch.restore import restore
from launch.setup import setup
from launch.teardown import teardown
from tests.aws import Call, World
from tests.launching import ALL, READS, Doomed, Killed, calls, cloud_of, command, points


@pytest.fixture
def full(world: World, ec2: Config) -> World:
    """An account with all that commands leave: setup, a day, and what `leave_more` makes."""
    setup(cloud_of(world, ec2))
    day(cloud_of(world, ec2))
    leave_more(world, ec2)
    return world


def leave_more(world: World, config: Config) -> None:
    """An image and its snapshot, as of `bake`; and the volume of a drill that was cut off."""
    image = world.ec2.register_image("baked")
    image.creation_date = world.clock
    for thing, role in ((image, {}), (world.ec2.snapshots[image.ebs_snapshot.id], {"zoobot:role": "image"})):
        thing.add_tags({"zoobot:experiment": config.experiment, **role})
    tags = {"zoobot:experiment": config.experiment, "zoobot:role": "drill_volume"}
    spec = [{"ResourceType": "volume", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
    world.client("ec2").create_volume(AvailabilityZone=config.zone, Size=200, TagSpecifications=spec)


def left(world: World, config: Config) -> list[str]:
    """All that an account holds of an experiment, but the volume with its data."""
    cloud, found = cloud_of(world, config), []
    for operation, key in (("describe_launch_templates", "LaunchTemplates"), ("describe_images", "Images"),
                           ("describe_security_groups", "SecurityGroups"), ("describe_snapshots", "Snapshots"),
                           ("describe_volumes", "Volumes")):  # fmt: skip
        found += [f"{key} {tags_of(thing).get('zoobot:role')}" for thing in cloud.mine(operation, key)]
    found += [role["RoleName"] for role in world.client("iam").list_roles()["Roles"]]
    found += [each["InstanceProfileName"] for each in world.client("iam").list_instance_profiles()["InstanceProfiles"]]
    found += [each["PolicyName"] for each in world.client("iam").list_policies(Scope="Local")["Policies"]]
    found += [each["Name"] for each in world.client("scheduler").list_schedules()["Schedules"]]
    found += world.client("sqs").list_queues().get("QueueUrls", [])
    found.remove("Volumes working_volume")
    return [thing for thing in found if thing != "Snapshots daily"]


def test_a_kill_or_a_refusal_at_every_call_of_teardown(full: World, ec2: Config) -> None:
    whole = cloud_of(full, ec2)
    teardown(whole)
    assert left(full, ec2) == []
    tried = points(whole.operations)
    for n, answered in tried:
        setup(cloud_of(full, ec2))
        leave_more(full, ec2)
        with pytest.raises(Killed):
            teardown(cloud_of(full, ec2, at=n, answered=answered))
        teardown(cloud_of(full, ec2))
        assert left(full, ec2) == [], f"call {n}, {whole.operations[n - 1]}, answered: {answered}"
    refused = calls(whole.operations)[:: 1 if ALL else 3]
    for n in refused:
        setup(cloud_of(full, ec2))
        leave_more(full, ec2)
        full.faults = [partial(refuse_at, n, itertools.count(1))]
        assert command(full, ec2, "teardown") == 2, whole.operations[n - 1]
        full.faults = []
        assert command(full, ec2, "teardown") == 0
        assert left(full, ec2) == [], f"call {n}, {whole.operations[n - 1]}, refused"
    assert full.disk.iterations == ["2026-03-01"] and len(full.ec2.snapshots) == 1, "the data and its backup"
    print(f"\nteardown: {len(tried)} kills and {len(refused)} refusals, at {len(whole.operations)} calls")
    assert len(tried) >= (40 if ALL else 10) and len(refused) >= (25 if ALL else 4)


def refuse_at(n: int, numbers: Iterator[int], call: Call) -> str | None:
    return "UnauthorizedOperation" if next(numbers) == n else None


def test_teardown_after_a_setup_that_was_cut_off_anywhere(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    teardown(cloud_of(world, ec2))
    whole = cloud_of(world, ec2)
    setup(whole)
    teardown(cloud_of(world, ec2))
    for n in calls(whole.operations)[:: 1 if ALL else 4]:
        if not whole.operations[n - 1].startswith(READS):
            with pytest.raises(Killed):
                setup(cloud_of(world, ec2, at=n, answered=True))
            teardown(cloud_of(world, ec2))
            assert left(world, ec2) == [], whole.operations[n - 1]


def test_what_costs_money_goes_although_something_else_stays(full: World, ec2: Config) -> None:
    """A policy that somebody attached by hand keeps IAM from deleting a role."""
    iam, role = full.client("iam"), f"{ec2.name}-machine"
    other = iam.create_policy(PolicyName="by-hand", PolicyDocument=json.dumps(document(allow(["s3:GetObject"]))))
    iam.attach_role_policy(RoleName=role, PolicyArn=other["Policy"]["Arn"])
    leave_more(full, ec2)
    assert command(full, ec2, "teardown") == 2
    assert {"Images None", "Snapshots image", "Volumes drill_volume"}.isdisjoint(left(full, ec2))
    iam.detach_role_policy(RoleName=role, PolicyArn=other["Policy"]["Arn"])
    iam.delete_policy(PolicyArn=other["Policy"]["Arn"])
    assert command(full, ec2, "teardown") == 0 and left(full, ec2) == []


def test_an_image_that_is_being_made_is_waited_for(full: World, ec2: Config) -> None:
    whole = cloud_of(full, ec2)
    bake(whole)
    made = whole.operations.index("CreateImage") + 1
    with pytest.raises(Killed):
        bake(cloud_of(full, ec2, at=made, answered=True))
    down(cloud_of(full, ec2))
    teardown(cloud_of(full, ec2))
    assert left(full, ec2) == []
    full.image_takes_s = 10**7
    setup(cloud_of(full, ec2))
    with pytest.raises(Killed):
        bake(cloud_of(full, ec2, at=made, answered=True))
    down(cloud_of(full, ec2))
    with pytest.raises(Away, match="in vain for an image that is being made"):
        teardown(cloud_of(full, ec2))


def test_teardown_waits_for_machines_and_says_what_stays(full: World, ec2: Config) -> None:
    up(cloud_of(full, ec2))
    with pytest.raises(LaunchError, match="still run"):
        teardown(cloud_of(full, ec2))
    down(cloud_of(full, ec2))
    said: list[str] = []
    cloud = cloud_of(full, ec2)
    cloud.say = said.append
    teardown(cloud)
    text = "\n".join(said)
    (volume,) = full.volumes("working_volume")
    assert f"aws ec2 delete-volume --volume-id {volume.id}" in text and "$16.00" in text
    assert f"aws ec2 delete-snapshot --snapshot-id {next(iter(full.ec2.snapshots))}" in text
    assert "delete-parameters --names /zoobot/wandb_api_key /zoobot/zooniverse_login" in text


# ----------------------------------------------------------------------------------------------------- the audit


def audited(world: World, config: Config, unused: bool) -> str:
    """What the audit says; it changes nothing, and its exit status says whether something is unused."""
    said: list[str] = []
    cloud = cloud_of(world, config)
    cloud.say = said.append
    try:
        audit.audit(cloud)
    except LaunchError as stopped:
        assert unused and stopped.exit_status == 2, (stopped, said)
        said.append(str(stopped))
    else:
        assert not unused, said
    assert not [name for name in cloud.operations if not name.startswith(READS)], "it changes nothing"
    return "\n".join(said)


def test_what_is_used_is_listed_with_its_price(world: World, ec2: Config) -> None:
    assert "together $0.00" in audited(world, ec2, unused=False), "an empty account"
    setup(cloud_of(world, ec2))
    day(cloud_of(world, ec2))
    world.sleep(86400)
    snapshot(cloud_of(world, ec2))
    bake(cloud_of(world, ec2))
    up(cloud_of(world, ec2))
    assert command(world, ec2, "schedule", "on") == 0
    text = audited(world, ec2, unused=False)
    hourly = cost.hourly("g4dn.xlarge", "on-demand") * 730
    for usd, what in ((16, "volume "), (200 * 0.05, "snapshot "), (200 * 0.02 * 0.05, "snapshot "),
                      (hourly, "machine ")):  # fmt: skip
        assert f"${usd:.2f} a month  {what}" in text, text
    assert "zoobot-decals_live (on: it starts machines)" in text and " image " in text and "decals_live\n" in text
    down(cloud_of(world, ec2))


def other_experiment(world: World, *roles: str) -> None:
    """Volumes and a snapshot of an experiment that the settings do not name."""
    ec2 = world.client("ec2")
    for role in roles:
        tags = [{"Key": "zoobot:experiment", "Value": "old"}, {"Key": "zoobot:role", "Value": role}]
        spec = [{"ResourceType": "volume", "Tags": tags}]
        made = ec2.create_volume(AvailabilityZone="us-east-1a", Size=50, TagSpecifications=spec)["VolumeId"]
        tags = [{"Key": "zoobot:experiment", "Value": "old"}, {"Key": "zoobot:role", "Value": "daily"}]
        ec2.create_snapshot(VolumeId=made, TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}])


def test_what_nobody_uses_is_named_with_the_command_that_removes_it(full: World, ec2: Config) -> None:
    client = full.client("ec2")
    full.sleep(600)
    day_before = full.volumes("working_volume")[0].id
    restore(cloud_of(full, ec2))
    (image,) = [i for i in full.ec2.amis.values() if i.name == "baked"]
    full.sleep(60)
    leave_more(full, ec2)  # a newer image
    tags = [{"Key": "zoobot:experiment", "Value": "old"}]
    address = client.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": tags}])
    client.create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": tags}])
    other_experiment(full, "working_volume", "machine")
    (gone,) = [v.id for v in full.volumes("working_volume") if v.size == 50]
    text = audited(full, ec2, unused=True)
    for name, why in (
        (day_before, "a restore put it aside"), (image.id, "is newer"),
        (str(address["PublicIp"]), "nothing here makes"), (gone, "the experiment was torn down"),
        ("(machine, 50 GB)", "its machine is gone"), ("drill_volume", "a drill that was cut off"),
        (":vpc/", "launch makes no such thing"),
    ):  # fmt: skip
        said = [line for before, line in itertools.pairwise(text.splitlines()) if name in before and why in line]
        assert said and ("aws ec2" in said[0] or "vpc" in name), (name, text)
    client.delete_volume(VolumeId=gone)
    assert "its volume is gone; it may be the last copy" in audited(full, ec2, unused=True)


def test_machines_past_their_time_and_snapshots_past_their_number(full: World, ec2: Config) -> None:
    few = dataclasses.replace(ec2, snapshots_kept=1)
    full.training_of = lambda day: "hang"
    up(cloud_of(full, ec2))
    (machine,) = full.running()
    machine.hangs = True
    full.sleep(600)
    client = full.client("ec2")
    tags = [{"Key": "zoobot:experiment", "Value": "decals_live"}, {"Key": "zoobot:role", "Value": "daily"}]
    (volume,) = full.volumes("working_volume")
    client.create_snapshot(VolumeId=volume.id, TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}])
    full.sleep(5 * 3600)
    text = audited(full, few, unused=True)
    assert "5.2 h old, past its time" in text and "1 newer days have one" in text
    full.ec2.get_instance(machine.id).instance_type = "x9.huge"
    assert "unknown a month  machine" in audited(full, few, unused=True)


def test_logs_in_s3_are_counted(world: World, ec2: Config) -> None:
    s3 = world.client("s3")
    config = dataclasses.replace(ec2, logs="s3://zoobot-logs/runs")
    assert "s3://" not in audited(world, config, unused=False), "there is no such bucket"
    s3.create_bucket(Bucket="zoobot-logs")
    assert "s3://" not in audited(world, config, unused=False)
    s3.put_object(Bucket="zoobot-logs", Key="runs/decals_live/2026-03-01/run.log", Body=b"x" * 1000)
    s3.put_object(Bucket="zoobot-logs", Key="other/file", Body=b"x")
    assert "s3://zoobot-logs/runs/decals_live/ (1 files)" in audited(world, config, unused=False)


def test_a_kill_or_a_refusal_at_every_call_of_the_audit(full: World, ec2: Config, tmp_path: Path) -> None:
    whole = cloud_of(full, ec2)
    with pytest.raises(LaunchError, match="Nobody uses 1 of"):
        audit.audit(whole)
    before = state_of(full)
    for n in range(1, len(whole.operations) + 1):
        with pytest.raises(Killed):
            audit.audit(cloud_of(full, ec2, Doomed, at=n))
        full.faults = [partial(refuse_at, n, itertools.count(1))]
        assert command(full, ec2, "audit") == 2, whole.operations[n - 1]
        full.faults = []
    assert state_of(full) == before
    print(f"\naudit: {len(whole.operations)} kills and as many refusals")


def state_of(world: World) -> Any:
    kinds = (world.ec2.volumes, world.ec2.snapshots, world.ec2.amis, world.ec2.launch_templates, world.ec2.reservations)
    return [sorted(kind) for kind in kinds]
