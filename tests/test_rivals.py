"""Published rivals of our acquisition functions: by hand, then what holds for all of them."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.special import expit

from benchmarks import peers, rivals
from benchmarks.labels import Chooser, Galaxies, Moment
from benchmarks.rivals import Belief
from zoobot.galaxies.tasks import Group
from zoobot.models import gaussian_process, head
from zoobot.models.gaussian_process import Votes

TREE = (Group("smooth", ("smooth", "disc", "artifact")), Group("bar", ("yes", "no"), after=("disc",)))
COPIES = np.array([[1, 0.8], [0.8, 1]])


def moment(groups: tuple[Group, ...] = TREE, votes: int = 4, n: int = 8) -> Moment:
    """130 galaxies, of which 30 are labelled, with a vote for each question."""
    random = np.random.default_rng(0)
    features = random.normal(size=(130, 4)).astype(np.float32)
    parts = []
    for group in groups:
        chances = expit(features[:, : len(group.answers)] * 2) + 0.01
        parts.append(random.multinomial(votes, chances / chances.sum(axis=1, keepdims=True)))
    ids, counts = np.array([f"galaxy{i:03d}" for i in range(130)]), np.concatenate(parts, axis=1).astype(float)
    galaxies = Galaxies(ids, features, counts, groups, votes)
    labelled, left = np.arange(30), np.arange(30, 130)
    return Moment(galaxies, head.fit(*galaxies.take(labelled), groups), labelled, left, n, 3)


def belief(covariance_P_P: np.ndarray) -> Belief:
    """With observations of precision 1: four votes whose answers are equally likely."""
    n = len(covariance_P_P)
    return Belief(np.asarray(covariance_P_P, dtype=float), np.full(n, 4.0), np.full(n, 0.25), True)


def test_votes_of_a_galaxy_by_hand() -> None:
    ours = belief(COPIES)
    assert ours.reduction()[0] == pytest.approx((1 + 0.8**2) / 2)  # of a trace of 2, which leaves 1.18
    ours.see(0)  # half of its variance is left, and 1 - 0.8² / 2 of the other's
    np.testing.assert_allclose(covariance(ours), [[0.5, 0.4], [0.4, 0.68]])
    np.testing.assert_allclose(ours.variance_P, [0.5, 0.68])
    np.testing.assert_allclose(ours.squares_P, [0.5**2 + 0.4**2, 0.4**2 + 0.68**2])
    assert ours.reduction(-1)[0] == pytest.approx(-(1 + 0.8**2) / 2)
    ours.see(0, -1)
    np.testing.assert_allclose(covariance(ours), COPIES)


def covariance(of: Belief) -> np.ndarray:
    return np.stack([of.times(unit) for unit in np.eye(len(of.votes_P))])


def test_knowing_a_galaxy_by_hand() -> None:
    knowing = belief(COPIES).knowing(np.array([1]))
    np.testing.assert_allclose(knowing.covariance_P_P, [[0.36, 0], [0, 0]], atol=1e-5)


def test_information_about_targets_not_about_the_most_uncertain() -> None:
    alike = np.diag([1.0, 9, 1, 1])  # galaxy 3 is the target, and like galaxy 0; nothing is like galaxy 1
    alike[0, 3] = alike[3, 0] = 0.9
    assert rivals.most_informative([belief(alike)], np.array([3]), 3, 1).tolist() == [0]


def test_covering_by_hand() -> None:
    left = np.array([[0.0], [0.1], [0.2], [5], [5.1], [9]])
    picks = rivals.cover(left, np.array([[0.1]]), np.ones(6), 1.0, 2)
    assert set(picks[:1]) <= {3, 4} and picks[1] == 5  # two galaxies before one, and none where one is labelled
    weights = np.array([1, 1, 1, 0, 0, 1])
    assert rivals.cover(left, np.array([[0.1]]), weights, 1.0, 1).tolist() == [5]  # others are certain


def test_the_joint_posterior_is_that_of_the_textbook() -> None:
    at = moment((Group("smooth", ("smooth", "not")),), votes=1)
    (process,) = at.fitted.questions[0].processes
    x = at.fitted.scale.apply(at.galaxies.features_N_H[np.concatenate([at.left, at.labelled])])
    prior = gaussian_process._covariance(x, x, process.tuned)
    mean, _ = process.leave_one_out(x, Votes(np.zeros(len(x)), np.zeros(len(x))))
    chance = expit(mean[len(at.left) :])
    seen = prior[:, len(at.left) :]  # GPML equation 3.24
    expected = prior - seen @ np.linalg.solve(seen[len(at.left) :] + np.diag(1 / (chance * (1 - chance))), seen.T)
    np.testing.assert_allclose(process.covariance(x, x), expected, atol=0.02)  # of up to 3: Newton stops one step early


def test_votes_that_a_later_question_gets() -> None:
    first, second, bar = rivals.beliefs(moment())
    assert (first.votes_P <= 4).all() and (first.votes_P > 1).all()
    assert (second.votes_P < first.votes_P).all()
    assert (bar.votes_P < 4).all() and (bar.votes_P >= 0).all()


def test_what_bait_drops_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    at, found = moment(), rivals.beliefs(moment(), reduces=True)
    monkeypatch.setattr(rivals, "beliefs", lambda _, reduces: found)
    fresh, picks = [replace(of) for of in found], rivals.bait(at)
    for ours, other in zip(found, fresh, strict=True):
        for row in picks:
            other.see(row)
        np.testing.assert_allclose(covariance(ours), covariance(other), atol=1e-6)
        np.testing.assert_allclose(ours.squares_P, other.squares_P, atol=1e-6)


@pytest.mark.parametrize("name", peers.RIVALS)
def test_a_rival_picks_different_galaxies_and_sees_no_hidden_vote(name: str) -> None:
    at, choose = moment(), peers.RIVALS[name]
    check(at, choose)


@pytest.mark.skipif("SKACTIVEML" not in os.environ, reason="needs SKACTIVEML, see benchmarks/peers.py")
@pytest.mark.parametrize("name", peers.THEIRS)
def test_a_strategy_of_scikit_activeml_does_too(name: str) -> None:
    check(moment(), partial(peers.theirs, name))


def check(at: Moment, choose: Chooser) -> None:
    assert callable(choose)
    picks = choose(at)
    assert len(set(picks.tolist())) == at.n == len(picks)
    assert ((picks >= 0) & (picks < len(at.left))).all()
    hidden = at.galaxies.counts_N_A.copy()
    hidden[at.left] = hidden[at.left][::-1]
    others = choose(replace(at, galaxies=replace(at.galaxies, counts_N_A=hidden)))
    np.testing.assert_array_equal(picks, others)
