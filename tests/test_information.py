"""The information in votes: numbers by hand, then slow references, properties, and the 2020 paper's own values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, dirichlet_multinomial, entropy, multinomial, spearmanr

from zoobot import acquisition
from zoobot.acquisition import information
from zoobot.errors import InputError

Floats = npt.NDArray[np.float64]
SHARED = Path(__file__).resolve().parents[2] / "shared"


def slow_mutual_information(probabilities: list[float], n_votes: int) -> float:
    """One galaxy, with scipy's own binomial."""
    pmfs = [binom.pmf(np.arange(n_votes + 1), n_votes, p) for p in probabilities]
    return float(entropy(np.mean(pmfs, axis=0)) - np.mean([entropy(pmf) for pmf in pmfs]))


def test_one_vote_between_two_certain_samples_is_one_bit() -> None:
    assert acquisition.binomial_mutual_information([[0.0, 1.0]], 1) == pytest.approx([np.log(2)])


def test_one_vote_by_hand() -> None:
    # mean p = 0.5: H = log 2; each sample: H(0.25) = 0.562335
    assert acquisition.binomial_mutual_information([[0.25, 0.75]], 1) == pytest.approx([0.693147 - 0.562335], abs=1e-6)


@hypothesis_settings(deadline=None)
@given(
    st.lists(st.just(0.0) | st.floats(1e-99, 1), min_size=1, max_size=6),  # below, scipy's binomial overflows
    st.integers(0, 50),
)
def test_agrees_with_a_slow_reference(probabilities: list[float], n_votes: int) -> None:
    fast = acquisition.binomial_mutual_information([probabilities], n_votes)
    assert fast == pytest.approx([slow_mutual_information(probabilities, n_votes)], abs=1e-9)


@hypothesis_settings(deadline=None)
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
    monkeypatch.setattr(information, "_CHUNK_ELEMENTS", 500)
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


@pytest.mark.parametrize("votes", [-1, 2.5, 501, np.nan])
def test_votes_that_are_no_count_are_refused(votes: float) -> None:
    with pytest.raises(InputError, match="expected_votes"):
        acquisition.binomial_mutual_information([[0.5, 0.2]], votes)


def all_counts(n_answers: int, n_votes: int) -> Iterator[tuple[int, ...]]:
    for first in itertools.product(range(n_votes + 1), repeat=n_answers - 1):
        if sum(first) <= n_votes:
            yield (*first, n_votes - sum(first))


def slow_information(values_K_A: Floats, n_votes: int, dirichlet: bool) -> list[float]:
    """One galaxy, by listing all counts, with scipy's own distributions: entropy and mutual information."""
    counts = np.array(list(all_counts(values_K_A.shape[1], n_votes)))
    of_sample = [dirichlet_multinomial(a, n_votes) if dirichlet else multinomial(n_votes, a) for a in values_K_A]
    pmfs = np.array([np.exp(distribution.logpmf(counts)) for distribution in of_sample])
    mixture = float(entropy(pmfs.mean(axis=0)))
    return [mixture, mixture - float(np.mean([entropy(pmf) for pmf in pmfs]))]


def samples_of(n: int, n_samples: int, n_answers: int, random: np.random.Generator, spread: float = 0.5) -> Floats:
    """Probabilities that differ little between the samples of some galaxies and much for others."""
    logits = np.log(random.dirichlet(np.ones(n_answers), n))[:, None, :]
    logits = logits + spread * random.random((n, 1, 1)) * random.normal(size=(n, n_samples, n_answers))
    exponentials = np.exp(logits)
    return np.asarray(exponentials / exponentials.sum(axis=2, keepdims=True))


def test_a_dirichlet_multinomial_vote_by_hand() -> None:
    # one vote: only the means 1/4 and 3/4 count, whatever the concentrations' sum
    concentrations = np.array([[[1.0, 3.0], [30.0, 10.0]]])
    assert acquisition.dirichlet_multinomial_mutual_information(concentrations, 1) == pytest.approx(
        [0.693147 - 0.562335], abs=1e-6
    )


def test_two_uniform_votes_by_hand() -> None:
    # concentrations 1, 1: 0, 1 or 2 of 2 votes are equally likely
    entropy_N, information_N = information.dirichlet_multinomial_information(np.ones((1, 3, 2)), 2)
    assert entropy_N == pytest.approx([np.log(3)]) and information_N == pytest.approx([0], abs=1e-12)


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 7), st.booleans())
def test_many_answers_agree_with_a_slow_reference(seed: int, n_answers: int, n_votes: int, dirichlet: bool) -> None:
    random = np.random.default_rng(seed)
    values = samples_of(3, 4, n_answers, random)
    if dirichlet:
        values = values * random.uniform(0.05, 50, (3, 4, 1))
    function = information.dirichlet_multinomial_information if dirichlet else information.multinomial_information
    expected = np.array([slow_information(galaxy, n_votes, dirichlet) for galaxy in values]).T
    assert function(values, n_votes) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dirichlet", [False, True])
@pytest.mark.parametrize(("n_answers", "n_votes"), [(3, 40), (4, 15), (6, 6)])
def test_agrees_with_a_slow_reference_at_full_size(n_answers: int, n_votes: int, dirichlet: bool) -> None:
    values = samples_of(2, 5, n_answers, np.random.default_rng(0)) * (12 if dirichlet else 1)
    function = information.dirichlet_multinomial_information if dirichlet else information.multinomial_information
    expected = np.array([slow_information(galaxy, n_votes, dirichlet) for galaxy in values]).T
    assert function(values, n_votes) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dirichlet", [False, True])
def test_the_estimate_ranks_as_the_exact_value_does(dirichlet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values = samples_of(300, 20, 4, np.random.default_rng(1)) * (10 if dirichlet else 1)
    function = information.dirichlet_multinomial_information if dirichlet else information.multinomial_information
    exact = function(values, 40)
    monkeypatch.setattr(information, "EXACT_OUTCOMES", 100)
    estimate = function(values, 40)
    assert estimate.tolist() != exact.tolist()
    assert spearmanr(estimate[1], exact[1]).statistic >= 0.995
    assert np.sqrt(np.mean((estimate - exact) ** 2)) < 0.015
    order = np.random.default_rng(2).permutation(300)
    assert function(values[order], 40) == pytest.approx(estimate[:, order], abs=1e-9)


def test_drawn_counts_have_the_means_of_their_samples() -> None:
    alpha_N_A_K = np.array([[[0.5, 8.0], [3.0, 0.1], [1.5, 2.0]]])
    for dirichlet, values in ((True, alpha_N_A_K), (False, alpha_N_A_K / alpha_N_A_K.sum(axis=1, keepdims=True))):
        many = np.repeat(values, 300, axis=2)  # more draws: sample k of 600 is sample k // 300 of 2
        counts_A_M = information._draw_counts(many, 30, dirichlet)[0]
        assert (counts_A_M.sum(axis=0) == 30).all() and counts_A_M.min() >= 0
        sample_M = np.arange(counts_A_M.shape[1]) % 600 // 300
        for k in range(2):
            share = values[0, :, k] / values[0, :, k].sum()
            assert counts_A_M[:, sample_M == k].mean(axis=1) == pytest.approx(30 * share, abs=0.5)


def test_many_certain_votes_stay_in_the_range_of_floats() -> None:
    certain = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert acquisition.multinomial_mutual_information(certain, 150) == pytest.approx([np.log(2)], abs=1e-9)
    concentrations = np.array([[[1e4, 1e-3], [1e-3, 1e4]]])
    assert acquisition.dirichlet_multinomial_mutual_information(concentrations, 500) == pytest.approx([0.693], abs=0.01)


def test_two_answers_are_binomial_and_large_concentrations_multinomial() -> None:
    samples = samples_of(6, 4, 3, np.random.default_rng(3))
    both = np.stack([samples[:, :, 0], 1 - samples[:, :, 0]], axis=2)
    assert acquisition.multinomial_mutual_information(both, 40) == pytest.approx(
        acquisition.binomial_mutual_information(samples[:, :, 0], 40), abs=1e-12
    )
    nearly = acquisition.dirichlet_multinomial_mutual_information(samples * 1e7, 20)
    assert nearly == pytest.approx(acquisition.multinomial_mutual_information(samples, 20), abs=1e-4)


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_volunteers_who_agree(seed: int, dirichlet: bool) -> None:
    values = samples_of(2, 3, 3, np.random.default_rng(seed)) * (5 if dirichlet else 1)
    expected = np.zeros(2)
    for n, galaxy in enumerate(values):
        for each in galaxy:
            for own, others in zip(each, each.sum() - each, strict=True):
                one = betabinom(10, own, others) if dirichlet else binom(10, own / each.sum())
                expected[n] += one.sf(7) / 3
    assert information.agreement_probability(values, dirichlet, 8, 10) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "concentrations"), (0.0, "above 0"), (np.inf, "not finite")])
def test_concentrations_that_are_none_are_refused(value: float, message: str) -> None:
    with pytest.raises(InputError, match=rf"{message}.* rows \[1\]"):
        acquisition.dirichlet_multinomial_mutual_information([[[1.0, 2.0]], [[value, 1.0]]], 10)


def test_probabilities_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"sum to 1 .* rows \[0\]"):
        acquisition.multinomial_mutual_information([[[0.5, 0.2]]], 10)
    with pytest.raises(InputError, match="at least 2"):
        acquisition.multinomial_mutual_information([[[0.5]]], 10)
