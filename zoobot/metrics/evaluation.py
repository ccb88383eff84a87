"""How well predicted votes match the votes received: all metrics. docs/metrics.md explains each of them.

numpy and scipy only. Axes: N galaxies, K posterior samples, A answers (of one question, or of all), V vote counts,
W widths.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group
from zoobot.metrics import calibration
from zoobot.metrics.predicted_votes import (
    LIKELIHOODS,
    SMALLEST_VALUE,
    Floats,
    PredictedVotes,
    columns,
    fractions,
    log_likelihood,
    loss,
    mean_over_samples,
)

Counts = npt.NDArray[np.int64]
Values = dict[str, float | list[float]]
CONFIDENT_FRACTION = 0.8  # volunteers agree about a galaxy if more than this give the same answer
COVERAGE_WIDTHS = tuple(w / 40 for w in range(1, 11))  # ± this share of a galaxy's votes: ±1 to ±10 of 40
COVERAGE_ERROR_AT = COVERAGE_WIDTHS.index(5 / 40)  # the published figures are for ±5 of 40
_PAIR = (Group("label", ("label", "not_label")),)
_CHUNK_ELEMENTS = 2_000_000  # of N × K × V at once: bounds the memory


def evaluate(predicted: PredictedVotes, counts_N_A: npt.ArrayLike) -> dict[str, Values]:
    """All metrics per question and, under "all", for the tree: ``{question: {metric: value}}``.

    A question's metrics are over the ``galaxies`` that have votes for it; without any, this 0 is its only entry.
    Under "all", ``loss`` is the mean of ``losses`` over galaxies, in nats.

    Raises:
        InputError: shapes do not match, votes are not whole numbers, or samples are out of range or NaN.
    """
    predicted, counts = _checked(predicted, counts_N_A)
    of_all: Values = {"loss": loss(predicted, counts), "galaxies": len(counts)}
    measured: dict[str, Values] = {}
    for question, at in zip(predicted.questions(), columns(predicted.groups), strict=True):
        asked = counts[:, at].sum(axis=1) > 0
        votes = counts[asked][:, at]
        values = _question(question.samples_N_K_A[asked], votes, predicted.likelihood) if asked.any() else {}
        measured[question.group.question] = {"galaxies": int(asked.sum()), **values}
    measured["all"] = of_all | _joint_coverage(predicted, counts)
    return measured


def _checked(predicted: PredictedVotes, counts_N_A: npt.ArrayLike) -> tuple[PredictedVotes, Counts]:
    """Both, checked for their range and converted to the precision of the computation."""
    samples, counts = np.asarray(predicted.samples_N_K_A, dtype=np.float64), np.asarray(counts_N_A, dtype=np.float64)
    if len(samples) == 0:
        raise InputError("no galaxies to measure on")
    if counts.shape != (len(samples), samples.shape[2]):
        raise InputError(
            f"expected counts of {len(samples)} galaxies × {samples.shape[2]} answers, got shape {counts.shape}"
        )
    bad = ~((counts >= 0) & (counts % 1 == 0)).all(axis=1)
    if bad.any():
        raise InputError(f"votes are not whole numbers of at least 0 at rows {np.flatnonzero(bad)[:10].tolist()}")
    bad = ~((samples >= 0) & (samples <= LIKELIHOODS[predicted.likelihood].highest)).all(axis=(1, 2))
    if bad.any():
        rows = np.flatnonzero(bad)[:10].tolist()
        raise InputError(f"samples are NaN or outside the range of {predicted.likelihood} at rows {rows}")
    return predicted.with_samples(np.maximum(samples, SMALLEST_VALUE)), counts.astype(np.int64)


def _question(samples_N_K_A: Floats, counts_N_A: Counts, likelihood: str) -> Values:
    """The metrics of one question, over galaxies that all have votes for it."""
    predicted_N_A, observed_N_A = fractions(samples_N_K_A).mean(axis=1), fractions(counts_N_A.astype(np.float64))
    error = predicted_N_A - observed_N_A
    right_N = predicted_N_A.argmax(axis=1) == observed_N_A.argmax(axis=1)
    confident_N = observed_N_A.max(axis=1) > CONFIDENT_FRACTION
    measured: Values = {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "log_score": float(mean_over_samples(log_likelihood(likelihood, samples_N_K_A, counts_N_A[:, None])).mean()),
        "accuracy": float(right_N.mean()),
        "confident_galaxies": int(confident_N.sum()),
    }
    if confident_N.any():
        measured["confident_accuracy"] = float(right_N[confident_N].mean())
    return measured | _calibration(samples_N_K_A, counts_N_A, likelihood)


def _calibration(samples_N_K_A: Floats, counts_N_A: Counts, likelihood: str) -> Values:
    """How the count of each answer is spread around its prediction; the mean over answers."""
    n_galaxies, n_answers = counts_N_A.shape
    total_N, all_N_K = counts_N_A.sum(axis=1), samples_N_K_A.sum(axis=2)
    rps, square, variance = 0.0, 0.0, 0.0
    histogram_J, coverage_2_W = np.zeros(calibration.PIT_BINS), np.zeros((2, len(COVERAGE_WIDTHS)))
    answers = range(n_answers if n_answers > 2 else 1)  # with two answers, the second is the mirror image of the first
    for answer in answers:
        for_N_K, k_N = samples_N_K_A[:, :, answer], counts_N_A[:, answer]
        pmf_N_V = mixture_pmf(likelihood, for_N_K, all_N_K - for_N_K, total_N)
        mean_N, v = calibration.expected_count(pmf_N_V), np.arange(pmf_N_V.shape[1])
        rps += float(calibration.ranked_probability_score(pmf_N_V, k_N).mean())
        square += float(((k_N - mean_N) ** 2).sum())
        variance += float((pmf_N_V * (v - mean_N[:, None]) ** 2).sum())
        histogram_J += calibration.pit_histogram(pmf_N_V, k_N) / len(answers)
        for w, width in enumerate(COVERAGE_WIDTHS):
            coverage_2_W[:, w] += np.array(_coverage(pmf_N_V, k_N, width * total_N)) / len(answers)
    pit_error, pit_p_value = calibration.uniformity(histogram_J, n_galaxies)
    return {
        "ranked_probability_score": rps / len(answers),
        "dispersion": square / variance,
        "pit_error": pit_error,
        "pit_p_value": pit_p_value,
        "pit_histogram": histogram_J.tolist(),
        **_coverage_metrics(coverage_2_W[0], coverage_2_W[1], n_galaxies),
    }


def _coverage(pmf_N_V: Floats, k_N: Counts, max_error: npt.ArrayLike) -> tuple[float, float]:
    inside_N_V = calibration.window(calibration.expected_count(pmf_N_V), max_error, pmf_N_V.shape[1])
    return float((pmf_N_V * inside_N_V).sum(axis=1).mean()), float(inside_N_V[np.arange(len(k_N)), k_N].mean())


def _coverage_metrics(predicted_W: Floats, observed_W: Floats, n_galaxies: int) -> Values:
    at = COVERAGE_ERROR_AT
    return {
        "coverage_error": calibration.relative_error(float(predicted_W[at]), float(observed_W[at]), n_galaxies),
        "coverage_predicted": predicted_W.tolist(),
        "coverage_observed": observed_W.tolist(),
    }


def binomial_coverage(
    probabilities_N_K: npt.ArrayLike, label_N: npt.ArrayLike, total_votes_N: npt.ArrayLike, max_error: npt.ArrayLike
) -> tuple[float, float]:
    """Discrete coverage: how often k falls near its expected value, as predicted and as observed.

    For each galaxy the predicted distribution of k is the mixture mean_K Binom(k | N, p_K); the window is ±
    ``max_error`` votes, both ends included, around its expected value rounded down. Predicted coverage is the mean
    over galaxies of the probability inside the window, observed coverage the share of galaxies whose k is inside.
    Predicted above observed is over-confident (Walmsley et al. 2020, MNRAS 491, 1554, section 4; its first version,
    arXiv 1905.07424v1, gives |predicted - observed| / observed = 10.6 % within ±5 votes for bars).

    Args:
        probabilities_N_K: the probability of the answer in each posterior sample, in [0, 1].
        label_N: k, the votes for the answer.
        total_votes_N: N, all votes; galaxies without votes are left out.
        max_error: in votes, at least 0: a number, or one for each galaxy.

    Returns: (predicted, observed), each in [0, 1].

    Raises:
        InputError: shapes do not match, values are out of range or NaN, or no galaxy has votes.
    """
    p_N_K = np.asarray(probabilities_N_K, dtype=np.float64)
    k_N, total_N = np.asarray(label_N, dtype=np.float64), np.asarray(total_votes_N, dtype=np.float64)
    if p_N_K.ndim != 2 or k_N.shape != p_N_K.shape[:1] or total_N.shape != p_N_K.shape[:1]:
        raise InputError(
            f"expected probabilities N × K, label N and total_votes N, got {p_N_K.shape}, {k_N.shape}, {total_N.shape}"
        )
    _checked(PredictedVotes(np.stack([p_N_K, 1 - p_N_K], axis=2), _PAIR), np.stack([k_N, total_N - k_N], axis=1))
    error_N = np.broadcast_to(np.asarray(max_error, dtype=np.float64), total_N.shape)
    if not (error_N >= 0).all():
        raise InputError(f"max_error must be at least 0 votes, got {max_error!r}")
    voted = total_N > 0
    if not voted.any():
        raise InputError("no galaxy has votes, so there is no coverage to measure")
    pmf_N_V = mixture_pmf("multinomial", p_N_K[voted], 1 - p_N_K[voted], total_N[voted].astype(np.int64))
    return _coverage(pmf_N_V, k_N[voted].astype(np.int64), error_N[voted])


def mixture_pmf(likelihood: str, for_N_K: Floats, against_N_K: Floats, total_N: Counts) -> Floats:
    """The predicted probabilities N × V of k = 0, 1, … max(total) votes for one answer; 0 beyond a galaxy's total.

    ``for_N_K`` and ``against_N_K`` are the answer's samples and the sum of the others'.
    """
    pmf_N_V = np.zeros((len(total_N), int(total_N.max()) + 1))
    for rows, pmf_n_K_V in _sample_pmfs(likelihood, for_N_K, against_N_K, total_N):
        pmf_N_V[rows, : pmf_n_K_V.shape[2]] = pmf_n_K_V.mean(axis=1)
    return pmf_N_V


def _sample_pmfs(
    likelihood: str, for_N_K: Floats, against_N_K: Floats, total_N: Counts
) -> Iterator[tuple[npt.NDArray[np.intp], Floats]]:
    """Rows of galaxies with the same number of votes, and the probabilities rows × K × V of k in each sample."""
    power = LIKELIHOODS[likelihood].log_power
    for total in np.unique(total_N):
        k_V = np.arange(total + 1.0)
        log_choose_V = gammaln(total + 1) - gammaln(k_V + 1) - gammaln(total - k_V + 1)
        same = np.flatnonzero(total_N == total)
        step = max(1, _CHUNK_ELEMENTS // (for_N_K.shape[1] * len(k_V)))
        for start in range(0, len(same), step):
            rows = same[start : start + step]
            x, y = for_N_K[rows][:, :, None], against_N_K[rows][:, :, None]
            yield rows, np.exp(log_choose_V + power(x, k_V) + power(y, total - k_V) - power(x + y, total))


def _joint_coverage(predicted: PredictedVotes, counts_N_A: Counts) -> Values:
    """Coverage of all questions together: every question's leading answer within its window.

    The leading answer of a question is the one with the highest expected fraction; questions are independent given a
    sample, so the predicted coverage is mean_K prod_questions P(inside | sample). Galaxies without votes are left out.
    """
    voted = counts_N_A.sum(axis=1) > 0
    if not voted.any():
        return {}
    counts = counts_N_A[voted]
    samples: Floats = predicted.samples_N_K_A[voted]
    predicted_W_N_K = np.ones((len(COVERAGE_WIDTHS), *samples.shape[:2]))
    observed_W_N = np.ones((len(COVERAGE_WIDTHS), len(samples)), dtype=np.bool_)
    for at in columns(predicted.groups):
        leading_N = fractions(samples[:, :, at]).mean(axis=1).argmax(axis=1)
        for_N_K = np.take_along_axis(samples[:, :, at], leading_N[:, None, None], axis=2)[:, :, 0]
        against_N_K = samples[:, :, at].sum(axis=2) - for_N_K
        k_N, total_N = counts[:, at][np.arange(len(counts)), leading_N], counts[:, at].sum(axis=1)
        for rows, pmf_n_K_V in _sample_pmfs(predicted.likelihood, for_N_K, against_N_K, total_N):
            mean_n = calibration.expected_count(pmf_n_K_V.mean(axis=1))
            for w, width in enumerate(COVERAGE_WIDTHS):
                inside_n_V = calibration.window(mean_n, width * total_N[rows], pmf_n_K_V.shape[2])
                predicted_W_N_K[w, rows] *= np.einsum("nkv,nv->nk", pmf_n_K_V, inside_n_V)
                observed_W_N[w, rows] &= inside_n_V[np.arange(len(rows)), k_N[rows]]
    return _coverage_metrics(predicted_W_N_K.mean(axis=(1, 2)), observed_W_N.mean(axis=1), len(samples))
