"""Settings, cron expressions, costs, and the day on a plain machine."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import config as launch_config
from launch import cost, local, userdata
from launch.config import Config
from launch.cron import problems_of
from launch.errors import LaunchError
from tests.launching import ALL

ROOT = Path(__file__).resolve().parents[1]
GOOD: dict[str, Any] = yaml.safe_load((ROOT / "launch" / "ec2.yaml").read_text())


def test_all_problems_are_told_together() -> None:
    wrong = {**GOOD, "zone": "eu-west-1a", "attempts": 0, "schedule": "cron(0 3 * * *)", "market": "cheap", "colour": 1}
    with pytest.raises(LaunchError) as stopped:
        launch_config.check(wrong, "ec2.yaml")
    for key in ("attempts", "market", "colour"):
        assert f"\n  {key}: " in str(stopped.value)
    wrong = {**GOOD, "zone": "eu-west-1a", "schedule": "cron(0 3 * * *)", "instance_types": ["x9.huge"],
             "arguments": ["stage=report", "oracle.password=x"]}  # fmt: skip
    with pytest.raises(LaunchError) as stopped:
        launch_config.check(wrong, "ec2.yaml")
    for text in (
        "zone: eu-west-1a is not in",
        "schedule: ",
        "x9.huge has no price",
        "stage is given",
        "looks like a secret",
    ):
        assert text in str(stopped.value)


REQUIRED = [f.name for f in dataclasses.fields(Config) if f.default is f.default_factory is dataclasses.MISSING]


@pytest.mark.parametrize("key", REQUIRED)
def test_what_is_missing_or_of_another_kind_is_named(key: str) -> None:
    for wrong in ({k: v for k, v in GOOD.items() if k != key}, {**GOOD, key: {"a": 1}}):
        with pytest.raises(LaunchError, match=f"  {key}: "):
            launch_config.check(wrong, "ec2.yaml")


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_any_value_is_taken_or_refused_with_its_key(changed: dict[str, Any]) -> None:
    try:
        launch_config.check({**GOOD, **changed}, "ec2.yaml")
    except LaunchError as error:
        assert any(f"{key}: " in str(error) for key in GOOD)


def test_costs_by_hand() -> None:
    assert cost.hourly("g4dn.xlarge", "on-demand") == pytest.approx(0.526 + 0.005)
    month = cost.month("g4dn.xlarge", "on-demand", 73, 100, 200, 1)
    assert month.machine == pytest.approx(73 * 0.531 + 0.8)  # a tenth of a month of 100 GB at 0.08
    assert month.volume == pytest.approx(16) and month.snapshots == pytest.approx(10)
    two = launch_config.check({**GOOD, "attempts": 3, "spot_interruptions": 2, "budget_usd": 1000}, "ec2.yaml")
    hours = 31 * 4.25
    disk = 100 * 0.08 / 730
    spot, dear = 1.006 * 0.7 + 0.005 + disk, 1.006 + 0.005 + disk
    assert dataclasses.replace(two, market="spot").worst_month().machine == pytest.approx(hours * (2 * spot + dear))
    assert two.worst_month().machine == pytest.approx(hours * 3 * dear), "all on demand"
    with pytest.raises(LaunchError, match="budget_usd: the worst month would cost"):
        launch_config.check({**GOOD, "budget_usd": 100}, "ec2.yaml")


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("cron(0 3 * * ? *)", ""), ("cron(30 23 ? * MON-FRI *)", ""), ("cron(0 3 L 1,6 ? 2027)", ""),
        ("cron(0 3 * * * *)", "exactly one"), ("cron(0 25 * * ? *)", "hour cannot be"), ("0 3 * * *", "should be cron"),
        ("cron(0 */2 * * ? *)", "one iteration a day"), ("cron(0 3 ? * 0 *)", "day-of-week cannot be"),
        ("cron(0 3 31-1 * ? *)", "day-of-month cannot be"), ("cron(0 3 * XYZ ? *)", "month cannot be"),
    ],
)  # fmt: skip
def test_cron_expressions(expression: str, problem: str) -> None:
    told = problems_of(expression)
    assert (problem in "; ".join(told)) if problem else told == []


def test_a_plain_machine_has_the_same_day(ec2: Config, tmp_path: Path) -> None:
    repository = tmp_path / "zoo bot"
    (repository / ".venv/bin").mkdir(parents=True)
    (repository / "data").mkdir()
    (repository / ".venv/bin/python").write_text('#!/bin/bash\nprintf "%s\\n" "$@" >>data/ran\nsleep 1\n')
    (repository / ".venv/bin/python").chmod(0o755)
    line = local.crontab(ec2, repository).splitlines()[1]
    assert line.startswith("0 3 * * * flock --nonblock ")
    command = line.split(maxsplit=5)[5].replace(r"\%", "%")
    both = [subprocess.Popen(["sh", "-c", command], cwd=repository) for _ in range(2)]
    assert sorted(p.wait(20) for p in both) == [0, 1], "never beside itself"
    ran = (repository / "data" / "ran").read_text().splitlines()
    assert ran.count("stage=iterate") == 1 and set(ec2.arguments) < set(ran)
    units = local.systemd(ec2, repository)
    assert "OnCalendar=*-*-* 03:00:00 UTC" in units and "Persistent=true" in units
    if shutil.which("systemd-analyze"):
        subprocess.run(["systemd-analyze", "calendar", "*-*-* 03:00:00 UTC"], check=True, capture_output=True)


def test_a_schedule_that_only_aws_understands_is_refused_for_a_plain_machine(ec2: Config) -> None:
    with pytest.raises(LaunchError, match="can be said to AWS only"):
        local.crontab(dataclasses.replace(ec2, schedule="cron(0 3 L * ? *)"), ROOT)
    weekly = local.crontab(dataclasses.replace(ec2, schedule="cron(5 4 ? * MON,7 *)"), ROOT)
    assert weekly.splitlines()[1].startswith("5 4 * * 1,6 ")


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(st.lists(TEXT, min_size=1, max_size=10))
@settings(max_examples=100 if ALL else 15)
def test_arguments_reach_bash_as_they_are(texts: list[str]) -> None:
    config = launch_config.check({**GOOD, "arguments": [f"key={text}" for text in texts]}, "ec2.yaml")
    script = userdata.settings(config) + 'printf "%s\\0" "${ARGUMENTS[@]}"'
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()
    assert told == "".join(f"key={text}\0" for text in texts)
