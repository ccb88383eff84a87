"""stage=finish: the final model of an experiment, which a catalogue is predicted with.

Live or simulated.

Reads: the instructions, the shards and all iterations.
Writes: experiments/{kind}/{experiment_name}/final/: the model to predict a catalogue with.
Needs: a finished iteration, and the experiment's settings.
"""

from __future__ import annotations

import logging
from pathlib import Path

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.folders import disk
from zoobot.galaxies import tfrecords
from zoobot.iterations.final_files import Final, FinalFolder, final_of
from zoobot.iterations.finishing import finish
from zoobot.iterations.iteration import Iteration, finished_iterations, input_dirs, open_experiment
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
NEXT = "predict"  # the stage to run afterwards


def run(settings: Settings) -> Path:
    """Write the final model, unless it exists with the same settings and iterations. Returns its folder."""
    experiment, used = open_experiment(settings)
    instructions = experiment.instructions
    used |= stage_settings(settings, "finish")
    with disk.lock(experiment.path):
        shard_dir, catalog_dir = input_dirs(instructions, settings.verify_inputs)
        iterations = finished_iterations(experiment, settings.verify_inputs)
        if not iterations:
            raise FolderError(
                f"{experiment.path} has no finished iteration, so nothing to finish. Run stage=iterate first."
            )
        *before, newest = iterations
        target = final_of(experiment)
        inputs = {"instructions": instructions.path, "iteration": newest.path}
        if folders.is_done(target.path, used, inputs):
            return target.path
        content = instructions.read()
        questions, task, config = content.build_questions(), content.build_task(), tfrecords.load_config(shard_dir)
        it = Iteration(
            len(before), settings, questions, task, shard_dir, config, catalog_dir, before, newest,
            folders.unfinished(target.path),
        )  # fmt: skip
        needs_bytes = _bytes_needed(it)
        with folders.create(target.path, used, inputs, resumes=True, needs_bytes=needs_bytes) as staging:
            found = finish(it, FinalFolder(staging))
    _say(target.path, newest.name, found)
    return target.path


def _bytes_needed(it: Iteration) -> int:
    """Roughly the size of what is written: the networks and their checkpoints, and the labelled pictures once more."""
    weights = [*it.folder.model.glob("*.weights.h5"), *(it.settings.weights_path or it.folder.model).glob("*.h5")]
    size = max((path.stat().st_size for path in weights), default=0)
    one_picture = it.settings.shards.image_size_px**2 * it.settings.shards.channels
    return 8 * it.settings.finish.networks * size + it.folder.summary().train_galaxies * one_picture


def _say(path: Path, newest: str, found: Final) -> None:
    losses = f"test loss {found.test_loss:.3f}, of {newest} {found.iteration_test_loss:.3f}"
    if found.fine_tuned:
        log.info("%s: trained further on %d galaxies, eval loss lower by %.3f than that of %s; %s", path,
                 found.train_galaxies, found.better_by, newest, losses)  # fmt: skip
    elif found.tried_eval_loss is None:
        log.info("%s: the model of %s, because nothing in it can be trained further; %s", path, newest, losses)
    else:
        log.info("%s: the model of %s, because training further does not lower its eval loss: %.3f, and then %.3f; %s",
                 path, newest, found.eval_loss, found.tried_eval_loss, losses)  # fmt: skip
