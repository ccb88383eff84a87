"""status.json and status.html beside the iterations of a live experiment: is everything well, and if not, what to do.

Every stage that touches the experiment renews both: when it begins, at each step, and however it ends. A run that was
killed cannot; the next one finds that it left "running", and says so. The two files are part of no manifest, and a
stage never fails because of them.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import ParamSpec

import jinja2

from zoobot import folders
from zoobot.errors import ServiceError, ZoobotError
from zoobot.folders import disk
from zoobot.iterations import status as states
from zoobot.iterations.files import ExperimentFolder
from zoobot.iterations.status import FAILED, KILLED, RUNNING, STOPPED, WELL, Failure, Found, Run, Status
from zoobot.settings import Settings

P = ParamSpec("P")
TOUCHING = ("instructions", "iterate", "reduce", "finish", "predict")  # the stages that renew the status
_LONGEST_MESSAGE = 1500  # characters
_AGAIN = "run the same command again, and it goes on"
_LATER = "run the same command again later, and it goes on"
log = logging.getLogger("zoobot")


@contextmanager
def recorded(settings: Settings) -> Iterator[None]:
    """Keep the status of a live experiment while a stage works; of any other run, do nothing."""
    if settings.stage not in TOUCHING or not settings.oracle.live or settings.oracle.dry_run:
        yield
        return
    with ExitStack() as stack:
        held = _hold(settings, stack)
        if held:
            _begin(settings)
        try:
            yield
        except BaseException as error:
            if held:
                _end(settings, error)
            raise
        if held or _hold(settings, stack):  # stage=instructions has made the experiment
            _end(settings, None)


def _never_fails(function: Callable[P, object]) -> Callable[P, None]:
    """A status that cannot be written is a warning: it must not end the stage, or hide the stage's own error."""

    @functools.wraps(function)
    def careful(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:
            log.warning("status.html could not be renewed: %s: %s", type(error).__name__, error)

    return careful


@_never_fails
def step(settings: Settings, name: str) -> None:
    """Say that a step of the iteration begins. Only the run that the status is about says so."""
    last = states.read(settings)
    if last and last.state == RUNNING and (last.run.process, last.run.host) == (os.getpid(), platform.node()):
        run, pulled = replace(last.run, step=name), states.last_pull(settings, last.last_pull)
        _write(settings, replace(last, run=run, last_pull=pulled))


# --------------------------------------------------------------- from its beginning to its end


def _hold(settings: Settings, stack: ExitStack) -> bool:
    """Lock the status until the stage ends. False: another process has it, or there is no experiment yet."""
    path = settings.experiment_dir
    if not ExperimentFolder(path).instructions.path.is_dir():
        return False
    try:
        file = stack.enter_context(path.with_name(f".{path.name}.status.lock").open("a"))
        return disk.try_lock(file)
    except OSError:
        return False


@_never_fails
def _begin(settings: Settings) -> None:
    last, found = states.read(settings), states.look(settings)
    failure, pulled = (last.last_failure, last.last_pull) if last else (None, None)
    if last and last.state == RUNNING:  # and yet it does not hold the status any more
        failure = _killed(last.run)
    run = _this_run(settings)
    status = Status(
        settings.experiment_name, run.began, RUNNING, run, found, states.last_pull(settings, pulled), failure
    )
    _write(settings, status)


@_never_fails
def _end(settings: Settings, error: BaseException | None) -> None:
    last = states.read(settings)
    run = last.run if last and last.state == RUNNING else _this_run(settings)
    failure, pulled = (last.last_failure, last.last_pull) if last else (None, None)
    state = WELL
    if error is not None:
        failure = _failure(run, error)
        state = failure.how
    pulled = states.last_pull(settings, pulled)
    try:
        found = states.look(settings)
    except ZoobotError:  # a folder is damaged, of which the error probably is
        if last is None:
            raise
        found = last.found
    _write(settings, Status(settings.experiment_name, states.now(), state, run, found, pulled, failure))


def _this_run(settings: Settings) -> Run:
    return Run(settings.stage, "", states.now(), os.getpid(), platform.node())


def _killed(run: Run) -> Failure:
    during = f" during {run.step}" if run.step else ""
    message = (
        f"The run that began at {moment(run.began)} (process {run.process} on {run.host}) was killed{during}, by hand,"
        " because memory ran out, or with the machine. Nothing is lost: the next run goes on from there."
    )
    return Failure(states.now(), KILLED, run.stage, run.step, message, _AGAIN, 1)


def _failure(run: Run, error: BaseException) -> Failure:
    how, todo, exit_status = FAILED, _AGAIN, 1
    if isinstance(error, KeyboardInterrupt):
        how, exit_status, message = STOPPED, 130, "Stopped by Ctrl-C. What was finished is kept."
    elif isinstance(error, ZoobotError):
        exit_status, message = error.exit_status, _public(error)
        todo = _LATER if exit_status == 1 else "do what the message says, then run the same command again"
    else:  # its text may hold anything
        todo = "look into the log"
        message = f"An error in the program ({type(error).__name__}). The log has all of it: {_log_file()}"
    return Failure(states.now(), how, run.stage, run.step, message, todo, exit_status)


def _public(error: ZoobotError) -> str:
    """The message, without what a server sent: it may be about a volunteer."""
    text = str(error)
    if isinstance(error, ServiceError):
        text = re.sub(r"; received .*?(?=\. Nothing is lost|$)", "", text, flags=re.DOTALL)
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "…"


def _log_file() -> str:
    handlers = logging.getLogger().handlers
    return next((each.baseFilename for each in handlers if isinstance(each, logging.FileHandler)), "run.log")


# --------------------------------------------------------------- the two files


def _write(settings: Settings, status: Status) -> None:
    status = replace(status, written=states.now())
    key, version = Status.FORMAT
    path = states.path_of(settings)
    folders.publish_file(path, folders.to_text({key: version, **asdict(status)}).encode())
    folders.publish_file(path.with_suffix(".html"), draw(status).encode())


def draw(status: Status) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["moment"] = moment
    environment.filters["age"] = age
    level, sentence = verdict(status)
    return environment.get_template("status.html.j2").render(s=status, level=level, sentence=sentence)


def verdict(status: Status) -> tuple[str, str]:
    """``well``, ``running`` or ``look``, and one sentence: whether everything is well, or what to do."""
    run, failure = status.run, status.last_failure
    if status.state == RUNNING:
        doing = f"stage={run.stage}" + (f" ({run.step})" if run.step else "")
        return "running", f"{doing} is running since {moment(run.began)}: wait until it ends."
    if failure and status.state in (FAILED, STOPPED):
        return "look", f"stage={run.stage} {'failed' if status.state == FAILED else 'was stopped'}: {failure.todo}."
    return _of_experiment(status.found)


def _of_experiment(found: Found) -> tuple[str, str]:
    old = sum(w.galaxies for w in found.awaited if found.longest_wait and w.iterations > found.longest_wait)
    if old:
        where = "look at their subjects on Zooniverse, do volunteers see them?"
        return "look", f"{old} galaxies have waited for more than {found.longest_wait} iterations: {where}"
    if found.next_request.none_because:
        return "well", f"The experiment is over, because {found.next_request.none_because}: run stage=finish."
    if not found.iterations:
        return "well", "All is well: the experiment is ready. Run stage=iterate to ask about the first galaxies."
    waiting = sum(w.galaxies for w in found.awaited)
    return "well", f"All is well: {waiting} galaxies wait for votes. Run stage=iterate when votes have come in."


def moment(at: str) -> str:
    """A time for people, with its zone: 2026-11-26 16:35 UTC."""
    return f"{datetime.fromisoformat(at):%Y-%m-%d %H:%M} UTC"


def age(hours: float) -> str:
    """A time that has passed, in hours or days."""
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
