"""What keeps a day from leaking money or data: capacity, interruptions, hangs, orphans; and the ways out."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launch.aws import tags_of
from launch.backup import prune, snapshot
from launch.bake import bake
from launch.config import Config
from launch.day import day, down, run, sweep, up
from launch.drill import drill
from launch.errors import Away, LaunchError
from launch.restore import restore
from launch.setup import setup
from tests.aws import Call, World
from tests.launching import ALL, Doomed, Killed, calls, cloud_of, command, settled

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def made(world: World, ec2: Config) -> World:
    """An account in which `setup` was run."""
    setup(cloud_of(world, ec2))
    return world


def no_capacity(*kinds: str) -> Any:
    def fault(call: Call) -> str | None:
        short = call.operation == "RunInstances" and call.parameters.get("InstanceType") in kinds
        return "InsufficientInstanceCapacity" if short else None

    return fault


def test_the_next_type_is_taken_when_there_is_no_capacity(made: World, ec2: Config) -> None:
    made.faults = [no_capacity("g4dn.xlarge")]
    day(cloud_of(made, ec2))
    settled(made)
    assert [m.kind for m in made.machines.values()] == ["g5.xlarge"]


def test_without_any_capacity_it_tries_for_six_hours(made: World, ec2: Config) -> None:
    made.faults = [no_capacity(*ec2.instance_types)]
    before = made.now()
    with pytest.raises(Away, match=r"no machine to be had in us-east-1a \(g4dn.xlarge: Insuff.*; g5.xlarge: Insuff"):
        day(cloud_of(made, ec2))
    assert made.machines == {} and timedelta(hours=5) < made.now() - before < timedelta(hours=6.1)
    made.later(3600, made.faults.clear)
    assert day(cloud_of(made, ec2)) == "done: iteration_0"
    settled(made)


def test_an_interrupted_day_goes_on_with_another_machine(made: World, ec2: Config) -> None:
    plans = iter(["interrupted", "good"])
    made.training_of = lambda day: next(plans)
    assert day(cloud_of(made, ec2)) == "done: iteration_0"
    settled(made, iterations=1, started=2)


def test_attempts_bound_the_machines_of_a_day_over_all_commands(made: World, ec2: Config) -> None:
    made.training_of = lambda day: "interrupted"
    for _ in range(3):
        with pytest.raises(LaunchError, match="used up") as stopped:
            day(cloud_of(made, ec2))
        assert stopped.value.exit_status == 1 and len(made.machines) == 2
    made.sleep(2 * 3600)
    with pytest.raises(LaunchError, match="used up"):
        day(cloud_of(made, ec2))
    (volume,) = made.volumes("working_volume")
    assert [t["value"] for t in volume.get_tags() if t["key"] == "zoobot:starts"] == ["2026-03-01 2"]
    made.training_of = lambda day: "good"
    made.sleep(86400)
    assert day(cloud_of(made, ec2)) == "done: iteration_0", "the next day resumes"
    settled(made, iterations=1, started=3)


def test_an_attempt_counts_although_nobody_wrote_it_down(made: World, ec2: Config) -> None:
    """Killed between RunInstances and the tag, and the machine was gone before anybody looked."""
    whole = cloud_of(made, ec2)
    up(whole)
    run_instances = whole.operations.index("RunInstances") + 1
    down(cloud_of(made, ec2))
    made.sleep(86400)
    with pytest.raises(Killed):
        day(cloud_of(made, ec2, at=run_instances, answered=True))
    made.sleep(600)
    down(cloud_of(made, ec2))
    made.training_of = lambda day: "interrupted"
    with pytest.raises(LaunchError, match="used up"):
        day(cloud_of(made, ec2))
    assert len(made.machines) == 3, "two of today"


def test_a_failed_iteration_is_no_reason_for_another_machine(made: World, ec2: Config) -> None:
    made.training_of = lambda day: "stuck"
    made.max_runtime_s = 900
    assert command(made, ec2, "day") == 1
    settled(made, iterations=0, started=1)


def test_a_machine_that_hangs_is_ended_in_time(made: World, ec2: Config) -> None:
    made.training_of = lambda day: "hang"
    short = dataclasses.replace(ec2, max_runtime_h=0.25)
    with pytest.raises(Away, match="Waited 1800 s in vain for the iteration"):
        day(cloud_of(made, short))
    settled(made, iterations=0, started=1)
    (machine,) = made.machines.values()
    assert machine.ended and machine.ended - machine.started < timedelta(minutes=32)


@pytest.mark.parametrize("look", ["status", "up", "day"])
def test_a_machine_past_its_time_is_ended_by_whoever_looks(made: World, ec2: Config, look: str) -> None:
    plans = iter(["hang", "good"])
    made.training_of = lambda day: next(plans)
    ensure_and_fire(made, ec2)
    made.sleep(4 * 3600)
    (orphan,) = made.running()
    assert sweep(cloud_of(made, ec2)) == [], "it may still go by itself"
    made.sleep(3600)
    assert command(made, ec2, look) == 0
    assert orphan.ended


def ensure_and_fire(world: World, config: Config) -> None:
    assert command(world, config, "schedule", "on") == 0
    world.fire(config.name, world.now())


def test_two_operators_at_once_have_one_machine(made: World, ec2: Config) -> None:
    """The second starts while the first has seen no machine and has not yet asked for one."""
    seen: list[str] = []

    class First(Doomed):
        def before(self, operation: str) -> None:
            if operation == "RunInstances" and not seen:
                seen.append("")
                made.sleep(1)  # the other clock
                seen[0] = up(cloud_of(made, dataclasses.replace(ec2, record=f"{ec2.record}-second")))
            super().before(operation)

    first = cloud_of(made, ec2, First, lent={})
    assert up(first) == seen[0] and len(made.machines) == 1
    assert day(first) == "done: iteration_0"
    settled(made)


def test_one_computer_runs_one_command_at_a_time(made: World, ec2: Config) -> None:
    with cloud_of(made, ec2).locked():
        assert command(made, ec2, "day") == 1
    assert command(made, ec2, "day") == 0


def test_the_machine_of_the_schedule_is_left_alone(made: World, ec2: Config) -> None:
    ensure_and_fire(made, ec2)
    made.sleep(12)
    with pytest.raises(LaunchError, match=r"runs for decals_live already, started by schedule"):
        day(cloud_of(made, ec2))
    assert len(made.running()) == 1
    made.sleep(3600)
    settled(made)
    assert day(cloud_of(made, ec2)) == "done: iteration_0", "and its iteration is today's"
    assert len(made.machines) == 1


def test_the_schedule_makes_one_machine_although_it_fires_twice(made: World, ec2: Config) -> None:
    assert not made.fire(ec2.name, made.now()), "it is off after setup"
    at = made.now()
    ensure_and_fire(made, ec2)
    made.fire(ec2.name, at)
    made.sleep(3600)
    settled(made)
    assert len(made.ec2.snapshots) == 1, "the machine made it"
    made.fire(ec2.name, at)
    assert len(made.machines) == 1, "not even an hour later"


def test_a_scheduled_machine_ends_one_that_hangs_since_yesterday(made: World, ec2: Config) -> None:
    plans = iter(["hang", "good"])
    made.training_of = lambda day: next(plans)
    ensure_and_fire(made, ec2)
    made.sleep(86400)
    assert len(made.running()) == 1
    made.fire(ec2.name, made.now())
    made.sleep(3600)
    settled(made, iterations=1, started=2)


def test_a_volume_that_is_not_let_go_is_taken(made: World, ec2: Config) -> None:
    made.detach_s = lambda machine: 10**7
    assert day(cloud_of(made, ec2)) == "done: iteration_0"
    assert [c.parameters["Force"] for c in made.calls if c.operation == "DetachVolume"] == ["false", "true"]
    settled(made)


def test_what_cannot_be_is_refused_with_what_to_do(world: World, ec2: Config) -> None:
    for name in ("up", "run", "snapshot", "day"):
        assert command(world, ec2, name) == 2
    with pytest.raises(LaunchError, match="has no volume"):
        day(cloud_of(world, ec2))
    setup(cloud_of(world, ec2))
    with pytest.raises(LaunchError, match="has no machine today"):
        run(cloud_of(world, ec2))
    with pytest.raises(LaunchError, match="should be encrypted and in us-east-1b"):
        setup(cloud_of(world, dataclasses.replace(ec2, zone="us-east-1b")))
    there = cloud_of(world, ec2).mine("describe_volumes", "Volumes")[0]
    spec = [{"ResourceType": "volume", "Tags": there["Tags"]}]
    world.client("ec2").create_volume(AvailabilityZone="us-east-1a", Size=1, TagSpecifications=spec)
    with pytest.raises(LaunchError, match="are all tagged as the working_volume"):
        day(cloud_of(world, ec2))


def test_every_client_talks_to_this_machine(made: World, ec2: Config) -> None:
    """And it does so over HTTP."""
    cloud = cloud_of(made, ec2, connect=lambda client: None, lent={})
    setup(cloud)
    day(cloud)
    assert command(made, ec2, "status") == 0
    endpoints = {client.meta.endpoint_url for client in cloud._clients.values()}
    assert endpoints == {made.endpoint} and made.endpoint.startswith("http://127.0.0.1:")
    assert {"budgets", "ec2", "events", "iam", "ssm", "sqs", "scheduler", "sts"} == set(cloud._clients)


# ----------------------------------------------------------------------------------------------------- the ways back


def test_daily_snapshots_are_kept_and_old_ones_deleted(made: World, ec2: Config) -> None:
    few = dataclasses.replace(ec2, snapshots_kept=3)
    for _ in range(6):
        snapshot(cloud_of(made, few))
        snapshot(cloud_of(made, few))
        made.sleep(86400)
    days = sorted(tags_of(s)["zoobot:day"] for s in cloud_of(made, few).mine("describe_snapshots", "Snapshots"))
    assert days == ["2026-03-03", "2026-03-04", "2026-03-05", "2026-03-06"]
    assert len(prune(cloud_of(made, few))) == 1
    made.snapshot_takes_s = 10**7
    made.sleep(1)
    for _ in range(4):
        made.sleep(86400)
        snapshot(cloud_of(made, few))
    states = [s.status for s in made.ec2.snapshots.values()]
    assert states.count("completed") == 3, "what is not whole pushes out nothing"


def test_a_restored_volume_takes_the_place_and_the_old_one_stays(made: World, ec2: Config) -> None:
    day(cloud_of(made, ec2))
    made.sleep(86400)
    (old,) = made.volumes("working_volume")
    made.disks[old.id].iterations = ["lost"]
    whole = cloud_of(made, ec2)
    restore(whole)
    setup(cloud_of(made, ec2))
    assert made.disk.iterations == ["2026-03-01"] and made.volumes("replaced_volume") == [old]
    for n in calls(whole.operations):
        (used,) = made.volumes("working_volume")
        made.client("ec2").create_tags(Resources=[used.id], Tags=[{"Key": "zoobot:day", "Value": "2026-03-02"}])
        with pytest.raises(Killed):
            restore(cloud_of(made, ec2, at=n, answered=True))
        restore(cloud_of(made, ec2))
        assert len(made.volumes("working_volume")) == 1 and not made.volumes("restored_volume")
    day(cloud_of(made, ec2))
    assert made.disk.iterations[0] == "2026-03-01" and len(made.disk.iterations) == 2


def test_a_drill_checks_a_copy_and_deletes_it(made: World, ec2: Config) -> None:
    with pytest.raises(LaunchError, match="There is no whole snapshot"):
        drill(cloud_of(made, ec2))
    day(cloud_of(made, ec2))
    made.sleep(600)
    assert drill(cloud_of(made, ec2)) == "done: verified 1 iterations"
    assert made.volumes("drill_volume") == [] and made.running() == []
    settled(made, iterations=1, started=2)
    made.sleep(86400)
    day(cloud_of(made, ec2))
    assert len(made.disk.iterations) == 2


def test_a_baked_image_is_used_after_setup(made: World, ec2: Config) -> None:
    baked = dataclasses.replace(ec2, ami="baked")
    with pytest.raises(LaunchError, match="no image was baked"):
        setup(cloud_of(made, baked))
    image = bake(cloud_of(made, ec2))
    setup(cloud_of(made, baked))
    (template,) = made.ec2.launch_templates.values()
    assert template.default_version().data["ImageId"] == image
    assert day(cloud_of(made, baked)) == "done: iteration_0"
    assert made.running() == [] and len(made.machines) == 2


# ----------------------------------------------------------------------------------------------------- for real


SPEED = 40
# python -m launch, whose sleep goes with the world's clock
QUICK = f"""import runpy, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / {SPEED})
runpy.run_module("launch", run_name="__main__", alter_sys=True)"""


def run_clock(world: World, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        world.sleep(0.05 * SPEED)


def kill_at(operation: str, process: subprocess.Popen[bytes], call: Call) -> None:
    if call.operation == operation:
        process.kill()


def test_a_process_that_is_killed_for_real(made: World, ec2: Config, tmp_path: Path) -> None:
    """kill -9 once a call has reached AWS, then the command again to its end. The world's clock runs beside it."""
    made.clock = datetime.now(UTC)
    stop = threading.Event()
    clock = threading.Thread(target=run_clock, args=(made, stop))
    clock.start()
    assert command(made, ec2, "plan") == 0  # writes the settings to a file
    words = [sys.executable, "-c", QUICK, "day", "--config", str(tmp_path / "ec2.yaml")]
    kills = ("RunInstances", "SendCommand", "TerminateInstances") if ALL else ("SendCommand",)
    try:
        for operation in kills:
            running = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
            made.faults = [partial(kill_at, operation, running)]
            try:
                running.communicate(timeout=60)
            finally:
                running.kill()
            assert running.wait() == -signal.SIGKILL, operation
        made.faults = []
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=60)
    finally:
        stop.set()
        clock.join()
    settled(made)
    assert len(made.trainings) == 1


# ----------------------------------------------------------------------------------------------------- the stand-in


def test_the_stand_in_is_as_strict_as_aws(made: World, ec2: Config) -> None:
    client, ssm, scheduler = (made.client(name) for name in ("ec2", "ssm", "scheduler"))
    (template,) = client.describe_launch_templates()["LaunchTemplates"]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "zoobot:driver", "Value": "operator"}]}]
    from_ours = {"LaunchTemplateId": template["LaunchTemplateId"]}
    start = {"MinCount": 1, "MaxCount": 1, "LaunchTemplate": from_ours, "TagSpecifications": tags}
    one = client.run_instances(ClientToken="a", **start)["Instances"][0]["InstanceId"]
    again = client.run_instances(ClientToken="a", **start)["Instances"][0]["InstanceId"]
    two = client.run_instances(ClientToken="b", **start)["Instances"][0]["InstanceId"]
    assert one == again != two
    (volume,) = made.volumes("working_volume")
    elsewhere = client.create_volume(AvailabilityZone="us-east-1b", Size=1)["VolumeId"]
    client.attach_volume(VolumeId=volume.id, InstanceId=one, Device="/dev/sdf")
    schedule = {k: v for k, v in scheduler.get_schedule(Name=ec2.name).items() if k in ("Name", "Target")}
    window = {"Mode": "OFF"}
    attach = partial(client.attach_volume, Device="/dev/sdf")
    send = partial(ssm.send_command, DocumentName="AWS-RunShellScript")
    change = partial(scheduler.update_schedule, FlexibleTimeWindow=window, **schedule)
    refusals: dict[str, Any] = {
        "IdempotentParameterMismatch": partial(
            client.run_instances, ClientToken="a", InstanceType="g5.xlarge", **start
        ),
        "VolumeInUse": partial(attach, VolumeId=volume.id, InstanceId=two),
        "InvalidVolume.ZoneMismatch": partial(attach, VolumeId=elsewhere, InstanceId=two),
        "InvalidInstanceId": partial(send, InstanceIds=["i-0123456789abcdef0"]),
        "ValidationException": partial(change, ScheduleExpression="cron(0 25 * * ? *)"),
        "IncorrectState": partial(client.detach_volume, VolumeId=elsewhere),
    }
    for code, act in refusals.items():
        with pytest.raises(client.exceptions.ClientError) as refused:
            act()
        assert refused.value.response["Error"]["Code"] == code
    client.terminate_instances(InstanceIds=[one])
    with pytest.raises(client.exceptions.ClientError, match="IdempotentInstanceTerminated"):
        client.run_instances(ClientToken="a", **start)
