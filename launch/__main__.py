"""``python -m launch COMMAND --config launch/ec2.yaml``. Exit status 0: done; 2: fix something; 1: try again later;
130: stopped by Ctrl-C or a signal.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from botocore.exceptions import ClientError

from launch import backup, local, restore
from launch.audit import audit
from launch.aws import Cloud
from launch.bake import bake
from launch.config import load
from launch.day import day, down, run, up
from launch.drill import drill
from launch.errors import LaunchError, refused
from launch.find import need_template, need_volume
from launch.job import refuse_beside_job
from launch.plan import plan
from launch.policy import DOCUMENTS
from launch.prepare import prepare
from launch.setup import ensure_schedule, setup
from launch.simulate import bench, simulate
from launch.status import logs, policies, status
from launch.teardown import teardown

COMMANDS = {
    "plan": "print the calls that setup and a day make, and what a month costs; changes nothing",
    "setup": "make what is missing, fix what differs: volume, group, roles, template, queue, schedule (off)",
    "prepare": "the first day: upload tables and pictures, make catalogs, shards and instructions on a machine",
    "simulate": "run run.py with the words after -- on as many machines as it takes",
    "bench": "run the benchmarks of prediction and input on a machine, and bring the table back",
    "up": "start today's machine",
    "run": "iterate once on it",
    "down": "end all machines of the experiment",
    "day": "up, run, down, snapshot",
    "schedule": "on, off, show; or print a timer for a plain machine: systemd, cron",
    "status": "what is there and how the last day went; ends machines past their time, deletes old snapshots",
    "logs": "print a day's logs from S3",
    "snapshot": "make today's snapshot, unless it is there; delete old ones",
    "restore": "put a volume made of a snapshot in the place of the volume; --drill only tries a copy",
    "bake": "make an image that has the packages",
    "audit": "what all experiments here cost a month, and what of it nobody uses (then exit status 2); changes nothing",
    "teardown": "take all away but the volume and its snapshots",
}
TOGETHER = (
    "plan",
    "audit",
    "schedule",
    "status",
    "logs",
)  # beside any other; of the others one at a time


def main(arguments: list[str] | None = None, make: Callable[..., Cloud] = Cloud) -> int:
    """Run one command; its exit status. ``make`` is how AWS is reached."""
    options = _parser().parse_args(arguments)
    try:
        cloud = make(load(options.config), command=options.command)
        with nullcontext() if options.command in TOGETHER else cloud.locked():
            _run(cloud, options)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except ClientError as error:
        print(refused(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"Stopped. The same command goes on. What runs: python -m launch status --config {options.config}",
              file=sys.stderr)  # fmt: skip
        return 130
    return 0


def _run(cloud: Cloud, options: argparse.Namespace) -> None:
    name = options.command
    simple = {
        "setup": setup, "up": up, "run": run, "down": down, "day": day, "status": status, "bake": bake,
        "snapshot": backup.snapshot, "teardown": teardown, "prepare": prepare, "bench": bench, "audit": audit,
    }  # fmt: skip
    if name == "plan":
        print(json.dumps(policies(cloud, options.policy), indent=2)) if options.policy else plan(cloud)
    elif name == "simulate":
        simulate(cloud, options.name, options.words)
    elif name == "schedule":
        _schedule(cloud, options.what)
    elif name == "logs":
        logs(cloud, options.day or cloud.today)
    elif name == "restore":
        (drill if options.drill else restore.restore)(cloud, options.snapshot)
    else:
        simple[name](cloud)


def _schedule(cloud: Cloud, what: str) -> None:
    here = Path.cwd()
    if what in ("systemd", "cron"):
        cloud.say(local.systemd(cloud.config, here) if what == "systemd" else local.crontab(cloud.config, here))
        return
    state = {"on": "ENABLED", "off": "DISABLED", "show": None}[what]
    with cloud.locked():
        if what == "on":
            refuse_beside_job(cloud)
        now = ensure_schedule(cloud, need_template(cloud), str(need_volume(cloud)["VolumeId"]), state)
    cloud.say(f"{cloud.config.schedule} {cloud.config.timezone}: {now}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m launch", description="One iteration a day on EC2: docs/ec2.md.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    each = {}
    for name, about in COMMANDS.items():
        each[name] = commands.add_parser(name, help=about, description=about)
        each[name].add_argument("--config", type=Path, default=Path("launch/ec2.yaml"), help="default: launch/ec2.yaml")
    each["plan"].add_argument("--policy", choices=[*DOCUMENTS], help="print a policy only")
    each["simulate"].add_argument("--name", required=True, help="of the job; the same name goes on with the same words")
    each["simulate"].add_argument(
        "words", nargs="*", metavar="-- WORDS", help="for run.py, such as stage=simulate seed=1"
    )
    each["schedule"].add_argument("what", choices=["on", "off", "show", "systemd", "cron"])
    each["logs"].add_argument("--day", default="", help="such as 2026-11-24; default: today, in UTC")
    each["restore"].add_argument("--snapshot", default="", help="its id; default: the newest")
    each["restore"].add_argument("--drill", action="store_true", help="check a copy, replace nothing")
    return parser


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal must not leave a day's machine behind either
        signal.signal(number, _stop)
    sys.exit(main())
