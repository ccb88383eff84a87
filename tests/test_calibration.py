"""Simulation-based calibration of the likelihoods, PIT histograms by hand, and recalibration.

Talts et al. 2018, arXiv 1804.06788: draw a parameter from the prior, votes given it, and rank it in the posterior of
those votes; if the likelihood is the one the votes came from, ranks are uniform. Here the parameter is one number on a
grid, so the posterior is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import chisquare

from zoobot import metrics
from zoobot.galaxies.tasks import Group
from zoobot.metrics import PredictedVotes, calibration
from zoobot.metrics.temperature import Calibration, calibrate, fit_calibration
from zoobot.models import losses

PAIR = (Group("bar", ("label", "not_label")),)
THREE = (Group("shape", ("smooth", "featured", "artifact")),)
TREE = (*THREE, Group("bar", ("yes", "no"), after=("featured",)))
DRAWS, GRID, BINS = 1000, 200, 20
NAMES = list(metrics.LIKELIHOODS)


def samples_on_grid(name: str, groups: tuple[Group, ...]) -> np.ndarray:
    """GRID × A: the samples that a parameter from -2 to 2 stands for, in every question at once."""
    t = np.linspace(-2, 2, GRID)[:, None]
    logits = [t * np.linspace(1, -0.5, len(g.answers)) + 0.3 * i for i, g in enumerate(groups)]
    precision = 8 * np.exp(t / 2) if name == "dirichlet_multinomial" else 1
    return np.concatenate([softmax(values, axis=1) * precision for values in logits], axis=1)


def draw_votes(name: str, x: np.ndarray, groups: tuple[Group, ...], random: np.random.Generator) -> np.ndarray:
    """One galaxy's votes by random numbers of numpy; a later question is asked of those who answered ``featured``."""
    votes: list[np.ndarray] = []
    for i, at in enumerate(metrics.columns(groups)):
        p = random.dirichlet(x[at]) if name == "dirichlet_multinomial" else x[at]
        votes.append(random.multinomial(votes[0][1] if i else random.integers(1, 41), p))
    return np.concatenate(votes)


def from_numpy(name: str, groups: tuple[Group, ...], counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    of = (metrics.log_likelihood(name, grid[None, :, at], counts[:, None, at]) for at in metrics.columns(groups))
    return np.asarray(sum(of))


def from_loss(name: str, groups: tuple[Group, ...], counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    loss = losses.loss(name, groups)(np.repeat(counts, len(grid), axis=0), np.tile(grid, (len(counts), 1)))
    return np.asarray(-loss.numpy().reshape(len(counts), len(grid)), dtype=np.float64)


def p_value_of_ranks(
    drawn_from: str, believed: str, groups: tuple[Group, ...], log_likelihood: Callable[..., np.ndarray]
) -> float:
    random = np.random.default_rng(7)
    true = random.integers(0, GRID, DRAWS)
    drawn = samples_on_grid(drawn_from, groups)
    counts = np.array([draw_votes(drawn_from, drawn[t], groups, random) for t in true])
    log = log_likelihood(believed, groups, counts, samples_on_grid(believed, groups))
    posterior = np.exp(log_softmax(log, axis=1))
    rows = np.arange(DRAWS)
    below = np.cumsum(posterior, axis=1)[rows, true] - posterior[rows, true] * random.random(DRAWS)
    return float(chisquare(np.histogram(below, BINS, range=(0, 1))[0]).pvalue)


@pytest.mark.parametrize("log_likelihood", [from_numpy, from_loss])
@pytest.mark.parametrize("groups", [PAIR, THREE, TREE], ids=["two answers", "three answers", "tree"])
@pytest.mark.parametrize("name", NAMES)
def test_ranks_are_uniform(name: str, groups: tuple[Group, ...], log_likelihood: Callable[..., np.ndarray]) -> None:
    assert p_value_of_ranks(name, name, groups, log_likelihood) > 0.001


@pytest.mark.parametrize("groups", [PAIR, TREE], ids=["two answers", "tree"])
def test_ranks_are_not_uniform_under_another_likelihood(groups: tuple[Group, ...]) -> None:
    assert p_value_of_ranks("dirichlet_multinomial", "multinomial", groups, from_numpy) < 1e-6


# ------------------------------------------------------------------ PIT


def test_pit_spreads_a_galaxy_over_the_bins_its_count_covers() -> None:
    pmf = np.array([[0.25, 0.5, 0.25], [0.9, 0.1, 0.0]])
    assert calibration.pit_histogram(pmf, np.array([0, 1]), 4) == pytest.approx([0.5, 0, 0, 0.5])
    assert calibration.pit_histogram(pmf, np.array([1, 0]), 4) == pytest.approx(
        [0.25 / 0.9 / 2, 0.25 + 0.25 / 0.9 / 2, 0.25 + 0.25 / 0.9 / 2, 0.15 / 0.9 / 2]
    )


def test_a_count_that_was_thought_impossible_counts_in_the_last_or_first_bin() -> None:
    assert calibration.pit_histogram(np.array([[1.0, 0.0]]), np.array([1]), 4)[-1] == 1
    assert calibration.pit_histogram(np.array([[0.0, 1.0]]), np.array([0]), 4)[0] == 1


def test_uniformity_by_hand() -> None:
    assert calibration.uniformity(np.full(10, 0.1), 50) == (0.0, 1.0)
    distance, p_value = calibration.uniformity(np.array([0.75, 0.25]), 16)  # 12 and 4 of 16: chi-square 4
    assert distance == pytest.approx(0.25) and p_value == pytest.approx(0.0455, abs=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_pit_shares_sum_to_one_and_the_right_forecast_is_flat_on_average(seed: int) -> None:
    pmf = np.random.default_rng(seed).dirichlet(np.ones(6))
    every = np.tile(pmf, (6, 1))
    histograms = np.array([calibration.pit_histogram(every[:1], np.array([k])) for k in range(6)])
    assert histograms.sum(axis=1) == pytest.approx(np.ones(6)) and (histograms >= 0).all()
    assert pmf @ histograms == pytest.approx(np.full(10, 0.1), abs=1e-9)


def test_a_coverage_error_is_relative_to_what_was_observed() -> None:
    assert calibration.relative_error(0.9, 0.6, 10) == pytest.approx(0.5)
    assert calibration.relative_error(0.3, 0.6, 10) == pytest.approx(0.5)
    assert calibration.relative_error(0.2, 0.0, 10) == pytest.approx(2)


# ------------------------------------------------------------------ recalibration


def samples_of_the_tree(name: str, n: int, n_samples: int = 1) -> PredictedVotes:
    random = np.random.default_rng(3)
    shares = [random.dirichlet(np.ones(len(g.answers)), (n, 1)) for g in TREE]
    noisy = [x * np.exp(0.6 * random.standard_normal((n, n_samples, x.shape[2]))) for x in shares]
    precisions = np.exp(random.normal(np.log(20), 0.7, (n, 1, 1))) if name == "dirichlet_multinomial" else 1
    parts = [np.maximum(x / x.sum(axis=2, keepdims=True), 1e-3) * precisions for x in noisy]
    return PredictedVotes(np.concatenate(parts, axis=2), TREE, name)


def votes_of(true: PredictedVotes) -> np.ndarray:
    """Votes of each galaxy from one of its samples: what ``fit_calibration`` should find the numbers of."""
    random = np.random.default_rng(4)
    drawn = (x[random.integers(len(x))] for x in true.samples_N_K_A)
    return np.array([draw_votes(true.likelihood, x, TREE, random) for x in drawn])


@pytest.mark.parametrize(
    ("name", "true"),
    [
        ("dirichlet_multinomial", Calibration(0.6, 2.0, 1.0, 1.0)),
        ("dirichlet_multinomial", Calibration(1.0, 0.5, 3.0, 1.0)),
        ("dirichlet_multinomial", Calibration(1.0, 1.0, 1.0, 1.8)),
        ("multinomial", Calibration(1.4, 1.0, 1.0, 1.0)),
        ("multinomial", Calibration(1.0, 1.0, 3.0, 1.0)),
    ],
)
def test_what_votes_were_drawn_with_is_found(name: str, true: Calibration) -> None:
    predicted = samples_of_the_tree(name, 600, 4)
    counts = votes_of(calibrate(predicted, true))
    fitted = fit_calibration(predicted, counts)
    assert astuple(fitted) == pytest.approx(astuple(true), rel=0.3)
    before, after = (metrics.evaluate(calibrate(predicted, by), counts)["all"] for by in (Calibration(), fitted))
    assert after["loss"] < before["loss"] and after["coverage_error"] < before["coverage_error"] + 0.01


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10)  # each fits four numbers
@given(seed=st.integers(0, 2**32 - 1), spread=st.booleans())
def test_recalibration_never_raises_the_loss_it_was_fitted_on(name: str, seed: int, spread: bool) -> None:
    random = np.random.default_rng(seed)
    samples = np.concatenate([random.dirichlet(np.ones(a), (5, 3)) for a in (3, 2)], axis=2)
    counts = random.integers(0, 10, (5, 5)) * (seed % 4 > 0)  # one in four without any vote: nothing to fit
    predicted = PredictedVotes(samples, TREE, name)
    fitted = fit_calibration(predicted, counts, spread)
    assert all(0.1 <= value <= 10 for value in astuple(fitted)) and (fitted == Calibration() or counts.any())
    assert fitted.spread == 1 or spread
    assert metrics.loss(calibrate(predicted, fitted), counts) <= metrics.loss(predicted, counts)


def test_calibrated_samples_by_hand() -> None:
    def calibrated(name: str, by: Calibration, *samples: list[float]) -> list[list[float]]:
        found: list[list[float]] = (
            calibrate(PredictedVotes(np.array([samples]), PAIR, name), by).samples_N_K_A[0].tolist()
        )
        return found

    def check(found: list[list[float]], *expected: list[float]) -> None:
        assert np.array(found) == pytest.approx(np.array(expected))

    check(calibrated("multinomial", Calibration(slope=2.0), [0.8, 0.2]), [16 / 17, 1 / 17])  # odds 4 become 16
    check(calibrated("multinomial", Calibration(temperature=2.0), [0.8, 0.2]), [2 / 3, 1 / 3])  # and their root
    # odds 4 and 1: their mean is 2, and 2 or a half as far from it again is 8 and 1 / 2
    check(calibrated("multinomial", Calibration(spread=2.0), [0.8, 0.2], [0.5, 0.5]), [8 / 9, 1 / 9], [1 / 3, 2 / 3])
    check(calibrated("dirichlet_multinomial", Calibration(0.5, 2.0), [8.0, 2.0]), [10 / 3, 5 / 3])
    check(calibrated("dirichlet_multinomial", Calibration(temperature=2.0), [8.0, 2.0]), [4.0, 1.0])
    of_precision = Calibration(precision_slope=2.0)  # 10 stays, half of it becomes a quarter
    check(calibrated("dirichlet_multinomial", of_precision, [8.0, 2.0], [4.0, 1.0]), [8.0, 2.0], [2.0, 0.5])
    assert calibrated("multinomial", Calibration(), [0.7, 0.2]) == [[0.7, 0.2]]


def test_concentrations_stay_finite_however_the_precision_is_corrected() -> None:
    samples = np.array([[[4000.0, 1000.0]], [[1e-7, 1e-7]]])
    found = calibrate(PredictedVotes(samples, PAIR, "dirichlet_multinomial"), Calibration(precision_slope=10.0))
    assert np.isfinite(found.samples_N_K_A).all() and (found.samples_N_K_A > 0).all()
    assert metrics.loss(found, [[4, 1], [0, 5]]) > metrics.loss(found, [[0, 0], [0, 0]]) + 0.5, "lgamma is still exact"


def test_single_votes_leave_the_precision_and_no_galaxies_leave_all() -> None:
    pairs = PredictedVotes(samples_of_the_tree("dirichlet_multinomial", 200).samples_N_K_A[:, :, :2], PAIR,
                           "dirichlet_multinomial")  # fmt: skip
    votes = np.eye(2)[np.random.default_rng(5).integers(0, 2, 200)]  # at random: the samples say nothing
    found = fit_calibration(pairs, votes)
    assert (found.temperature, found.spread, found.precision_slope) == pytest.approx((1, 1, 1), abs=0.03)
    assert found.slope < 0.8
    assert fit_calibration(pairs.take(slice(0)), votes[:0]) == Calibration()


# ------------------------------------------------------------------ real votes

GZ2 = Path(__file__).resolve().parents[2] / "shared/realdata/gz2/gz2_classifications_and_subjects.csv"


@pytest.mark.skipif(not GZ2.is_file(), reason="the folder shared/realdata is not here")
def test_real_votes_scatter_more_than_multinomial_ones() -> None:
    """The same prediction for every galaxy: only the Dirichlet-multinomial can say that galaxies differ."""
    counts = pd.read_csv(GZ2).filter(regex=r"^t01.*_count$").to_numpy()
    mean = np.broadcast_to(counts.sum(axis=0) / counts.sum(), (len(counts), 1, 3))
    plain = metrics.evaluate(PredictedVotes(mean, THREE), counts)["shape"]
    same = PredictedVotes(50 * mean, THREE, "dirichlet_multinomial")
    wide = metrics.evaluate(calibrate(same, fit_calibration(same, counts)), counts)["shape"]
    assert plain["rmse"] == pytest.approx(wide["rmse"], rel=0.05), "only the slope moves the means"
    assert plain["dispersion"] > 5 and wide["dispersion"] < 2
    assert plain["coverage_error"] > 0.5 and wide["coverage_error"] < 0.2
    assert wide["log_score"] > plain["log_score"] + 1
