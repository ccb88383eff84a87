"""What an acquisition function gets, and what it returns. Axes: N galaxies, K posterior samples, A answers of
all questions, H features, M labelled galaxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from zoobot.acquisition.information import dirichlet_multinomial_information, multinomial_information
from zoobot.errors import InputError
from zoobot.galaxies.tasks import asked_probability
from zoobot.metrics import PredictedQuestion, PredictedVotes

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
PART = 16_384  # galaxies that are predicted or scored at once


@dataclass(frozen=True)
class ExpectedVotes:
    """One question about all candidates: what is predicted, and how many votes are expected."""

    predicted: PredictedQuestion
    asked_N: Floats  # the probability that it is asked
    votes_N: Rows  # how many votes it is expected to get

    def information(self) -> Floats:
        """Entropy of its votes, and their mutual information with the model: 2 × N, nats."""
        if self.predicted.has_concentrations:
            return dirichlet_multinomial_information(self.predicted.samples_N_K_A, self.votes_N)
        return multinomial_information(self.predicted.samples_N_K_A, self.votes_N)


class Joint(Protocol):
    """What a model believes about the log-odds of all galaxies together: a normal distribution for each split of each
    question's answers (the first of ``orders`` against all others, the second against those that are left, …).
    """

    @property
    def orders(self) -> list[tuple[int, ...]]:
        """The answers of each question, in the order in which they are split off."""

    def covariances(self, a_N_H: Floats32, b_M_H: Floats32) -> Iterator[Floats32]:
        """The covariance N × M between the galaxies with these features, for each split in turn."""


@dataclass(frozen=True)
class Candidates:
    """The galaxies to choose from, and what the model predicts for them.

    Raises:
        InputError: shapes do not match, or a value is NaN or infinite; the message names the galaxies.
    """

    ids_N: Sequence[str] | npt.NDArray[np.str_]
    predicted: PredictedVotes
    expected_votes: int  # for the first question; a later one gets the share of the answers that lead to it
    features_N_H: Floats32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    labelled_features_M_H: Floats32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    member_K: Rows | None = None  # which network of an ensemble gave the sample; None: each sample is a network
    coldness: float = 1.0  # of the noise in power_ and softmax_mutual_information: more is less noise
    allowed_N: npt.NDArray[np.bool_] | None = None  # which may be picked; None: all
    joint: Joint | None = None  # the model's own; None: there are samples only

    def __post_init__(self) -> None:
        n = len(self.ids_N)
        if len(self.predicted) != n:
            raise InputError(f"expected samples of {n} galaxies, got shape {self.predicted.samples_N_K_A.shape}")
        check_finite(self.ids_N, self.predicted.samples_N_K_A, "posterior samples")
        if self.features_N_H.size:
            if len(self.features_N_H) != n:
                raise InputError(f"expected features of {n} galaxies, got shape {self.features_N_H.shape}")
            check_finite(self.ids_N, self.features_N_H, "features")
        if self.labelled_features_M_H.size and self.labelled_features_M_H.shape[1] != self.features_N_H.shape[1]:
            raise InputError(
                f"features of labelled galaxies have shape {self.labelled_features_M_H.shape}, those of the candidates"
                f" {self.features_N_H.shape}"
            )
        if not np.isfinite(self.labelled_features_M_H).all():
            rows = np.flatnonzero(~np.isfinite(self.labelled_features_M_H).all(axis=1))
            raise InputError(f"features of {len(rows)} labelled galaxies are not finite, at rows {rows[:10].tolist()}")

    def __len__(self) -> int:
        return len(self.ids_N)

    @property
    def n_samples(self) -> int:
        """K."""
        return int(self.predicted.samples_N_K_A.shape[1])

    def take(self, rows: Rows) -> Candidates:
        """The candidates at these rows, in this order."""
        return replace(
            self,
            ids_N=np.asarray(self.ids_N)[rows],
            predicted=self.predicted.take(rows),
            features_N_H=self.features_N_H[rows] if self.features_N_H.size else self.features_N_H,
            allowed_N=None if self.allowed_N is None else self.allowed_N[rows],
        )

    def scores(self, score: Callable[[Candidates], Floats]) -> Floats:
        """As in ``Source``."""
        return in_parts(self, score)

    @property
    def free_N(self) -> npt.NDArray[np.bool_]:
        """Which galaxies may be picked: a copy."""
        return np.ones(len(self), dtype=np.bool_) if self.allowed_N is None else self.allowed_N.copy()

    def questions(self) -> Iterator[ExpectedVotes]:
        """Each question, in the order of its group."""
        means: dict[str, Floats] = {}
        for predicted in self.predicted.questions():
            mean_N_A = predicted.probabilities_N_K_A.mean(axis=1, dtype=np.float64)
            means |= dict(zip(predicted.group.answers, mean_N_A.T, strict=True))
        asked = asked_probability(self.predicted.groups, means)
        for predicted in self.predicted.questions():
            asked_N = asked[predicted.group.question]
            yield ExpectedVotes(predicted, asked_N, np.rint(self.expected_votes * asked_N).astype(np.int64))


class Source(Protocol):
    """Galaxies to choose from that need not all be in memory, as ``Candidates`` are."""

    @property
    def ids_N(self) -> Sequence[str] | npt.NDArray[np.str_]:
        """Their ids."""

    def __len__(self) -> int: ...

    def take(self, rows: Rows) -> Candidates:
        """The candidates at these rows, in this order."""

    def scores(self, score: Callable[[Candidates], Floats]) -> Floats:
        """The scores N by a function of a module's own that looks at each galaxy by itself, and at samples only."""


def in_parts(candidates: Source, score: Callable[[Candidates], Floats]) -> Floats:
    """The scores N of galaxies that are scored one by one, a part of them in memory at a time."""
    starts = range(0, len(candidates), PART)
    parts = [score(candidates.take(np.arange(at, min(at + PART, len(candidates))))) for at in starts]
    return np.concatenate([np.zeros(0), *parts])


def check_finite(
    ids_N: Sequence[str] | npt.NDArray[np.str_],
    values_N: npt.NDArray[np.floating],
    what: str,
    order: Rows | None = None,
) -> None:
    """Refuse NaN and infinity, naming the galaxies; value i is that of galaxy ``order[i]``."""
    wrong = np.flatnonzero(~np.isfinite(values_N.sum(axis=tuple(range(1, values_N.ndim)))))
    if len(wrong):
        rows = wrong if order is None else order[wrong]
        names = ", ".join(str(ids_N[row]) for row in rows[:10])
        raise InputError(f"{what} are not finite for {len(wrong)} galaxies: {names}")


Choose = Callable[[Candidates, int, np.random.Generator], tuple[Rows, Floats]]


@dataclass(frozen=True)
class Strategy:
    """One acquisition function.

    ``choose(candidates, n, random)`` gives the rows of n free galaxies, in the order in which to ask about them, and a
    finite score for each of the N galaxies; a higher score comes first. Of equal galaxies it takes the one in the first
    row: the caller shuffles. ``unit`` says what the scores are, for people.
    """

    choose: Choose
    batch_aware: bool  # whether what is picked depends on what else is in the batch
    needs_labelled_features: bool = False
    unit: str = ""
    score: Callable[[Candidates], Floats] | None = None  # if scores depend on nothing but each galaxy's samples


def by_score(score: Callable[[Candidates, np.random.Generator], Floats], unit: str = "") -> Strategy:
    """The strategy that takes the n galaxies with the highest scores."""

    def choose(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
        scores_N = np.asarray(score(candidates, random), dtype=np.float64)
        check_finite(candidates.ids_N, scores_N, "scores")
        order = np.argsort(-scores_N, kind="stable")
        return order[candidates.free_N[order]][:n], scores_N

    return Strategy(choose, batch_aware=False, unit=unit)


def by_own_score(score: Callable[[Candidates], Floats], unit: str = "") -> Strategy:
    """The same with a score that depends on nothing but each galaxy's samples."""
    return replace(by_score(lambda candidates, random: score(candidates), unit), score=score)
