"""What is said of one question's vote fractions in a catalogue: one Dirichlet distribution for each galaxy.

The vote fractions are those that a galaxy would come to with ever more volunteers. Their posterior is a mixture over
samples: of Dirichlet distributions, or of single points if votes are multinomial. The Dirichlet of a catalogue has the
mixture's mean, and its variance, summed over answers. Axes: N galaxies, A answers of the question.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv, entr

from zoobot.metrics.predicted_votes import Floats, PredictedQuestion, fractions

LEVEL = 0.9  # of the credible interval
_SUMS = 1e-2, 1e6  # of concentrations: samples that are all alike, and certain ones, would have no finite sum
_SMALLEST = 1e-6  # fraction


def concentrations(predicted: PredictedQuestion) -> Floats:
    """The concentrations N × A of each galaxy's Dirichlet. Over their sum they are the expected fractions."""
    samples = np.asarray(predicted.samples_N_K_A, dtype=np.float64)
    share_N_K_A = fractions(samples)
    mean_N_A = fractions(np.maximum(share_N_K_A.mean(axis=1), _SMALLEST))
    uneven_N_K = 1 - (share_N_K_A**2).sum(axis=2)
    variance_N = share_N_K_A.var(axis=1).sum(axis=1)
    if predicted.has_concentrations:
        variance_N += (uneven_N_K / (samples.sum(axis=2) + 1)).mean(axis=1)
    most_N = 1 - (mean_N_A**2).sum(axis=1)  # the variance of a Dirichlet whose sum is 0
    sum_N = np.clip(most_N / np.maximum(variance_N, most_N / _SUMS[1]) - 1, *_SUMS)
    found: Floats = mean_N_A * sum_N[:, None]
    return found


def interval(concentrations_N_A: Floats) -> tuple[Floats, Floats]:
    """The central 90 % interval of each answer's fraction: lower and upper ends, N × A each."""
    low, high = (np.empty_like(concentrations_N_A) for _ in range(2))
    sum_N, n_answers = concentrations_N_A.sum(axis=1), concentrations_N_A.shape[1]
    for answer in range(n_answers if n_answers > 2 else 1):
        own_N = concentrations_N_A[:, answer]
        low[:, answer] = betaincinv(own_N, sum_N - own_N, (1 - LEVEL) / 2)
        high[:, answer] = betaincinv(own_N, sum_N - own_N, (1 + LEVEL) / 2)
    if n_answers == 2:
        low[:, 1], high[:, 1] = 1 - high[:, 0], 1 - low[:, 0]
    return low, high


def entropy(fractions_N_A: Floats) -> Floats:
    """How uncertain the next vote is, in nats: N, from 0 to log(A)."""
    found: Floats = entr(fractions_N_A).sum(axis=1)
    return found
