"""What limits an experiment: its budget, its market, the boundary of its roles, and the commit that machines run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from launch import budget, revision
from launch.arns import Arns
from launch.bake import bake
from launch.config import RESERVATION, Config
from launch.day import day
from launch.drill import drill
from launch.errors import LaunchError
from launch.find import need_template, need_volume, result_of
from launch.setup import ensure_schedule, setup
from launch.teardown import teardown
from tests.aws import Call, World
from tests.launching import READS, Doomed, Killed, calls, cloud_of, command, settled


def switched_on(world: World, config: Config) -> None:
    """`schedule on`, also with a budget that is less than the worst month."""
    cloud = cloud_of(world, config)
    ensure_schedule(cloud, need_template(cloud), str(need_volume(cloud)["VolumeId"]), "ENABLED")


def test_a_month_in_which_the_budget_is_spent(world: World, ec2: Config) -> None:
    """Training takes three hours a day, the budget is enough for nine; then nothing starts until it is raised."""
    config = dataclasses.replace(ec2, budget_usd=15)
    setup(cloud_of(world, config))
    switched_on(world, config)
    world.train_s = 3 * 3600
    start = world.now()
    for number in range(30):  # the whole of March
        world.sleep((start + timedelta(days=number, hours=1) - world.now()).total_seconds())
        world.fire(config.name, world.now())
    world.sleep(5 * 3600)
    ran = len(world.machines)
    assert world.disk.iterations == [f"2026-03-{n:02}" for n in range(1, ran + 1)]
    assert 15 <= world.spent() < 15 + 3 * 3.1 * 0.54, "AWS's count lags: three days at most are too many"
    assert world.budgets.mails == ["astronomer@example.org"], "told once"
    (queue,) = world.client("sqs").list_queues()["QueueUrls"]
    counted = world.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])
    assert int(counted["Attributes"]["ApproximateNumberOfMessages"]) == 30 - ran, "the others are in the queue"
    with pytest.raises(LaunchError, match=r"budget of \$15.00 is spent") as stopped:
        day(cloud_of(world, config))
    assert stopped.value.exit_status == 2
    assert re.fullmatch(
        r"\$1\d.\d\d of \$15.00 this month, .*EXECUTION_SUCCESS", budget.describe(cloud_of(world, config))
    )
    print(f"{ran} of 30 days ran, ${world.spent():.2f} of $15.00; {30 - ran} starts were refused")
    raised = dataclasses.replace(config, budget_usd=30)
    setup(cloud_of(world, raised))
    assert world.fire(config.name, world.now()), "armed again"
    world.sleep(5 * 3600)
    assert len(world.disk.iterations) == ran + 1 and world.budgets.actions[config.name]["Status"] == "STANDBY"


def test_teardown_when_somebody_deleted_a_budget_that_had_acted(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    arns = Arns(ec2, cloud_of(world, ec2).account)
    role = arns.role("scheduler").rpartition("/")[2]
    world.client("iam").attach_role_policy(RoleName=role, PolicyArn=arns.managed("stop"))
    world.budgets.budgets.clear()
    world.budgets.actions.clear()
    teardown(cloud_of(world, ec2))
    assert world.client("iam").list_roles()["Roles"] == []
    assert world.client("iam").list_policies(Scope="Local")["Policies"] == []


def test_the_budget_is_armed_again_in_the_next_month(world: World, ec2: Config) -> None:
    config = dataclasses.replace(ec2, budget_usd=1)
    setup(cloud_of(world, config))
    switched_on(world, config)
    world.train_s = 3 * 3600
    assert world.fire(config.name, world.now())
    world.sleep(2 * 86400)
    assert not world.fire(config.name, world.now())
    setup(cloud_of(world, config))
    assert not world.fire(config.name, world.now()), "it is still spent"
    world.sleep(31 * 86400)
    whole = cloud_of(world, config)
    setup(whole)
    assert whole.operations.count("ExecuteBudgetAction") == 2, "reverse, and reset"
    assert world.fire(config.name, world.now())


def changes(whole: Doomed) -> list[int]:
    """The calls that change something."""
    return [n for n in calls(whole.operations) if not whole.operations[n - 1].startswith(READS)]


def test_a_kill_at_every_call_that_arms_the_budget_again(world: World, ec2: Config) -> None:
    config = dataclasses.replace(ec2, budget_usd=1)
    setup(cloud_of(world, config))
    world.budgets.trip(config.name)
    whole = cloud_of(world, config)
    setup(whole)
    for n in [n for n, name in enumerate(whole.operations, 1) if name in ("ExecuteBudgetAction", "UpdateBudget")]:
        world.budgets.trip(config.name)
        with pytest.raises(Killed):
            setup(cloud_of(world, config, at=n, answered=True))
        world.sleep(60)
        setup(cloud_of(world, config))
        assert world.budgets.actions[config.name]["Status"] == "STANDBY"


def test_a_budget_is_changed_and_taken_away(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    setup(cloud_of(world, dataclasses.replace(ec2, budget_usd=1000, budget_email="other@example.org")))
    assert world.budgets.budgets[ec2.name]["BudgetLimit"]["Amount"] == "1000.00"
    assert world.budgets.actions[ec2.name]["Subscribers"] == [
        {"SubscriptionType": "EMAIL", "Address": "other@example.org"}
    ]
    world.budgets.trip(ec2.name)
    setup(cloud_of(world, dataclasses.replace(ec2, budget_email="")))
    assert world.budgets.budgets == {} == world.budgets.actions
    attached = world.client("iam").list_attached_role_policies(RoleName="zoobot-decals_live-scheduler")
    assert attached["AttachedPolicies"] == []
    setup(cloud_of(world, ec2))
    world.budgets.trip(ec2.name)
    whole = cloud_of(world, ec2)
    teardown(whole)
    for n in changes(whole):
        setup(cloud_of(world, ec2))
        world.budgets.trip(ec2.name)
        with pytest.raises(Killed):
            teardown(cloud_of(world, ec2, at=n, answered=True))
        teardown(cloud_of(world, ec2))
        assert world.budgets.budgets == {} and world.client("iam").list_roles()["Roles"] == []


# ------------------------------------------------------------------------------------------------- the market


def markets(world: World) -> list[str]:
    return [machine.market for machine in world.machines.values()]


def test_on_demand_follows_spot_after_the_stated_number_of_interruptions(world: World, ec2: Config) -> None:
    spot = dataclasses.replace(ec2, market="spot", spot_interruptions=2, attempts=4)
    setup(cloud_of(world, spot))
    plans = iter(["interrupted", "interrupted", "good"])
    world.training_of = lambda day: next(plans)
    assert day(cloud_of(world, spot)) == "done: iteration_0"
    assert markets(world) == ["spot", "spot", "on-demand"]
    settled(world, iterations=1, started=3)
    world.training_of = lambda day: "good"
    world.sleep(86400)
    day(cloud_of(world, spot))
    assert markets(world)[3:] == ["spot"], "each day begins with spot"
    assert bake(cloud_of(world, spot)) and drill(cloud_of(world, spot))
    assert markets(world)[4:] == ["on-demand"] * 2, "nothing resumes these"


def test_the_schedules_machine_counts_once_it_is_interrupted(world: World, ec2: Config) -> None:
    spot = dataclasses.replace(ec2, market="spot", attempts=2)
    setup(cloud_of(world, spot))
    assert command(world, spot, "schedule", "on") == 0
    plans = iter(["interrupted", "good"])
    world.training_of = lambda day: next(plans)
    world.fire(spot.name, world.now())
    world.sleep(3600)
    cloud = cloud_of(world, spot)
    assert result_of(need_volume(cloud), cloud.today).startswith("interrupted")
    assert day(cloud) == "done: iteration_0"
    assert markets(world) == ["spot", "on-demand"]
    settled(world, iterations=1, started=2)


def test_a_driver_that_is_cut_off_between_the_two_markets_goes_on_the_same_way(world: World, ec2: Config) -> None:
    spot = dataclasses.replace(ec2, market="spot", attempts=2)

    def interrupted_once(day: str) -> str:
        return "interrupted" if sum(d == day for _, d in world.trainings) == 1 else "good"

    world.training_of = interrupted_once
    setup(cloud_of(world, spot))
    whole = cloud_of(world, spot)
    day(whole)
    for days, n in enumerate(changes(whole), 2):
        world.sleep(86400)
        before = len(world.machines)
        with pytest.raises(Killed):
            day(cloud_of(world, spot, at=n, answered=True))
        assert day(cloud_of(world, spot)).startswith("done")
        assert markets(world)[before:] == ["spot", "on-demand"], whole.operations[n - 1]
        settled(world, iterations=days, started=2 * days)


def test_one_template_serves_both_markets(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    n = len(world.calls)
    setup(cloud_of(world, dataclasses.replace(ec2, market="spot")))
    changed = {c.operation for c in world.calls[n:] if not c.operation.startswith(("Describe", "Get"))}
    assert "CreateLaunchTemplateVersion" not in changed and "UpdateSchedule" in changed


def test_a_machine_is_told_that_its_reservation_is_taken_back(world: World, ec2: Config) -> None:
    reserved = dataclasses.replace(ec2, market=RESERVATION, capacity_reservation="cr-0123456789abcdef0", attempts=2)
    setup(cloud_of(world, reserved))
    told: list[int] = []

    def take_back() -> None:
        told.append(world.reclaim("i-0theirs"))
        world.sleep(200)
        assert len(world.running()) == 1, "another's machine"
        told.append(world.reclaim(world.running()[0].id))

    world.later(30, take_back)
    world.train_s = 600
    assert day(cloud_of(world, reserved)) == "done: iteration_0"
    assert told == [1, 1] and markets(world) == [RESERVATION, "on-demand"]
    settled(world, iterations=1, started=2)
    asked = next(c for c in world.calls if c.operation == "RunInstances").parameters
    assert (
        asked["CapacityReservationSpecification.CapacityReservationTarget.CapacityReservationId"]
        == "cr-0123456789abcdef0"
    )
    setup(cloud_of(world, ec2))
    assert world.client("events").list_rules()["Rules"] == [], "not needed on this market"
    setup(cloud_of(world, reserved))
    teardown(cloud_of(world, reserved))
    assert world.client("events").list_rules()["Rules"] == [] and world.client("iam").list_roles()["Roles"] == []


# ------------------------------------------------------------------------------------------------- the boundary


def refuse(what: tuple[str, ...], call: Call) -> str | None:
    return "AccessDenied" if call.operation in what else None


def test_only_an_administrator_makes_the_boundary(
    world: World, ec2: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    managed = ("CreatePolicy", "CreatePolicyVersion", "DeletePolicy", "ListPolicyVersions")
    world.faults = [partial(refuse, managed)]
    assert command(world, ec2, "setup") == 2
    told = capsys.readouterr().err
    assert "python -m launch plan --policy boundary > boundary.json" in told
    assert "aws iam create-policy --policy-name zoobot-decals_live-boundary" in told
    world.faults = []
    assert command(world, ec2, "setup") == 0
    world.faults = [partial(refuse, managed)]
    assert command(world, ec2, "setup") == 0, "from then on nobody else needs to"
    more = dataclasses.replace(ec2, secrets={**ec2.secrets, "other": "/zoobot/other"})
    assert command(world, more, "setup") == 2
    assert (
        "aws iam create-policy-version --policy-arn arn:aws:iam::123456789012:policy/zoobot" in capsys.readouterr().err
    )
    assert command(world, ec2, "teardown") == 0
    assert len(world.client("iam").list_policies(Scope="Local")["Policies"]) == 2, "left, and said so"
    world.faults = []
    for secrets in ({}, ec2.secrets, {}, ec2.secrets, {}, ec2.secrets, {}):
        setup(cloud_of(world, dataclasses.replace(ec2, secrets=secrets)))  # IAM keeps five versions
    teardown(cloud_of(world, ec2))
    assert world.client("iam").list_policies(Scope="Local")["Policies"] == []


def test_a_role_of_before_is_put_inside_the_boundary(world: World, ec2: Config) -> None:
    setup(cloud_of(world, ec2))
    iam = world.client("iam")
    iam.delete_role_permissions_boundary(RoleName="zoobot-decals_live-machine")
    setup(cloud_of(world, ec2))
    role = iam.get_role(RoleName="zoobot-decals_live-machine")["Role"]
    boundary = Arns(ec2, "123456789012").managed("boundary")
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary


# ------------------------------------------------------------------------------------------------- the revision


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository on this disk, which git may read in this test."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init -q -b main")
    commit(folder, "one")
    monkeypatch.setitem(revision._ALONE, "GIT_ALLOW_PROTOCOL", "file")
    return folder


def git(folder: Path, words: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *who, *words.split()], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, message: str) -> str:
    git(folder, f"commit -q --allow-empty -m {message}")
    return git(folder, "rev-parse HEAD")


def test_a_branch_or_tag_is_its_commit_and_nothing_else_is(
    repository: Path, ec2: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = dataclasses.replace(ec2, repository=str(repository))

    def of(name: str) -> str:
        return revision.commit_of(dataclasses.replace(here, revision=name))

    first = git(repository, "rev-parse HEAD")
    git(repository, "tag -a v1 -m annotated")
    git(repository, "tag plain")
    assert of("main") == of("v1") == of("plain") == of(first) == first
    git(repository, "tag main-too")
    git(repository, "checkout -q -b main-too")
    assert of("main-too") == first
    second = commit(repository, "two")
    assert of("main") == first != second
    for name, told in {
        "main-too": "is a branch and a tag",
        "absent": "has no branch or tag",
        first[:12]: "has no branch",
    }.items():
        with pytest.raises(LaunchError, match=told):
            of(name)
    for scheme in ("file", "ssh", "http"):
        with monkeypatch.context() as default, pytest.raises(LaunchError, match="not allowed"):
            default.setitem(revision._ALONE, "GIT_ALLOW_PROTOCOL", "https")
            revision.commit_of(dataclasses.replace(here, revision="main", repository=f"{scheme}://127.0.0.1/x"))
    with pytest.raises(LaunchError, match="cannot be read without a password"):
        revision.commit_of(dataclasses.replace(here, revision="main", repository=str(repository / "absent")))


def test_machines_get_the_commit_and_setup_says_what_changed(world: World, ec2: Config, repository: Path) -> None:
    branch = dataclasses.replace(ec2, revision="main", repository=str(repository))
    said: list[str] = []

    def set_up(config: Config) -> str:
        said.clear()
        cloud = cloud_of(world, config)
        cloud.say = said.append
        setup(cloud)
        (template,) = world.ec2.launch_templates.values()
        description = template.default_version().description
        assert [line for line in said if line.startswith("machines run commit ")] != []
        return str(description).partition(" ")[2]

    first = git(repository, "rev-parse HEAD")
    assert set_up(branch) == first
    assert set_up(branch) == first and not any("before" in line for line in said)
    second = commit(repository, "two")
    assert set_up(branch) == second
    assert any(f"machines run commit {second} (main), before {first}" in line for line in said)
    assert len(next(iter(world.ec2.launch_templates.values())).versions) == 2
    elsewhere = dataclasses.replace(branch, repository="https://example.invalid/x.git")
    assert command(world, elsewhere, "plan") == 0, "plan looks nothing up"


def test_the_machine_installs_only_what_the_lock_names() -> None:
    """By hash, in wheels but for one, and nothing besides; each package of both lock files has version and hashes."""
    root = Path(__file__).resolve().parents[1]
    scripts = "\n".join(path.read_text() for path in (root / "launch").glob("*.sh")).replace("\\\n", " ")
    lines = [line.strip() for line in scripts.splitlines()]
    (flags,) = [line for line in lines if "pip install" in line]
    assert flags.endswith("pip install -q --require-hashes --no-deps --only-binary :all:)")
    assert "pip+=(--no-build-isolation --no-binary antlr4-python3-runtime)" in lines
    fetching = [line for line in lines if re.match(r"[^#]*\b(apt-get|npm|curl|wget|conda|uv) ", line)]
    assert all("$IMDS" in line or "install -y -q python3-venv" in line for line in fetching), "Ubuntu signs its archive"
    (builders,) = [line for line in lines if "builders.lock" in line and line.startswith("sed ")]
    for name in ("requirements.lock", "requirements-gpu.lock"):
        packages = (root / name).read_text().replace("\\\n", " ").splitlines()
        packages = [line for line in packages if line and not line.lstrip().startswith("#")]
        assert len(packages) > 50 and all("==" in line and "--hash=sha256:" in line for line in packages)
        assert any(line.startswith("antlr4-python3-runtime==") for line in packages)
        command = builders.partition(" | as_owner")[0].replace("$lock", str(root / name))
        found = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout
        assert re.findall(r"^\w+==", found, re.MULTILINE) == ["setuptools==", "wheel=="]
        assert all(line.lstrip().startswith("--hash=") for line in found.splitlines() if "==" not in line)
