"""acquisition=oracle_batch: a ceiling for simulations, since it knows the answers before it asks. No way of choosing.

Each iteration makes candidate batches with several acquisition functions on random parts of the pool, fits the head to
the labels and each batch with its true votes, and takes the batch with the lowest loss on the eval galaxies (BoSS,
arXiv 2603.13109). The report measures it on the test galaxies. Axes: N galaxies to choose from, M labelled galaxies, B
candidate batches, H features, A answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np

from zoobot import acquisition, metrics
from zoobot.acquisition import Candidates, Choice
from zoobot.engine.seeds import stream
from zoobot.iterations import true_votes
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.learning import Predictor, scale_of, training_set
from zoobot.metrics import PredictedVotes
from zoobot.models import head
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
NAME = "oracle_batch"
# The functions that make candidate batches, in turn: some of each kind, so that few good batches are out of reach.
MAKERS = ("random", "badge", "uherding", "mutual_information", "power_mutual_information", "lcmd")
_SMALLEST_PART = 0.1  # of the pool
_SAMPLES = 200  # of the posterior, the same for all batches: so few differences between them are chance


def problems(settings: Settings) -> list[str]:
    """Why a run cannot use it, each problem with its full key."""
    chosen = settings.acquisition
    if chosen.name != NAME:
        return []
    found = []
    if settings.oracle.live:
        found.append(
            f"acquisition.name={NAME}: it must know the answers before it asks, so it is for simulations only, not for"
            f" oracle={settings.oracle.kind}; choose another acquisition function"
        )
    if settings.model.train != "head":
        found.append(
            f"acquisition.name={NAME}: it fits the head again for every candidate batch, so it needs"
            f" model.train=head, not {settings.model.train}; choose model=pretrained or model=pixels"
        )
    for key, value, off in (("random_share", chosen.random_share, 0), ("skip_confident", chosen.skip_confident, 1)):
        if value != off:
            found.append(f"acquisition.{key}={value}: {NAME} does not follow it; set it to {off}")
    return found


def choose(it: Iteration, predictor: Predictor, candidates: Candidates) -> Choice:
    """The best of the candidate batches. A galaxy's score says how much lower the eval loss was than the mean of all
    candidate batches, in nats per galaxy, averaged over the batches that contain it; 0 if none does.
    """
    n, random = it.settings.iterate.subjects_per_iteration, stream(it.settings.seed, "acquisition", it.number)
    if len(candidates) <= n:  # all are asked about, in any order
        return acquisition.choose("random", candidates, n, random)
    batches = list(_batches(candidates, n, it.settings.acquisition.candidate_batches, random))
    loss_of = _judge(it, predictor, candidates)
    losses_B = np.array([loss_of(rows) for _, rows in batches])
    best = int(np.argmin(losses_B))
    log.info(
        "%s: the best of %d candidate batches is from %s: eval loss %.4f (mean of all: %.4f)",
        NAME, len(batches), batches[best][0], losses_B[best], losses_B.mean(),
    )  # fmt: skip
    lower_N, times_N = np.zeros(len(candidates)), np.zeros(len(candidates))
    for (_, rows), loss in zip(batches, losses_B, strict=True):
        lower_N[rows] += losses_B.mean() - loss
        times_N[rows] += 1
    return _choice(batches[best][1], lower_N / np.maximum(times_N, 1))


def _batches(
    candidates: Candidates, n: int, n_batches: int, random: np.random.Generator
) -> Iterator[tuple[str, acquisition.Rows]]:
    """Candidate batches, and which function made each: first each function on the whole pool, then on random parts."""
    by_id = np.argsort(np.asarray(candidates.ids_N, dtype=np.str_), kind="stable")
    for number in range(n_batches):
        name = MAKERS[number % len(MAKERS)]
        share = 1.0 if number < len(MAKERS) else random.uniform(_SMALLEST_PART, 1)
        size = max(n, round(share * len(by_id)))
        part = by_id[random.permutation(len(by_id))[:size]]
        yield name, part[acquisition.choose(name, candidates.take(part), n, random).picks]


def _judge(it: Iteration, predictor: Predictor, candidates: Candidates) -> Callable[[acquisition.Rows], float]:
    """The function that gives the eval loss (nats per galaxy) of a head that also knows the votes of these galaxies."""
    features_M_H, counts_M_A, at_random_M = training_set(it, predictor.features)
    scale = scale_of(it, predictor.features)
    fitted = head.fit(features_M_H, counts_M_A, it.task.groups, at_random_M, scale)
    true_N_A = true_votes.of_galaxies(it, list(candidates.ids_N))
    labelled = it.labelled("eval")
    eval_H = np.concatenate([predictor.features(path) for path in labelled.files.values()])

    def loss(rows: acquisition.Rows) -> float:
        with_batch = fitted.given(
            np.concatenate([features_M_H, candidates.features_N_H[rows]]),
            np.concatenate([counts_M_A, true_N_A[rows]]),
        )
        samples = with_batch.sample(eval_H, _SAMPLES, stream(it.settings.seed, "oracle batch", it.number))
        return metrics.loss(PredictedVotes(samples, it.task.groups, it.settings.model.likelihood), labelled.counts_N_A)

    return loss


def _choice(picks: acquisition.Rows, scores_N: acquisition.Floats) -> Choice:
    others = np.setdiff1d(np.arange(len(scores_N)), picks)
    rank_N = np.empty(len(scores_N), np.int64)
    rank_N[np.concatenate([picks, others[np.argsort(-scores_N[others], kind="stable")]])] = np.arange(len(scores_N))
    return Choice(picks, scores_N, rank_N, np.zeros(len(scores_N), np.bool_))
