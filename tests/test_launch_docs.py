"""The commands of docs/ec2.md, in their order, against the stand-in; and that each command is in the guide."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from launch import __main__ as launch
from launch.config import Config
from tests.aws import World
from tests.launching import command

GUIDE = (Path(__file__).resolve().parents[1] / "docs" / "ec2.md").read_text(encoding="utf-8")


def test_commands_of_the_guide_run(world: World, ec2: Config, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
    ran = set()
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[:3] == ["python", "-m", "launch"] and words[-2:] == ["--config", "launch/ec2.yaml"], line
        if words[3] == "restore":
            world.sleep(600)  # the snapshot is whole
        assert command(world, ec2, *words[3:-2]) == 0, f"{line}\n{capsys.readouterr().err}"
        ran.add(words[3])
    assert ran == set(launch.COMMANDS) - {"logs"}, "logs needs a bucket"
    assert world.running() == [] and len(world.disk.iterations) == 1
