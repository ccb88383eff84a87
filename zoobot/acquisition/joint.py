"""The acquisition function for the joint information in all votes of a batch. Axes: N galaxies, R of them, K posterior
samples, A answers of all questions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zoobot.acquisition.candidates import Candidates, Floats, Rows

_CHUNK_ELEMENTS = 2_000_000  # numbers in the deviations of a chunk of galaxies
_REFRESH = 1024  # gains that are updated together


def batch_mutual_information(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """Greedily maximise the mutual information of all votes of the batch together, in a Gaussian approximation
    (BatchBALD as a log-determinant); scores are what each galaxy adds, nats.

    A galaxy's votes, minus their mean and in units of their noise, are the rows of z (A × K). The batch has
    I = ½ log det(1 + sum over its galaxies of zᵀz), so the next one adds ½ log det(1 + z (1 + that sum)⁻¹ zᵀ). What
    a galaxy adds never grows (submodular), so only galaxies that could be the next are computed again.
    """
    scale_N_A = _noise_scale(candidates)
    n_samples = candidates.n_samples
    picked_K_K: Floats = np.eye(n_samples)
    free_N = candidates.free_N
    step = max(1, _CHUNK_ELEMENTS // int(np.prod(candidates.predicted.samples_N_K_A.shape[1:])))

    def gains(rows: Rows) -> Floats:
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        inverse = np.linalg.inv(picked_K_K)
        each = [_log_determinant(_deviations(candidates, scale_N_A, part), inverse) for part in parts]
        return np.concatenate([np.zeros(0), *each])

    scores_N = gains(np.arange(len(candidates)))
    waiting_N = np.where(free_N, scores_N, -1.0)  # upper bounds of what each adds
    picks = np.zeros(n, dtype=np.int64)
    for number in range(n):
        fresh_N = np.zeros(len(candidates), dtype=np.bool_)
        while not fresh_N[row := int(np.argmax(waiting_N))]:
            stale = np.argpartition(np.where(fresh_N, np.inf, -waiting_N), min(_REFRESH, len(fresh_N)) - 1)[:_REFRESH]
            stale = stale[~fresh_N[stale] & free_N[stale]]
            waiting_N[stale], fresh_N[stale] = gains(stale), True
        picks[number], scores_N[row] = row, waiting_N[row]
        waiting_N[row], free_N[row] = -1.0, False
        deviation_A_K = _deviations(candidates, scale_N_A, np.array([row]))[0]
        picked_K_K += deviation_A_K.T @ deviation_A_K
    others = np.setdiff1d(np.arange(len(candidates)), picks)
    scores_N[others] = gains(others)
    return picks, scores_N


def _noise_scale(candidates: Candidates) -> Floats:
    """1 / the noise of each answer's share of the votes, N × A; 0 where no vote is expected.

    That is sqrt(V / p): for a multinomial, sum_A V (δp)² / p is δ(V p) in units of its covariance. Votes that scatter
    more count for less: V (S + 1) / (S + V), where S is the sum of the concentrations.
    """
    parts = []
    for question in candidates.questions():
        votes_N = question.votes_N.astype(np.float64)
        if question.predicted.has_concentrations:
            sum_N = question.predicted.samples_N_K_A.sum(axis=2, dtype=np.float64).mean(axis=1)
            votes_N *= (sum_N + 1) / (sum_N + votes_N)
        mean_N_A = question.predicted.probabilities_N_K_A.mean(axis=1, dtype=np.float64)
        parts.append(np.sqrt(votes_N[:, None] / np.maximum(mean_N_A, 1e-12)))
    return np.concatenate(parts, axis=1)


def _deviations(candidates: Candidates, scale_N_A: Floats, rows: Rows) -> Floats:
    """How the expected votes of some galaxies differ between samples, in units of their noise: R × A × K."""
    some = candidates.take(rows)
    samples_R_K_A = np.concatenate([question.predicted.probabilities_N_K_A for question in some.questions()], axis=2)
    deviations = samples_R_K_A - samples_R_K_A.mean(axis=1, keepdims=True, dtype=np.float64)
    scaled: Floats = deviations.transpose(0, 2, 1) * (scale_N_A[rows] / samples_R_K_A.shape[1] ** 0.5)[:, :, None]
    return scaled


def _log_determinant(deviations_R_A_K: Floats, inverse_K_K: npt.NDArray[np.floating]) -> Floats:
    """½ log det(1 + z inverse zᵀ) for each of R galaxies."""
    inner_R_A_A = deviations_R_A_K @ inverse_K_K @ deviations_R_A_K.transpose(0, 2, 1)
    gains_R: Floats = np.linalg.slogdet(np.eye(inner_R_A_A.shape[1]) + inner_R_A_A)[1] / 2
    return gains_R
