"""A head fitted to all labels of a simulation: the loss that no choice of galaxies can be expected to go below.

It is written beside the iterations of a simulation that chooses at random, once, and the report measures how far above
it the others are. It takes seconds to a minute: one more fit.
"""

from __future__ import annotations

import logging
import shutil

import numpy as np

from zoobot import folders
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import build_task
from zoobot.iterations import learning, true_votes
from zoobot.iterations.evaluate import evaluate
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.iterations.iteration import Iteration, fixed_settings
from zoobot.models.features import fill, frozen_features
from zoobot.settings import Settings

log = logging.getLogger("zoobot")


def write(settings: Settings) -> None:
    """Write the folder ``all_labels`` of an experiment, unless it exists: ``model/``, metrics.json and test.parquet
    of a head that is fitted to the first labels and to all of the pool's votes.
    """
    experiment = ExperimentFolder(settings.experiment_dir)
    path, instructions = experiment.all_labels.path, experiment.instructions
    used, inputs = fixed_settings(settings), {"instructions": instructions.path}
    if folders.is_done(path, used, inputs):
        return
    questions = load_questions(settings.survey.questions)
    with folders.create(path, used, inputs) as staging:
        it = Iteration(
            0, settings, questions, build_task(settings.task, questions), settings.shard_dir,
            tfrecords.load_config(settings.shard_dir), settings.catalog_dir, [],
            IterationFolder(staging), folders.unfinished(path),
        )  # fmt: skip
        shutil.copyfile(instructions.database, it.folder.database)  # says which galaxies are in which shard
        _fit(it)
        loss = evaluate(it).loss("test")
        it.folder.database.unlink()
    log.info("%s: a head fitted to all labels has the test loss %.3f", path, loss)


def _fit(it: Iteration) -> None:
    frozen = frozen_features(it.settings, it.shard_config)
    shards = it.shard_config.splits["pool"]
    fill(frozen, it.settings, it.shard_config.shard_size, (it.shard_dir / shard for shard in shards))
    first_H, first_A, _ = learning.training_set(it, frozen.of)
    with database.connect(it.folder.database) as connection:
        ids = [id_str for shard in shards for id_str in database.ids_in_shard(connection, shard)]
    pool_H = [frozen.of(it.shard_dir / shard) for shard in shards]
    pool_A = true_votes.of_galaxies(it, ids)
    counts_N_A = np.concatenate([first_A, pool_A])
    everyone = np.ones(len(counts_N_A), bool)  # nobody was chosen: the pool is what most galaxies are like
    learning.write_head(it, frozen, np.concatenate([first_H, *pool_H]), counts_N_A, everyone)
