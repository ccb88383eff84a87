"""Jobs beside live work: a volume each, or one after the other."""

from __future__ import annotations

import dataclasses

import pytest

from launch.aws import tags_of
from launch.config import Config
from launch.day import day, down
from launch.errors import LaunchError
from launch.job import Job, drive
from launch.setup import setup
from tests.aws import World
from tests.launching import ALL, Killed, cloud_of, command
from tests.test_launch_job import COMMANDS


@pytest.fixture
def made(world: World, ec2: Config) -> World:
    """An account in which `setup` was run."""
    setup(cloud_of(world, ec2))
    return world


def test_simulations_start_from_a_copy_and_touch_nothing_live(made: World, ec2: Config) -> None:
    sweep = dataclasses.replace(ec2, experiment="sweep", data_from="decals_live")
    with pytest.raises(LaunchError, match="data_from: decals_live has no whole snapshot"):
        setup(cloud_of(made, sweep))
    assert day(cloud_of(made, ec2)) == "done: iteration_0"
    made.sleep(600)
    with pytest.raises(LaunchError, match="volume_gb: the snapshot of decals_live needs 200"):
        setup(cloud_of(made, dataclasses.replace(sweep, volume_gb=100)))
    setup(cloud_of(made, sweep))
    assert made.disk_of("sweep").iterations == ["2026-03-01"]
    drive(cloud_of(made, sweep), Job("first", COMMANDS))
    assert len(made.disk_of("sweep").jobs["first"].made) == 4
    assert made.disk_of("decals_live").jobs == {}
    tags = {tags_of(s)["zoobot:experiment"] for s in made.client("ec2").describe_snapshots()["Snapshots"]}
    assert tags == {"decals_live", "sweep"}
    made.sleep(86400)
    assert day(cloud_of(made, ec2)) == "done: iteration_1"


def test_a_volume_is_made_again_of_a_newer_snapshot(made: World, ec2: Config) -> None:
    sweep = dataclasses.replace(ec2, experiment="sweep", data_from="decals_live")
    for number in range(2):
        assert day(cloud_of(made, ec2)) == f"done: iteration_{number}"
        made.sleep(86400)
        setup(cloud_of(made, sweep))
        assert len(made.disk_of("sweep").iterations) == number + 1
        (mine,) = [v["VolumeId"] for v in cloud_of(made, sweep).mine("describe_volumes", "Volumes")]
        made.client("ec2").delete_volume(VolumeId=mine)


@pytest.mark.skipif(not ALL, reason="takes seconds: make test-ec2")
def test_thirty_days_with_a_sweep_in_between_interrupted_ten_times(world: World, ec2: Config) -> None:
    """The sweep and the days, each on its volume: what both disks hold at the end is the same with and without."""
    ends = []
    for interruptions in (0, 10):
        world.reset()
        ends.append(thirty_days(world, ec2, interruptions))
    assert ends[0] == ends[1]
    assert len(ends[0][0]) == 30 and len(ends[0][1]) == 31


def thirty_days(world: World, ec2: Config, interruptions: int) -> tuple[list[str], list[str]]:
    sweep = dataclasses.replace(ec2, experiment="sweep", data_from="decals_live", job_machines=30, job_hours=100)
    setup(cloud_of(world, ec2))
    day(cloud_of(world, ec2))
    world.sleep(3600)
    setup(cloud_of(world, sweep))
    assert command(world, ec2, "schedule", "on") == 0
    world.units_of = lambda words: 30 * ("stage=simulate" in words)
    world.unit_s = 600.0  # so 23 in a machine's four hours
    left = ["interrupted"] * interruptions
    world.job_of = lambda name: left.pop() if left else "good"
    for number in range(1, 30):
        world.later(number * 86400, lambda: world.fire(ec2.name, world.now()) and None)
    world.sleep(10 * 86400 - 1800)
    drive(cloud_of(world, sweep), Job("sweep", COMMANDS))  # five hours, while the schedule fires
    world.sleep(20 * 86400)
    assert not left and len(world.job_machines) == (11 if interruptions else 2)
    assert world.running() == []
    return world.disk_of("decals_live").iterations, world.disk_of("sweep").jobs["sweep"].made


def test_the_schedule_is_not_switched_on_while_a_job_has_the_volume(
    made: World, ec2: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = cloud_of(made, ec2)
    drive(whole, Job("first", COMMANDS))
    n = whole.operations.index("SendCommand") + 1
    with pytest.raises(Killed):
        drive(cloud_of(made, ec2, at=n, answered=True), Job("second", COMMANDS))
    assert command(made, ec2, "schedule", "on") == 1
    assert "works at the job second" in capsys.readouterr().err
    assert command(made, ec2, "schedule", "show") == command(made, ec2, "schedule", "off") == 0
    assert not made.fire(ec2.name, made.now())
    made.sleep(3 * 3600)
    assert command(made, ec2, "schedule", "on") == 0


def test_no_next_machine_is_started_once_the_schedule_is_on(made: World, ec2: Config) -> None:
    made.job_of = lambda name: "interrupted"
    schedule = made.client("scheduler").get_schedule(Name=ec2.name)
    known = ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")
    switched = {key: schedule[key] for key in known} | {"State": "ENABLED"}
    made.later(300, lambda: made.client("scheduler").update_schedule(**switched) and None)
    with pytest.raises(LaunchError, match="runs every day, and a job could hold its volume"):
        drive(cloud_of(made, ec2), Job("first", COMMANDS))
    assert len(made.machines) == 1


@pytest.mark.parametrize("policy_is_old", [False, True])
def test_a_machine_that_is_ended_by_hand_ends_its_driver(made: World, ec2: Config, policy_is_old: bool) -> None:
    """`down` comes from another computer, while the driver waits for the machine."""
    made.unit_s = 1800.0
    elsewhere = dataclasses.replace(ec2, record=f"{ec2.record}-elsewhere")
    tells = lambda call: "UnauthorizedOperation" if "zoobot:ended" in str(call.parameters) else None  # noqa: E731
    made.faults = [tells] if policy_is_old else []
    made.later(900, lambda: down(cloud_of(made, elsewhere, lent={})))
    made.later(901, lambda: next(iter(made.machines.values())).result("cut off: the machine was shut down at its work"))
    if policy_is_old:
        drive(cloud_of(made, ec2), Job("first", COMMANDS))
        assert len(made.machines) == 2, "taken for an interruption, but it was ended"
        return
    with pytest.raises(LaunchError, match="first is not done: ended by `python -m launch down`"):
        drive(cloud_of(made, ec2), Job("first", COMMANDS))
    assert len(made.machines) == 1 and made.running() == []
    drive(cloud_of(made, ec2), Job("first", COMMANDS))
    assert len(made.machines) == 2


def test_a_day_whose_machine_is_ended_by_hand_ends(made: World, ec2: Config) -> None:
    made.train_s = 3600.0
    made.later(900, lambda: down(cloud_of(made, ec2, lent={})))
    with pytest.raises(LaunchError, match="no iteration for 2026-03-01: ended by `python -m launch down`"):
        day(cloud_of(made, ec2))
    assert len(made.machines) == 1
    assert day(cloud_of(made, ec2)) == "done: iteration_0"
    assert len(made.machines) == 2
