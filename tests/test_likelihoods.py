"""The losses: numbers by hand, the numpy reference, its finite differences, extremes; the heads they train."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import binom

from zoobot import metrics
from zoobot.galaxies.tasks import Group
from zoobot.models import losses

PAIR = (Group("smooth", ("label", "not_label")),)
TREE = (Group("a", ("a1", "a2", "a3")), Group("b", ("b1", "b2"), after=("a2",)))
NAMES = list(metrics.LIKELIHOODS)


def loss(name: str, counts: object, outputs: object, groups: tuple[Group, ...] = PAIR) -> np.ndarray:
    value: np.ndarray = losses.loss(name, groups)(
        np.asarray(counts, np.float32), np.asarray(outputs, np.float32)
    ).numpy()
    return value


def random_case(name: str, seed: int, most_votes: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Counts N × 5 (some questions not asked) and outputs N × 5 of the tree, in float32."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, most_votes, (6, 5)).astype(np.float32)
    counts[::3, 3:] = 0
    outputs = np.concatenate([random.dirichlet(np.ones(n), 6) for n in (3, 2)], axis=1)
    if name == "dirichlet_multinomial":
        outputs *= 10 ** random.uniform(-1, 3, (6, 1))
    return counts, np.maximum(outputs, 1e-3).astype(np.float32)


def reference(name: str, counts: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """From metrics, without the coefficient."""
    total: np.ndarray = np.zeros(len(counts))
    for at in metrics.columns(TREE):
        k = counts[:, at].astype(np.float64)
        coefficient = gammaln(k.sum(axis=1) + 1) - gammaln(k + 1).sum(axis=1)
        total += coefficient - metrics.log_likelihood(name, outputs[:, at], k)
    return total


def test_a_single_question_is_the_binomial_without_its_coefficient() -> None:
    value = loss("multinomial", [[30, 10]], [[0.7, 0.3]])
    assert value == pytest.approx([-(30 * np.log(0.7) + 10 * np.log(0.3))], rel=1e-5)
    difference = binom.logpmf(30, 40, 0.7) - binom.logpmf(30, 40, 0.5)
    assert loss("multinomial", [[30, 10]], [[0.5, 0.5]]) - value == pytest.approx([difference], rel=1e-4)


def test_the_uniform_beta_binomial_gives_every_count_the_same_probability() -> None:
    # 1 / 3 for each of 0, 1, 2; the coefficient of k = 1 is 2
    values = loss("dirichlet_multinomial", [[0, 2], [1, 1], [2, 0]], np.ones((3, 2)))
    assert values == pytest.approx([np.log(3), np.log(6), np.log(3)], rel=1e-6)


def test_a_tree_sums_over_questions_and_skips_those_not_asked() -> None:
    counts = [[2, 1, 0, 0, 0], [0, 3, 0, 2, 1]]
    expected = [-(2 * np.log(0.5) + np.log(0.3)), -(3 * np.log(0.3) + 2 * np.log(0.9) + np.log(0.1))]
    assert loss("multinomial", counts, [[0.5, 0.3, 0.2, 0.9, 0.1]] * 2, TREE) == pytest.approx(expected, rel=1e-5)
    # concentrations 1, 1, 1: 2! 1! / (3·4·5); 2, 1: 2·3·1 / (3·4·5)
    counts, concentrations = [[2, 1, 0, 0, 0], [2, 1, 0, 2, 1]], [[1, 1, 1, 2, 1]] * 2
    assert loss("dirichlet_multinomial", counts, concentrations, TREE) == pytest.approx(
        [np.log(30), np.log(30) + np.log(10)], rel=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32 - 1))
def test_losses_agree_with_numpy(name: str, seed: int) -> None:
    counts, outputs = random_case(name, seed)
    assert loss(name, counts, outputs, TREE) == pytest.approx(reference(name, counts, outputs), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("most_votes", [2, 60, 1_000_000])
def test_gradients_are_the_finite_differences_of_numpy(name: str, most_votes: int) -> None:
    counts, outputs = random_case(name, seed=most_votes, most_votes=most_votes)
    variable = tf.Variable(outputs)
    with tf.GradientTape() as tape:
        value = losses.loss(name, TREE)(counts, variable)
    gradient = tape.gradient(value, variable).numpy()
    numeric = np.zeros(outputs.shape)
    for a in range(outputs.shape[1]):
        step = np.zeros_like(outputs, dtype=np.float64)
        step[:, a] = 1e-4 * outputs[:, a]
        rise = reference(name, counts, outputs + step) - reference(name, counts, outputs - step)
        numeric[:, a] = rise / (2 * step[:, a])
    assert gradient == pytest.approx(numeric, rel=1e-3, abs=1e-5 * max(1, np.abs(numeric).max()))
    assert (gradient[::3, 3:] == 0).all()  # not asked


@pytest.mark.parametrize("name", NAMES)
def test_a_million_votes_and_single_ones_are_exact_to_float32(name: str) -> None:
    """lgamma in float32 would be off by a nat: 2e-6 of these losses."""
    counts = np.float32([[700_001, 299_999, 1, 1, 0], [0, 1, 0, 1_000_000, 0], [1, 0, 0, 0, 0]])
    outputs = np.float32([[0.5, 0.3, 0.2, 0.9, 0.1]] * 3)
    assert loss(name, counts, outputs, TREE) == pytest.approx(reference(name, counts, outputs), rel=3e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("counts", [[0, 0, 0], [1, 0, 0], [0, 10**6, 0], [10**6, 10**6, 10**6]])
def test_heads_give_finite_losses_and_gradients_at_extremes(name: str, counts: list[int]) -> None:
    hidden = keras.Input((2,))
    head = keras.Model(hidden, losses.outputs(name, hidden, 3, "question"))
    head.set_weights([np.ones_like(w) * np.arange(1, w.shape[-1] + 1) for w in head.get_weights()])
    inputs = tf.constant([[0.0, 0.0], [1e4, 1e4], [-1e4, -1e4], [60.0, 0.0], [-60.0, 0.0]])
    with tf.GradientTape() as tape:
        outputs = head(inputs)
        values = losses.loss(name, (Group("q", ("a", "b", "c")),))(np.float32([counts] * 5), outputs)
    assert np.isfinite(values.numpy()).all()
    assert all(np.isfinite(g.numpy()).all() for g in tape.gradient(values, head.trainable_variables))
    if name == "dirichlet_multinomial":
        assert (outputs.numpy() > 0).all()
        assert outputs.numpy().sum(axis=1).min() >= losses.LOWEST_PRECISION
        assert outputs.numpy().sum(axis=1).max() <= losses.HIGHEST_PRECISION * 1.001
    else:
        assert outputs.numpy().sum(axis=1) == pytest.approx(np.ones(5), rel=1e-5)


@pytest.mark.long
def test_training_finds_the_precision_that_the_votes_were_drawn_with() -> None:
    random = np.random.default_rng(0)
    fractions = random.beta(6.0, 2.0, 4000)
    label = random.binomial(40, fractions)
    counts = np.stack([label, 40 - label], axis=1).astype(np.float32)
    keras.utils.set_random_seed(0)
    hidden = keras.Input((1,))
    head = keras.Model(hidden, losses.outputs("dirichlet_multinomial", hidden, 2, "question"))
    head.compile(keras.optimizers.Adam(0.1), loss=losses.loss("dirichlet_multinomial", PAIR))
    head.fit(np.ones((4000, 1), np.float32), counts, batch_size=4000, epochs=150, verbose=0)
    assert head(np.ones((1, 1), np.float32)).numpy()[0] == pytest.approx([6.0, 2.0], rel=0.08)
