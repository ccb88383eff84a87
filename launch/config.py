"""The settings of a daily run, from YAML into a frozen dataclass; every problem is reported, together, with its key."""

from __future__ import annotations

import dataclasses
import re
import shlex
import zoneinfo
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from launch import cost, yaml_text
from launch.cron import problems_of as cron_problems
from launch.errors import LaunchError

RESERVATION = "interruptible-capacity-reservation"
_PATTERNS = {
    "experiment": (r"[a-z0-9][a-z0-9_-]{0,29}", "at most 30 of a-z, 0-9, _ and -, as it names roles"),
    "region": (r"[a-z]{2}(-[a-z]+)+-\d", "a region such as us-east-1"),
    "zone": (r"[a-z]{2}(-[a-z]+)+-\d[a-z]", "a zone such as us-east-1a"),
    "market": (rf"on-demand|spot|{RESERVATION}", f"on-demand, spot or {RESERVATION}"),
    "capacity_reservation": (r"(cr-[0-9a-f]{8,17})?", "a reservation's id, or empty"),
    "ami": (r"ami-[0-9a-f]{8,17}|/[\w./-]+|baked", "an AMI's id, the name of an SSM parameter, or baked"),
    "timezone": (r"[A-Za-z_]+(/[A-Za-z_+-]+\d*)*", "a time zone such as UTC or Europe/London"),
    "repository": (r"https://[^\s@'\"]+", "an https:// address without a password"),
    "revision": (r"[\w][\w./-]*", "a commit, tag or branch"),
    "data_from": (r"([a-z0-9][a-z0-9_-]{0,29})?", "another experiment on this account, or empty"),
    **dict.fromkeys(
        ("logs", "results", "staging"),
        (r"(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w./-]*)?)?", "s3://bucket/prefix, or empty"),
    ),
    "record": (r"[^\x00-\x1f\x7f]{1,200}", "a folder for the record of steps"),
    "upload": (r"[^\x00-\x1f\x7f]{0,1000}", "a folder here, or empty"),
    "budget_email": (r"([^@\s]+@[^@\s]+)?", "an e-mail address, or empty"),
}  # fmt: skip
_RANGES = {
    "root_gb": (60, 2000),
    "volume_gb": (1, 16000),
    "max_runtime_h": (0.25, 23),  # a day's machine is gone before the next day's
    "attempts": (1, 5),
    "spot_interruptions": (1, 20),
    "job_machines": (1, 50),
    "job_hours": (0.25, 1000),
    "snapshots_kept": (1, 365),
    "budget_usd": (1, 100_000),
}
_OURS = ("stage", "data_dir", "experiment_name")  # of run.py: environment.sh gives them
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,11})(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d{0,11})(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
_SECRET = re.compile(r"password|secret|api_key|token", re.IGNORECASE)


@dataclass(frozen=True)
class Config:
    """What launch/ec2.yaml says, one field a key; its comments explain them."""

    experiment: str
    region: str
    zone: str
    instance_types: tuple[str, ...]
    ami: str
    root_gb: int
    volume_gb: int
    max_runtime_h: float
    schedule: str
    repository: str
    revision: str
    budget_usd: float
    arguments: tuple[str, ...] = ()
    market: str = "on-demand"
    spot_interruptions: int = 1
    capacity_reservation: str = ""
    attempts: int = 1
    timezone: str = "UTC"
    secrets: dict[str, str] = field(default_factory=dict)
    logs: str = ""
    prepare: tuple[str, ...] = ()
    upload: str = ""
    staging: str = ""
    data_from: str = ""
    job_machines: int = 5
    job_hours: float = 20
    results: str = ""
    snapshots_kept: int = 14
    budget_email: str = ""
    record: str = "data/launch"

    @property
    def name(self) -> str:
        """Of the role, group, template, queue and schedule."""
        return f"zoobot-{self.experiment}"

    @property
    def max_runtime_s(self) -> int:
        """After which the machine powers itself off, in seconds from its start."""
        return int(self.max_runtime_h * 3600)

    def worst_job(self) -> float:
        """US dollars for the machines of a job that uses all its machines and hours, of the dearest type."""
        hours = min(self.job_machines * self.max_runtime_h, self.job_hours) + self.job_machines * cost.MARGIN_H
        dearest = max(self.instance_types, key=lambda kind: cost.hourly(kind, "on-demand"))
        return cost.month(dearest, "on-demand", hours, self.root_gb, self.volume_gb, self.snapshots_kept).machine

    def worst_of_jobs(self, machines: int) -> float:
        """US dollars of a month with so many machines of jobs, each to its last minute, and of the dearest type."""
        dearest = max(self.instance_types, key=lambda kind: cost.hourly(kind, "on-demand"))
        hours = machines * (self.max_runtime_h + cost.MARGIN_H)
        return cost.month(dearest, "on-demand", hours, self.root_gb, self.volume_gb, self.snapshots_kept).total

    def worst_month(self) -> cost.Month:
        """The month in which every day uses all its attempts to the last minute, of the dearest type."""
        hours = 31 * (self.max_runtime_h + cost.MARGIN_H)
        spot = min(self.attempts, self.spot_interruptions) if self.market == "spot" else 0
        dearest = max(self.instance_types, key=lambda kind: cost.hourly(kind, "on-demand"))
        sizes = (self.root_gb, self.volume_gb, self.snapshots_kept)
        whole = cost.month(dearest, "on-demand", hours * (self.attempts - spot), *sizes)
        return dataclasses.replace(
            whole, machine=whole.machine + cost.month(dearest, "spot", hours * spot, *sizes).machine
        )


def load(path: Path) -> Config:
    """The checked settings in ``path``. LaunchError: all problems, each with its key."""
    return check(yaml_text.read(path), str(path))


def check(found: dict[Any, Any], where: str) -> Config:
    """The settings in ``found``; ``where`` they are from, for messages."""
    fields = {f.name: f for f in dataclasses.fields(Config)}
    problems = [f"{_named(key)}: there is no such setting; leave it out" for key in found if key not in fields]
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    problems += [f"{name}: is missing" for name in required if name not in found]
    values: dict[str, Any] = {}
    for name, value in found.items():
        if name in fields:
            values[name], problem = _converted(str(fields[name].type), value)
            problems += [f"{name}: {problem}"] if problem else _out_of_range(name, values[name])
    if not problems:
        config = Config(**values)
        problems = _misfits(config)
        if not problems:
            return config
    raise LaunchError("\n  ".join([f"{where} has problems:", *problems]))


def _converted(kind: str, value: Any) -> tuple[Any, str]:
    """``value`` as a field of type ``kind``, or what is wrong with it."""
    if kind in ("int", "float"):
        return _number(kind, value)
    if kind == "str":
        return value, "" if isinstance(value, str) else f"should be text, is {_shown(value)}"
    if kind.startswith("tuple"):
        good = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return (tuple(value), "") if good else (value, f"should be a list of texts, is {_shown(value)}")
    pairs = isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
    return value, "" if pairs else "should be pairs `file: parameter`"


def _number(kind: str, value: Any) -> tuple[Any, str]:
    """A number as JSON writes it. Not 010, which is 8 or 10, nor 1:30, 1_000, 0x10, .inf or .nan."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 10**12
    text = value if isinstance(value, str) else repr(value) if is_number else ""
    pattern, what = (_WHOLE, "a whole number such as 10") if kind == "int" else (_NUMBER, "a number such as 0.5")
    if not pattern.fullmatch(text):
        return value, f"should be {what}, is {_shown(value)}"
    return (int(float(text)) if kind == "int" else float(text)), ""


def _named(name: Any) -> str:
    return name if isinstance(name, str) and re.fullmatch(r"[\w./+~-]{1,80}", name) else _shown(name)


def _shown(value: Any) -> str:
    """A value in a message: short, and without what a terminal would obey."""
    try:
        text = "nothing" if value is None else repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _out_of_range(name: str, value: Any) -> list[str]:
    if name in _PATTERNS and not re.fullmatch(_PATTERNS[name][0], value):
        return [f"{name}: should be {_PATTERNS[name][1]}; is {_shown(value)}"]
    if name in _RANGES and not _RANGES[name][0] <= value <= _RANGES[name][1]:
        return [f"{name}: should be from {_RANGES[name][0]} to {_RANGES[name][1]}, is {value}"]
    return []


def problems_of_words(words: Iterable[str], ours: Collection[str]) -> list[str]:
    """What is wrong with words for run.py, of which some are not the user's to give."""
    problems = []
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if key in ours:
            problems.append(f"{key} is given by the machine; leave it out")
        if _SECRET.search(word if value.startswith(("{", "[")) else key):
            problems.append(f"{_named(key)} looks like a secret, and words are written to logs; use `secrets`")
        if re.search(r"[\x00-\x1f\x7f]", word):
            problems.append(f"{_named(key)} has a control character; take it out")
    return problems


@cache
def _time_zones() -> set[str]:
    """All that this computer knows: none, if it has no such files."""
    return zoneinfo.available_timezones()


def _misfits(config: Config) -> list[str]:
    """What is wrong with settings that are each of the right form."""
    problems = [] if config.zone.startswith(config.region) else [f"zone: {config.zone} is not in {config.region}"]
    if config.timezone not in (_time_zones() or {config.timezone}):
        problems.append(f"timezone: {config.timezone} is no time zone; name one such as UTC or Europe/London")
    if (config.market == RESERVATION) != bool(config.capacity_reservation):
        problems.append(f"capacity_reservation: name one with market: {RESERVATION}, and with no other")
    problems += [f"schedule: {problem}" for problem in cron_problems(config.schedule)]
    problems += [] if config.instance_types else ["instance_types: name at least one"]
    unpriced = [kind for kind in config.instance_types if kind not in cost.PRICES["instances"]]
    problems += [f"instance_types: {_named(kind)} has no price in launch/prices.yaml; add it" for kind in unpriced]
    problems += [f"arguments: {problem}" for problem in problems_of_words(config.arguments, _OURS)]
    for number, line in enumerate(config.prepare, 1):
        try:
            found = problems_of_words(shlex.split(line), ("data_dir", "experiment_name"))
        except ValueError as error:
            found = [f"it cannot be read: {error}"]
        problems += [f"prepare: {number}: {problem}" for problem in found]
    if config.upload and not config.staging:
        problems.append("upload: the way to the volume leads over S3; set staging: s3://bucket/prefix")
    for file, parameter in config.secrets.items():
        if not re.fullmatch(r"[\w][\w.-]*", file) or not re.fullmatch(r"/[\w./-]+", parameter):
            problems.append(f"secrets: {_named(file)} should be `file: /name/of/an/SSM/parameter`")
    if config.instance_types and not unpriced:
        worst = config.worst_month().total
        if worst > config.budget_usd:
            problems.append(
                f"budget_usd: the worst month would cost {worst:.2f}, more than {config.budget_usd}."
                " Lower max_runtime_h, attempts or the sizes, take another type, or raise the budget"
            )
    return problems
