"""How well posterior samples predict votes. numpy only. Axes: N galaxies, K posterior samples, A answers of all
questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp, xlogy

from zoobot.tasks import Group

Floats = npt.NDArray[np.float64]
SMALLEST_PROBABILITY = 1e-7


def evaluate(
    samples_N_K_A: npt.ArrayLike, counts_N_A: npt.ArrayLike, groups: Sequence[Group]
) -> dict[str, dict[str, float]]:
    """Metrics per question and, under "all", for the tree: ``{question: {metric: value}}``.

    Per question, over the ``galaxies`` that have votes for it: ``rmse`` and ``mae`` of the vote fractions (the mean
    over samples against k / N, over all answers); ``log_score``, the mean log likelihood of the votes in nats per
    galaxy, of the mixture of multinomials over the samples, coefficients included. Under "all": ``loss``, minus the
    mean over galaxies of the log likelihood of all votes at once, where samples are joint over questions.
    """
    samples = np.maximum(
        np.asarray(samples_N_K_A, dtype=np.float64), SMALLEST_PROBABILITY
    )  # a softmax in float32 can reach 0
    counts = np.asarray(counts_N_A, dtype=np.float64)
    metrics: dict[str, dict[str, float]] = {}
    joint_N_K = np.zeros(samples.shape[:2])
    start = 0
    for group in groups:
        at = slice(start, start + len(group.answers))
        start = at.stop
        log_likelihood_N_K = multinomial_log_likelihood(samples[:, :, at], counts[:, None, at])
        joint_N_K += log_likelihood_N_K
        metrics[group.question] = _question(samples[:, :, at].mean(axis=1), counts[:, at], _mixture(log_likelihood_N_K))
    metrics["all"] = {"loss": float(-_mixture(joint_N_K).mean()), "galaxies": len(counts)}
    return metrics


def multinomial_log_likelihood(probabilities: Floats, counts: Floats) -> Floats:
    """log Multinomial(counts | probabilities) over the last axis, in nats; 0 without votes; -inf where a vote was
    impossible.
    """
    coefficient = gammaln(counts.sum(axis=-1) + 1) - gammaln(counts + 1).sum(axis=-1)
    log_likelihood: Floats = coefficient + xlogy(counts, probabilities).sum(axis=-1)
    return log_likelihood


def _mixture(log_likelihood_N_K: Floats) -> Floats:
    """The log likelihood N of an equal mixture over samples."""
    mixed: Floats = logsumexp(log_likelihood_N_K, axis=1) - np.log(log_likelihood_N_K.shape[1])
    return mixed


def _question(mean_N_A: Floats, counts_N_A: Floats, log_likelihood_N: Floats) -> dict[str, float]:
    total_N = counts_N_A.sum(axis=1)
    asked = total_N > 0
    if not asked.any():
        return {"galaxies": 0}
    error = mean_N_A[asked] - counts_N_A[asked] / total_N[asked, None]
    return {
        "galaxies": int(asked.sum()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "log_score": float(log_likelihood_N[asked].mean()),
    }
