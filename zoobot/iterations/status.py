"""The state of a live experiment, as status.json beside its iterations says it: what waits, what it cost, what failed.

It is made anew from the iterations, and keeps from the last one only what no folder holds: runs, errors and pulls. It
lists no galaxy, no vote and no volunteer, so it may be served to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from zoobot import folders
from zoobot.errors import ZoobotError
from zoobot.iterations import stopping, waiting
from zoobot.iterations.files import CHOSEN, CONTROL, ITERATION, ExperimentFolder, IterationFolder, Summary
from zoobot.oracles import pull
from zoobot.settings import Settings, StopSettings

RUNNING, WELL, FAILED, STOPPED = "running", "well", "failed", "stopped"
KILLED = "killed"  # of an earlier run, as the next one finds


@dataclass(frozen=True)
class Run:
    """The run that wrote the status. Times are ISO 8601, in UTC."""

    stage: str
    step: str  # of an iteration; empty: not there yet
    began: str
    process: int
    host: str


@dataclass(frozen=True)
class Failure:
    """How a run ended that did not end well: failed, stopped (Ctrl-C) or killed."""

    at: str  # when it was noticed
    how: str
    stage: str
    step: str
    message: str
    todo: str  # in a few words; the message says more
    exit_status: int


@dataclass(frozen=True)
class Waits:
    """Galaxies of one stream that were asked about in one iteration and have no label yet."""

    stream: str
    asked_in: str  # the iteration's name
    asked_at: str
    iterations: int  # made since then
    hours: float  # since then
    galaxies: int


@dataclass(frozen=True)
class Pull:
    """When classifications were last read, and up to which id."""

    at: str
    last_classification_id: int


@dataclass(frozen=True)
class NextRequest:
    """What the next iteration asks about, or why there is none."""

    iteration: str
    galaxies: int
    votes_each: int
    control_galaxies: int
    control_votes_each: int
    none_because: str | None


@dataclass(frozen=True)
class Cost:
    """What the experiment has cost so far."""

    classifications: int
    volunteer_minutes: float
    computing_minutes: float


@dataclass(frozen=True)
class Found:
    """What the folders of the experiment say."""

    iterations: int
    labels: int  # galaxies that the newest model has learnt from
    test_loss: float | None  # of the newest iteration, nats per galaxy
    lower_by: float | None  # than that of iteration_0
    awaited: list[Waits]  # oldest first
    longest_wait: int  # iterations after which somebody should look; 0: never
    next_request: NextRequest
    cost: Cost


@dataclass(frozen=True)
class Status:
    """status.json."""

    FORMAT: ClassVar = ("format_version", 1)
    experiment: str
    written: str
    state: str  # running, well, failed or stopped
    run: Run
    found: Found
    last_pull: Pull | None
    last_failure: Failure | None


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def path_of(settings: Settings) -> Path:
    """Where the status of the experiment in the settings is."""
    return settings.experiment_dir / "status.json"


def read(settings: Settings) -> Status | None:
    """The last status; None if there is none that can be read."""
    with suppress(ZoobotError):
        return folders.read_record(path_of(settings), Status)
    return None


def look(settings: Settings) -> Found:
    """What the folders of the experiment say now."""
    experiment = ExperimentFolder(settings.experiment_dir)
    made = experiment.iterations()
    newest = made[-1].summary() if made else None
    fell = made[0].summary().test_loss - newest.test_loss if newest and newest.number else None
    seconds = sum(sum(folder.summary().timings_s.values()) for folder in made)
    return Found(
        iterations=len(made),
        labels=newest.train_galaxies if newest else 0,
        test_loss=newest.test_loss if newest else None,
        lower_by=fell,
        awaited=_awaited(made, newest) if newest else [],
        longest_wait=settings.iterate.waiting_iterations,
        next_request=_next_request(experiment, made, settings.stop),
        cost=Cost(
            newest.votes_spent if newest else 0,
            newest.volunteer_minutes if newest else 0.0,
            round(seconds / 60, 1),
        ),
    )


def _awaited(made: Sequence[IterationFolder], newest: Summary) -> list[Waits]:
    """Those that still waited when the newest iteration read the votes, and those that it asked about."""
    numbers = [
        (group.stream, group.asked_in, len(group.votes)) for group in waiting.groups(newest.waiting, newest.number)
    ]
    numbers += [(CHOSEN, newest.number, newest.requested), (CONTROL, newest.number, newest.requested_control)]
    found = []
    for stream, number, galaxies in numbers:
        if galaxies:
            folder = made[number]
            asked_at = folders.finished_at(folder.path)
            hours = (datetime.now(UTC) - datetime.fromisoformat(asked_at)).total_seconds() / 3600
            age = newest.number - number
            found.append(Waits(stream, folder.name, asked_at, age, round(hours, 1), galaxies))
    return found


def _next_request(experiment: ExperimentFolder, made: Sequence[IterationFolder], stop: StopSettings) -> NextRequest:
    content = experiment.instructions.read()
    fixed: dict[str, Any] = content.oracle
    return NextRequest(
        iteration=f"{ITERATION}_{len(made)}",
        galaxies=content.subjects_per_iteration,
        votes_each=fixed["votes_per_galaxy"],
        control_galaxies=fixed["control_per_iteration"],
        control_votes_each=fixed["control_votes"],
        none_because=stopping.reason(made, stop),
    )


def last_pull(settings: Settings, before: Pull | None) -> Pull | None:
    """The newest pull: that of an iteration that is being made, that of stage=reduce, or the one known ``before``."""
    number = len(ExperimentFolder(settings.experiment_dir).iterations())
    making = folders.unfinished(settings.experiment_dir / f"{ITERATION}_{number}")
    found = [before] if before else []
    for folder in (making / "pulled", settings.survey_dir / "raw_classifications"):
        with suppress(OSError):
            at = datetime.fromtimestamp((folder / pull.STATE).stat().st_mtime, UTC)
            found.append(Pull(at.isoformat(timespec="seconds"), pull.last_id(folder)))
    return max(found, key=lambda each: (each.at, each.last_classification_id), default=None)  # two in one second
