"""The only entry point: ``python run.py stage=STAGE [group=option …] [key=value …]``.

Hydra composes configs/ into one checked ``Settings``. Stages are imported only afterwards, so that help is quick.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import zoobot
from zoobot import sweep
from zoobot.engine import places, terminal
from zoobot.errors import ZoobotError
from zoobot.folders import disk
from zoobot.settings import command_line, compose, texts

log = logging.getLogger("zoobot")
interrupts: list[int] = []  # each Ctrl-C: the number of its signal
logged: list[ZoobotError] = []  # by this process; what a launcher's processes log may not reach the terminal
HELP = """Active learning for Galaxy Zoo.

  python run.py stage=STAGE [group=option ...] [key=value ...]

Stages:

{stages}

Groups of settings, and their options:

{groups}

The commonest settings:

{common}

What a stage reads, writes and needs:
  python run.py --help stage=simulate
A first simulation:
  python run.py stage=simulate quick=true
A sweep and a report:
  python run.py experiment=demo_sweep && python run.py stage=report
All settings:
  python run.py --cfg job stage=simulate
docs/settings.md explains every key.
README.md is the guide."""


class Stopped(Exception):
    """A stage ended with an error that the user cannot fix."""


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    """Check the settings and run one stage."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow is imported later and logs a lot
    places.leave_home_alone()
    _let_readers_leave()
    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    with sweep.recorded(Path(HydraConfig.get().runtime.output_dir)) if is_multirun else nullcontext():
        _run(cfg, is_multirun)


def _run(cfg: DictConfig, is_multirun: bool) -> None:
    try:
        _note_ctrl_c()
        from zoobot import stages  # late: it loads all packages, and help should be quick

        settings = stages.check_settings(compose.from_config(cfg))
        if settings.model.weights == "imagenet":  # Keras keeps what it downloads
            os.environ["KERAS_HOME"] = str(Path(settings.data_dir).absolute() / "keras")
        if is_multirun:
            sweep.run_job(settings, HydraConfig.get().job.num, HydraConfig.get().runtime.cwd)
        else:
            path = stages.run(settings)
            _say_what_was_made(stages.ending(settings, path))
    except Exception as error:
        if interrupts:
            raise KeyboardInterrupt from error
        if isinstance(error, ZoobotError):
            log.error("%s", error)
            logged.append(error)
            raise
        log.exception("stopped by an error in the program")  # Hydra's own log of a failed job has no traceback
        raise Stopped(f"{type(error).__name__}: {error}") from error


def _note_ctrl_c() -> None:
    """Remember each Ctrl-C: a library may make an error of its own of it, as DuckDB does in the middle of a query."""

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)


def _let_readers_leave() -> None:
    """A reader of our output such as `head` may stop early: the run goes on, and its log file has all."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.handleError = lambda record: None  # type: ignore[method-assign]


def _say_what_was_made(rows: dict[str, str]) -> None:
    """A table at the end of a run, on the terminal and in the log: the stage's own rows, the log, the next command."""
    if not rows:
        return
    following = rows.pop("next", "")
    rows["log"] = str(Path(HydraConfig.get().runtime.output_dir) / "run.log")
    if following:
        rows["next"] = shlex.join(["python", *_without_once(sys.argv, following)])
    log.info("done\n%s", terminal.in_columns(rows, wrap=False))


def _without_once(arguments: list[str], stage: str) -> list[str]:
    """The command line of the next stage: without what holds for one run only."""
    kept = [each for each in arguments if not each.startswith(("iterate.previous=", "oracle.dry_run="))]
    return [f"stage={stage}" if each.startswith("stage=") else each for each in kept]


def help_text() -> str:
    """The help: every stage, group and option. Hydra's own help takes three times as long."""
    groups = {name: f"{text} {name}=" + ", ".join(options) for name, (text, options) in texts.groups().items()}
    return HELP.format(
        stages=terminal.in_columns(texts.stages()),
        groups=terminal.in_columns(groups),
        common=terminal.in_columns(texts.common()),
    )


def help_of_stage(stage: str) -> str:
    """The help of one stage: what it is, reads, writes and needs, and its settings."""
    text, parts, own, others = texts.of_stage(stage)
    said = [terminal.wrapped(paragraph) for paragraph in f"stage={stage}: {text}".split("\n\n")]
    said.append(terminal.in_columns(parts))
    if own:
        said += ["Its settings:", terminal.in_columns(own)]
    if others:
        said += ["What it makes also depends on:", terminal.wrapped(", ".join(others), "  ")]
    return "\n\n".join(said)


def cli() -> int:
    """Run, and return the exit status: 0 success, 2 an error that the user can fix, 1 any other error, 130 Ctrl-C."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would end every failure with status 1
    if {"--help", "-h"} & set(sys.argv):
        stage = next((each.removeprefix("stage=") for each in sys.argv if each.startswith("stage=")), "")
        if not stage or stage in texts.stages():
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may stop early
            print(help_of_stage(stage) if stage else help_text())
            return 0
    if "--version" in sys.argv:
        print(f"zoobot {zoobot.__version__}")
        return 0
    if problems := command_line.problems(sys.argv[1:]):
        print("\n  ".join([f"{len(problems)} setting(s) cannot be used:", *problems]), file=sys.stderr)
        return 2
    compose.register()
    try:
        main()
    except KeyboardInterrupt:
        from zoobot.engine.progress import to_files  # late: help should be quick

        same = shlex.join(["python", *sys.argv])
        message = f"Stopped by Ctrl-C. What was finished is kept, and the same command goes on: {same}"
        print(message, file=sys.stderr)
        to_files(message)
        return 130
    except (Exception, sweep.Refused) as error:
        if not isinstance(error, ZoobotError) or error not in logged:
            print(message_of(error), file=sys.stderr)
        if summary := sweep.summary():
            print(summary, file=sys.stderr)
        return status_of(error)
    if summary := sweep.summary():
        log.info("%s", summary)
    return 0


def message_of(error: BaseException) -> str:
    """What is said of an error, without its traceback: that of a stage is logged."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return "\n".join([str(error), *str(error.__cause__ or "").splitlines()[:1]])
    if isinstance(error, ConnectionError):
        return f"hydra.launcher: {error}. Start what it connects to, or choose another launcher."
    if isinstance(error, yaml.MarkedYAMLError):
        return command_line.unreadable_file(error)
    if isinstance(error, ZoobotError | Stopped | sweep.Refused):
        return str(error)
    below = error if isinstance(error, OSError) else error.__cause__
    if isinstance(below, OSError):  # before the stage began: the log's folder could not be made
        return f"data_dir: {disk.of_the_user(below) or below} Set data_dir to a folder that you can write to."
    return f"The settings cannot be composed: {type(error).__name__}: {error}"  # no stage had begun


def status_of(error: BaseException) -> int:
    """The exit status after an error."""
    return error.exit_status if isinstance(error, ZoobotError) else 1 if isinstance(error, Stopped) else 2


if __name__ == "__main__":
    sys.exit(cli())
