"""A Bayesian linear head on fixed features, with a posterior in closed form. A fit takes seconds, with numpy and scipy.

Each question is a multinomial logistic regression on the features, with a Gaussian prior and the Laplace approximation
of its posterior (Daxberger et al. 2021, arXiv 2106.14806). Volunteers' votes on one galaxy scatter more than
independent votes would, so N votes count as N / (1 + (N - 1) rho), where rho is the intra-class correlation of the
Dirichlet-multinomial (Williams 1982, Applied Statistics 31, 144). The prior's width and rho are those with the lowest
leave-one-out loss. Chosen galaxies are harder than most, so a head that is confident enough about them is not confident
enough about the others. A last step therefore fits the slope of all logits, and the correlation of predicted votes, to
the galaxies drawn at random. Axes: N galaxies, H features, A answers of one question, K posterior samples.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from threadpoolctl import threadpool_limits

from zoobot import metrics
from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group
from zoobot.models import saved

Floats = npt.NDArray[np.float64]
_NEWTON_STEPS, _TOLERANCE = 25, 1e-6
_PRECISIONS = (1e-3, 1e6)  # of the prior
_EVALUATIONS, _DRAWS = 30, 16
_FIRST_CORRELATION, _STEPS = 0.1, (-1.5, -1.5)  # where the search begins, and its first steps (logs)
_SMALLEST_SCALE = 1e-6
_SMALLEST_CORRELATION, _MAX_CORRELATION = 1e-4, 0.9  # at the first, 40 votes are almost multinomial
_CALIBRATION_WIDTHS = np.array([0.5, 1.0])  # of normal priors: log slope around 0, logit rho around the fit


@dataclass(frozen=True)
class QuestionPosterior:
    """The weights of one question: their mean, (H + 1) × (A - 1), where the last row is the intercept and the last
    answer the reference; and the (upper) Cholesky factor of their precision. The fit discounts votes by ``rho``, in
    [0, 0.9]. Predictions multiply logits by ``slope`` and give votes the correlation ``predicted_rho``.
    """

    mean: Floats
    precision_factor: Floats
    prior_precision: float
    rho: float
    slope: float
    predicted_rho: float


@dataclass(frozen=True)
class LinearHead:
    """The posterior of each question's weights, and the mean and scale that standardise the features."""

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
            logits = posterior.slope * logits.reshape(len(features), n_samples, n_free)
            probabilities = softmax(np.concatenate([logits, np.zeros_like(logits[..., :1])], axis=-1), axis=-1)
            parts.append(_concentrations(probabilities, posterior.predicted_rho) if concentrations else probabilities)
        return np.concatenate(parts, axis=-1)

    def arrays(self) -> dict[str, Floats]:
        """All values by name, as ``load`` needs them."""
        found = {"centre_H": self.centre_H, "scale_H": self.scale_H}
        for i, question in enumerate(self.questions):
            numbers = np.array([question.prior_precision, question.rho, question.slope, question.predicted_rho])
            found |= {f"mean_{i}": question.mean, f"factor_{i}": question.precision_factor, f"numbers_{i}": numbers}
        return found

    def save(self, path: Path) -> None:
        """Write a ``.npz`` file; the same head gives the same bytes."""
        np.savez(path, **self.arrays())  # type: ignore[arg-type]  # allow_pickle is a bool, and no array's name

    def history(self, groups: Sequence[Group]) -> dict[str, dict[str, float]]:
        """What the fit chose for each question."""
        return {
            group.question: {
                "prior_precision": q.prior_precision, "slope": q.slope, "votes_correlation": q.predicted_rho
            }
            for group, q in zip(groups, self.questions, strict=True)
        }  # fmt: skip

    def digest(self) -> str:
        """SHA-256 over all values."""
        return saved.digest_arrays([*self.arrays().values()])

    def _standardise(self, features_N_H: npt.ArrayLike) -> Floats:
        return (np.asarray(features_N_H, dtype=np.float64) - self.centre_H) / self.scale_H


def load(path: Path) -> LinearHead:
    """The head in a file that ``LinearHead.save`` wrote."""
    with np.load(path) as stored:
        questions = []
        for i in range(sum(name.startswith("mean_") for name in stored)):
            numbers = map(float, stored[f"numbers_{i}"])
            questions.append(QuestionPosterior(stored[f"mean_{i}"], stored[f"factor_{i}"], *numbers))
        return LinearHead(stored["centre_H"], stored["scale_H"], tuple(questions))


def fit(
    features_N_H: npt.ArrayLike,
    counts_N_A: npt.ArrayLike,
    groups: Sequence[Group],
    at_random_N: npt.ArrayLike | None = None,
) -> LinearHead:
    """The posterior of each question's weights given the votes of labelled galaxies.

    Args:
        features_N_H: of labelled galaxies.
        counts_N_A: their votes, for the answers of all groups in order; a question that nobody was asked has no votes.
        at_random_N: which of them were drawn at random, and so show what most galaxies are like; None: all of them.

    Raises:
        InputError: features or votes are not finite, or votes are negative.
    """
    features = np.asarray(features_N_H, dtype=np.float64)
    counts = np.asarray(counts_N_A, dtype=np.float64)
    if not (np.isfinite(features).all() and np.isfinite(counts).all() and (counts >= 0).all()):
        raise InputError("cannot fit the head: features and votes must be finite, and votes at least 0")
    at_random = np.ones(len(features), bool) if at_random_N is None else np.asarray(at_random_N, dtype=bool)
    scale = features.std(axis=0)
    scale[scale < _SMALLEST_SCALE * (1 + np.abs(features).max(axis=0))] = 1.0  # features without any spread
    unfitted = LinearHead(features.mean(axis=0), scale, ())
    with_one = np.concatenate([unfitted._standardise(features), np.ones((len(features), 1))], axis=1)
    posteriors = []
    with threadpool_limits(1, "blas"):  # the matrices are so small that two threads would mostly wait for each other
        for at in metrics.columns(groups):
            of_group = counts[:, at]
            asked = of_group.sum(axis=1) > 0
            fitted = _fit_question(with_one[asked], of_group[asked])
            posteriors.append(_calibrate(fitted, with_one[asked & at_random], of_group[asked & at_random]))
    return replace(unfitted, questions=tuple(posteriors))


def _fit_question(features: Floats, counts: Floats) -> QuestionPosterior:
    """Choose the prior's precision and the votes' correlation by leave-one-out loss; both then give the weights."""
    n_free = counts.shape[1] - 1
    weights = np.zeros((features.shape[1], n_free))
    weights[-1] = np.log(counts[:, :-1].sum(axis=0) + 1) - np.log(counts[:, -1].sum() + 1)
    totals = counts.sum(axis=1)
    best = (np.inf, QuestionPosterior(weights, np.eye(weights.size), float(len(weights)), 0.0, 1.0, 0.0))
    tells_rho = bool((totals > 1).any())

    def evaluate(point: Floats) -> float:
        nonlocal best
        precision = float(np.clip(np.exp(point[0]), *_PRECISIONS))
        rho = _correlation(point[1]) if tells_rho else 0.0
        mean, factor = _maximum(features, _discounted(counts, rho), best[1].mean, precision)
        found = QuestionPosterior(mean, factor, precision, rho, 1.0, rho)
        loss = _loss(*_leave_one_out(found, features, counts), counts, rho) if len(counts) else 0.0
        if loss < best[0]:
            best = (loss, found)
        return loss

    start = np.array([np.log(len(weights)), logit(_FIRST_CORRELATION)])[: 2 if tells_rho else 1]
    simplex = np.vstack([start, *(start + step for step in np.diag(_STEPS[: len(start)]))])
    minimize(
        evaluate, start, method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": _EVALUATIONS, "xatol": 0.2, "fatol": 1e-3},
    )  # fmt: skip
    return best[1]


def _calibrate(fitted: QuestionPosterior, features: Floats, counts: Floats) -> QuestionPosterior:
    """The slope and the correlation of predicted votes with the lowest leave-one-out loss on these galaxies."""
    if not len(counts):
        return fitted
    logits, root = _leave_one_out(fitted, features, counts)
    n = 2 if fitted.rho else 1  # single votes show no correlation
    start = np.array([0.0, logit(max(fitted.rho, _SMALLEST_CORRELATION))])[:n]

    def parameters(point: Floats) -> tuple[float, float]:
        return float(np.exp(point[0])), _correlation(point[1]) if n == 2 else 0.0

    def evaluate(point: Floats) -> float:
        slope, rho = parameters(point)
        prior = float(np.sum(((point - start) / _CALIBRATION_WIDTHS[:n]) ** 2)) / 2
        return _loss(slope * logits, slope * root, counts, rho) + prior / len(counts)

    found = minimize(evaluate, start, method="Nelder-Mead", options={"xatol": 0.01, "fatol": 1e-4, "maxfev": 100})
    slope, rho = parameters(found.x)
    return replace(fitted, slope=slope, predicted_rho=rho)


def _correlation(log_odds: float) -> float:
    return float(np.clip(expit(log_odds), _SMALLEST_CORRELATION, _MAX_CORRELATION))


def _discounted(counts: Floats, rho: float) -> Floats:
    return np.asarray(counts / (1 + (counts.sum(axis=1, keepdims=True) - 1) * rho))


def _leave_one_out(fitted: QuestionPosterior, features: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Each galaxy's logits given the votes of all others: means N × A-1, and roots of their covariance N × A-1 × A-1.

    Both follow from the fit with the galaxy (Rahnama Rad & Maleki 2020, JRSS B 82, 965).
    """
    n, n_free = len(features), fitted.mean.shape[1]
    logits, effective = features @ fitted.mean, _discounted(counts, fitted.rho)
    probabilities = np.exp(_log_probabilities(logits))[:, :-1]
    totals = effective.sum(axis=1)
    design = np.zeros((*features.shape, n_free, n_free))
    for a in range(n_free):
        design[:, :, a, a] = features
    columns = design.reshape(n, -1, n_free).transpose(1, 0, 2).reshape(-1, n * n_free)
    spread = solve_triangular(fitted.precision_factor.T, columns, lower=True).reshape(-1, n, n_free).transpose(1, 0, 2)
    with_it = spread.transpose(0, 2, 1) @ spread  # the posterior covariance of a galaxy's logits, N × A-1 × A-1
    one = np.eye(n_free)
    curvature = totals[:, None, None] * (
        probabilities[:, :, None] * one - probabilities[:, :, None] * probabilities[:, None]
    )
    without = np.linalg.solve(one - with_it @ curvature, with_it)
    residual = effective[:, :-1] - totals[:, None] * probabilities
    moved = logits - (without @ residual[:, :, None])[:, :, 0]
    root = np.linalg.cholesky((without + without.transpose(0, 2, 1)) / 2 + 1e-9 * one)
    return np.asarray(moved), np.asarray(root)


def _loss(logits: Floats, root: Floats, counts: Floats, rho: float) -> float:
    """Minus the mean log likelihood of votes, in nats, over fixed normal draws of the logits."""
    n, n_free = logits.shape
    draws = logits[:, None] + np.einsum("nab,kb->nka", root, _normal_draws(n_free))
    probabilities_N_K_A = np.exp(_log_probabilities(draws.reshape(-1, n_free))).reshape(n, -1, n_free + 1)
    concentrations = _concentrations(probabilities_N_K_A, rho)
    log_likelihood = metrics.log_likelihood("dirichlet_multinomial", concentrations, counts[:, None])
    return float(-np.mean(metrics.mean_over_samples(log_likelihood)))


def _concentrations(probabilities: npt.NDArray[Any], rho: float) -> npt.NDArray[Any]:
    """Concentrations of the Dirichlet with these means, under which votes have the correlation ``rho``."""
    scale = (1 - rho) / max(rho, _SMALLEST_CORRELATION)
    return np.asarray(np.maximum(probabilities * probabilities.dtype.type(scale), metrics.SMALLEST_CONCENTRATION))


@functools.cache
def _normal_draws(n_free: int) -> Floats:
    """Normal draws K × A-1, in pairs of opposite sign."""
    half = np.random.default_rng(0).standard_normal((_DRAWS // 2, n_free))
    return np.concatenate([half, -half])


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


def _log_probabilities(logits: Floats) -> Floats:
    return np.asarray(log_softmax(np.concatenate([logits, np.zeros((len(logits), 1))], axis=1), axis=1))
