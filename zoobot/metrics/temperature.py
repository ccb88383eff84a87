"""One temperature for posterior samples, fitted on random galaxies. Axes as in predicted_votes.py."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from zoobot.metrics.predicted_votes import LIKELIHOODS, SMALLEST_VALUE, PredictedVotes, columns, loss

HIGHEST_TEMPERATURE = 10.0  # the lowest is 1 / 10; beyond these a network is wrong rather than miscalibrated


def temper(predicted: PredictedVotes, temperature: float) -> PredictedVotes:
    """Predictions at a temperature T: less sure above 1, more sure below 1, unchanged at 1.

    Probabilities become softmax(log p / T) per question (Guo et al. 2017, arXiv 1706.04599). Concentrations become
    a / T, which keeps the expected vote fractions.
    """
    if temperature == 1:
        return predicted
    samples = np.asarray(predicted.samples_N_K_A, dtype=np.float64)
    if LIKELIHOODS[predicted.likelihood].concentrations:
        return predicted.with_samples(samples / temperature)
    logs = np.log(np.maximum(samples, SMALLEST_VALUE)) / temperature
    parts = [np.exp(log_softmax(logs[:, :, at], axis=2)) for at in columns(predicted.groups)]
    return predicted.with_samples(np.concatenate(parts, axis=2))


def fit_temperature(predicted: PredictedVotes, counts_N_A: npt.ArrayLike) -> float:
    """The temperature in [1/10, 10] with the lowest loss on these galaxies, or 1 if none lowers it.

    The galaxies must be a random sample. Galaxies that an acquisition function chose would give the calibration of the
    chosen ones only.
    """

    def tempered_loss(log_temperature: float) -> float:
        return loss(temper(predicted, float(np.exp(log_temperature))), counts_N_A)

    bound = float(np.log(HIGHEST_TEMPERATURE))
    found = minimize_scalar(tempered_loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x)) if found.fun < tempered_loss(0.0) else 1.0
