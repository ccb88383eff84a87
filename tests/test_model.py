"""The network: its samples, its determinism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoobot import model, settings
from zoobot.errors import InputError, SettingsError
from zoobot.tasks import Group

PAIR = (Group("smooth", ("label", "not_label")),)
TREE = (Group("a", ("a1", "a2", "a3")), Group("b", ("b1", "b2"), after=("a2",)))
TINY = settings.Model(
    name="tiny",
    blocks=[[4], [8]],
    hidden=8,
    final_size_px=12,
    batch_size=16,
    max_epochs=3,
    learning_rate=0.01,
    patience=3,
)


def bright_or_dark(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose brightness tells the votes."""
    random = np.random.default_rng(0)
    bright = random.random(n) < 0.5
    images = random.integers(0, 60, (n, 16, 16, 3)) + 150 * bright[:, None, None, None]
    votes = np.where(bright[:, None], [[36.0, 4.0]], [[4.0, 36.0]])
    return images.astype(np.uint8), votes.astype(np.float32)


def data(n: int = 64) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(bright_or_dark(n)).batch(16)


def test_probabilities_sum_to_one_per_question() -> None:
    network = model.build(TINY, TREE, 16, 3, seed=0)
    hidden = model.encode(model.forward(network.encoder), data(20).map(lambda images, votes: images))
    samples = model.sample([network], hidden, 7, np.random.default_rng(0))
    assert hidden.shape == (20, 8) and samples.shape == (20, 7, 5)
    assert samples[:, :, :3].sum(axis=2) == pytest.approx(np.ones((20, 7)), rel=1e-5)
    assert samples[:, :, 3:].sum(axis=2) == pytest.approx(np.ones((20, 7)), rel=1e-5)


def test_concentrations_train_and_differ_between_samples() -> None:
    chosen = replace(TINY, likelihood="dirichlet_multinomial")
    network = model.build(chosen, TREE, 16, 3, seed=0)
    images, votes = bright_or_dark(64)
    counts = np.concatenate([votes, 0 * votes[:, :1], 1e6 * votes], axis=1)  # many votes, and an answer without any
    trained_on = tf.data.Dataset.from_tensor_slices((images, counts)).batch(16)
    history = model.train(network, lambda epoch: trained_on, trained_on, chosen)
    assert history["eval_loss"][-1] < history["eval_loss"][0]
    hidden = model.encode(model.forward(network.encoder), tf.data.Dataset.from_tensor_slices(images).batch(16))
    samples = model.sample([network], hidden, 5, np.random.default_rng(0))
    assert (samples > 0).all() and samples.sum(axis=2).max() > 1 and samples.std(axis=1).max() > 0


def test_samples_are_full_passes_under_the_same_masks() -> None:
    """One pass of the encoder and K of the head give the numbers of K passes of the whole network."""
    network = model.build(TINY, PAIR, 16, 3, seed=0)
    images = bright_or_dark(10)[0]
    hidden = model.encode(model.forward(network.encoder), tf.data.Dataset.from_tensor_slices(images).batch(4))
    cheap = model.sample([network], hidden, 3, np.random.default_rng(5))
    masks, keep = np.random.default_rng(5), 1 - TINY.dropout_rate
    for k in range(3):
        mask = (masks.random(TINY.hidden, dtype=np.float32) < keep) / np.float32(keep)
        whole = network.head(network.encoder(images) * mask.astype(np.float32)).numpy()
        assert cheap[:, k] == pytest.approx(whole, abs=1e-6)


def test_without_dropout_all_samples_are_the_mean_and_dropout_keeps_it_near() -> None:
    network = model.build(replace(TINY, dropout_rate=0.0), PAIR, 16, 3, seed=0)
    hidden = model.encode(model.forward(network.encoder), data(8).map(lambda images, votes: images))
    samples = model.sample([network], hidden, 5, np.random.default_rng(0))
    assert (samples == samples[:, :1]).all()


def test_training_learns_what_brightness_tells() -> None:
    chosen = replace(TINY, max_epochs=25, patience=25)
    network = model.build(chosen, PAIR, 16, 3, seed=0)
    history = model.train(network, lambda epoch: data(), data(), chosen)
    assert history["eval_loss"][history["best_epoch"] - 1] == min(history["eval_loss"])
    images, votes = bright_or_dark(64)
    hidden = model.encode(model.forward(network.encoder), tf.data.Dataset.from_tensor_slices(images).batch(16))
    predicted = model.sample([network], hidden, 20, np.random.default_rng(0)).mean(axis=1)[:, 0]
    assert np.corrcoef(predicted, votes[:, 0])[0, 1] > 0.9


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_does_not() -> None:
    def digest(seed: int) -> str:
        network = model.build(TINY, PAIR, 16, 3, seed)
        model.train(network, lambda epoch: data(), data(), TINY)
        return model.weights_digest([network])

    assert digest(1) == digest(1) != digest(2)


def test_saved_weights_come_back_and_their_file_is_byte_stable(tmp_path: Path) -> None:
    network = model.build(TINY, PAIR, 16, 3, seed=1)
    digest = model.save([network], TINY, tmp_path / "a", {"epochs": 0})["weights_sha256"]
    model.save([network], TINY, tmp_path / "b", {"epochs": 0})
    for file in ("encoder.weights.h5", "head.weights.h5"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other = model.build(TINY, PAIR, 16, 3, seed=2)
    assert model.weights_digest([other]) != digest
    model.load_weights(other, tmp_path / "a")
    assert model.weights_digest([other]) == digest


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model.save([model.build(TINY, PAIR, 16, 3, seed=1)], TINY, tmp_path / "a", {})
    other = model.build(replace(TINY, hidden=9), PAIR, 16, 3, seed=1)
    with pytest.raises(SettingsError, match="does not fit this network"):
        model.load_weights(other, tmp_path / "a")


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    images, votes = bright_or_dark(32)
    votes[3] = np.nan
    bad = tf.data.Dataset.from_tensor_slices((images, votes)).batch(16)
    network = model.build(TINY, PAIR, 16, 3, seed=0)
    with pytest.raises(InputError, match=r"Training diverged.*model\.learning_rate"):
        model.train(network, lambda epoch: bad, data(), TINY)


def test_the_view_changes_training_images_only() -> None:
    images = tf.constant(np.random.default_rng(0).random((4, 9, 9, 1)), tf.float32)
    view = model.RandomView(rotate=True, zoom=0.2, seed=0)
    assert (view(images, training=False).numpy() == images.numpy()).all()
    assert np.abs(view(images, training=True).numpy() - images.numpy()).max() > 0.1


def test_a_view_without_rotation_or_zoom_is_one_of_the_four_flips() -> None:
    images = tf.constant(np.random.default_rng(0).random((16, 8, 8, 1)), tf.float32)
    seen = set()
    for before, after in zip(
        images.numpy(), model.RandomView(rotate=False, zoom=0.0, seed=3)(images, training=True).numpy(), strict=True
    ):
        flips = {"none": before, "up": before[::-1], "left": before[:, ::-1], "both": before[::-1, ::-1]}
        same = [name for name, flip in flips.items() if np.allclose(flip, after, atol=1e-5)]
        assert len(same) == 1
        seen |= set(same)
    assert seen == {"none", "up", "left", "both"}


def test_a_view_magnifies_and_never_shrinks() -> None:
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) < 8
    images = tf.constant(np.repeat(disc[None, :, :, None], 20, axis=0), tf.float32)
    area = model.RandomView(rotate=True, zoom=0.5, seed=1)(images, training=True).numpy().sum(axis=(1, 2, 3))
    assert (area > disc.sum() * 0.97).all() and (area < disc.sum() * 2.4).all() and area.max() > disc.sum() * 1.5


def test_the_paper_network_has_its_size() -> None:
    paper = settings.Model(name="cnn", blocks=[[32, 32], [64, 64], [128], [128]], hidden=128, final_size_px=64)
    network = model.build(paper, PAIR, 64, 3, seed=0)
    convolutions = sum(9 * a * b + b for a, b in ((1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)))
    assert network.encoder.count_params() == convolutions + 4 * 4 * 128 * 128 + 128
    assert isinstance(network.trainer.optimizer, keras.optimizers.Adam)
