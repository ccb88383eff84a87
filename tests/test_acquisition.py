"""Acquisition: numbers by hand, then properties, then the 2020 paper's own values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, entropy

from zoobot import acquisition
from zoobot.errors import InputError
from zoobot.tasks import Group

SHARED = Path(__file__).resolve().parents[2] / "shared"
PAIR = (Group("bar", ("label", "not_label")),)


def slow_mutual_information(probabilities: list[float], n_votes: int) -> float:
    """One galaxy, with scipy's own binomial."""
    pmfs = [binom.pmf(np.arange(n_votes + 1), n_votes, p) for p in probabilities]
    return float(entropy(np.mean(pmfs, axis=0)) - np.mean([entropy(pmf) for pmf in pmfs]))


def test_one_vote_between_two_certain_samples_is_one_bit() -> None:
    assert acquisition.binomial_mutual_information([[0.0, 1.0]], 1) == pytest.approx([np.log(2)])


def test_one_vote_by_hand() -> None:
    # mean p = 0.5: H = log 2; each sample: H(0.25) = 0.562335
    assert acquisition.binomial_mutual_information([[0.25, 0.75]], 1) == pytest.approx([0.693147 - 0.562335], abs=1e-6)


@given(
    st.lists(st.floats(0, 1).map(lambda p: round(p, 12)), min_size=1, max_size=6),  # scipy overflows next to 0
    st.integers(0, 50),
)
def test_agrees_with_a_slow_reference(probabilities: list[float], n_votes: int) -> None:
    fast = acquisition.binomial_mutual_information([probabilities], n_votes)
    assert fast == pytest.approx([slow_mutual_information(probabilities, n_votes)], abs=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_properties(seed: int) -> None:
    random = np.random.default_rng(seed)
    samples = random.random((7, 5))
    votes = random.integers(0, 12, 7)
    scores = acquisition.binomial_mutual_information(samples, votes)
    assert (scores > -1e-12).all() and (scores <= np.log(5) + 1e-12).all()
    assert scores == pytest.approx(acquisition.binomial_mutual_information(samples[:, ::-1], votes))  # order of samples
    assert scores == pytest.approx(acquisition.binomial_mutual_information(1 - samples, votes))  # yes and no swapped
    order = random.permutation(7)
    assert scores[order] == pytest.approx(acquisition.binomial_mutual_information(samples[order], votes[order]))
    same = np.repeat(samples[:, :1], 5, axis=1)
    assert acquisition.binomial_mutual_information(same, votes) == pytest.approx(np.zeros(7), abs=1e-12)


def test_chunks_do_not_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).random((50, 4))
    whole = acquisition.binomial_mutual_information(samples, 40)
    monkeypatch.setattr(acquisition, "_CHUNK_ELEMENTS", 500)
    assert acquisition.binomial_mutual_information(samples, 40).tolist() == whole.tolist()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder shared is not here")
def test_reproduces_the_acquisition_values_of_the_2020_paper() -> None:
    golden = np.load(SHARED / "golden" / "binomial_mi_bars.npz")
    scores = acquisition.binomial_mutual_information(np.round(golden["samples"], 3), 10)
    assert np.abs(scores - golden["acquisitions"]).max() < 1e-9


@pytest.mark.parametrize("bad", [[[0.5, np.nan]], [[1.2, 0.5]], [[-0.1, 0.5]]])
def test_a_probability_that_is_none_is_an_error_naming_the_galaxy(bad: list[list[float]]) -> None:
    with pytest.raises(InputError, match=r"rows \[1\]"):
        acquisition.binomial_mutual_information([[0.5, 0.5], *bad], 10)


@pytest.mark.parametrize("votes", [-1, 2.5])
def test_votes_that_are_no_count_are_refused(votes: float) -> None:
    with pytest.raises(InputError, match="expected_votes"):
        acquisition.binomial_mutual_information([[0.5, 0.2]], votes)


def test_a_tree_expects_a_child_question_its_share_of_the_votes() -> None:
    groups = (Group("disc", ("disc_yes", "disc_no")), Group("bar", ("bar_yes", "bar_no"), after=("disc_yes",)))
    yes, bar = (
        np.array([0.2, 0.3]),
        np.array([0.1, 0.9]),
    )  # a disc with 0.25 on average: 10 of 40 are asked about the bar
    samples = np.stack([yes, 1 - yes, bar, 1 - bar], axis=1)[None]
    expected = slow_mutual_information([0.2, 0.3], 40) + slow_mutual_information([0.1, 0.9], 10)
    assert acquisition.mutual_information(samples, groups, 40) == pytest.approx([expected])


def test_a_question_of_three_answers_is_bounded_by_its_best_answer() -> None:
    groups = (Group("arms", ("1", "2", "3")),)
    samples = np.array([[[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]])
    best = max(slow_mutual_information(list(samples[0, :, a]), 5) for a in range(3))
    score = acquisition.mutual_information(samples, groups, 5)[0]
    assert score == pytest.approx(best)
    assert score <= exact_multinomial_mutual_information(samples[0], 5)


def exact_multinomial_mutual_information(samples_K_A: np.ndarray, n_votes: int) -> float:
    from scipy.stats import multinomial

    ways = [(i, j, n_votes - i - j) for i in range(n_votes + 1) for j in range(n_votes + 1 - i)]
    pmfs = np.array([[multinomial.pmf(w, n_votes, p) for w in ways] for p in samples_K_A])
    return float(entropy(pmfs.mean(axis=0)) - np.mean([entropy(pmf) for pmf in pmfs]))


def test_mutual_information_takes_the_samples_apart() -> None:
    samples = np.random.default_rng(1).random((3, 4))
    both = np.stack([samples, 1 - samples], axis=2)
    assert acquisition.mutual_information(both, PAIR, 40) == pytest.approx(
        acquisition.binomial_mutual_information(samples, 40)
    )


def test_random_is_seeded_and_does_not_look_at_the_samples() -> None:
    samples = np.random.default_rng(2).random((5, 3, 2))
    first = acquisition.score("random", samples, PAIR, 40, np.random.default_rng(7))
    again = acquisition.score("random", samples * 0, PAIR, 40, np.random.default_rng(7))
    assert first.tolist() == again.tolist()
    assert first.tolist() != acquisition.score("random", samples, PAIR, 40, np.random.default_rng(8)).tolist()


def test_rank_puts_the_highest_score_first_and_breaks_ties_by_seed() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    ranks = acquisition.rank(scores, np.random.default_rng(0))
    assert ranks[4] == 0 and ranks[0] == 4 and sorted(ranks) == [0, 1, 2, 3, 4]
    assert ranks.tolist() == acquisition.rank(scores, np.random.default_rng(0)).tolist()
    orders = {tuple(acquisition.rank(scores, np.random.default_rng(seed))) for seed in range(20)}
    assert len(orders) > 1


def test_rank_refuses_nan() -> None:
    with pytest.raises(InputError, match=r"rows \[1\]"):
        acquisition.rank(np.array([0.1, np.nan]), np.random.default_rng(0))
