"""The only entry point: ``python run.py stage=STAGE [group=option …] [key=value …]``.

Hydra composes configs/ into one checked ``Settings``. Stages are imported only afterwards, so that help is quick.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import zoobot
from zoobot import sweep
from zoobot.engine import places
from zoobot.errors import ZoobotError
from zoobot.folders import disk
from zoobot.settings import command_line, compose

log = logging.getLogger("zoobot")
logged: list[ZoobotError] = []  # by this process; what a launcher's processes log may not reach the terminal
HELP = """Active learning for Galaxy Zoo.

  python run.py stage=STAGE [group=option ...] [key=value ...]

Groups and their options:

{groups}

A first simulation:    python run.py stage=simulate quick=true
A sweep and a report:  python run.py experiment=demo_sweep && python run.py stage=report
All settings:          python run.py --cfg job stage=simulate
docs/settings.md explains every key. README.md is the guide."""


class Stopped(Exception):
    """A stage ended with an error that the user cannot fix."""


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    """Check the settings and run one stage."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow is imported later and logs a lot
    places.leave_home_alone()
    is_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    with sweep.recorded(Path(HydraConfig.get().runtime.output_dir)) if is_multirun else nullcontext():
        _run(cfg, is_multirun)


def _run(cfg: DictConfig, is_multirun: bool) -> None:
    try:
        from zoobot import stages  # late: it loads all packages, and help should be quick

        settings = stages.check_settings(compose.from_config(cfg))
        if settings.model.weights == "imagenet":  # Keras keeps what it downloads
            os.environ["KERAS_HOME"] = str(Path(settings.data_dir).absolute() / "keras")
        if is_multirun:
            sweep.run_job(settings, HydraConfig.get().job.num, HydraConfig.get().runtime.cwd)
        else:
            stages.run(settings)
    except ZoobotError as error:
        log.error("%s", error)
        logged.append(error)
        raise
    except Exception as error:
        log.exception("stopped by an error in the program")  # Hydra's own log of a failed job has no traceback
        raise Stopped(f"{type(error).__name__}: {error}") from error


def help_text() -> str:
    """The help, with every option of every group. Hydra's own help takes three times as long."""
    options: dict[str, list[str]] = {}
    for path in sorted((Path(__file__).parent / "configs").glob("*/*.yaml")):
        options.setdefault(path.parent.name, []).append(path.stem)
    del options["questions"]  # data of a survey, not a group of settings
    return HELP.format(groups="\n".join(f"  {group}: {', '.join(names)}" for group, names in options.items()))


def cli() -> int:
    """Run, and return the exit status: 0 success, 2 an error that the user can fix, 1 any other error, 130 Ctrl-C."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would end every failure with status 1
    if {"--help", "-h"} & set(sys.argv):
        print(help_text())
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
        same = shlex.join(["python", *sys.argv])
        print(f"Stopped by Ctrl-C. What was finished is kept, and the same command goes on: {same}", file=sys.stderr)
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
