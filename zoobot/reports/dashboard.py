"""Weights & Biases: one run per iteration, logged when the iteration is published. Only this module imports wandb.

An offline run cannot be resumed, so each iteration has its own run with a fixed id, grouped by experiment. Each run
repeats the metrics of the iterations before it, so the newest run holds the complete curve. No secret is logged: the
key stays in the environment.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from zoobot.engine import quiet
from zoobot.folders import disk, once
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.settings import Settings

log = logging.getLogger("zoobot")


def log_iterations(settings: Settings, iterations: Sequence[IterationFolder]) -> None:
    """Log each of ``iterations`` (all of the experiment, in order) that is not logged yet: the newest, and earlier ones
    whose logging was interrupted. A failure only gives a warning: the iterations are already published.
    """
    if settings.tracking.mode == "disabled":
        return
    for number, iteration in enumerate(iterations):
        receipt = settings.experiment_dir / "tracking" / f"logged_{iteration.name}.json"
        id_ = run_id(settings.experiment_name, number)
        try:
            once.send(receipt, id_, functools.partial(_log, settings, iterations[: number + 1]))
        except Exception as error:  # the client can raise anything; the iteration is already published
            log.warning("%s was not logged to Weights & Biases: %s: %s", iteration.name, type(error).__name__, error)


def run_id(experiment_name: str, number: int) -> str:
    """The fixed id of an iteration's run, so that logging it again replaces it."""
    return hashlib.sha256(f"{experiment_name}/{number}".encode()).hexdigest()[:16]


def _log(settings: Settings, iterations: Sequence[IterationFolder], id_: str) -> None:
    wandb = _client(settings.tracking.mode)
    newest, number = iterations[-1], len(iterations) - 1
    folder = settings.experiment_dir / "tracking"
    folder.mkdir(exist_ok=True)
    for stopped in (folder / "wandb").glob(f"offline-run-*-{id_}"):
        disk.remove(stopped)  # logged by a run that was stopped; it is logged again
    os.environ["WANDB_DATA_DIR"] = str(folder)  # keep pictures for `wandb sync` here, not in the user's home
    instructions = asdict(ExperimentFolder(settings.experiment_dir).instructions.read())
    with wandb.init(
        mode=settings.tracking.mode,
        project=settings.tracking.project,
        entity=settings.tracking.entity or None,
        dir=folder,
        id=id_,
        name=f"{settings.experiment_name}/{newest.name}",
        group=settings.experiment_name,
        job_type="iteration",
        config={"iteration": number, **instructions},
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_machine_info=True),
    ) as run:
        for iteration in iterations:
            run.log(_values(iteration))
        run.log({"chosen": _table(newest, settings.tracking.table_galaxies)})


def _client(mode: str) -> Any:
    """The client. Offline it opens no socket to anywhere: what it would report of itself is switched off."""
    quiet.imports()
    if mode == "offline":
        os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_GIT": "true"}
    import wandb

    return wandb


def _values(iteration: IterationFolder) -> dict[str, object]:
    """The metrics and counts of one iteration, flat. Lists (histograms, curves) are only in metrics.json."""
    summary = asdict(iteration.summary())
    counts = (
        "number",
        "train_galaxies",
        "labels_received",
        "labels_below_threshold",
        "retired_confident",
        "classifications_received",
        "still_waiting",
        "requested",
        "epochs",
        "votes_spent",
        "volunteer_minutes",
        "next_100_labels_buy",
    )
    values = {f"counts/{name}": summary[name] for name in counts if summary[name] is not None}
    values |= {f"timings_s/{step}": seconds for step, seconds in summary["timings_s"].items()}
    for split, questions in iteration.metrics().items():
        values |= {
            f"{split}/{question}/{name}": v
            for question, metrics in questions.items()
            for name, v in metrics.items()
            if not isinstance(v, list)
        }
    return values


def _table(iteration: IterationFolder, n_galaxies: int) -> object:
    """The galaxies chosen, with their pictures if there are any."""
    import wandb

    has_pictures = iteration.picture(0).is_file()
    table = wandb.Table(columns=["rank", "id_str", "acquisition", *(["picture"] if has_pictures else [])])
    chosen = iteration.predictions(["rank", "id_str", "acquisition"], best=n_galaxies)
    for rank, id_str, score in chosen.itertuples(index=False, name=None):
        picture = iteration.picture(rank)
        if not has_pictures:
            table.add_data(rank, id_str, score)
        elif picture.is_file():
            table.add_data(rank, id_str, score, wandb.Image(str(picture)))
    return table
