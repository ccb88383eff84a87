"""The simulations of a sweep, each in its own process. A finished simulation is not repeated.

``python run.py -m …`` runs all combinations of its overrides. After an interruption, the same command continues.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from zoobot.engine import process
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
_COUNT = "ZOOBOT_SWEEP_JOBS"  # passes the number to processes that a launcher starts


class PrepareJobs(Callback):
    """Passes the number of jobs and the folder of the logs to each job of a sweep, wherever a launcher runs it."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Add both to the overrides of every job."""
        logs = Path(config.hydra.sweep.dir).absolute()
        with read_write(config):  # as overrides: Ray's workers have neither our environment nor our working folder
            config.hydra.overrides.hydra += [
                f"+hydra.job.env_set.{_COUNT}='{self._count(config)}'",
                f"hydra.sweep.dir={QuotedString(str(logs), Quote.single).with_quotes()}",
            ]

    def _count(self, config: DictConfig) -> int:
        swept = dict(config.hydra.sweeper.params or {})
        texts = [f"{key}={value}" for key, value in swept.items()] + list(config.hydra.overrides.task)
        overrides = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(texts)}
        counts = [len(list(o.sweep_string_iterator())) for o in overrides.values() if o.is_sweep_override()]
        return math.prod(counts)


def run_job(settings: Settings, number: int, folder: str) -> None:
    """Run the stage of job ``number`` (from 0) in its own process, in the working ``folder`` of the sweep.

    Raises what the stage raises.
    """
    os.chdir(folder)  # a worker of a running Ray is in the folder where Ray was started
    count = os.environ.get(_COUNT, "?")
    log.info("%d of %s: %s %s", number + 1, count, settings.survey.name, settings.experiment_name)
    multiprocessing.set_start_method("spawn", force=True)  # joblib's workers use a method of their own
    process.call(_run_stage, settings, settings.experiment_name)


def _run_stage(settings: Settings) -> None:
    from zoobot import stages  # late: it loads all packages

    stages.run(settings)
