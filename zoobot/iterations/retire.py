"""Retire waiting galaxies of which the model has become sure (``oracle.retire_confident``): volunteers' time is better
spent on others.

Axes: H features.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from zoobot.acquisition import Candidates, confidence
from zoobot.folders import once
from zoobot.galaxies import database
from zoobot.iterations.evaluate import Evaluated, predict
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.pool import Pool
from zoobot.oracles.protocol import LiveOracle, Oracle

log = logging.getLogger("zoobot")


def retire_confident(it: Iteration, oracle: Oracle, evaluated: Evaluated, pool: Pool) -> int:
    """Ask the oracle to show nobody the waiting galaxies that are certain; returns how many.

    The next iteration labels them with the votes they have. The control sample stays: it must not depend on the model.
    Which galaxies they are is kept until the iteration is finished, as it is for requests.
    """
    threshold = it.settings.oracle.retire_confident
    if threshold >= 1 or not pool.waiting:
        return 0
    assert isinstance(oracle, LiveOracle)  # build_oracle saw to it
    live, waiting = oracle, pool.waiting

    def send(ids: list[str]) -> None:
        live.retire({id_: waiting[id_] for id_ in ids})

    sure = [id_ for id_, sure in _confidence(it, evaluated, list(waiting)).items() if sure > threshold]
    ids, _ = once.send(it.unfinished / "retired.json", sure, send)
    if ids:
        log.info("the model is sure of %d of %d waiting galaxies, for example %s: they are retired",
                 len(ids), len(waiting), ids[0])  # fmt: skip
    return len(ids)


def _confidence(it: Iteration, evaluated: Evaluated, ids: Sequence[str]) -> dict[str, float]:
    """How certain the model is of each galaxy, as for ``acquisition.skip_confident``. The shards that hold waiting
    galaxies are predicted for it.
    """
    with database.connect(it.folder.database) as connection:
        places = database.shards_of(connection, ids)
    found = [id_ for positions in places.values() for id_ in positions.values()]
    features_N_H = np.concatenate(
        [evaluated.predictor.features(it.shard_dir / shard)[list(positions)] for shard, positions in places.items()]
    )
    predicted = predict(it, evaluated.predictor, features_N_H, evaluated.calibration)
    sure_N = confidence(Candidates(found, predicted, it.settings.acquisition.expected_votes))
    sure = dict(zip(found, sure_N.tolist(), strict=True))
    return {id_: sure[id_] for id_ in ids}
