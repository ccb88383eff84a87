"""Predicted votes, and how likely they make the votes received. numpy and scipy only.

A prediction is the equal mixture over posterior samples, of one network or an ensemble.
Axes: N galaxies, K posterior samples, A answers (of one question, or of all).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp, xlogy

from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group

Floats = npt.NDArray[np.float64]
Samples: TypeAlias = npt.NDArray[np.floating[Any]]  # float32 from a model, float64 in computations
SMALLEST_VALUE = 1e-7  # a softmax in float32 can reach 0
SMALLEST_CONCENTRATION = 1e-3  # lgamma and its slope are infinite at 0


@dataclass(frozen=True)
class Likelihood:
    """How votes scatter around a posterior sample: ``log_power(x, k)``, elementwise, is the log of the k-th power of x,
    plain or rising: x (x + 1) … (x + k - 1). ``concentrations``: whether samples are concentrations, not
    probabilities. ``highest``: the largest value that a sample may have.
    """

    log_power: Callable[[Any, Any], Any]
    concentrations: bool
    highest: float


LIKELIHOODS: Mapping[str, Likelihood] = {
    "multinomial": Likelihood(lambda x, k: xlogy(k, x), False, 1 + 1e-3),  # half precision rounds up
    "dirichlet_multinomial": Likelihood(lambda x, k: gammaln(x + k) - gammaln(x), True, np.inf),
}


@dataclass(frozen=True)
class PredictedVotes:
    """Posterior samples of how volunteers would vote on galaxies.

    samples_N_K_A: of all answers in the order of ``groups``; probabilities given that the question is asked, or
        Dirichlet concentrations. Sample k of one galaxy goes with sample k of every other.
    groups: the answers of each question.
    likelihood: a name in ``LIKELIHOODS``.

    Raises:
        InputError: shapes do not match, or no likelihood has this name.
    """

    samples_N_K_A: Samples
    groups: tuple[Group, ...]
    likelihood: str = "multinomial"

    def __post_init__(self) -> None:
        shape, n_answers = np.shape(self.samples_N_K_A), sum(len(group.answers) for group in self.groups)
        if len(shape) != 3 or shape[1] == 0 or shape[2] != n_answers:
            raise InputError(f"expected samples N × K × {n_answers} answers, got shape {shape}")
        if self.likelihood not in LIKELIHOODS:
            raise InputError(f"likelihood {self.likelihood}: choose one of {', '.join(LIKELIHOODS)}")

    def __len__(self) -> int:
        return len(self.samples_N_K_A)

    def take(self, rows: npt.ArrayLike | slice) -> PredictedVotes:
        """The galaxies at these rows."""
        return self.with_samples(self.samples_N_K_A[rows])  # type: ignore[index]  # numpy takes any index

    def with_samples(self, samples_N_K_A: Samples) -> PredictedVotes:
        """Other samples for the same answers."""
        return replace(self, samples_N_K_A=samples_N_K_A)

    def normalised(self) -> PredictedVotes:
        """Probabilities that sum to 1 for each question again, after they were rounded. Concentrations stay."""
        if LIKELIHOODS[self.likelihood].concentrations:
            return self
        return self.with_samples(np.concatenate([fractions(q.samples_N_K_A) for q in self.questions()], axis=2))

    def questions(self) -> Iterator[PredictedQuestion]:
        """Each question, in the order of ``groups``."""
        for group, at in zip(self.groups, columns(self.groups), strict=True):
            yield PredictedQuestion(group, self.samples_N_K_A[:, :, at], self.likelihood)


@dataclass(frozen=True)
class PredictedQuestion:
    """The part of ``PredictedVotes`` that is about one question."""

    group: Group
    samples_N_K_A: Samples  # of its own answers
    likelihood: str

    @property
    def has_concentrations(self) -> bool:
        """Whether its samples are concentrations."""
        return LIKELIHOODS[self.likelihood].concentrations

    @property
    def probabilities_N_K_A(self) -> Samples:
        """The probability of each answer, given that the question is asked."""
        return fractions(self.samples_N_K_A) if self.has_concentrations else self.samples_N_K_A


def log_likelihood(likelihood: str, samples: npt.ArrayLike, counts: npt.ArrayLike) -> Floats:
    """The log likelihood, in nats, of the ``counts`` (… × A, integers) of one question's answers, coefficient included.

    Args:
        likelihood: a name in ``LIKELIHOODS``; for two answers they are the binomial and the beta-binomial.
        samples: … × A, probabilities (brought to sum 1), or concentrations above 0.

    Returns: …; 0 without votes, -inf where a vote was impossible.
    """
    x, k = np.asarray(samples, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    power, n = LIKELIHOODS[likelihood].log_power, k.sum(axis=-1)
    coefficient = gammaln(n + 1) - gammaln(k + 1).sum(axis=-1)
    log: Floats = coefficient + power(x, k).sum(axis=-1) - power(x.sum(axis=-1), n)
    return log


def fractions(samples: Samples) -> Samples:
    """The expected vote fractions … × A of one question: probabilities, or concentrations over their sum."""
    shares: Samples = samples / samples.sum(axis=-1, keepdims=True)
    return shares


def mean_over_samples(log_likelihood_N_K: Floats) -> Floats:
    """The log of the mean likelihood over samples: N."""
    mixed: Floats = logsumexp(log_likelihood_N_K, axis=1) - np.log(log_likelihood_N_K.shape[1])
    return mixed


def losses(predicted: PredictedVotes, counts_N_A: npt.ArrayLike) -> Floats:
    """Minus the log likelihood of each galaxy's votes, summed over questions: N, in nats.

    Each question's likelihood is the mean over samples, by itself: a head's questions are independent, and the mean of
    their product over 30 samples would miss most of it. A question that nobody was asked adds 0.
    """
    samples = np.maximum(np.asarray(predicted.samples_N_K_A, dtype=np.float64), SMALLEST_VALUE)
    counts = np.asarray(counts_N_A)[:, None]
    of_questions = [
        mean_over_samples(log_likelihood(predicted.likelihood, samples[:, :, at], counts[:, :, at]))
        for at in columns(predicted.groups)
    ]
    return -np.asarray(np.sum(of_questions, axis=0))


def loss(predicted: PredictedVotes, counts_N_A: npt.ArrayLike) -> float:
    """The mean of ``losses`` over galaxies."""
    return float(losses(predicted, counts_N_A).mean())


def columns(groups: Sequence[Group]) -> Iterator[slice]:
    """Where each question's answers are along A."""
    start = 0
    for group in groups:
        yield slice(start, start + len(group.answers))
        start += len(group.answers)
