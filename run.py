"""The one entry point: ``python run.py stage=STAGE [group=option …] [key=value …]``.

Hydra composes configs/ into one checked ``Settings``; the stage is imported only then, so that help is quick.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from zoobot import settings
from zoobot.errors import ZoobotError

log = logging.getLogger("zoobot")


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(cfg: DictConfig) -> None:
    """Check the settings and run one stage."""
    try:
        checked = settings.from_config(cfg)
        importlib.import_module(f"zoobot.stages.{checked.stage}").run(checked)
    except ZoobotError as error:
        log.error("%s", error)
        raise
    except Exception:
        log.exception("stopped by an error in the program")  # Hydra's own log of a failed job has no traceback
        raise


def cli() -> int:
    """Run, and turn what went wrong into an exit status: 2 the user can mend it, 1 anything else."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra would end every failure with status 1
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow is imported later, and talks a lot
    settings.register()
    if "--help" in sys.argv and not any(a.startswith(("stage=", "experiment=")) for a in sys.argv):
        sys.argv.append("stage=simulate")  # Hydra composes the config before it prints the help
    try:
        main()
    except ZoobotError as error:
        return error.exit_status  # already logged
    except (HydraException, OmegaConfBaseException) as error:
        print(error, *str(error.__cause__ or "").splitlines()[:1], sep="\n", file=sys.stderr)
        return 2
    except Exception as error:
        if not log.handlers and not logging.getLogger().handlers:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(cli())
