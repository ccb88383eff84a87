"""What an acquisition function is given, and what it gives back. Axes: N galaxies, K posterior samples, A answers of
all questions, H features, M labelled galaxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from zoobot.acquisition.information import dirichlet_multinomial_information, multinomial_information
from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group, asked_probability

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
LIKELIHOODS = ("multinomial", "dirichlet_multinomial")


def to_probabilities(samples_N_K_A: Floats32, dirichlet: bool) -> Floats32:
    """The probabilities of one question's answers: the samples, or what concentrations come to."""
    return samples_N_K_A / samples_N_K_A.sum(axis=2, keepdims=True) if dirichlet else samples_N_K_A


@dataclass(frozen=True)
class Question:
    """One question about all candidates."""

    samples_N_K_A: Floats32  # of its own answers
    asked_N: Floats  # the probability that it is asked
    votes_N: Rows  # how many votes it is expected to get
    dirichlet: bool

    @property
    def probabilities_N_K_A(self) -> Floats32:
        """The probability of each answer, given that the question is asked."""
        return to_probabilities(self.samples_N_K_A, self.dirichlet)

    def information(self) -> Floats:
        """Entropy of its votes, and their mutual information with the model: 2 × N, nats."""
        if self.dirichlet:
            return dirichlet_multinomial_information(self.samples_N_K_A, self.votes_N)
        return multinomial_information(self.samples_N_K_A, self.votes_N)


@dataclass(frozen=True)
class Candidates:
    """The galaxies to choose from, and what the model thinks of them.

    A posterior sample is one model of all galaxies: sample k of one galaxy goes with sample k of every other.

    Raises:
        InputError: shapes do not fit together, or a value is NaN or infinite; the message names the galaxies.
    """

    ids_N: Sequence[str] | npt.NDArray[np.str_]
    samples_N_K_A: Floats32  # probabilities given that the question is asked, or concentrations: see likelihood
    groups: Sequence[Group]  # the answers of each question, in the order of A
    expected_votes: int  # for the first question; a later one gets the share of the answers that lead to it
    features_N_H: Floats32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    labelled_features_M_H: Floats32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    likelihood: str = "multinomial"  # or dirichlet_multinomial: then samples are concentrations
    member_K: Rows | None = None  # which network of an ensemble gave the sample; None: each is one of its own
    coldness: float = 1.0  # of the noise in power_ and softmax_mutual_information: more is less noise
    allowed_N: npt.NDArray[np.bool_] | None = None  # which may be picked; None: all

    def __post_init__(self) -> None:
        n, n_answers = len(self.ids_N), sum(len(group.answers) for group in self.groups)
        shape = self.samples_N_K_A.shape
        if len(shape) != 3 or shape[0] != n or shape[1] == 0 or shape[2] != n_answers:
            raise InputError(f"expected samples of {n} galaxies × K × {n_answers} answers, got shape {shape}")
        if self.likelihood not in LIKELIHOODS:
            raise InputError(f"likelihood {self.likelihood}: choose one of {', '.join(LIKELIHOODS)}")
        self.check_finite(self.samples_N_K_A, "posterior samples")
        if self.features_N_H.size:
            if len(self.features_N_H) != n:
                raise InputError(f"expected features of {n} galaxies, got shape {self.features_N_H.shape}")
            self.check_finite(self.features_N_H, "features")
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

    def check_finite(self, values_N: npt.NDArray[np.floating], what: str) -> None:
        """Refuse NaN and infinity, naming the galaxies."""
        wrong = np.flatnonzero(~np.isfinite(values_N.sum(axis=tuple(range(1, values_N.ndim)))))
        if len(wrong):
            names = ", ".join(str(self.ids_N[row]) for row in wrong[:10])
            raise InputError(f"{what} are not finite for {len(wrong)} galaxies: {names}")

    def take(self, rows: Rows) -> Candidates:
        """The candidates at these rows, in this order."""
        return replace(
            self,
            ids_N=np.asarray(self.ids_N)[rows],
            samples_N_K_A=self.samples_N_K_A[rows],
            features_N_H=self.features_N_H[rows] if self.features_N_H.size else self.features_N_H,
            allowed_N=None if self.allowed_N is None else self.allowed_N[rows],
        )

    @property
    def free_N(self) -> npt.NDArray[np.bool_]:
        """Which may be picked: a copy."""
        return np.ones(len(self), dtype=np.bool_) if self.allowed_N is None else self.allowed_N.copy()

    def questions(self) -> Iterator[Question]:
        """Each question with its samples, in the order of ``groups``."""
        dirichlet = self.likelihood == "dirichlet_multinomial"
        slices, start = [], 0
        for group in self.groups:
            slices.append(self.samples_N_K_A[:, :, start : start + len(group.answers)])
            start += len(group.answers)
        means: dict[str, Floats] = {}
        for group, samples in zip(self.groups, slices, strict=True):
            mean_N_A = to_probabilities(samples, dirichlet).mean(axis=1, dtype=np.float64)
            means |= dict(zip(group.answers, mean_N_A.T, strict=True))
        asked = asked_probability(self.groups, means)
        for group, samples in zip(self.groups, slices, strict=True):
            asked_N = asked[group.question]
            yield Question(samples, asked_N, np.rint(self.expected_votes * asked_N).astype(np.int64), dirichlet)


Choose = Callable[[Candidates, int, np.random.Generator], tuple[Rows, Floats]]


@dataclass(frozen=True)
class Strategy:
    """One acquisition function.

    ``choose(candidates, n, random)`` gives the rows of n galaxies, in the order in which to ask about them, all free,
    and a finite score for each of the N, the higher the sooner. Of equal galaxies it takes the one in the first row:
    the caller shuffles.
    """

    choose: Choose
    batch_aware: bool  # whether what is picked depends on what else is in the batch
    needs_labelled_features: bool = False


def by_score(score: Callable[[Candidates, np.random.Generator], Floats]) -> Strategy:
    """The strategy that takes the n galaxies with the highest scores."""

    def choose(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
        scores_N = np.asarray(score(candidates, random), dtype=np.float64)
        candidates.check_finite(scores_N, "scores")
        order = np.argsort(-scores_N, kind="stable")
        return order[candidates.free_N[order]][:n], scores_N

    return Strategy(choose, batch_aware=False)
