"""How well predicted votes match the votes received: scores, calibration, and what corrects it.

It uses only numpy and scipy. It does not matter which model predicted the votes.
"""

from zoobot.metrics.evaluation import COVERAGE_WIDTHS, Values, binomial_coverage, evaluate, mixture_pmf
from zoobot.metrics.predicted_votes import (
    LIKELIHOODS,
    SMALLEST_CONCENTRATION,
    SMALLEST_VALUE,
    PredictedQuestion,
    PredictedVotes,
    columns,
    fractions,
    log_likelihood,
    loss,
    losses,
    mean_over_samples,
)

__all__ = [
    "COVERAGE_WIDTHS",
    "LIKELIHOODS",
    "SMALLEST_CONCENTRATION",
    "SMALLEST_VALUE",
    "PredictedQuestion",
    "PredictedVotes",
    "Values",
    "binomial_coverage",
    "columns",
    "evaluate",
    "fractions",
    "log_likelihood",
    "loss",
    "losses",
    "mean_over_samples",
    "mixture_pmf",
]
