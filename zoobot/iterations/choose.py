"""Choose the galaxies to ask about: predict the pool's next shards, score them, and take the best.

Axes: N galaxies, M labelled galaxies, H features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoobot import acquisition
from zoobot.acquisition import Choice
from zoobot.engine.seeds import stream
from zoobot.galaxies import tfrecords
from zoobot.iterations import oracle_batch
from zoobot.iterations.evaluate import Evaluated
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.learning import Predictor, features_of
from zoobot.iterations.pool import Pool
from zoobot.iterations.predicted_pool import PredictedPool
from zoobot.models.architectures import Floats32

PICTURES = 16  # of chosen galaxies, kept for the report and the dashboard


@dataclass(frozen=True)
class Chosen:
    """The galaxies to ask about, in order of rank, and which shards were predicted to choose them."""

    ids: list[str]
    shards: list[str]
    n_predicted: int


def choose(it: Iteration, evaluated: Evaluated, pool: Pool) -> Chosen:
    """Score every galaxy in the next shards that may be asked about. Writes predictions.parquet: id_str, shard,
    posterior samples per answer, acquisition, rank, at_random. The choice is made from the samples as they are stored.
    """
    shards = _next_shards(it, pool)
    evaluated.predictor.fill(it.shard_dir / shard for shard in shards)
    kept = it.folder.path / "samples"  # until they are in the table
    with kept.open("w+b") as file:
        labelled_M_H = _labelled_features(it, evaluated.predictor)
        records = {shard: pool.open_in(shard) for shard in shards}
        predicted = PredictedPool(it, evaluated.predictor, pool.open_ids(shards), records, labelled_M_H, file)
        predicted.predict(evaluated.calibration)
        choice = _choose(it, predicted)
        it.folder.write_predictions(predicted.tables(choice))
    kept.unlink()
    return Chosen(predicted.ids_N[choice.picks].tolist(), shards, len(predicted))


def _next_shards(it: Iteration, pool: Pool) -> list[str]:
    """This iteration's pool shards: the next ones that still hold a galaxy to ask about."""
    names = it.shard_config.splits["pool"]
    wanted = min(it.settings.iterate.shards_per_iteration, len(names))
    start = it.number * wanted
    in_turn = [names[(start + i) % len(names)] for i in range(len(names))]
    return [name for name in in_turn if len(pool.open_in(name))][:wanted]


def _labelled_features(it: Iteration, predictor: Predictor) -> Floats32:
    """Those of all labels so far, if the acquisition function needs them: M × H."""
    name = it.settings.acquisition.name
    if name != oracle_batch.NAME and not acquisition.strategy(name).needs_labelled_features:
        return np.zeros((0, 0), np.float32)
    labelled = it.labelled("train")
    if predictor.joint:
        return features_of(it, predictor.features, labelled.ids)
    return np.concatenate([predictor.features(path) for path in labelled.files.values()])


def _choose(it: Iteration, predicted: PredictedPool) -> Choice:
    settings = it.settings.acquisition
    if settings.name == oracle_batch.NAME:
        return oracle_batch.choose(it, predicted.predictor, predicted.take(np.arange(len(predicted))))
    return acquisition.choose(
        settings.name,
        predicted,
        it.settings.iterate.subjects_per_iteration,
        stream(it.settings.seed, "acquisition", it.number),
        skip_confident=settings.skip_confident,
        random_share=settings.random_share,
    )


def write_pictures(it: Iteration, ids: Sequence[str]) -> None:
    """Save the pictures of the first galaxies asked about, for people to look at; none if the shards have features."""
    if it.shard_config.encoding == tfrecords.FEATURES:
        return
    ranks = {id_str: rank for rank, id_str in enumerate(ids[:PICTURES])}
    it.folder.picture(0).parent.mkdir()
    for id_str, record in it.records(list(ranks)):
        pixels = tfrecords.decode(record, it.shard_config.encoding)[1]
        Image.fromarray(pixels.squeeze()).save(it.folder.picture(ranks[id_str]))
