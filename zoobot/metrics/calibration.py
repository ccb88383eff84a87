"""Is a predicted distribution of votes calibrated? numpy and scipy only.

Everything here is about the count k of one answer among a galaxy's votes, and the predicted probabilities
``pmf_N_V`` of k = 0, 1, … V - 1. Axes: N galaxies, V vote counts, J bins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

Floats = npt.NDArray[np.float64]
PIT_BINS = 10
_TINY = 1e-300


def expected_count(pmf_N_V: Floats) -> Floats:
    """The mean of k, in votes: N."""
    mean_N: Floats = pmf_N_V @ np.arange(pmf_N_V.shape[-1])
    return mean_N


def window(mean_N: Floats, max_error: npt.ArrayLike, n_counts: int) -> npt.NDArray[np.bool_]:
    """Which counts N × V lie within ± ``max_error`` votes (a number, or N) of the expected count.

    The expected count is rounded down, as in the program behind Walmsley et al. 2020, so that the window holds whole
    votes.
    """
    slack = 1e-9  # for rounding: an expected count of 3.9999999999 is 4
    centre_N = np.floor(mean_N + slack)
    max_error_N = np.broadcast_to(np.asarray(max_error, dtype=np.float64), mean_N.shape)
    inside: npt.NDArray[np.bool_] = np.abs(np.arange(n_counts) - centre_N[:, None]) <= max_error_N[:, None] + slack
    return inside


def ranked_probability_score(pmf_N_V: Floats, k_N: npt.NDArray[np.int64]) -> Floats:
    """sum_v (F(v) - [k <= v])², in votes: N; 0 is best (Epstein 1969; Czado, Gneiting & Held 2009, Biometrics 65).

    For a forecast that is sure of one count, it is the mean absolute error.
    """
    reached_N_V = k_N[:, None] <= np.arange(pmf_N_V.shape[1])
    score_N: Floats = ((np.cumsum(pmf_N_V, axis=1) - reached_N_V) ** 2).sum(axis=1)
    return score_N


def pit_histogram(pmf_N_V: Floats, k_N: npt.NDArray[np.int64], n_bins: int = PIT_BINS) -> Floats:
    """The non-randomised PIT histogram of counts (Czado et al. 2009, eq. 2): J shares that sum to 1.

    Each galaxy spreads its weight evenly from F(k - 1) to F(k). Calibrated predictions give 1 / J in each bin; U
    shapes are over-confident, hills under-confident, slopes biased.
    """
    rows = np.arange(len(k_N))
    upper_N = np.cumsum(pmf_N_V, axis=1)[rows, k_N]
    width_N = np.maximum(pmf_N_V[rows, k_N], _TINY)
    edges_J = np.linspace(0, 1, n_bins + 1)[:, None]
    cumulative_J = np.clip((edges_J - (upper_N - width_N)) / width_N, 0, 1).mean(axis=1)
    cumulative_J[0], cumulative_J[-1] = 0, 1  # F reaches 1 up to rounding
    histogram_J: Floats = np.diff(cumulative_J)
    return histogram_J


def uniformity(histogram_J: Floats, n_galaxies: int) -> tuple[float, float]:
    """How far a PIT histogram is from flat, and whether that could be chance: (distance, p value).

    The distance is the share of galaxies that would have to change bins, in [0, 1). The p value is of chi-square with
    J - 1 degrees of freedom. It is conservative: a galaxy spread over bins scatters less than one in a single bin.
    """
    n_bins = len(histogram_J)
    excess_J = histogram_J - 1 / n_bins
    statistic = n_galaxies * n_bins * (excess_J**2).sum()
    return float(np.abs(excess_J).sum() / 2), float(chdtrc(n_bins - 1, statistic))


def relative_error(predicted: float, observed: float, n_galaxies: int) -> float:
    """The coverage error |predicted - observed| / observed; ``observed`` counts as at least one of N galaxies."""
    return abs(predicted - observed) / max(observed, 1 / n_galaxies)
