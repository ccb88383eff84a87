"""A Gaussian process of log-odds over galaxies, from votes for one of two answers (Rasmussen & Williams 2006, GPML).

Its prior covariance has a linear and a radial part:

    amplitude × (exp(-|x - y|² / 2) + e x·y + 1)

Its posterior is approximated at its maximum (Laplace; GPML section 3.4). It is spanned by landmarks: all labelled
galaxies, or a random part of them if there are many; so a fit costs labelled × landmarks². Votes of one galaxy scatter
more than independent votes would, so N votes count as N / (1 + (N - 1) rho), where rho is their intra-class correlation
(Williams 1982, Applied Statistics 31, 144). Axes: N galaxies, H features, L landmarks, K samples, A answers, Q points
of a quadrature.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit, ndtri

from zoobot import metrics

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
AnyFloats = TypeVar("AnyFloats", Floats, Floats32)
LINEAR = np.e  # how much larger the linear part is than the radial one
SMALLEST_RHO, LARGEST_RHO = 1e-4, 0.9  # at the first, 40 votes are almost multinomial
# Normal priors, means and widths: of the log amplitude, and of the log-odds of rho.
_MEANS, _WIDTHS = np.array([2.0, -2.2]), np.array([0.6, 0.5])
_EVALUATIONS = 30
_LANDMARKS, _TUNED = 1000, 300  # at most so many span the process; amplitude and rho are tuned on so many
_NEWTON_STEPS, _TOLERANCE, _JITTER = 30, 1e-6, 1e-6
_WAVES = 512  # of draws from the prior
_CHUNK = 512  # galaxies at once: their covariances with the landmarks stay in the processor's cache
_POINTS = 64  # of the quadrature


def normal_points(n: int) -> Floats:
    """The middles of n equally likely parts of a normal distribution, stretched to a variance of 1; 0 for n = 1."""
    points: Floats = ndtri((np.arange(n) + 0.5) / n)
    return points / points.std() if n > 1 else points


@dataclass(frozen=True)
class Votes:
    """How many of each galaxy's votes are for the answer: N each. ``others``: how many answers there are besides."""

    chosen_N: Floats
    totals_N: Floats
    others: int = 1

    def take(self, rows: npt.NDArray[np.int64]) -> Votes:
        """Those of some galaxies."""
        return Votes(self.chosen_N[rows], self.totals_N[rows], self.others)

    def discounted(self, rho: float) -> Votes:
        """As many independent votes as say the same."""
        worth_N = 1 / (1 + np.maximum(self.totals_N - 1, 0) * rho)
        return Votes(self.chosen_N * worth_N, self.totals_N * worth_N, self.others)

    def log_odds(self) -> float:
        """Of all votes together, with one more for each answer."""
        return float(np.log((self.chosen_N.sum() + 1) / ((self.totals_N - self.chosen_N).sum() + self.others)))


@dataclass(frozen=True)
class Tuned:
    """What leave-one-out loss chooses: the prior's amplitude, and how votes of one galaxy correlate."""

    log_amplitude: float
    rho: float  # 0 if every galaxy has a single vote, else in [1e-4, 0.9]


@dataclass(frozen=True)
class Process:
    """The posterior. The coordinates φ of a galaxy are L numbers with φ(x)·φ(y) = the prior covariance of x and y."""

    prior_mean: float
    tuned: Tuned
    landmarks_L_H: Floats
    root_L_L: Floats  # lower Cholesky factor of the landmarks' prior covariance
    weights_L: Floats  # posterior mean, in coordinates
    factor_L_L: Floats  # upper Cholesky factor of the posterior precision, in coordinates

    def leave_one_out(self, x_N_H: Floats, votes: Votes) -> tuple[Floats, Floats]:
        """Mean and variance of each galaxy's log-odds given the votes of all others (Rahnama Rad & Maleki 2020, JRSS B
        82, 965): N each. Galaxies without votes have the posterior's.
        """
        mean_N, seen_N, unseen_N = self._moments(x_N_H, self._coordinates(x_N_H))
        worth, chance_N = votes.discounted(self.tuned.rho), expit(mean_N)
        without_N = seen_N / np.maximum(1 - seen_N * worth.totals_N * chance_N * (1 - chance_N), _TOLERANCE)
        return mean_N - without_N * (worth.chosen_N - worth.totals_N * chance_N), without_N + unseen_N

    def sample(self, x_N_H: Floats, n_samples: int, random: np.random.Generator) -> Floats:
        """K posterior samples of the log-odds, N × K, each joint over galaxies.

        A galaxy's samples are at equal quantiles of its posterior, so that means over samples are integrals. Their
        order is that of joint draws of the process (Matheron's rule: Wilson et al. 2020, arXiv 2002.09309).
        """
        n_landmarks, n_features = self.landmarks_L_H.shape
        prior = PriorDraws(n_features, n_samples, random)
        noise_L_K = solve_triangular(self.factor_L_L, random.standard_normal((n_landmarks, n_samples)))
        noise_L_K -= solve_triangular(self.root_L_L, prior.at(self.landmarks_L_H, self.tuned), lower=True)
        to_noise_L_K = solve_triangular(self.root_L_L.T, noise_L_K).astype(np.float32)
        prior, samples_N_K, points_K = prior.single(), np.empty((len(x_N_H), n_samples)), normal_points(n_samples)
        for rows, x, covariance_N_L in self._parts(x_N_H):
            draws_N_K = prior.at(x, self.tuned) + covariance_N_L @ to_noise_L_K
            rank_N_K = draws_N_K.argsort(axis=1).argsort(axis=1)
            mean_N, variance_N = self._moments_of(x, covariance_N_L)
            samples_N_K[rows] = mean_N[:, None] + np.sqrt(variance_N)[:, None] * points_K[rank_N_K]
        return samples_N_K

    def alone(self, x_N_H: Floats) -> tuple[Floats, Floats]:
        """Mean and variance of the log-odds of each galaxy by itself: N each."""
        mean_N, variance_N = np.empty(len(x_N_H)), np.empty(len(x_N_H))
        for rows, x, covariance_N_L in self._parts(x_N_H):
            mean_N[rows], variance_N[rows] = self._moments_of(x, covariance_N_L)
        return mean_N, variance_N

    def _parts(self, x_N_H: Floats) -> Iterator[tuple[slice, Floats32, Floats32]]:
        """Some galaxies after the other, in single precision, and their prior covariances N × L with the landmarks."""
        for start in range(0, len(x_N_H), _CHUNK):
            rows = slice(start, start + _CHUNK)
            x = x_N_H[rows].astype(np.float32)
            yield rows, x, _covariance(x, self._solved[0], self.tuned)

    def _moments_of(self, x_N_H: Floats32, covariance_N_L: Floats32) -> tuple[Floats, Floats]:
        """Mean and variance N, by products of matrices in single precision, where ``_moments`` solves two triangular
        systems: right to four digits.
        """
        _, to_mean_L, to_known_L_R = self._solved
        known_N = ((covariance_N_L @ to_known_L_R) ** 2).sum(axis=1)
        variance_N = np.maximum(_variance(x_N_H.astype(np.float64), self.tuned) - known_N, 0)
        return np.asarray(self.prior_mean + covariance_N_L @ to_mean_L, np.float64), variance_N

    @functools.cached_property
    def _solved(self) -> tuple[Floats32, Floats32, Floats32]:
        """The landmarks L × H, and what turns a galaxy's prior covariance with them into its posterior mean, L, and
        into numbers whose squares sum to the variance that the votes have removed, L × R.
        """
        precision_R, vector_L_R = np.linalg.eigh(self.factor_L_L.T @ self.factor_L_L)
        removed_R = np.maximum(1 - 1 / precision_R, 0)
        both = np.column_stack([self.weights_L, vector_L_R * np.sqrt(removed_R)])
        found = solve_triangular(self.root_L_L.T, both, check_finite=False).astype(np.float32)
        return self.landmarks_L_H.astype(np.float32), found[:, 0].copy(), found[:, 1:].copy()

    def covariance(self, x_N_H: Floats, y_M_H: Floats) -> Floats:
        """The posterior covariance of log-odds, N × M (GPML equation 3.24, in coordinates)."""
        phi_N_L, phi_M_L = self._coordinates(x_N_H), self._coordinates(y_M_H)
        seen_N_M = self._spread(phi_N_L).T @ self._spread(phi_M_L)
        return _covariance(x_N_H, y_M_H, self.tuned) - phi_N_L @ phi_M_L.T + seen_N_M

    def _coordinates(self, x_N_H: Floats) -> Floats:
        return _coordinates(self.root_L_L, self.landmarks_L_H, x_N_H, self.tuned)

    def _moments(self, x_N_H: Floats, phi_N_L: Floats) -> tuple[Floats, Floats, Floats]:
        """The mean, the variance that votes can reduce, and that which the landmarks do not span: N each."""
        spread_L_N = self._spread(phi_N_L)
        unseen_N = np.maximum(_variance(x_N_H, self.tuned) - (phi_N_L**2).sum(axis=1), 0)
        return self.prior_mean + phi_N_L @ self.weights_L, (spread_L_N**2).sum(axis=0), unseen_N

    def _spread(self, phi_N_L: Floats) -> Floats:
        """L × N whose inner products are the posterior covariance of what the landmarks span."""
        return np.asarray(solve_triangular(self.factor_L_L.T, phi_N_L.T, lower=True, check_finite=False))


class PriorDraws:
    """K draws from the prior without its mean: random waves for the radial part (Rahimi & Recht 2007, NIPS 20)."""

    def __init__(self, n_features: int, n_samples: int, random: np.random.Generator) -> None:
        self._waves_H_W = random.standard_normal((n_features, _WAVES))
        self._phases_W = random.uniform(0, 2 * np.pi, _WAVES)
        self._radial_W_K = random.standard_normal((_WAVES, n_samples)) * (2 / _WAVES) ** 0.5
        self._linear_H_K = random.standard_normal((n_features, n_samples)) * LINEAR**0.5
        self._constant_K = random.standard_normal(n_samples)

    def single(self) -> PriorDraws:
        """The same draws, in single precision."""
        found = copy.copy(self)
        for name, values in vars(self).items():
            setattr(found, name, values.astype(np.float32))
        return found

    def at(self, x_N_H: AnyFloats, tuned: Tuned) -> AnyFloats:
        """Their values N × K."""
        radial_N_K = np.cos(x_N_H @ self._waves_H_W + self._phases_W) @ self._radial_W_K
        amplitude = float(np.exp(tuned.log_amplitude / 2))  # no numpy number, which would make all of it double
        return np.asarray(amplitude * (radial_N_K + x_N_H @ self._linear_H_K + self._constant_K))


def tune(x_N_H: Floats, votes: Votes) -> Tuned:
    """The amplitude and rho with the lowest leave-one-out loss, given their priors."""
    some = np.random.default_rng(0).permutation(len(x_N_H))[:_TUNED]
    x_N_H, votes = x_N_H[some], votes.take(some)
    n = 2 if (votes.totals_N > 1).any() else 1  # single votes show no rho
    counts_N_A = np.stack([votes.chosen_N, votes.totals_N - votes.chosen_N], axis=1)

    def tuned(step: Floats) -> Tuned:
        values = _MEANS[:n] + _WIDTHS[:n] * step
        return Tuned(float(values[0]), rho_of(values[1]) if n == 2 else 0.0)

    def evaluate(step: Floats) -> float:
        process = condition(x_N_H, votes, tuned(step))
        chance_N_Q = expit(quadrature(*process.leave_one_out(x_N_H, votes)))
        losses_N = vote_losses(np.stack([chance_N_Q, 1 - chance_N_Q], axis=2), counts_N_A, process.tuned.rho)
        return float(losses_N.sum() + (step**2).sum() / 2)

    return tuned(search(evaluate, np.zeros(n), -0.8))


def condition(x_N_H: Floats, votes: Votes, tuned: Tuned) -> Process:
    """The posterior given the votes."""
    landmarks_L_H = x_N_H
    if len(x_N_H) > _LANDMARKS:
        landmarks_L_H = x_N_H[np.random.default_rng(0).permutation(len(x_N_H))[:_LANDMARKS]]
    covariance_L_L = _covariance(landmarks_L_H, landmarks_L_H, tuned)
    covariance_L_L[np.diag_indices_from(covariance_L_L)] += _JITTER * np.exp(tuned.log_amplitude)
    root_L_L = cholesky(covariance_L_L, lower=True, check_finite=False)
    phi_N_L = _coordinates(root_L_L, landmarks_L_H, x_N_H, tuned)
    prior_mean = votes.log_odds()
    weights_L, factor_L_L = _maximum(phi_N_L, votes.discounted(tuned.rho), prior_mean)
    return Process(prior_mean, tuned, landmarks_L_H, root_L_L, weights_L, factor_L_L)


def _maximum(phi_N_L: Floats, worth: Votes, prior_mean: float) -> tuple[Floats, Floats]:
    """The most probable weights, by Newton's method with halved steps, and the upper Cholesky factor of minus the
    second derivative of the log posterior.
    """

    def loss(weights_L: Floats) -> float:
        logit_N = prior_mean + phi_N_L @ weights_L
        likelihood = worth.chosen_N @ logit_N - worth.totals_N @ np.logaddexp(0, logit_N)
        return float(weights_L @ weights_L / 2 - likelihood)

    weights_L = np.zeros(phi_N_L.shape[1])
    current = loss(weights_L)
    for _ in range(_NEWTON_STEPS):
        chance_N = expit(prior_mean + phi_N_L @ weights_L)
        precision_L_L = (phi_N_L.T * (worth.totals_N * chance_N * (1 - chance_N))) @ phi_N_L
        precision_L_L[np.diag_indices_from(precision_L_L)] += 1
        factor_L_L = cholesky(precision_L_L, check_finite=False)
        gradient_L = weights_L - phi_N_L.T @ (worth.chosen_N - worth.totals_N * chance_N)
        step_L = cho_solve((factor_L_L, False), gradient_L)
        size = 1.0
        while (new := loss(weights_L - size * step_L)) > current and size > _TOLERANCE:
            size /= 2
        weights_L, improvement, current = weights_L - size * step_L, current - new, new
        if improvement < _TOLERANCE * (1 + abs(current)):
            break
    return weights_L, factor_L_L


def _variance(x_N_H: Floats, tuned: Tuned) -> Floats:
    """The prior variance N."""
    return np.asarray(np.exp(tuned.log_amplitude) * (2 + LINEAR * (x_N_H**2).sum(axis=1)))


def _covariance(x_N_H: AnyFloats, y_M_H: AnyFloats, tuned: Tuned) -> AnyFloats:
    """The prior covariance N × M, in the precision of x and y."""
    inner_N_M = x_N_H @ y_M_H.T
    distance_N_M = (x_N_H**2).sum(axis=1)[:, None] + (y_M_H**2).sum(axis=1) - 2 * inner_N_M  # squared
    amplitude = float(np.exp(tuned.log_amplitude))  # no numpy number, which would make all of it double
    return np.asarray(amplitude * (np.exp(-distance_N_M / 2) + LINEAR * inner_N_M + 1))


def _coordinates(root_L_L: Floats, landmarks_L_H: Floats, x_N_H: Floats, tuned: Tuned) -> Floats:
    covariance_L_N = _covariance(landmarks_L_H, x_N_H, tuned)
    return np.asarray(solve_triangular(root_L_L, covariance_L_N, lower=True, check_finite=False).T)


# --------------------------------------------------------------- losses of predicted votes


def rho_of(log_odds: float) -> float:
    """A correlation from its log-odds."""
    return float(np.clip(expit(log_odds), SMALLEST_RHO, LARGEST_RHO))


def quadrature(mean_N: Floats, variance_N: Floats) -> Floats:
    """Equally likely points of normal distributions: N × Q."""
    return np.asarray(mean_N[:, None] + np.sqrt(variance_N)[:, None] * normal_points(_POINTS))


def concentrations(probabilities: npt.NDArray[np.floating], rho: float) -> npt.NDArray[np.floating]:
    """Concentrations of the Dirichlet with these means, under which votes have the correlation ``rho``."""
    scale = (1 - rho) / max(rho, SMALLEST_RHO)
    return np.asarray(np.maximum(probabilities * probabilities.dtype.type(scale), metrics.SMALLEST_CONCENTRATION))


def vote_losses(probabilities_N_Q_A: Floats, counts_N_A: Floats, rho: float) -> Floats:
    """Minus the log of the mean likelihood of each galaxy's votes, in nats: N."""
    of_points = metrics.log_likelihood(
        "dirichlet_multinomial", concentrations(probabilities_N_Q_A, rho), counts_N_A[:, None]
    )
    return -metrics.mean_over_samples(of_points)


def search(evaluate: Callable[[Floats], float], start: Floats, first_step: float) -> Floats:
    """Where a function of a few numbers is lowest, by Nelder-Mead. It has a simplex of its own, because scipy's steps
    from 0 are smaller than any tolerance.
    """
    simplex = np.vstack([start, start + first_step * np.eye(len(start))])
    return np.asarray(
        minimize(
            evaluate, start, method="Nelder-Mead",
            options={"initial_simplex": simplex, "maxfev": _EVALUATIONS, "xatol": 0.1, "fatol": 0.01},
        ).x
    )  # fmt: skip
