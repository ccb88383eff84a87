"""The Bayesian linear head: numbers by hand, an independent optimiser, then the properties of a posterior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from zoobot import metrics
from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group
from zoobot.models import linear_head

PAIR = (Group("bar", ("label", "not_label")),)
THREE = (Group("smooth", ("a", "b", "c")),)
Floats = npt.NDArray[np.float64]


def simulated(
    n: int, n_features: int, n_answers: int, n_votes: int, rho: float, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Features, votes with correlation rho, and the true weights (H × A, the last answer 0)."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, n_features))
    weights = np.concatenate([random.normal(0, 0.7, (n_features, n_answers - 1)), np.zeros((n_features, 1))], axis=1)
    probabilities = softmax(features @ weights, axis=1)
    if rho:
        probabilities = np.stack([random.dirichlet(p * (1 - rho) / rho + 1e-9) for p in probabilities])
    return features, np.stack([random.multinomial(n_votes, p) for p in probabilities]).astype(float), weights


def test_without_information_the_intercept_is_the_log_odds() -> None:
    counts = np.array([[3.0, 1.0]] * 50)  # 150 of 200
    fitted = linear_head.fit(np.zeros((50, 2)), counts, PAIR)
    (posterior,) = fitted.questions
    assert posterior.mean[-1, 0] == pytest.approx(np.log(3), abs=1e-3) and posterior.mean[:-1] == pytest.approx(0)
    samples = fitted.sample(np.zeros((1, 2)), 20_000, np.random.default_rng(0), concentrations=False)
    deviation = np.log(samples[0, :, 0] / samples[0, :, 1]).std()
    effective = 200 / (1 + 3 * posterior.rho)
    assert deviation / posterior.slope == pytest.approx((effective * 0.75 * 0.25) ** -0.5, rel=0.03)


def test_single_votes_have_no_correlation_and_one_galaxy_is_enough() -> None:
    features, counts, _ = simulated(200, 3, 2, 1, 0.0, seed=0)
    assert linear_head.fit(features, counts, PAIR).questions[0].rho == 0
    (posterior,) = linear_head.fit(features[:1], counts[:1], PAIR).questions
    assert np.isfinite(posterior.mean).all()


def test_a_question_nobody_was_asked_keeps_its_prior() -> None:
    fitted = linear_head.fit(np.ones((4, 2)), np.array([[1.0, 2, 0, 0]] * 4), (*PAIR, Group("b", ("x", "y"))))
    assert fitted.questions[1].mean == pytest.approx(0)
    samples = fitted.sample(np.ones((3, 2)), 50, np.random.default_rng(0))
    assert samples.shape == (3, 50, 4) and np.isfinite(samples).all()


@pytest.mark.parametrize(("groups", "n_answers"), [(PAIR, 2), (THREE, 3)])
def test_agrees_with_a_general_optimiser(groups: tuple[Group, ...], n_answers: int) -> None:
    features, counts, _ = simulated(120, 4, n_answers, 20, 0.1, seed=1)
    features = (features - features.mean(axis=0)) / features.std(axis=0)  # as the head itself sees them
    (posterior,) = linear_head.fit(features, counts, groups).questions
    effective = counts / (1 + 19 * posterior.rho)
    with_one = np.concatenate([features, np.ones((120, 1))], axis=1)
    prior = np.full(posterior.mean.shape, posterior.prior_precision)
    prior[-1] = 1e-3

    def loss(flat: Floats) -> float:
        logits = with_one @ flat.reshape(prior.shape)
        log_probabilities = log_softmax(np.concatenate([logits, np.zeros((120, 1))], axis=1), axis=1)
        return float((prior.ravel() * flat**2).sum() / 2 - (effective * log_probabilities).sum())

    best = minimize(loss, np.zeros(prior.size), method="BFGS", options={"gtol": 1e-7})
    assert posterior.mean.ravel() == pytest.approx(best.x, abs=1e-3)
    covariance = np.linalg.inv(posterior.precision_factor.T @ posterior.precision_factor)
    step = 1e-4  # the inverse is the curvature at the maximum, by finite differences
    numeric = np.zeros_like(covariance)
    unit = np.eye(prior.size) * step
    for i in range(prior.size):
        for j in range(prior.size):
            numeric[i, j] = (
                loss(best.x + unit[i] + unit[j]) - loss(best.x + unit[i]) - loss(best.x + unit[j]) + loss(best.x)
            ) / step**2
    assert np.linalg.inv(covariance) == pytest.approx(numeric, rel=0.02, abs=0.05)


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.3])
def test_the_correlation_of_votes_is_found(rho: float) -> None:
    features, counts, _ = simulated(800, 4, 3, 30, rho, seed=2)
    assert linear_head.fit(features, counts, THREE).questions[0].predicted_rho == pytest.approx(
        rho, abs=0.02 + 0.1 * rho
    )


def test_galaxies_chosen_for_their_scatter_do_not_make_the_head_unsure_of_the_others() -> None:
    fair = simulated(600, 4, 2, 30, 0.02, seed=7)
    rng = np.random.default_rng(8)
    chosen = rng.normal(size=(150, 4))  # volunteers disagree about these, whatever the features
    counts = np.stack([rng.multinomial(30, p) for p in rng.dirichlet([0.6, 0.6], 150)])
    features, votes = np.concatenate([fair[0][:60], chosen]), np.concatenate([fair[1][:60], counts])
    at_random = np.arange(210) < 60
    losses = []
    for drawn in (at_random, None):
        samples = linear_head.fit(features, votes, PAIR, drawn).sample(fair[0][60:], 30, np.random.default_rng(0))
        log_likelihood = metrics.log_likelihood("dirichlet_multinomial", samples, fair[1][60:, None])
        losses.append(-metrics.mean_over_samples(log_likelihood).mean())
    assert losses[0] < losses[1] - 0.05
    (uncalibrated,) = linear_head.fit(features, votes, PAIR, np.zeros(210, bool)).questions
    assert (uncalibrated.slope, uncalibrated.predicted_rho) == (1, uncalibrated.rho), "none to calibrate on"


def test_the_posterior_covers_the_truth_as_often_as_it_says() -> None:
    ranks = []
    for seed in range(150):
        features, counts, weights = simulated(60, 3, 2, 10, 0.1, seed)
        fitted = linear_head.fit(features, counts, PAIR)
        new = np.random.default_rng(1000 + seed).normal(size=(5, 3))
        samples = fitted.sample(new, 200, np.random.default_rng(seed), concentrations=False)[:, :, 0]
        truth = expit(new @ (weights[:, 0] - weights[:, 1]))
        ranks += list((samples < truth[:, None]).mean(axis=1))
    inside = np.mean((np.array(ranks) > 0.05) & (np.array(ranks) < 0.95))
    assert 0.85 < inside < 0.95


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_the_order_of_galaxies_and_of_answers_does_not_matter(seed: int, n_answers: int) -> None:
    features, counts, _ = simulated(30, 2, n_answers, 8, 0.2, seed)
    groups = (Group("q", tuple("abcd"[:n_answers])),)
    (posterior,) = linear_head.fit(features, counts, groups).questions
    order = np.random.default_rng(seed).permutation(30)
    (permuted,) = linear_head.fit(features[order], counts[order], groups).questions
    assert permuted.mean == pytest.approx(posterior.mean, abs=1e-4) and permuted.rho == pytest.approx(posterior.rho)


def test_samples_are_joint_over_galaxies_seeded_and_concentrations_say_rho() -> None:
    features, counts, _ = simulated(100, 3, 3, 20, 0.2, seed=3)
    fitted = linear_head.fit(features, counts, THREE)
    twice = [fitted.sample(features[[0, 0, 1]], 7, np.random.default_rng(5)) for _ in range(2)]
    assert (twice[0] == twice[1]).all() and (twice[0][0] == twice[0][1]).all()
    rho = fitted.questions[0].predicted_rho
    assert twice[0].sum(axis=-1) == pytest.approx((1 - rho) / rho, rel=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="finite"):
        linear_head.fit(np.array([[bad]]), np.array([[1.0, 1.0]]), PAIR)


def test_where_features_lie_and_their_scale_do_not_matter() -> None:
    features, counts, _ = simulated(60, 3, 2, 10, 0.1, seed=4)
    features[:, 2] = 7.0  # the same for all galaxies
    twice = [
        linear_head.fit(f, counts, PAIR).sample(f, 5, np.random.default_rng(0)) for f in (features, 9 - 4 * features)
    ]
    means = [linear_head.fit(f, counts, PAIR).questions[0].mean for f in (features, 9 + 4 * features)]
    assert means[0] == pytest.approx(means[1], abs=1e-6) and np.isfinite(twice).all()


def test_what_is_saved_comes_back_and_the_file_is_byte_stable(tmp_path: Path) -> None:
    features, counts, _ = simulated(60, 3, 3, 10, 0.1, seed=5)
    fitted = linear_head.fit(features, counts, THREE)
    for name in ("a.npz", "b.npz"):
        fitted.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = linear_head.load(tmp_path / "a.npz")
    samples = [one.sample(features, 5, np.random.default_rng(0)) for one in (fitted, again)]
    assert (samples[0] == samples[1]).all() and again.questions[0].slope == fitted.questions[0].slope
