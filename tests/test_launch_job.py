"""Jobs on EC2 against the stand-in: as they should go, interrupted, cut off at every call, refused at every call."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launch import job as jobs
from launch import words
from launch.config import Config
from launch.errors import LaunchError
from launch.find import need_volume
from launch.job import Job, drive
from launch.setup import setup
from launch.simulate import simulate
from tests.aws import Call, World
from tests.launching import ALL, READS, Killed, calls, cloud_of, command, points

SWEEP = ("-m", "stage=simulate", "seed=0,1", "simulate.iterations=3")
COMMANDS = (("run.py", *SWEEP), ("run.py", "stage=report", "report.experiments=['simulations/*']"))


@pytest.fixture
def made(world: World, ec2: Config) -> World:
    """An account in which `setup` was run."""
    setup(cloud_of(world, ec2))
    return world


def tag(world: World, name: str) -> str:
    (volume,) = world.volumes("working_volume")
    return str({t["key"]: t["value"] for t in volume.get_tags()}.get(f"zoobot:{name}", ""))


def over(world: World, name: str, machines: int, units: int = 4) -> None:
    """The job is whole, each unit was made once, and nothing is left that costs money."""
    world.sleep(600)
    assert world.running() == []
    (volume,) = world.volumes("working_volume")
    assert volume.attachment is None
    assert len(world.disk.jobs[name].made) == units
    assert len([n for n, _ in world.job_machines if n == name]) == machines


def digests(world: World, name: str) -> list[str]:
    return world.disk.jobs[name].made


def test_a_simulation_from_the_words_to_the_report(
    made: World, ec2: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(ec2, results="s3://zoobot-results/of")
    words_of = ("simulate", "--name", "first", "--", "stage=simulate", "seed=1")
    assert command(made, config, *words_of) == 0
    over(made, "first", 1)
    assert made.disk.jobs["first"].commands == [["run.py", "stage=simulate", "seed=1"], list(COMMANDS[1])]
    assert tag(made, "job").split()[::2] == ["first", "1"] and tag(made, "job_month") == "2026-03 1"
    assert tag(made, "result") == "", "a job says nothing of the day"
    assert len(made.ec2.snapshots) == 1
    machines = len(made.machines)
    assert command(made, config, *words_of) == 0, "done: no machine"
    assert len(made.machines) == machines


def test_an_interrupted_job_goes_on_with_the_next_machine_to_the_same_digests(world: World, ec2: Config) -> None:
    results = []
    ends = ["interrupted", "lost", "hang"] if ALL else ["interrupted", "lost"]
    for plans in (["good"], [*ends, "good"]):
        world.reset()
        setup(cloud_of(world, ec2))
        each = iter(plans)
        world.job_of = lambda name, each=each: next(each)  # type: ignore[misc]
        assert drive(cloud_of(world, ec2), Job("sweep", COMMANDS)) == "a table"
        over(world, "sweep", len(plans))
        results.append(digests(world, "sweep"))
        assert len(world.ec2.snapshots) == 1
    assert results[0] == results[1]


def test_a_machine_whose_time_is_over_is_followed_by_another(made: World, ec2: Config) -> None:
    short = dataclasses.replace(ec2, max_runtime_h=0.25)
    made.max_runtime_s = short.max_runtime_s
    drive(cloud_of(made, short), Job("sweep", COMMANDS))
    over(made, "sweep", 2)


def test_machines_and_hours_bound_a_job_over_all_commands(made: World, ec2: Config) -> None:
    made.job_of = lambda name: "interrupted"
    few = dataclasses.replace(ec2, job_machines=2)
    for _ in range(3):
        with pytest.raises(LaunchError, match="sweep has had 2 machines"):
            drive(cloud_of(made, few), Job("sweep", COMMANDS))
        assert len(made.machines) == 2
    made.job_of = lambda name: "good"
    made.sleep(2 * 86400)
    with pytest.raises(LaunchError, match="its hours are used up: raise job_hours"):
        drive(cloud_of(made, dataclasses.replace(ec2, job_hours=0.25)), Job("sweep", COMMANDS))
    with pytest.raises(LaunchError, match=r"sweep has had 0\.\d+ hours. Raise job_hours"):
        drive(cloud_of(made, dataclasses.replace(ec2, job_hours=0.25)), Job("sweep", COMMANDS))
    assert len(made.machines) == 3, "the last one was not started"
    drive(cloud_of(made, ec2), Job("sweep", COMMANDS))
    over(made, "sweep", 4)


def test_all_jobs_of_a_month_stay_within_the_budget(made: World, ec2: Config) -> None:
    tight = dataclasses.replace(ec2, budget_usd=ec2.worst_of_jobs(3) + 1)
    for number in range(3):
        drive(cloud_of(made, tight), Job(f"job{number}", COMMANDS))
    with pytest.raises(LaunchError, match="budget_usd: 3 machines of jobs ran this month; with one more it could cost"):
        drive(cloud_of(made, tight), Job("job3", COMMANDS))
    assert len(made.machines) == 3
    made.sleep(31 * 86400)
    drive(cloud_of(made, tight), Job("job3", COMMANDS))
    over(made, "job3", 1)


def test_a_restored_volume_inherits_what_jobs_spent_and_not_what_they_did(made: World, ec2: Config) -> None:
    drive(cloud_of(made, ec2), Job("first", COMMANDS))
    made.sleep(86400)
    drive(cloud_of(made, ec2), Job("second", COMMANDS))
    made.sleep(86400)
    first = cloud_of(made, ec2).mine("describe_snapshots", "Snapshots")[0]["SnapshotId"]
    assert command(made, ec2, "restore", "--snapshot", first) == 0
    assert list(made.disk.jobs) == ["first"] and tag(made, "job_month") == "2026-03 2"
    drive(cloud_of(made, ec2), Job("second", COMMANDS))
    over(made, "second", 2)
    assert tag(made, "job").split()[::2] == ["second", "2"] and tag(made, "job_month") == "2026-03 3"
    (used,) = made.volumes("working_volume")
    assert command(made, ec2, "restore", "--snapshot", first) == 0
    assert made.volumes("working_volume") != [used], "a job has used it since"


def test_a_job_that_fails_is_not_repeated_by_itself(made: World, ec2: Config) -> None:
    made.job_of = lambda name: "failed"
    with pytest.raises(
        LaunchError, match="sweep is not done: failed: command 1 ended with status 2\na table"
    ) as stopped:
        drive(cloud_of(made, ec2), Job("sweep", COMMANDS))
    assert stopped.value.exit_status == 1 and len(made.machines) == 1
    made.job_of = lambda name: "good"
    drive(cloud_of(made, ec2), Job("sweep", COMMANDS))
    over(made, "sweep", 2)


def test_without_capacity_it_waits(made: World, ec2: Config) -> None:
    made.faults = [lambda call: "InsufficientInstanceCapacity" if call.operation == "RunInstances" else None]
    made.later(3600, made.faults.clear)
    drive(cloud_of(made, ec2), Job("sweep", COMMANDS))
    over(made, "sweep", 1)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["stage=simulte"], "stage=simulte: there is no such option. Did you mean stage=simulate?"),
        (["stage=simulate", "seed=0,1"], "a comma separates the values of a sweep"),
        (["stage=simulate", "shards.eval_size=-3"], "shards.eval_size=-3: must be at least 1"),
        (["seed=1"], "You must specify 'stage'"),
        (["stage=iterate", "oracle=panoptes", "oracle.project_id=1", "oracle.workflow_ids=[1]", "shards.source=real"],
         "stage=iterate of a live experiment is no simulation"),
        (["stage=simulate", "data_dir=/tmp"], "data_dir is given by the machine"),
        (["stage=simulate", "oracle.password=x"], "looks like a secret"),
        (["stage=simulate", "--", "seed=1"], "-- separates the words"),
        ([], "Give the words for run.py after --"),
    ],
)  # fmt: skip
def test_words_that_cannot_run_are_refused_before_money_is_spent(
    made: World, ec2: Config, given: list[str], reason: str
) -> None:
    before = len(made.calls)
    with pytest.raises(LaunchError) as refused:
        simulate(cloud_of(made, ec2), "first", given)
    assert reason in str(refused.value) and len(made.calls) == before


def test_a_job_is_refused_where_it_could_harm(made: World, ec2: Config) -> None:
    drive(cloud_of(made, ec2), Job("first", COMMANDS))
    with pytest.raises(LaunchError, match="first is the name of other commands"):
        drive(cloud_of(made, ec2), Job("first", COMMANDS[:1]))
    assert command(made, ec2, "simulate", "--name", "Not good", "--", "stage=simulate") == 2
    drive(cloud_of(made, ec2), Job("second", COMMANDS))
    with pytest.raises(LaunchError, match="first is the name of other commands"):  # the volume knows it
        drive(cloud_of(made, ec2), Job("first", COMMANDS[:1]))
    assert command(made, ec2, "up") == 0
    with pytest.raises(LaunchError, match="runs for decals_live already, started by operator"):
        drive(cloud_of(made, ec2), Job("third", COMMANDS))
    assert command(made, ec2, "down") == 0
    assert command(made, ec2, "schedule", "on") == 0
    with pytest.raises(LaunchError, match="runs every day, and a job could hold its volume"):
        drive(cloud_of(made, ec2), Job("third", COMMANDS))


def killed_at_second(made: World, ec2: Config, operation: str) -> None:
    """The first job is done; the driver of the second is killed as this call is answered."""
    whole = cloud_of(made, ec2)
    drive(whole, Job("first", COMMANDS))
    n = whole.operations.index(operation) + 1
    with pytest.raises(Killed):
        drive(cloud_of(made, ec2, at=n, answered=True), Job("second", COMMANDS))


def test_a_machine_that_gets_no_command_goes(made: World, ec2: Config) -> None:
    killed_at_second(made, ec2, "RunInstances")
    made.sleep(2000)
    assert made.running() == []
    drive(cloud_of(made, ec2), Job("second", COMMANDS))
    over(made, "second", 1)


def test_the_machine_finishes_without_the_laptop(made: World, ec2: Config) -> None:
    killed_at_second(made, ec2, "SendCommand")
    made.sleep(3 * 3600)
    over(made, "second", 1)
    assert drive(cloud_of(made, ec2), Job("second", COMMANDS)) == "", "it was done before"
    assert len(made.machines) == 2


def test_a_kill_at_every_call_of_a_job_and_the_command_again(made: World, ec2: Config) -> None:
    config = dataclasses.replace(ec2, snapshots_kept=3, budget_usd=10_000)
    plans = itertools.cycle(["interrupted", "good"])
    made.job_of = lambda name: next(plans)
    whole = cloud_of(made, config)
    drive(whole, Job("whole", COMMANDS))
    expected = digests(made, "whole")
    tried = points(whole.operations)
    assert len(tried) >= (44 if ALL else 3)
    for number, (n, answered) in enumerate(tried):
        made.sleep(86400)
        made.job_of = partial(interrupted_once, [])
        job, where = Job(f"job{number}", COMMANDS), f"call {n}, {whole.operations[n - 1]}, answered: {answered}"
        with pytest.raises(Killed):
            drive(cloud_of(made, config, at=n, answered=answered), job)
        drive(cloud_of(made, config), job)
        over(made, job.name, 2)
        assert digests(made, job.name) == expected, where
        assert len(made.volumes("working_volume")) == 1 and made.disk.formatted == 1
    print(f"simulate: killed at {len(tried)} of {len(whole.operations)} calls")


def interrupted_once(before: list[str], name: str) -> str:
    before.append(name)
    return "interrupted" if len(before) == 1 else "good"


def test_a_refusal_at_every_call_of_a_job_and_the_command_again(made: World, ec2: Config) -> None:
    config = dataclasses.replace(ec2, budget_usd=10_000)
    whole = cloud_of(made, config)
    drive(whole, Job("whole", COMMANDS))
    first = [n for n in calls(whole.operations) if whole.operations[n - 1] not in whole.operations[: n - 1]]
    for n in first:
        made.sleep(86400)
        numbers = itertools.count(1)
        made.faults = [partial(refuse_at, n, numbers)]
        words_of = ("simulate", "--name", f"job{n}", "--", *SWEEP)
        assert command(made, config, *words_of) == 2, whole.operations[n - 1]
        made.faults = []
        assert command(made, config, *words_of) == 0
        over(made, f"job{n}", len([name for name, _ in made.job_machines if name == f"job{n}"]))
    print(f"simulate: refused at {len(first)} calls")


def refuse_at(n: int, numbers: Any, call: Call) -> str | None:
    return "UnauthorizedOperation" if next(numbers) == n else None


def test_status_says_how_far_a_job_is_and_when_it_will_end(made: World, ec2: Config) -> None:
    def lines() -> list[str]:
        cloud = cloud_of(made, ec2)
        return jobs.report(cloud, need_volume(cloud), bool(made.running()))

    assert lines() == []
    killed_at_second(made, ec2, "SendCommand")
    made.sleep(700)
    job, hours, end = lines()
    assert job == "job       second: 0/2 commands and 2/3 iterations done, 11.8 iterations an hour"
    assert hours.startswith("          0.17 h on 1 machines, about $0.09; at most 5 machines and 20 h")
    assert end.startswith("          expected end: 0.1 h after 2026-03-01T")
    made.sleep(3600)
    assert lines()[-1] == "          done: 2 commands"
    assert command(made, ec2, "status") == 0


@pytest.mark.parametrize(
    "said",
    ["", "first", "first hours=lots made=1", "first commands=1/2 iterations=a/b made=1 hours=1.00 at=now",
     "first commands=1/2 iterations=1/2 made=1 hours=nan at=now", "first commands=1/2 iterations=1/2 made= hours= at="],
)  # fmt: skip
def test_status_calls_unknown_what_a_machine_did_not_say_rightly(made: World, ec2: Config, said: str) -> None:
    drive(cloud_of(made, ec2), Job("first", COMMANDS))
    (volume,) = made.volumes("working_volume")
    tags = [{"Key": f"zoobot:{key}", "Value": said} for key in ("progress", "job_result")]
    made.client("ec2").create_tags(Resources=[volume.id], Tags=tags)
    cloud = cloud_of(made, ec2)
    assert jobs.report(cloud, need_volume(cloud), False)[0].startswith(
        "job       first: 1 machines; how far it is, is unk"
    )
    assert command(made, ec2, "status") == 0
    drive(cloud, Job("first", COMMANDS))


def test_words_are_those_of_run_py() -> None:
    """A sweep of twenty simulations, from its file; and what run.py refuses. In another process, as it is."""
    with pytest.raises(LaunchError, match=r"run.py would refuse this: 1 setting.*\n  stage=simulte: there"):
        words.check(("stage=simulte",))
    made = words.check(("experiment=demo_sweep",))
    assert len(made) == 20 and {each.kind for each in made} == {"simulations"}
    assert sum(each.iterations for each in made) == 120


def test_a_bench_brings_its_table_back(made: World, ec2: Config) -> None:
    assert command(made, ec2, "bench") == 0
    over(made, "bench-2026-03-01", 1, units=2)
    table = Path(ec2.record) / "decals_live_bench-2026-03-01.txt"
    assert table.read_text() == "a table"
    assert command(made, ec2, "bench") == 0 and len(made.machines) == 1, "once a day"


def test_reads_change_nothing(made: World, ec2: Config) -> None:
    """A job that is done makes no call that changes anything."""
    drive(cloud_of(made, ec2), Job("first", COMMANDS))
    made.sleep(600)
    before = len(made.calls)
    drive(cloud_of(made, ec2), Job("first", COMMANDS))
    assert [c.operation for c in made.calls[before:] if not c.operation.startswith(READS)] == []
