"""The commands of docs/ec2.md, in their order, against the stand-in; and that each command is in the guide."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from launch import __main__ as launch
from launch.config import Config, load
from tests.aws import World
from tests.launching import command

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "ec2.md").read_text(encoding="utf-8")


def test_commands_of_the_guide_run(world: World, ec2: Config, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
    simulations = dataclasses.replace(
        load(ROOT / "launch" / "simulations.yaml"), record=ec2.record, revision=ec2.revision
    )
    configs = {"launch/ec2.yaml": ec2, "launch/simulations.yaml": simulations}
    ran = set()
    for line in lines:
        words = shlex.split(line, comments=True)
        at = words.index("--config")
        assert words[:3] == ["python", "-m", "launch"], line
        config = configs[words.pop(at + 1)]
        del words[at]
        if words[3] == "restore":
            world.sleep(600)  # the snapshot is whole
        assert command(world, config, *words[3:]) == 0, f"{line}\n{capsys.readouterr().err}"
        ran.add(words[3])
    assert ran == set(launch.COMMANDS) - {"logs"}, "logs needs a bucket"
    world.sleep(600)
    assert world.running() == [] and len(world.disk_of("decals_live").iterations) == 1
    assert set(world.disk_of("simulations").jobs) == {"first", "sweep", "demo", "bench-2026-03-01"}
