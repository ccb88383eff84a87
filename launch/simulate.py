"""Simulations and sweeps on EC2: any command line of run.py, as a job; and the benchmarks of the GPU."""

from __future__ import annotations

import re
from pathlib import Path

from launch import words
from launch.aws import Cloud
from launch.errors import LaunchError
from launch.job import Job, drive

_NAME = r"[a-z0-9][a-z0-9_-]{0,29}"
_REPORT = ("run.py", "stage=report", "report.experiments=['simulations/*']")
_BENCHMARKS = ("benchmarks.prediction", "benchmarks.input")


def simulate(cloud: Cloud, name: str, given: list[str]) -> None:
    """Run run.py with these words on as many machines as it takes, then stage=report if they make simulations."""
    if not re.fullmatch(_NAME, name):
        raise LaunchError(f"--name {name}: it should be at most 30 of a-z, 0-9, _ and -, as it names the job.")
    if not given:
        raise LaunchError("What should run? Give the words for run.py after --, such as: -- stage=simulate seed=1")
    made = words.check(tuple(given))
    live = [each.stage for each in made if each.kind == "live"]
    if live:
        raise LaunchError(
            f"stage={live[0]} of a live experiment is no simulation. `python -m launch prepare` and `day` do live work."
        )
    commands = [("run.py", *given)]
    iterations = sum(each.iterations for each in made)
    if iterations:
        commands.append(_REPORT + (("quick=true",) if "quick=true" in given else ()))
    cloud.say(f"{name}: {len(made)} runs of {made[0].stage}, {iterations} iterations at most")
    drive(cloud, Job(name, tuple(commands)))
    cloud.say(f"{name} is done. On the volume: root/repos/zoobot/data/{'report' if iterations else made[0].stage}.")
    if cloud.config.results:
        cloud.say(f"In S3: {cloud.config.results.rstrip('/')}/{cloud.config.experiment}/{name}/")


def bench(cloud: Cloud) -> Path | None:
    """Run the benchmarks of prediction and input on a machine; the file here that has what they printed."""
    job = Job(f"bench-{cloud.today}", tuple(("-m", name) for name in _BENCHMARKS))
    output = drive(cloud, job)
    path = Path(cloud.config.record) / f"{cloud.config.experiment}_{job.name}.txt"
    if output:
        path.write_text(output, encoding="utf-8")
    if not path.is_file():
        cloud.say(f"{job.name} was done before; its table is on the volume, root/logs/{cloud.today}/{job.name}.log")
        return None
    cloud.say(f"{path.read_text(encoding='utf-8')}\nThis is in {path}.")
    return path
