"""One temperature for posterior samples, fitted on random galaxies. numpy only. Axes as in zoobot/metrics.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from zoobot import metrics
from zoobot.galaxies.tasks import Group

Floats = npt.NDArray[np.float64]
HIGHEST_TEMPERATURE = 10.0  # and 1 / 10: beyond that a network is not miscalibrated but wrong


def temper(likelihood: str, samples_N_K_A: npt.ArrayLike, groups: Sequence[Group], temperature: float) -> Floats:
    """Samples at a temperature T: less sure above 1, surer below; at 1 as they are.

    Probabilities become softmax(log p / T) per question (Guo et al. 2017, arXiv 1706.04599), concentrations a / T: the
    vote fractions they expect stay.
    """
    samples = np.asarray(samples_N_K_A, dtype=np.float64)
    if temperature == 1:
        return samples
    if likelihood == "dirichlet_multinomial":
        return samples / temperature
    logs = np.log(np.maximum(samples, metrics.SMALLEST_VALUE)) / temperature
    return np.concatenate([np.exp(log_softmax(logs[:, :, at], axis=2)) for at in metrics.columns(groups)], axis=2)


def fit_temperature(
    likelihood: str, samples_N_K_A: npt.ArrayLike, counts_N_A: npt.ArrayLike, groups: Sequence[Group]
) -> float:
    """The temperature in [1/10, 10] with the lowest loss on these galaxies, or 1 if none is lower than without.

    The galaxies must be a random sample: those an acquisition function chose would give the calibration of the chosen
    ones.
    """

    def loss(log_temperature: float) -> float:
        tempered = temper(likelihood, samples_N_K_A, groups, float(np.exp(log_temperature)))
        return metrics.loss(likelihood, tempered, counts_N_A, groups)

    bound = float(np.log(HIGHEST_TEMPERATURE))
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0
