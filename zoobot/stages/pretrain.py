"""stage=pretrain: train an encoder on the pool's pictures alone, without votes.

Reads: the shards: pictures of the pool, no votes.
Writes: {survey}/encoders/{pretrain.name}/: an encoder, for model=pretrained.
Needs: stage=shards.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

from zoobot import folders
from zoobot.errors import InputError
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.models import features
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
NEXT = "simulate"  # the stage to run afterwards


def is_done(settings: Settings) -> bool:
    """Whether the encoder exists. FolderError: it has other settings."""
    path = settings.encoders_dir / settings.pretrain.name
    return folders.is_done(path, stage_settings(settings, "pretrain"), inputs=None)


def run(settings: Settings) -> Path:
    """Train and publish the encoder, unless it exists with the same settings.

    It is not trained again for other shards of the survey: it uses no votes, so simulations can share it.
    """
    path = settings.encoders_dir / settings.pretrain.name
    if is_done(settings):
        return path
    folders.require(settings.shard_dir, "shards", settings.verify_inputs)
    config = tfrecords.load_config(settings.shard_dir)
    features.refuse_other_shards(settings.model, config, settings.shard_dir)
    files, n_galaxies = _pool_files(settings, config)
    log.info("%s: training on %d pictures, %d times each", path, n_galaxies, settings.pretrain.epochs)
    import keras  # late: a run with nothing to do needs no TensorFlow

    from zoobot.models import encoders, pretraining
    from zoobot.models.datasets import dataset

    with (
        folders.create(path, stage_settings(settings, "pretrain"), {"shards": settings.shard_dir}) as staging,
        encoders.precision(settings.model),
    ):
        keras.utils.set_random_seed(settings.pretrain.seed)
        encoder = encoders.build(settings.model, config.image_size_px, config.channels)
        batch_size = min(settings.pretrain.batch_size, n_galaxies)
        images = dataset(files, n_galaxies, None, config, batch_size, settings.pretrain.seed)
        steps = math.ceil(n_galaxies / batch_size)
        curves = pretraining.train(encoder, images, steps, settings.model, settings.pretrain)
        encoders.save(encoder, settings.model, staging)
        folders.write_json(staging / "curves.json", {"galaxies": n_galaxies, **curves})
    log.info("%s: %.0f %% of views find their twin", path, 100 * curves["accuracy"][-1])
    return path


def _pool_files(settings: Settings, config: ShardConfig) -> tuple[list[Path], int]:
    """The pool's first shards, enough for ``pretrain.max_galaxies``, and the number of galaxies in them."""
    total = config.galaxies["pool"]
    if total < 2:
        raise InputError(f"Pretraining needs at least 2 galaxies in the pool of {settings.shard_dir}; it has {total}.")
    with database.connect(settings.shard_dir / config.database) as connection:
        counts = database.counts_by_shard(connection, "pool")
    names = tfrecords.first_shards(counts, settings.pretrain.max_galaxies)
    return [settings.shard_dir / name for name in names], sum(counts[name] for name in names)
