"""Expected variance reduction: galaxies whose votes would make the predictions for all galaxies most certain.

The log-odds of each split of a question's answers (the commonest against all others, then the next against those that
are left, and so on) count as jointly normal. Axes: N galaxies, K posterior samples, A answers of a question, T galaxies
reckoned with, C of them to pick from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from zoobot.acquisition.candidates import Candidates, ExpectedVotes, Floats, Floats32, Rows
from zoobot.acquisition.scores import variance
from zoobot.metrics.predicted_votes import Samples

Bools = npt.NDArray[np.bool_]

_MOST, _NUMBERS = 4000, 40_000_000  # galaxies to pick from, and covariances of all splits at once: time and memory
_SMALLEST = 1e-6  # chance


def variance_reduction(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """Repeatedly pick the galaxy c whose votes would most reduce the variance of all galaxies' expected votes.

    Seeing c lowers the variance of the log-odds of x by cov(x, c)² / (var(c) + 1 / (v p (1 - p))), where v is the
    number of independent votes that say as much as those expected of c. Scores are the sums over splits and galaxies x
    of this, times v (p (1 - p))² of x, which turns log-odds into votes.
    """
    picks, scores_N = np.zeros(n, np.int64), np.zeros(len(candidates))
    if not len(candidates):
        return picks, scores_N
    rows, some, stands_T = _some(candidates, n)
    splits = list(_splits(candidates.take(rows), some, stands_T, n))
    free_C = np.ones(len(some), np.bool_)
    for number in range(n + 1):  # a last time for the scores of those not picked
        reduction_C = np.sum([split.reduction() for split in splits], axis=0)
        scores_N[rows[some[free_C]]] = reduction_C[free_C]
        if number < n:
            best = int(np.argmax(np.where(free_C, reduction_C, -np.inf)))
            picks[number], free_C[best] = rows[some[best]], False
            for split in splits:
                split.see(best, int(some[best]))
    return picks, scores_N


def _some(candidates: Candidates, n: int) -> tuple[Rows, Rows, Bools]:
    """The T rows to reckon with; which of these may be picked, the least certain of a large pool; and which stand for
    the pool.
    """
    n_splits = sum(len(group.answers) - 1 for group in candidates.predicted.groups)
    most = max(min(_MOST, int((_NUMBERS / n_splits) ** 0.5)), 2 * n)
    free = np.flatnonzero(candidates.free_N)
    if len(free) > most:
        free = free[np.argsort(-variance(candidates)[free], kind="stable")][:most]
    rows = np.union1d(np.arange(min(most, len(candidates))), free)  # the caller shuffles: the first are a fair sample
    return rows, np.searchsorted(rows, np.sort(free)), rows < most


@dataclass
class Split:
    """What is believed about one split of a question's answers. ``see`` changes it."""

    covariance_T_C: Floats32  # of log-odds, before anything is seen
    weight_T: Floats32  # what a galaxy's variance counts; 0 for galaxies that do not stand for the pool
    worth_C: Floats  # precision of the expected votes, as an observation of log-odds
    variance_C: Floats
    seen_n_T: Floats32  # the covariance is now lower by the outer products of these two
    seen_n_C: Floats32
    n_seen: int = 0

    def __post_init__(self) -> None:
        self.squares_C = np.einsum("t,tc,tc->c", self.weight_T, self.covariance_T_C, self.covariance_T_C, dtype="f8")

    def reduction(self) -> Floats:
        """By how much seeing each galaxy would lower the variance of all: C."""
        return np.asarray(np.maximum(self.squares_C, 0) * self.worth_C / (1 + self.worth_C * self.variance_C))

    def see(self, column: int, row: int) -> None:
        """Learn of the votes of the galaxy in this column, which is in this row too."""
        seen_n_T, seen_n_C = self.seen_n_T[: self.n_seen], self.seen_n_C[: self.n_seen]
        with_it_T = self.covariance_T_C[:, column] - seen_n_C[:, column] @ seen_n_T
        with_it_C = self.covariance_T_C[row] - seen_n_T[:, row] @ seen_n_C
        size = self.worth_C[column] / (1 + self.worth_C[column] * self.variance_C[column])
        weighted_T = self.weight_T * with_it_T
        through_C = weighted_T @ self.covariance_T_C - (seen_n_T @ weighted_T) @ seen_n_C
        total = float(weighted_T @ with_it_T)
        self.squares_C += size * with_it_C * (size * total * with_it_C - 2.0 * through_C)
        self.variance_C = np.maximum(self.variance_C - size * with_it_C.astype(np.float64) ** 2, 0)
        root = np.float32(np.sqrt(size))
        self.seen_n_T[self.n_seen], self.seen_n_C[self.n_seen] = root * with_it_T, root * with_it_C
        self.n_seen += 1


def _splits(reckoned: Candidates, some: Rows, stands_T: Bools, n: int) -> Iterator[Split]:
    """The splits of all questions, before anything is seen."""
    orders, covariances = _joint(reckoned, some)
    for question, order in zip(reckoned.questions(), orders, strict=True):
        for chance_T, votes_T in _chances(question, order):
            covariance_T_C, slope_T = next(covariances), chance_T * (1 - chance_T)
            yield Split(
                covariance_T_C, (votes_T * slope_T**2 * stands_T).astype(np.float32), (votes_T * slope_T)[some],
                covariance_T_C[some, np.arange(len(some))].astype(np.float64),
                np.zeros((n, len(slope_T)), np.float32), np.zeros((n, len(some)), np.float32),
            )  # fmt: skip


def _chances(question: ExpectedVotes, order: Sequence[int]) -> Iterator[tuple[Floats, Floats]]:
    """The chance of each answer but the last among those left, and how many independent votes say as much as those that
    are expected to choose between them: T each.
    """
    samples = question.predicted.samples_N_K_A
    mean_T_A = question.predicted.probabilities_N_K_A.mean(axis=1, dtype=np.float64)
    left_T, votes_T = np.ones(len(mean_T_A)), question.votes_N.astype(np.float64)
    # A Dirichlet whose concentrations add up to s gives the votes of a galaxy the correlation 1 / (1 + s).
    concentration_T = (
        samples.sum(axis=2).mean(axis=1, dtype=np.float64) if question.predicted.has_concentrations else np.inf
    )
    rho_T = 1 / (1 + concentration_T)
    for answer in order[:-1]:
        chance_T = np.clip(mean_T_A[:, answer] / np.maximum(left_T, _SMALLEST), _SMALLEST, 1 - _SMALLEST)
        yield chance_T, votes_T / (1 + np.maximum(votes_T - 1, 0) * rho_T)
        left_T, votes_T = left_T - mean_T_A[:, answer], votes_T * (1 - chance_T)


def _joint(reckoned: Candidates, some: Rows) -> tuple[list[tuple[int, ...]], Iterator[Floats32]]:
    """How each question's answers are split, and the covariance T × C of the log-odds of each split: the model's own,
    or that of its samples. K samples know K - 1 directions only.
    """
    if reckoned.joint:
        features_N_H = reckoned.features_N_H
        return reckoned.joint.orders, reckoned.joint.covariances(features_N_H, features_N_H[some])
    samples = [question.probabilities_N_K_A for question in reckoned.predicted.questions()]
    orders = [tuple(np.argsort(-of.mean(axis=(0, 1)), kind="stable").tolist()) for of in samples]
    deviations = (of for each, order in zip(samples, orders, strict=True) for of in _deviations(each, order))
    return orders, (of @ of[some].T for of in deviations)


def _deviations(probabilities_T_K_A: Samples, order: Sequence[int]) -> Iterator[Floats32]:
    """The log-odds of each split minus their mean, T × K, so that covariances are sums over K."""
    left_T_K = np.ones(probabilities_T_K_A.shape[:2])
    for answer in order[:-1]:
        chance_T_K = probabilities_T_K_A[:, :, answer] / np.maximum(left_T_K, _SMALLEST)
        logit_T_K = logit(np.clip(chance_T_K, _SMALLEST, 1 - _SMALLEST))
        logit_T_K -= logit_T_K.mean(axis=1, keepdims=True)
        yield (logit_T_K / max(logit_T_K.shape[1] - 1, 1) ** 0.5).astype(np.float32)
        left_T_K = left_T_K - probabilities_T_K_A[:, :, answer]
