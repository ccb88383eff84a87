"""Uncertainty herding: galaxies that stand for many uncertain ones, for which no labelled galaxy stands yet.

Axes: N galaxies, R references, C candidates for the batch, M labelled galaxies, H features.
"""

from __future__ import annotations

import numpy as np

from zoobot.acquisition.candidates import Candidates, Floats, Floats32, Rows
from zoobot.errors import InputError

_MOST = 4000  # references that stand for the pool, and the most uncertain galaxies to pick from: bounds time and memory


def uherding(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """Repeatedly pick the galaxy c with the largest Σ_x u(x) max(k(x, c) - k(x, nearest labelled or picked one), 0).

    u is the uncertainty of x, and k = exp(-(distance / radius)²) between features brought to length 1. The radius is
    the mean distance from a labelled galaxy to the next, so it shrinks as labels come in (before the second label: from
    one of n random galaxies to the next). Scores are these sums.
    """
    picks, gains_N = np.zeros(n, np.int64), np.zeros(len(candidates))
    if not len(candidates):
        return picks, gains_N
    if not candidates.features_N_H.size:
        raise InputError("this acquisition function needs the features of the candidates: give features_N_H")
    centre_H = candidates.features_N_H.mean(axis=0)
    labelled_M_H = _directions(candidates.labelled_features_M_H.reshape(-1, len(centre_H)), centre_H)  # also of none
    uncertain_N = uncertainty(candidates)
    free = np.flatnonzero(candidates.free_N)
    some_C = free[np.argsort(-uncertain_N[free], kind="stable")][: max(_MOST, 4 * n)]
    reference_R_H = _directions(candidates.features_N_H[:_MOST], centre_H)  # a fair sample: the caller shuffles
    radius = _spacing(labelled_M_H if len(labelled_M_H) > 1 else reference_R_H[: max(n, 2)])
    weight_R = uncertain_N[:_MOST].astype(np.float32)
    covered_R = _similarity(reference_R_H, labelled_M_H, radius).max(axis=1, initial=0)
    similar_R_C = _similarity(reference_R_H, _directions(candidates.features_N_H[some_C], centre_H), radius)
    left_C = np.ones(len(some_C), np.bool_)
    for number in range(n + 1):  # a last time for the scores of those not picked
        gain_C = weight_R @ np.maximum(similar_R_C - covered_R[:, None], 0)
        gains_N[some_C[left_C]] = gain_C[left_C]
        if number < n:
            best = int(np.argmax(np.where(left_C, gain_C, -1)))
            picks[number], left_C[best] = some_C[best], False
            covered_R = np.maximum(covered_R, similar_R_C[:, best])
    return picks, gains_N


def uncertainty(candidates: Candidates) -> Floats:
    """1 - the margin between the two likeliest answers, summed over questions as often as they are asked: N."""
    total_N = np.zeros(len(candidates))
    for question in candidates.questions():
        by_size_N_A = np.sort(question.predicted.probabilities_N_K_A.mean(axis=1, dtype=np.float64), axis=1)
        total_N += question.asked_N * (1 - by_size_N_A[:, -1] + by_size_N_A[:, -2])
    return total_N


def _directions(features_X_H: Floats32, centre_H: Floats32) -> Floats32:
    """Features seen from the candidates' mean, with length 1."""
    found: Floats32 = features_X_H.astype(np.float32)
    found -= centre_H
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found


def _spacing(features_M_H: Floats32) -> float:
    """The mean distance to the nearest other one; 1 if there is no distance."""
    squared = _squared_distance(features_M_H[:_MOST], features_M_H[:_MOST])
    np.fill_diagonal(squared, np.inf)
    mean = float(np.sqrt(squared.min(axis=1)).mean())
    return mean if 0 < mean < np.inf else 1.0


def _similarity(a_N_H: Floats32, b_M_H: Floats32, radius: float) -> Floats32:
    found: Floats32 = np.exp(-_squared_distance(a_N_H, b_M_H) / np.float32(radius**2))
    return found


def _squared_distance(a_N_H: Floats32, b_M_H: Floats32) -> Floats32:
    """Between features of length 1."""
    found: Floats32 = np.maximum(2 - 2 * (a_N_H @ b_M_H.T), 0)
    return found
