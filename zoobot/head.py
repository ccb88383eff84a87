"""A Bayesian linear head on fixed features: its posterior in closed form, refitted in seconds. numpy and scipy only.

Each question is a multinomial logistic regression on the features, with a Gaussian prior whose width the evidence
chooses (MacKay 1992, Neural Computation 4, 448) and the Laplace approximation of its posterior (Daxberger et al. 2021,
arXiv 2106.14806). Volunteers' votes on one galaxy scatter more than independent ones: of N votes only
N / (1 + (N - 1) rho) count, with the intra-class correlation rho of the Dirichlet-multinomial (Williams 1982, Applied
Statistics 31, 144). Axes: N galaxies, H features, A answers of one question, K posterior samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import log_softmax, softmax

from zoobot.errors import InputError
from zoobot.tasks import Group

Floats = npt.NDArray[np.float64]
_ROUNDS, _NEWTON_STEPS, _TOLERANCE = 12, 25, 1e-6
_PRECISIONS = (1e-3, 1e4)  # of the prior: what the evidence may choose from
_SMALLEST_SCALE = 1e-6
_SMALLEST_CONCENTRATION = 1e-3  # as in zoobot/likelihoods.py, which loads TensorFlow
_SMALLEST_CORRELATION, _MAX_CORRELATION = 1e-4, 0.9  # the first: as good as a multinomial for 40 votes


@dataclass(frozen=True)
class QuestionPosterior:
    """The weights of one question: mean (H + 1) × (A - 1), the last row the intercept, the last answer the reference;
    the Cholesky factor (upper) of their precision; the votes' correlation ``rho`` in [0, 0.9].
    """

    mean: Floats
    precision_factor: Floats
    prior_precision: float
    rho: float


@dataclass(frozen=True)
class LinearHead:
    """The posterior of each question's weights, on features with the mean and the scale of those it was fitted to."""

    centre_H: Floats
    scale_H: Floats
    questions: tuple[QuestionPosterior, ...]

    def sample(
        self,
        features_N_H: npt.ArrayLike,
        n_samples: int,
        random: np.random.Generator,
        concentrations: bool = True,
    ) -> npt.NDArray[np.float32]:
        """Posterior samples N × K × A over all questions: Dirichlet concentrations, or the probabilities they imply.

        All galaxies share the K draws of the weights, so that samples are joint over galaxies.
        """
        features = self._standardise(features_N_H).astype(np.float32)
        parts = []
        for posterior in self.questions:
            n_weights, n_free = posterior.mean.shape
            noise = random.standard_normal((n_weights * n_free, n_samples))
            draws = posterior.mean.ravel()[:, None] + solve_triangular(posterior.precision_factor, noise)
            weights = draws.T.reshape(n_samples, n_weights, n_free).transpose(1, 0, 2).reshape(n_weights, -1)
            logits = features @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)
            logits = logits.reshape(len(features), n_samples, n_free)
            probabilities = softmax(np.concatenate([logits, np.zeros_like(logits[..., :1])], axis=-1), axis=-1)
            scale = (1 - posterior.rho) / max(posterior.rho, _SMALLEST_CORRELATION) if concentrations else 1.0
            parts.append(np.maximum(probabilities * np.float32(scale), _SMALLEST_CONCENTRATION))
        return np.concatenate(parts, axis=-1)

    def arrays(self) -> dict[str, Floats]:
        """All values by name: what ``load`` makes the head of again."""
        found = {"centre_H": self.centre_H, "scale_H": self.scale_H}
        for i, question in enumerate(self.questions):
            numbers = np.array([question.prior_precision, question.rho])
            found |= {f"mean_{i}": question.mean, f"factor_{i}": question.precision_factor, f"numbers_{i}": numbers}
        return found

    def save(self, path: Path) -> None:
        """Write a ``.npz`` file, the same bytes for the same head."""
        np.savez(path, **self.arrays())  # type: ignore[arg-type]  # allow_pickle is a bool, and no array's name

    def _standardise(self, features_N_H: npt.ArrayLike) -> Floats:
        return (np.asarray(features_N_H, dtype=np.float64) - self.centre_H) / self.scale_H


def load(path: Path) -> LinearHead:
    """The head in a file that ``LinearHead.save`` wrote."""
    with np.load(path) as stored:
        questions = []
        for i in range(sum(name.startswith("mean_") for name in stored)):
            precision, rho = map(float, stored[f"numbers_{i}"])
            questions.append(QuestionPosterior(stored[f"mean_{i}"], stored[f"factor_{i}"], precision, rho))
        return LinearHead(stored["centre_H"], stored["scale_H"], tuple(questions))


def fit(features_N_H: npt.ArrayLike, counts_N_A: npt.ArrayLike, groups: Sequence[Group]) -> LinearHead:
    """The posterior of each question's weights given the votes of labelled galaxies.

    Args:
        features_N_H: of labelled galaxies.
        counts_N_A: their votes, for the answers of all groups in order; a question nobody was asked has none.

    Raises:
        InputError: features or votes are not finite, or votes are negative.
    """
    features = np.asarray(features_N_H, dtype=np.float64)
    counts = np.asarray(counts_N_A, dtype=np.float64)
    if not (np.isfinite(features).all() and np.isfinite(counts).all() and (counts >= 0).all()):
        raise InputError("cannot fit the head: features and votes must be finite, and votes at least 0")
    scale = features.std(axis=0)
    scale[scale < _SMALLEST_SCALE * (1 + np.abs(features).max(axis=0))] = 1.0  # the same for all galaxies
    unfitted = LinearHead(features.mean(axis=0), scale, ())
    with_one = np.concatenate([unfitted._standardise(features), np.ones((len(features), 1))], axis=1)
    posteriors, start = [], 0
    for group in groups:
        of_group = counts[:, start : start + len(group.answers)]
        asked = of_group.sum(axis=1) > 0
        posteriors.append(_fit_question(with_one[asked], of_group[asked]))
        start += len(group.answers)
    return replace(unfitted, questions=tuple(posteriors))


def _fit_question(features: Floats, counts: Floats) -> QuestionPosterior:
    """Alternate between the weights, the width of their prior and the votes' correlation until all stand still."""
    n_free = counts.shape[1] - 1
    weights = np.zeros((features.shape[1], n_free))
    weights[-1] = np.log(counts[:, :-1].sum(axis=0) + 1) - np.log(counts[:, -1].sum() + 1)
    prior_precision, rho = 1.0, 0.0
    totals = counts.sum(axis=1)
    for _ in range(_ROUNDS):
        effective = counts / (1 + (totals - 1) * rho)[:, None]
        weights, factor = _maximum(features, effective, weights, prior_precision)
        old = prior_precision, rho
        n_used = weights.size - n_free - prior_precision * _trace_of_inverse(factor, n_free)
        prior_precision = float(np.clip(n_used / (np.sum(weights[:-1] ** 2) + 1e-12), *_PRECISIONS))
        rho = _correlation(features @ weights, counts, n_used)
        if np.allclose((prior_precision, rho), old, rtol=0.01, atol=1e-4):
            break
    weights, factor = _maximum(features, counts / (1 + (totals - 1) * rho)[:, None], weights, prior_precision)
    return QuestionPosterior(weights, factor, prior_precision, rho)


def _maximum(features: Floats, counts: Floats, weights: Floats, prior_precision: float) -> tuple[Floats, Floats]:
    """The most probable weights, by Newton's method with halved steps, and the Cholesky factor of their precision."""
    prior = np.full(weights.shape, prior_precision)
    prior[-1] = _PRECISIONS[0]  # the intercept is free

    def loss(values: Floats) -> float:
        return float(np.sum(prior * values**2) / 2 - np.sum(counts * _log_probabilities(features @ values)))

    current = loss(weights)
    for _ in range(_NEWTON_STEPS):
        probabilities = np.exp(_log_probabilities(features @ weights))[:, :-1]
        expected = counts.sum(axis=1, keepdims=True) * probabilities
        gradient = features.T @ (expected - counts[:, :-1]) + prior * weights
        factor = cho_factor(_precision(features, expected, probabilities, prior))[0]
        step = cho_solve((factor, False), gradient.ravel()).reshape(weights.shape)
        size = 1.0
        while (new := loss(weights - size * step)) > current and size > _TOLERANCE:
            size /= 2
        weights, improvement, current = weights - size * step, current - new, new
        if improvement < _TOLERANCE * (1 + abs(current)):
            break
    return weights, np.triu(factor)


def _precision(features: Floats, expected: Floats, probabilities: Floats, prior: Floats) -> Floats:
    """Minus the second derivative of the log posterior, weights in the order (feature, answer)."""
    n_weights, n_free = prior.shape
    precision = np.empty((n_weights, n_free, n_weights, n_free))
    for a in range(n_free):
        for b in range(n_free):
            curvature = expected[:, a] * ((a == b) - probabilities[:, b])
            precision[:, a, :, b] = (features * curvature[:, None]).T @ features
    flat = precision.reshape(n_weights * n_free, -1)
    flat[np.diag_indices_from(flat)] += prior.ravel()
    return flat


def _trace_of_inverse(factor: Floats, n_free: int) -> float:
    """Sum of the posterior variances of all weights but the intercepts."""
    inverse_factor = solve_triangular(factor, np.eye(len(factor)))
    return float(np.sum(inverse_factor[:-n_free] ** 2))


def _correlation(logits: Floats, counts: Floats, n_used: float) -> float:
    """rho by moments: what Pearson's chi-square exceeds its expectation by; 0 where no galaxy has two votes."""
    probabilities = np.exp(_log_probabilities(logits))
    totals = counts.sum(axis=1)
    several = totals > 1
    n_free = probabilities.shape[1] - 1
    freedom = several.sum() - min(n_used / n_free, several.sum() / 2)
    if not several.any() or freedom <= 0:
        return 0.0
    expected = totals[:, None] * probabilities
    chi_square_N = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum(axis=1) / n_free
    excess = np.sum(chi_square_N[several]) - freedom
    return float(np.clip(excess / (freedom * np.mean(totals[several] - 1)), 0.0, _MAX_CORRELATION))


def _log_probabilities(logits: Floats) -> Floats:
    return np.asarray(log_softmax(np.concatenate([logits, np.zeros((len(logits), 1))], axis=1), axis=1))
