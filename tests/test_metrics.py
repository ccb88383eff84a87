"""Metrics: numbers by hand, brute force over every vote, then what calibrated and over-confident sets give."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, dirichlet_multinomial, multinomial

from zoobot import metrics
from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group
from zoobot.metrics import PredictedVotes

PAIR = (Group("bar", ("label", "not_label")),)
TREE = (*PAIR, Group("arms", ("1", "2", "3"), after=("label",)))
NAMES = list(metrics.LIKELIHOODS)
seeds = st.integers(0, 2**32 - 1)


def pair(samples: Any, counts: Any) -> Any:
    return metrics.evaluate(PredictedVotes(np.array(samples), PAIR), np.array(counts))


def random_case(name: str, seed: int, n: int = 4, most_votes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Samples n × 3 × 5 and counts n × 5 of the tree; every third galaxy was not asked the second question."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, most_votes // 3 + 1, (n, 5))
    counts[:, 0] += 1
    counts[2::3, 2:] = 0
    samples = np.concatenate([random.dirichlet(np.ones(a), (n, 3)) for a in (2, 3)], axis=2)
    if name == "dirichlet_multinomial":
        samples *= 10 ** random.uniform(-0.5, 2, (n, 3, 1))
    return np.maximum(samples, 1e-4), counts


def pmf(name: str, x: np.ndarray, counts: tuple[int, ...]) -> float:
    """scipy's own, of one sample of one question."""
    total = sum(counts)
    if name == "multinomial":
        return float(multinomial.pmf(counts, total, x / x.sum()))
    return float(dirichlet_multinomial.pmf(np.array(counts), x, total))


def outcomes(total: int, n_answers: int) -> list[tuple[int, ...]]:
    return [c for c in itertools.product(range(total + 1), repeat=n_answers) if sum(c) == total]


# ------------------------------------------------------------------ by hand


def test_two_galaxies_by_hand() -> None:
    measured = pair([[[0.5, 0.5]], [[0.9, 0.1]]], [[1, 1], [4, 0]])  # one sample each; fractions 0.5 and 1
    assert measured["bar"]["mae"] == pytest.approx(0.05)
    assert measured["bar"]["rmse"] == pytest.approx(np.sqrt(0.01 / 2))
    # log C(2,1)/4 = log 0.5 and log 0.9^4
    assert measured["bar"]["log_score"] == pytest.approx((np.log(0.5) + 4 * np.log(0.9)) / 2)
    assert measured["all"]["loss"] == pytest.approx(-measured["bar"]["log_score"])


def test_scores_of_one_galaxy_by_hand() -> None:
    measured = pair([[[0.5, 0.5]]], [[2, 0]])["bar"]  # k of 2 has the probabilities 1/4, 1/2, 1/4
    assert measured["ranked_probability_score"] == pytest.approx(0.25**2 + 0.75**2)
    assert measured["dispersion"] == pytest.approx(1 / 0.5)
    # spread over the PIT bins of (0.75, 1): half of the bin from 0.7, two whole ones, and half again as large
    assert measured["pit_histogram"] == pytest.approx([0] * 7 + [0.2, 0.4, 0.4])
    assert measured["pit_error"] == pytest.approx((0.1 + 0.3 + 0.3 + 7 * 0.1) / 2)
    # every window is less than ±1 vote wide: it holds k = 1 alone
    assert measured["coverage_predicted"] == pytest.approx([0.5] * 10) and measured["coverage_observed"] == [0.0] * 10


def test_accuracy_is_also_given_where_volunteers_agree() -> None:
    samples, counts = [[[0.6, 0.4]], [[0.6, 0.4]], [[0.1, 0.9]]], [[9, 1], [8, 2], [6, 4]]  # 0.8 is not above 0.8
    measured = pair(samples, counts)["bar"]
    assert (measured["accuracy"], measured["confident_galaxies"]) == (pytest.approx(2 / 3), 1)
    assert measured["confident_accuracy"] == 1.0
    assert "confident_accuracy" not in pair(samples[1:], counts[1:])["bar"]


def test_samples_are_mixed_as_probabilities_not_as_logs() -> None:
    assert pair([[[0.2, 0.8], [0.6, 0.4]]], [[1, 0]])["bar"]["log_score"] == pytest.approx(np.log(0.4))


def test_concentrations_are_not_probabilities() -> None:
    measured = metrics.evaluate(PredictedVotes([[[1.0, 1.0]]], PAIR, "dirichlet_multinomial"), [[1, 1]])
    assert measured["bar"]["log_score"] == pytest.approx(np.log(1 / 3))
    assert measured["bar"]["rmse"] == 0


def test_a_question_without_votes_changes_nothing() -> None:
    measured = metrics.evaluate(PredictedVotes([[[0.5, 0.5, 0.2, 0.3, 0.5]]], TREE), [[1, 1, 0, 0, 0]])
    assert measured["arms"] == {"galaxies": 0}
    assert measured["all"]["loss"] == pytest.approx(-np.log(0.5))
    assert measured["all"]["coverage_predicted"] == pytest.approx([0.5] * 10)


def test_the_loss_of_a_tree_adds_up_over_questions() -> None:
    """Each question is averaged over samples by itself: which of its samples goes with which of another says little."""
    groups = (Group("a", ("a1", "a2")), Group("b", ("b1", "b2")))
    samples = np.array([[[0.9, 0.1, 0.1, 0.9], [0.2, 0.8, 0.9, 0.1]]])
    measured = metrics.evaluate(PredictedVotes(samples, groups), [[1, 0, 0, 1]])
    assert measured["all"]["loss"] == pytest.approx(-np.log((0.9 + 0.2) / 2) - np.log((0.9 + 0.1) / 2))


def test_a_vote_for_an_answer_of_probability_zero_stays_finite() -> None:
    assert np.isfinite(pair([[[1.0, 0.0]]], [[0, 3]])["all"]["loss"])


def test_binomial_coverage_by_hand() -> None:
    # expected 2 of 4: P(2) = 6/16, P(1, 2, 3) = 14/16. Expected 0.4 of 4, so 0: P(0) = 0.9^4, P(0, 1) adds 4·0.9³·0.1
    p, k, n = [[0.5], [0.1]], [3, 0], [4, 4]
    assert metrics.binomial_coverage(p, k, n, 0) == pytest.approx(((6 / 16 + 0.6561) / 2, 0.5))
    assert metrics.binomial_coverage(p, k, n, 1) == pytest.approx(((14 / 16 + 0.6561 + 0.2916) / 2, 1.0))
    assert metrics.binomial_coverage(p, k, n, [0, 1]) == pytest.approx(((6 / 16 + 0.9477) / 2, 0.5))
    assert metrics.binomial_coverage([*p, [0.7]], [*k, 0], [*n, 0], 0)[1] == 0.5, "no votes: left out"


# ------------------------------------------------------------------ brute force


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds)
def test_log_likelihoods_are_scipys(name: str, seed: int) -> None:
    samples, counts = random_case(name, seed)
    for at in metrics.columns(TREE):
        for x, k in zip(samples[:, 0, at], counts[:, at], strict=True):
            assert np.exp(metrics.log_likelihood(name, x, k)) == pytest.approx(pmf(name, x, tuple(k)), rel=1e-7)


@pytest.mark.parametrize("name", NAMES)
@given(seed=seeds)
def test_count_probabilities_are_scipys_in_votes_and_chunks(name: str, seed: int) -> None:
    samples, counts = random_case(name, seed)
    x, y, total = samples[:, :, 0], samples[:, :, 1], counts[:, :2].sum(axis=1)
    table = metrics.mixture_pmf(name, x, y, total)
    for i, n in enumerate(total):
        one = binom(n, x[i] / (x[i] + y[i])) if name == "multinomial" else betabinom(n, x[i], y[i])
        assert table[i, : n + 1] == pytest.approx([one.pmf(k).mean() for k in range(n + 1)], abs=1e-9)
        assert (table[i, n + 1 :] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_calibration_of_a_question_is_that_of_summing_over_every_vote(name: str) -> None:
    samples, counts = random_case(name, seed=5)
    asked = [0, 1, 3]
    expected = brute_calibration(name, samples[asked][:, :, 2:], counts[asked][:, 2:])
    measured = metrics.evaluate(PredictedVotes(samples, TREE, name), counts)["arms"]
    assert measured["galaxies"] == 3
    for key, value in expected.items():
        assert measured[key] == pytest.approx(value, abs=1e-9), key


def brute_calibration(name: str, samples: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """From the probability of each outcome of all three answers, galaxy by galaxy, count by count."""
    rps, square, variance, histogram = [], 0.0, 0.0, np.zeros(10)
    predicted, observed = np.zeros(10), np.zeros(10)
    cells = [(x, k, answer) for x, k in zip(samples, counts, strict=True) for answer in range(3)]
    for x, k, answer in cells:
        total, p = int(k.sum()), dict.fromkeys(range(k.sum() + 1), 0.0)
        for outcome in outcomes(total, 3):
            p[outcome[answer]] += float(np.mean([pmf(name, sample, outcome) for sample in x]))
        below = [sum(p[j] for j in range(v + 1)) for v in range(total + 1)]
        rps.append(sum((below[v] - (k[answer] <= v)) ** 2 for v in range(total + 1)))
        mean = sum(v * p[v] for v in p)
        square += (k[answer] - mean) ** 2
        variance += sum((v - mean) ** 2 * p[v] for v in p)
        low, high = below[k[answer]] - p[k[answer]], below[k[answer]]
        for b in range(10):
            histogram[b] += max(0.0, min(high, (b + 1) / 10) - max(low, b / 10)) / (high - low) / len(cells)
        for w, width in enumerate(metrics.COVERAGE_WIDTHS):
            inside = [v for v in p if abs(v - math.floor(mean)) <= width * total]
            predicted[w] += sum(p[v] for v in inside) / len(cells)
            observed[w] += (k[answer] in inside) / len(cells)
    return {
        "ranked_probability_score": np.mean(rps),
        "dispersion": square / variance,
        "pit_histogram": histogram,
        "coverage_predicted": predicted,
        "coverage_observed": observed,
        "coverage_error": abs(predicted[4] - observed[4]) / observed[4],
    }


@pytest.mark.parametrize("name", NAMES)
def test_joint_coverage_is_that_of_summing_over_every_vote_for_the_tree(name: str) -> None:
    samples, counts = random_case(name, seed=11, n=3, most_votes=9)
    predicted, observed = np.zeros(10), np.zeros(10)
    for x, k in zip(samples, counts, strict=True):
        for w, width in enumerate(metrics.COVERAGE_WIDTHS):
            per_sample, inside = np.ones(3), True
            for at in metrics.columns(TREE):
                total, leading = int(k[at].sum()), int((x[:, at] / x[:, at].sum(1, keepdims=True)).mean(0).argmax())
                of = outcomes(total, at.stop - at.start)
                p = np.array([[pmf(name, sample, outcome) for sample in x[:, at]] for outcome in of])
                votes = np.array([outcome[leading] for outcome in of])
                near = np.abs(votes - math.floor(votes @ p.mean(axis=1) + 1e-12)) <= width * total
                per_sample *= p[near].sum(axis=0)
                inside &= bool(near[votes == k[at][leading]].all())
            predicted[w] += per_sample.mean() / 3
            observed[w] += inside / 3
    measured = metrics.evaluate(PredictedVotes(samples, TREE, name), counts)["all"]
    assert measured["coverage_predicted"] == pytest.approx(predicted, abs=1e-9)
    assert measured["coverage_observed"] == pytest.approx(observed, abs=1e-9)


# ------------------------------------------------------------------ properties


@given(seed=seeds)
def test_the_order_of_galaxies_and_samples_and_doubled_samples_change_nothing(seed: int) -> None:
    samples, counts = random_case("multinomial", seed, n=7)
    order = np.random.default_rng(seed).permutation(7)
    expected = metrics.evaluate(PredictedVotes(samples, TREE), counts)
    for other in (samples[order][:, ::-1], np.repeat(samples[order], 2, axis=1)):
        measured = metrics.evaluate(PredictedVotes(other, TREE), counts[order])
        for question, values in expected.items():
            assert {k: pytest.approx(v, abs=1e-9) for k, v in values.items()} == measured[question]


@given(seed=seeds, max_error=st.integers(0, 12))
def test_coverage_is_a_share_that_grows_with_the_window(seed: int, max_error: int) -> None:
    random = np.random.default_rng(seed)
    p, n = random.random((9, 4)), random.integers(1, 13, 9)
    k = random.binomial(n, p.mean(axis=1))
    predicted, observed = metrics.binomial_coverage(p, k, n, max_error)
    wider = metrics.binomial_coverage(p, k, n, max_error + 1)
    assert 0 <= predicted <= wider[0] + 1e-12 <= 1 + 1e-9 and 0 <= observed <= wider[1] <= 1
    assert metrics.binomial_coverage(p, k, n, 12) == pytest.approx((1, 1))


@pytest.mark.parametrize("name", NAMES)
def test_a_calibrated_set_has_no_coverage_error_and_an_over_confident_one_has(name: str) -> None:
    """Each galaxy's votes come from one of its own samples, so the mixture is the truth."""
    random, n = np.random.default_rng(1), 6000
    samples = random.dirichlet((3, 2), (n, 20)) * (30 if name == "dirichlet_multinomial" else 1)
    total, true = random.integers(30, 50, n), samples[:, 0]
    if name == "dirichlet_multinomial":
        true = np.array([random.dirichlet(a) for a in true])
    counts = np.array([random.multinomial(m, p) for m, p in zip(total, true, strict=True)])
    good = metrics.evaluate(PredictedVotes(samples, PAIR, name), counts)
    assert good["bar"]["coverage_error"] < 0.03 and good["all"]["coverage_error"] < 0.03
    assert good["bar"]["pit_p_value"] > 0.001 and good["bar"]["pit_error"] < 0.02
    assert good["bar"]["dispersion"] == pytest.approx(1, abs=0.05)
    sure = metrics.evaluate(
        PredictedVotes(np.repeat(samples.mean(axis=1, keepdims=True), 2, axis=1), PAIR, name), counts
    )
    assert sure["bar"]["coverage_error"] > 0.3 and sure["all"]["coverage_error"] > 0.3
    assert sure["bar"]["pit_p_value"] < 1e-6 and sure["bar"]["dispersion"] > 1.5
    assert sure["all"]["loss"] > good["all"]["loss"]
    assert sure["bar"]["ranked_probability_score"] > good["bar"]["ranked_probability_score"]
    doubting = metrics.evaluate(
        PredictedVotes(np.concatenate([samples, np.broadcast_to([0.01, 0.99], (n, 9, 2))], axis=1), PAIR, name), counts
    )
    assert doubting["bar"]["dispersion"] < 0.8 and doubting["all"]["loss"] > good["all"]["loss"]


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("samples", "counts", "message"),
    [
        ([[[0.5, 0.5, 0.0]]], [[1, 1]], "N × K × 2 answers"),
        ([[[0.5, 0.5]]], [[1, 1, 0]], "expected counts of 1 galaxies"),
        (np.zeros((0, 1, 2)), np.zeros((0, 2)), "no galaxies"),
        ([[[0.5, 0.5]]], [[1, np.nan]], r"whole numbers.*rows \[0\]"),
        ([[[0.5, 0.5]]], [[1.5, 1]], "whole numbers"),
        ([[[0.5, 0.5]]], [[-1, 1]], "whole numbers"),
        ([[[0.5, np.nan]]], [[1, 1]], r"NaN.*rows \[0\]"),
        ([[[5.0, 3.0]]], [[1, 1]], "outside the range of multinomial"),
    ],
)
def test_bad_input_is_refused(samples: Any, counts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metrics.evaluate(PredictedVotes(samples, PAIR), counts)


def test_bad_input_of_coverage_is_refused() -> None:
    for arguments, message in (
        (([0.5], [1], [2], 1), "N × K"),
        (([[0.5]], [1, 2], [2], 1), "label N"),
        (([[0.5]], [3], [2], 1), "whole numbers"),
        (([[1.5]], [1], [2], 1), "outside the range"),
        (([[0.5]], [1], [2], -1), "max_error"),
        (([[0.5]], [0], [0], 1), "no galaxy has votes"),
    ):
        with pytest.raises(InputError, match=message):
            metrics.binomial_coverage(*arguments)
