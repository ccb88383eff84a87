"""What corrects the confidence of posterior samples, fitted on random galaxies (docs/metrics.md, Recalibration).

Axes as in predicted_votes.py.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from zoobot.metrics.predicted_votes import LIKELIHOODS, SMALLEST_VALUE, Floats, PredictedVotes, columns, loss

HIGHEST = 10.0  # of each number; the lowest is 1 / 10. Beyond these a network is wrong rather than miscalibrated
_PRECISION = 10.0  # stays where it is, whatever ``precision_slope``: a common one of networks
_PRECISIONS = 0.01, 1e6  # beyond these, lgamma is not exact, or every concentration 0


@dataclass(frozen=True)
class Calibration:
    """What corrects posterior samples. All are factors, and at 1 nothing changes.

    slope: of logits, and so of their mean over samples.
    temperature: divides concentrations; above 1, predictions are less sure. For probabilities, another 1 / slope.
    spread: of logits around their mean over samples: above 1, samples differ more.
    precision_slope: of the log of the sum of concentrations, around a fixed value: above 1, galaxies differ more in it.
    """

    slope: float = 1.0
    temperature: float = 1.0
    spread: float = 1.0
    precision_slope: float = 1.0


# Of normal priors of their logs. The slope's is narrow: predictions for galaxies that said when to stop look too good,
# and a slope fitted to 60 of them raised the loss on other galaxies (docs/results/models.md).
_WIDTHS = Calibration(slope=0.1)


def calibrate(predicted: PredictedVotes, by: Calibration) -> PredictedVotes:
    """Corrected predictions, for each question by the same numbers: of a question, the log shares l of a sample become
    softmax(slope (mean + spread (l - mean))), where the mean is over samples. The sum A of concentrations becomes
    10 (A / 10)^precision_slope / temperature. A temperature of probabilities is that of Guo et al. 2017 (arXiv
    1706.04599).
    """
    if by == Calibration():
        return predicted
    samples = np.asarray(predicted.samples_N_K_A, dtype=np.float64)
    concentrations = LIKELIHOODS[predicted.likelihood].concentrations
    slope = by.slope if concentrations else by.slope / by.temperature
    parts = []
    for at in columns(predicted.groups):
        shares = _shares(np.maximum(samples[:, :, at], SMALLEST_VALUE), slope, by.spread)
        parts.append(
            shares * _precision(samples[:, :, at].sum(axis=2, keepdims=True), by) if concentrations else shares
        )
    return predicted.with_samples(np.concatenate(parts, axis=2))


def _shares(samples_N_K_A: Floats, slope: float, spread: float) -> Floats:
    log_shares = log_softmax(np.log(samples_N_K_A), axis=2)
    mean = log_shares.mean(axis=1, keepdims=True)
    shares: Floats = np.exp(log_softmax(slope * (mean + spread * (log_shares - mean)), axis=2))
    return shares


def _precision(sums: Floats, by: Calibration) -> Floats:
    sums = np.maximum(sums, SMALLEST_VALUE)
    return np.clip(_PRECISION * (sums / _PRECISION) ** by.precision_slope / by.temperature, *_PRECISIONS)


def fit_calibration(predicted: PredictedVotes, counts_N_A: npt.ArrayLike, spread: bool = True) -> Calibration:
    """The correction with the lowest loss on these galaxies, which must be a random sample, and which the model must
    not have learnt from. It never raises their loss. Normal priors keep all logs near 0: single votes say nothing
    about precision, few galaxies little about anything. Without galaxies nothing is corrected.

    Args:
        spread: whether it is corrected; not if these samples are of other models than those that will predict.
    """
    if not len(predicted):
        return Calibration()
    concentrations = LIKELIHOODS[predicted.likelihood].concentrations  # of probabilities, slope and spread are all
    fitted = np.array([True, concentrations, spread, concentrations])
    widths = np.array(astuple(_WIDTHS))[fitted]

    def of(point: Floats) -> Calibration:
        logs = np.zeros(len(fitted))
        logs[fitted] = np.clip(point, -np.log(HIGHEST), np.log(HIGHEST))
        return Calibration(*np.exp(logs).tolist())

    def penalised_loss(point: Floats) -> float:
        prior = float(np.sum((point / widths) ** 2)) / 2
        return loss(calibrate(predicted, of(point)), counts_N_A) + prior / len(predicted)

    start = np.zeros(len(widths))
    simplex = np.vstack([start, 0.3 * np.eye(len(widths))])
    found = minimize(
        penalised_loss, start, method="Nelder-Mead",
        options={"xatol": 0.01, "fatol": 1e-5, "initial_simplex": simplex},
    )  # fmt: skip
    return of(found.x)
