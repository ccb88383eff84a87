"""What corrects the confidence of posterior samples, fitted on random galaxies: a temperature, and a slope of logits.

Axes as in predicted_votes.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from zoobot.metrics.predicted_votes import LIKELIHOODS, SMALLEST_VALUE, PredictedVotes, columns, loss

HIGHEST_TEMPERATURE = 10.0  # the lowest is 1 / 10; beyond these a network is wrong rather than miscalibrated
# Of normal priors of logs. The slope's is narrow: predictions for galaxies that said when to stop look too good, and a
# slope fitted to 60 of them raised the loss on other galaxies (docs/results/models.md).
_SLOPE_WIDTH, _TEMPERATURE_WIDTH = 0.1, 1.0


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


@dataclass(frozen=True)
class Calibration:
    """What corrects posterior samples: logits are multiplied by ``slope``, then samples brought to ``temperature``."""

    slope: float = 1.0
    temperature: float = 1.0


def calibrate(predicted: PredictedVotes, by: Calibration) -> PredictedVotes:
    """Corrected predictions: vote fractions p become p^slope over their sum, per question and sample; concentrations
    keep their sum. Then the temperature counts, as in ``temper``.
    """
    if by.slope == 1:
        return temper(predicted, by.temperature)
    samples = np.asarray(predicted.samples_N_K_A, dtype=np.float64)
    parts = []
    for at in columns(predicted.groups):
        of_question = np.maximum(samples[:, :, at], SMALLEST_VALUE)
        shares = np.exp(log_softmax(by.slope * np.log(of_question), axis=2))
        parts.append(shares * samples[:, :, at].sum(axis=2, keepdims=True))
    return temper(predicted.with_samples(np.concatenate(parts, axis=2)), by.temperature)


def fit_calibration(predicted: PredictedVotes, counts_N_A: npt.ArrayLike) -> Calibration:
    """The correction with the lowest loss on these galaxies, which must be a random sample, and which the model must
    not have seen. Normal priors keep both logs near 0: single votes say nothing about the temperature, few galaxies
    little about either. Without galaxies nothing is corrected.
    """
    if not len(predicted):
        return Calibration()
    concentrations = LIKELIHOODS[predicted.likelihood].concentrations
    widths = np.array([_SLOPE_WIDTH, _TEMPERATURE_WIDTH if concentrations else _SLOPE_WIDTH])  # else both are slopes

    def of(point: npt.NDArray[np.float64]) -> Calibration:
        slope, temperature = np.exp(np.clip(point, -np.log(HIGHEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)))
        return Calibration(float(slope), float(temperature))

    def penalised_loss(point: npt.NDArray[np.float64]) -> float:
        prior = float(np.sum((point / widths) ** 2)) / 2
        return loss(calibrate(predicted, of(point)), counts_N_A) + prior / len(predicted)

    simplex = np.array([[0.0, 0.0], [-0.3, 0.0], [0.0, 0.3]])
    found = minimize(
        penalised_loss, np.zeros(2), method="Nelder-Mead",
        options={"xatol": 0.01, "fatol": 1e-5, "initial_simplex": simplex},
    )  # fmt: skip
    return of(found.x)
