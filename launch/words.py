"""Words for run.py, checked here before a machine costs money. run.py's own code does it, in a process of its own: that
of this checkout, not of `revision`.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from launch.config import problems_of_words
from launch.errors import LaunchError

_REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Made:
    """What one run of a stage makes: live or simulations, and how many iterations there are at its end (0: unknown)."""

    stage: str
    kind: str
    iterations: int


def check(words: tuple[str, ...], ours: tuple[str, ...] = ("data_dir",)) -> tuple[Made, ...]:
    """What run.py would make with these words; several for a sweep. LaunchError, if they cannot be used."""
    problems = problems_of_words(words, ours)
    if "--" in words:
        problems.append("-- separates the words of run.py from those of this program; give it once")
    if problems:
        raise LaunchError("\n  ".join(["These words cannot be used:", *problems]))
    return _outline(words)


@functools.cache
def _outline(words: tuple[str, ...]) -> tuple[Made, ...]:
    with tempfile.TemporaryDirectory() as nowhere:
        command = [sys.executable, "-m", "zoobot.sweep", *words, f"data_dir={nowhere}"]
        done = subprocess.run(command, cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().replace(nowhere, "DATA") or f"it ended with status {done.returncode}"
        raise LaunchError(f"run.py would refuse this: {reason}")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return tuple(Made(stage, kind, int(iterations)) for stage, kind, iterations, _ in lines)
