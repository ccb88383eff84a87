"""Metrics: numbers by hand, then against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from zoobot import metrics
from zoobot.tasks import Group

PAIR = (Group("bar", ("label", "not_label")),)


def test_two_galaxies_by_hand() -> None:
    samples = np.array([[[0.5, 0.5]], [[0.9, 0.1]]])  # one sample each
    counts = np.array([[1, 1], [4, 0]])  # fractions 0.5 and 1
    measured = metrics.evaluate(samples, counts, PAIR)
    assert measured["bar"]["mae"] == pytest.approx(0.05)
    assert measured["bar"]["rmse"] == pytest.approx(np.sqrt(0.01 / 2))
    # log C(2,1)/4 = log 0.5 and log 0.9^4
    assert measured["bar"]["log_score"] == pytest.approx((np.log(0.5) + 4 * np.log(0.9)) / 2)
    assert measured["all"]["loss"] == pytest.approx(-measured["bar"]["log_score"])


def test_samples_are_mixed_as_probabilities_not_as_logs() -> None:
    measured = metrics.evaluate(np.array([[[0.2, 0.8], [0.6, 0.4]]]), np.array([[1, 0]]), PAIR)
    assert measured["bar"]["log_score"] == pytest.approx(np.log(0.4))


def test_a_question_without_votes_changes_nothing() -> None:
    groups = (*PAIR, Group("arms", ("1", "2", "3")))
    samples = np.array([[[0.5, 0.5, 0.2, 0.3, 0.5]]])
    measured = metrics.evaluate(samples, np.array([[1, 1, 0, 0, 0]]), groups)
    assert measured["arms"] == {"galaxies": 0}
    assert measured["all"]["loss"] == pytest.approx(-np.log(0.5))


def test_the_loss_of_a_tree_is_joint_over_questions() -> None:
    groups = (Group("a", ("a1", "a2")), Group("b", ("b1", "b2")))
    samples = np.array([[[0.9, 0.1, 0.1, 0.9], [0.1, 0.9, 0.9, 0.1]]])  # a1 goes with b2
    measured = metrics.evaluate(samples, np.array([[1, 0, 0, 1]]), groups)
    assert measured["all"]["loss"] == pytest.approx(-np.log((0.81 + 0.01) / 2))


def test_a_vote_for_an_answer_of_probability_zero_stays_finite() -> None:
    assert np.isfinite(metrics.evaluate(np.array([[[1.0, 0.0]]]), np.array([[0, 3]]), PAIR)["all"]["loss"])


@given(st.integers(0, 2**32 - 1))
def test_likelihood_agrees_with_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(4))
    counts = random.integers(0, 9, 4)
    mine = metrics.multinomial_log_likelihood(probabilities, counts.astype(float))
    assert mine == pytest.approx(multinomial.logpmf(counts, counts.sum(), probabilities))
