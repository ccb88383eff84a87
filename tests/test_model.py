"""The network: its samples, its determinism."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoobot.errors import InputError, SettingsError
from zoobot.galaxies.tasks import Group
from zoobot.models import encoders, mc_dropout, training
from zoobot.models.views import RandomView
from zoobot.settings import ModelSettings

ROOT = Path(__file__).resolve().parents[1]
PAIR = (Group("smooth", ("label", "not_label")),)
TREE = (Group("a", ("a1", "a2", "a3")), Group("b", ("b1", "b2"), after=("a2",)))
TINY = ModelSettings(
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
    """Images whose brightness determines the votes."""
    random = np.random.default_rng(0)
    bright = random.random(n) < 0.5
    images = random.integers(0, 60, (n, 16, 16, 3)) + 150 * bright[:, None, None, None]
    votes = np.where(bright[:, None], [[36.0, 4.0]], [[4.0, 36.0]])
    return images.astype(np.uint8), votes.astype(np.float32)


def data(n: int = 64) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(bright_or_dark(n)).batch(16)


def test_probabilities_sum_to_one_per_question() -> None:
    network = mc_dropout.build(TINY, TREE, 16, 3, seed=0)
    hidden = encoders.forward(network.encoder)(bright_or_dark(20)[0]).numpy()
    samples = mc_dropout.sample([network], hidden, 7, np.random.default_rng(0))
    assert hidden.shape == (20, 8) and samples.shape == (20, 7, 5)
    assert samples[:, :, :3].sum(axis=2) == pytest.approx(np.ones((20, 7)), rel=1e-5)
    assert samples[:, :, 3:].sum(axis=2) == pytest.approx(np.ones((20, 7)), rel=1e-5)


def test_concentrations_train_and_differ_between_samples() -> None:
    chosen = replace(TINY, likelihood="dirichlet_multinomial")
    network = mc_dropout.build(chosen, TREE, 16, 3, seed=0)
    images, votes = bright_or_dark(64)
    counts = np.concatenate([votes, 0 * votes[:, :1], 1e6 * votes], axis=1)  # many votes, and an answer without any
    trained_on = tf.data.Dataset.from_tensor_slices((images, counts)).batch(16)
    history = training.train(network, lambda epoch: trained_on, trained_on, chosen)
    assert history.eval_loss[-1] < history.eval_loss[0]
    hidden = encoders.forward(network.encoder)(images).numpy()
    samples = mc_dropout.sample([network], hidden, 5, np.random.default_rng(0))
    assert (samples > 0).all() and samples.sum(axis=2).max() > 1 and samples.std(axis=1).max() > 0


def test_samples_are_full_passes_under_the_same_masks() -> None:
    """One pass of the encoder and K of the head give the numbers of K passes of the complete network."""
    network = mc_dropout.build(TINY, PAIR, 16, 3, seed=0)
    images = bright_or_dark(10)[0]
    hidden = encoders.forward(network.encoder)(images).numpy()
    cheap = mc_dropout.sample([network], hidden, 3, np.random.default_rng(5))
    masks, keep = np.random.default_rng(5), 1 - TINY.dropout_rate
    for k in range(3):
        mask = (masks.random(TINY.hidden, dtype=np.float32) < keep) / np.float32(keep)
        whole = network.head(network.encoder(images) * mask.astype(np.float32)).numpy()
        assert cheap[:, k] == pytest.approx(whole, abs=1e-6)


def test_without_dropout_all_samples_are_the_mean_and_dropout_keeps_it_near() -> None:
    network = mc_dropout.build(replace(TINY, dropout_rate=0.0), PAIR, 16, 3, seed=0)
    hidden = encoders.forward(network.encoder)(bright_or_dark(8)[0]).numpy()
    samples = mc_dropout.sample([network], hidden, 5, np.random.default_rng(0))
    assert (samples == samples[:, :1]).all()


def test_training_learns_the_votes_from_brightness() -> None:
    chosen = replace(TINY, max_epochs=25, patience=25)
    network = mc_dropout.build(chosen, PAIR, 16, 3, seed=0)
    history = training.train(network, lambda epoch: data(), data(), chosen)
    assert history.eval_loss[history.best_epoch - 1] == min(history.eval_loss)
    images, votes = bright_or_dark(64)
    hidden = encoders.forward(network.encoder)(images).numpy()
    predicted = mc_dropout.sample([network], hidden, 20, np.random.default_rng(0)).mean(axis=1)[:, 0]
    assert np.corrcoef(predicted, votes[:, 0])[0, 1] > 0.9


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_another_does_not() -> None:
    def digest(seed: int) -> str:
        network = mc_dropout.build(TINY, PAIR, 16, 3, seed)
        training.train(network, lambda epoch: data(), data(), TINY)
        return mc_dropout.weights_digest([network])

    assert digest(1) == digest(1) != digest(2)


def test_saved_weights_come_back_and_their_file_is_byte_stable(tmp_path: Path) -> None:
    network = mc_dropout.build(TINY, PAIR, 16, 3, seed=1)
    digest = mc_dropout.save([network], TINY, tmp_path / "a", {"epochs": 0}).weights_sha256
    mc_dropout.save([network], TINY, tmp_path / "b", {"epochs": 0})
    for file in ("encoder.weights.h5", "head.weights.h5"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other = mc_dropout.build(TINY, PAIR, 16, 3, seed=2)
    assert mc_dropout.weights_digest([other]) != digest
    mc_dropout.load_weights(other, tmp_path / "a")
    assert mc_dropout.weights_digest([other]) == digest


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    mc_dropout.save([mc_dropout.build(TINY, PAIR, 16, 3, seed=1)], TINY, tmp_path / "a", {"epochs": 0})
    other = mc_dropout.build(replace(TINY, hidden=9), PAIR, 16, 3, seed=1)
    with pytest.raises(SettingsError, match="does not fit this network"):
        mc_dropout.load_weights(other, tmp_path / "a")


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    images, votes = bright_or_dark(32)
    votes[3] = np.nan
    bad = tf.data.Dataset.from_tensor_slices((images, votes)).batch(16)
    network = mc_dropout.build(TINY, PAIR, 16, 3, seed=0)
    with pytest.raises(InputError, match=r"Training diverged.*model\.learning_rate"):
        training.train(network, lambda epoch: bad, data(), TINY)


def test_settings_for_a_gpu_are_ignored_here_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    encoders._warn_once.cache_clear()
    for_gpu = replace(TINY, mixed_precision=True, xla=True, all_gpus=True, max_epochs=1)
    digests = []
    for chosen in (for_gpu, for_gpu, replace(TINY, max_epochs=1)):
        network = mc_dropout.build(chosen, PAIR, 16, 3, seed=0)
        training.train(network, lambda epoch: data(), data(), chosen)
        digests.append(mc_dropout.weights_digest([network]))
    assert caplog.messages == ["this machine has no GPU: model.mixed_precision, model.xla, model.all_gpus ignored"]
    assert len(set(digests)) == 1


# --------------------------------------------------------------- ensembles


def test_members_give_equal_shares_of_the_samples_from_their_own_features() -> None:
    networks = [mc_dropout.build(replace(TINY, dropout_rate=0.0), PAIR, 16, 3, seed) for seed in (1, 2, 3)]
    assert len({mc_dropout.weights_digest([network]) for network in networks}) == 3
    images = bright_or_dark(6)[0]
    parts = [np.asarray(network.encoder(images, training=False)) for network in networks]
    samples = mc_dropout.sample(networks, np.concatenate(parts, axis=1), 5, np.random.default_rng(0))
    assert mc_dropout.members(3, 5).tolist() == [0, 0, 1, 1, 2] and mc_dropout.members(3, 30).tolist() == sorted(
        [0, 1, 2] * 10
    )
    for k, member in enumerate([0, 0, 1, 1, 2]):
        assert samples[:, k] == pytest.approx(networks[member].head(parts[member]).numpy(), abs=1e-6)


def test_the_digest_of_an_ensemble_is_over_all_of_it_and_each_member_comes_back(tmp_path: Path) -> None:
    networks = [mc_dropout.build(TINY, PAIR, 16, 3, seed) for seed in (1, 2)]
    digest = mc_dropout.save(networks, TINY, tmp_path / "model", {"epochs": 0}).weights_sha256
    assert digest not in (mc_dropout.weights_digest(networks[::-1]), mc_dropout.weights_digest(networks[:1]))
    others = [mc_dropout.build(TINY, PAIR, 16, 3, seed) for seed in (3, 4)]
    for member, other in enumerate(others):
        mc_dropout.load_weights(other, tmp_path / "model", member)
    assert mc_dropout.weights_digest(others) == digest


# --------------------------------------------------------------- training that was killed goes on

LONG = replace(TINY, max_epochs=4, patience=4)


def shuffled(epoch: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(bright_or_dark(64)).shuffle(64, seed=epoch).batch(16)


def die_in_epoch_2(checkpoint: str) -> None:
    """Two epochs, then kill -9; runs in its own process."""

    def of_epoch(epoch: int) -> tf.data.Dataset:
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return shuffled(epoch)

    training.train(mc_dropout.build(LONG, PAIR, 16, 3, seed=0), of_epoch, data(), LONG, Path(checkpoint))


@pytest.mark.long
def test_training_that_was_killed_goes_on_to_the_same_weights_and_history(tmp_path: Path) -> None:
    whole = mc_dropout.build(LONG, PAIR, 16, 3, seed=0)
    history = training.train(whole, shuffled, data(), LONG)
    checkpoint = tmp_path / "unfinished" / "training.npz"
    code = f"from tests.test_model import die_in_epoch_2; die_in_epoch_2({str(checkpoint)!r})"
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL and checkpoint.is_file(), killed.stderr.decode()
    epochs: list[int] = []

    def noted(epoch: int) -> tf.data.Dataset:
        epochs.append(epoch)
        return shuffled(epoch)

    again = mc_dropout.build(LONG, PAIR, 16, 3, seed=0)
    assert training.train(again, noted, data(), LONG, checkpoint) == history and epochs == [2, 3]
    assert mc_dropout.weights_digest([again]) == mc_dropout.weights_digest([whole])
    for one, other in zip(again.trainer.variables, whole.trainer.variables, strict=True):
        assert (one.numpy() == other.numpy()).all(), one.path  # the random streams too


def test_a_checkpoint_holds_the_optimiser_and_the_random_streams() -> None:
    network = mc_dropout.build(TINY, PAIR, 16, 3, seed=0)
    paths = [v.path for v in training._TrainingState(network.trainer, None)._variables]
    assert sum("seed_generator" in path for path in paths) == 2  # for views and for dropout
    n_weights = len(network.trainer.get_weights())
    assert sum(path.startswith("adam") for path in paths) == 2 + 2 * n_weights  # and iteration, learning rate


def test_a_checkpoint_of_finished_training_is_not_trained_further(tmp_path: Path) -> None:
    first = mc_dropout.build(TINY, PAIR, 16, 3, seed=0)
    history = training.train(first, shuffled, data(), TINY, tmp_path / "c.npz")
    again = mc_dropout.build(TINY, PAIR, 16, 3, seed=0)

    def none(epoch: int) -> tf.data.Dataset:
        raise AssertionError("trained again")

    assert training.train(again, none, data(), TINY, tmp_path / "c.npz") == history
    assert mc_dropout.weights_digest([again]) == mc_dropout.weights_digest([first])


# --------------------------------------------------------------- views


def test_the_view_changes_training_images_only() -> None:
    images = tf.constant(np.random.default_rng(0).random((4, 9, 9, 1)), tf.float32)
    view = RandomView(rotate=True, zoom=0.2, seed=0)
    assert (view(images, training=False).numpy() == images.numpy()).all()
    assert np.abs(view(images, training=True).numpy() - images.numpy()).max() > 0.1


def test_a_view_without_rotation_or_zoom_is_one_of_the_four_flips() -> None:
    images = tf.constant(np.random.default_rng(0).random((16, 8, 8, 1)), tf.float32)
    seen = set()
    for before, after in zip(
        images.numpy(),
        RandomView(rotate=False, zoom=0.0, seed=3)(images, training=True).numpy(),
        strict=True,
    ):
        flips = {"none": before, "up": before[::-1], "left": before[:, ::-1], "both": before[::-1, ::-1]}
        same = [name for name, flip in flips.items() if np.allclose(flip, after, atol=1e-5)]
        assert len(same) == 1
        seen |= set(same)
    assert seen == {"none", "up", "left", "both"}


def test_a_view_magnifies_and_never_shrinks() -> None:
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) < 8
    images = tf.constant(np.repeat(disc[None, :, :, None], 20, axis=0), tf.float32)
    area = RandomView(rotate=True, zoom=0.5, seed=1)(images, training=True).numpy().sum(axis=(1, 2, 3))
    assert (area > disc.sum() * 0.97).all() and (area < disc.sum() * 2.4).all() and area.max() > disc.sum() * 1.5


def test_the_paper_network_has_its_size() -> None:
    paper = ModelSettings(name="cnn", blocks=[[32, 32], [64, 64], [128], [128]], hidden=128, final_size_px=64)
    network = mc_dropout.build(paper, PAIR, 64, 3, seed=0)
    convolutions = sum(9 * a * b + b for a, b in ((1, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)))
    assert network.encoder.count_params() == convolutions + 4 * 4 * 128 * 128 + 128
    assert isinstance(network.trainer.optimizer, keras.optimizers.Adam)
