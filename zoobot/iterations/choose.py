"""Choose the galaxies to ask about: predict the pool's next shards, score them, and take the best.

Axes: N galaxies, K posterior samples, A answers, H features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from zoobot import acquisition
from zoobot.acquisition import Candidates, Choice
from zoobot.engine.progress import track
from zoobot.engine.seeds import stream
from zoobot.galaxies import database, tfrecords
from zoobot.iterations import oracle_batch
from zoobot.iterations.evaluate import Evaluated, predict
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.learning import Predictor
from zoobot.iterations.pool import Pool
from zoobot.metrics import PredictedVotes
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
    posterior samples per answer, acquisition, rank, at_random.
    """
    shards = _next_shards(it, pool)
    ids, names, features_N_H = _features(it, evaluated.predictor, shards, pool)
    predicted = predict(it, evaluated.predictor, features_N_H, evaluated.calibration)
    choice = _choose(it, evaluated.predictor, ids, features_N_H, predicted)
    columns = {
        answer: pa.FixedSizeListArray.from_arrays(pa.array(samples_N_K.ravel()), samples_N_K.shape[1])
        for answer, samples_N_K in zip(it.task.answers, np.moveaxis(predicted.samples_N_K_A, 2, 0), strict=True)
    }
    result = {"acquisition": choice.scores_N, "rank": choice.rank_N, "at_random": choice.at_random_N}
    it.folder.write_predictions(pa.table({"id_str": ids, "shard": names, **columns, **result}))
    return Chosen([ids[row] for row in choice.picks], shards, len(ids))


def _next_shards(it: Iteration, pool: Pool) -> list[str]:
    """This iteration's pool shards: the next ones that still hold a galaxy to ask about."""
    names = it.shard_config.splits["pool"]
    wanted = min(it.settings.iterate.shards_per_iteration, len(names))
    start = it.number * wanted
    in_turn = [names[(start + i) % len(names)] for i in range(len(names))]
    return [name for name in in_turn if any(pool.open_in(name))][:wanted]


def _features(
    it: Iteration, predictor: Predictor, shards: Sequence[str], pool: Pool
) -> tuple[list[str], list[str], Floats32]:
    """The ids, shards and features of the galaxies that may be asked about."""
    ids: list[str] = []
    names: list[str] = []
    none_0_H = predictor.features(next(iter(it.split_files("test").values())))[:0]  # in case the pool is used up
    features = [none_0_H]
    for shard in track(shards, "predicting shards", len(shards)):
        open_N = np.array(pool.open_in(shard))
        features.append(predictor.features(it.shard_dir / shard)[open_N])
        ids += np.array(pool.ids[shard])[open_N].tolist()
        names += [shard] * int(open_N.sum())
    return ids, names, np.concatenate(features)


def _choose(
    it: Iteration, predictor: Predictor, ids: Sequence[str], features_N_H: Floats32, predicted: PredictedVotes
) -> Choice:
    settings = it.settings.acquisition
    labelled = [features_N_H[:0]]
    is_ceiling = settings.name == oracle_batch.NAME
    if is_ceiling or acquisition.strategy(settings.name).needs_labelled_features:
        labelled += [predictor.features(path) for path in it.labelled("train").files.values()]
    candidates = Candidates(
        ids,
        predicted,
        settings.expected_votes,
        features_N_H,
        np.concatenate(labelled),
        predictor.member_K,
        settings.coldness,
        joint=predictor.joint,
    )
    if is_ceiling:
        return oracle_batch.choose(it, predictor, candidates)
    return acquisition.choose(
        settings.name,
        candidates,
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
    with database.connect(it.folder.database) as connection:
        places = database.shards_of(connection, list(ranks))
    for shard, positions in places.items():
        for position, record in enumerate(tfrecords.read(it.shard_dir / shard)):
            if position in positions:
                id_str, pixels, _ = tfrecords.decode(record, it.shard_config.encoding)
                Image.fromarray(pixels.squeeze()).save(it.folder.picture(ranks[id_str]))
