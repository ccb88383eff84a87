"""How well predicted votes fit the votes that came: scores, calibration, and one temperature to correct them.

numpy and scipy only. Who predicted the votes does not matter here.
"""

from zoobot.metrics.predicted_votes import (
    COVERAGE_WIDTHS,
    LIKELIHOODS,
    SMALLEST_CONCENTRATION,
    SMALLEST_VALUE,
    PredictedQuestion,
    PredictedVotes,
    Values,
    binomial_coverage,
    columns,
    evaluate,
    fractions,
    log_likelihood,
    loss,
    losses,
    mean_over_samples,
    mixture_pmf,
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
