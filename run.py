"""The only entry point: ``python run.py stage=STAGE [group=option …] [key=value …]``.

Hydra composes configs/ into one checked ``Settings``. Stages are imported only afterwards, so that help is quick.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from zoobot import sweep
from zoobot.errors import ZoobotError
from zoobot.settings import compose

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
    try:
        from zoobot import stages  # late: it loads all packages, and help should be quick

        settings = stages.check_settings(compose.from_config(cfg))
        if HydraConfig.get().mode == RunMode.MULTIRUN:
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
    """Run, and return the exit status: 0 success, 2 an error that the user can fix, 1 any other error."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would end every failure with status 1
    if {"--help", "-h"} & set(sys.argv):
        print(help_text())
        return 0
    compose.register()
    try:
        main()
    except ZoobotError as error:
        if error not in logged:
            print(error, file=sys.stderr)
        return error.exit_status
    except (HydraException, OmegaConfBaseException) as error:
        print(error, *str(error.__cause__ or "").splitlines()[:1], sep="\n", file=sys.stderr)
        return 2
    except Stopped as error:
        print(error, file=sys.stderr)  # its traceback is logged
        return 1
    except ConnectionError as error:
        print(f"hydra.launcher: {error}. Start what it connects to, or choose another launcher.", file=sys.stderr)
        return 2
    except OSError as error:  # before the stage began: the log's folder could not be made
        print(f"data_dir: {error}. Set data_dir to a folder that you can write to.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(cli())
