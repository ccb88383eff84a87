"""Few votes on many galaxies: what benchmarks/votes_per_galaxy.py draws from the votes of each galaxy."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import labels, votes_per_galaxy
from benchmarks.labels import Galaxies
from benchmarks.votes_per_galaxy import thin
from zoobot.galaxies.tasks import Group

GROUPS = (Group("shape", ("smooth", "disc")), Group("bar", ("yes", "no"), after=("disc",)))


def galaxies(counts: npt.ArrayLike) -> Galaxies:
    counts_N_A = np.asarray(counts, dtype=np.float64)
    features = np.random.default_rng(0).normal(size=(len(counts_N_A), 2)).astype(np.float32)
    return Galaxies(np.array([f"g{n}" for n in range(len(counts_N_A))]), features, counts_N_A, GROUPS, 40)


def test_votes_that_leave_no_choice() -> None:
    counts = [[7, 0, 0, 0], [0, 9, 9, 0], [2, 1, 0, 1]]
    assert thin(galaxies(counts), 3, 0).tolist() == [[3, 0, 0, 0], [0, 3, 3, 0], [2, 1, 0, 1]]
    assert thin(galaxies(counts), 40, 0).tolist() == counts, "nobody votes twice"


@given(
    st.lists(st.tuples(*[st.integers(0, 30)] * 4).filter(lambda c: c[0] + c[1] > 0), min_size=1, max_size=5),
    st.integers(1, 50),
    st.integers(0, 5),
)
def test_sums(counts: list[tuple[int, ...]], n_votes: int, seed: int) -> None:
    of = galaxies(counts)
    drawn_N_A = thin(of, n_votes, seed)
    assert ((drawn_N_A >= 0) & (drawn_N_A <= of.counts_N_A)).all()
    assert (drawn_N_A[:, :2].sum(axis=1) == np.minimum(n_votes, of.counts_N_A[:, :2].sum(axis=1))).all()
    asked_N = drawn_N_A[:, 2:].sum(axis=1)
    assert (asked_N <= drawn_N_A[:, 1]).all(), "only who saw a disc is asked for the bar"
    full_N = of.counts_N_A[:, 2:].sum(axis=1) >= of.counts_N_A[:, 1]
    assert (asked_N[full_N] == drawn_N_A[full_N, 1]).all(), "all who saw a disc answered"


def test_draws_have_the_fractions_of_all_votes_and_belong_to_the_galaxy() -> None:
    of = galaxies([[30, 10, 8, 2]] * 2000)
    drawn_N_A = thin(of, 8, 1)
    assert drawn_N_A.mean(axis=0) == pytest.approx([6, 2, 1.6, 0.4], abs=0.12)
    assert drawn_N_A[:, 0].var() == pytest.approx(8 * 0.75 * 0.25 * 32 / 39, rel=0.15), "without replacement"
    assert (thin(of, 8, 1) == drawn_N_A).all()
    assert (thin(of, 8, 2) != drawn_N_A).any()


def test_a_simulation_thins_what_is_labelled_and_tests_on_all_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    of = galaxies([[30, 10, 8, 2]] * 100)
    called = Mock()
    monkeypatch.setattr(labels, "simulate", called)
    votes_per_galaxy.simulate(of, [50, 150], ("badge", 5, 0))
    thinned, steps, line = called.call_args.args
    test, pool = of.split(0)
    assert (thinned.counts_N_A[test] == of.counts_N_A[test]).all()
    assert (thinned.counts_N_A[pool, :2].sum(axis=1) == 5).all()
    assert (thinned.expected_votes, steps, line) == (5, [10, 30], ("badge", 0))
    with pytest.raises(SystemExit, match="more than the 70 galaxies"):
        votes_per_galaxy.simulate(of, [400], ("badge", 5, 0))
