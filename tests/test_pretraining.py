"""Learning from pictures alone: the loss by hand and against a slow reference, then what a training promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.records import a_shard_config
from zoobot import folders
from zoobot.errors import FolderError, InputError
from zoobot.galaxies import demo, tfrecords
from zoobot.models import encoders, pretraining
from zoobot.models.architectures import OFFSET, SCALE
from zoobot.settings import ModelSettings, PretrainSettings, Settings
from zoobot.stages import catalogs, master_catalog, pretrain, shards

TINY = ModelSettings(name="tiny", architecture="pooled_cnn", blocks=[[8], [16]], colour=True, final_size_px=32)


def reference(projected: np.ndarray, temperature: float) -> tuple[float, float]:
    """View by view and pair by pair."""
    n = len(projected)
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    losses, hits = [], []
    for i in range(n):
        twin = (i + n // 2) % n
        others = [k for k in range(n) if k != i]
        similarity = {k: float(unit[i] @ unit[k]) / temperature for k in others}
        losses.append(math.log(sum(math.exp(s) for s in similarity.values())) - similarity[twin])
        hits.append(max(others, key=similarity.__getitem__) == twin)
    return float(np.mean(losses)), float(np.mean(hits))


def test_the_loss_of_two_galaxies_by_hand() -> None:
    twins_alike = tf.constant([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])  # cosines 1 with the twin, else 0
    loss, accuracy = pretraining.contrastive_loss(twins_alike, 0.5)
    assert float(loss) == pytest.approx(math.log(math.e**2 + 2) - 2) and float(accuracy) == 1
    all_alike = tf.ones((4, 3))  # one of three others is the twin
    assert float(pretraining.contrastive_loss(all_alike, 0.1)[0]) == pytest.approx(math.log(3), rel=1e-5)


@hypothesis_settings(max_examples=25)
@given(st.integers(2, 6), st.integers(1, 5), st.sampled_from([0.1, 0.5, 2.0]), st.integers(0, 9999))
def test_the_loss_is_that_of_the_reference(n: int, n_dimensions: int, temperature: float, seed: int) -> None:
    projected = np.random.default_rng(seed).normal(size=(2 * n, n_dimensions)).astype(np.float32)
    loss, accuracy = pretraining.contrastive_loss(tf.constant(projected), temperature)
    slow_loss, slow_accuracy = reference(projected.astype(np.float64), temperature)
    assert float(loss) == pytest.approx(slow_loss, rel=1e-4, abs=1e-5)
    assert n_dimensions == 1 or float(accuracy) == pytest.approx(slow_accuracy)  # in one dimension all are tied


def test_light_changes_training_images_only_and_stays_in_range() -> None:
    light = pretraining.RandomLight(seed=0)
    stored = tf.constant(np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3)), tf.uint8)
    scaled = encoders.prepare(stored, TINY)
    changed = light(scaled, training=True).numpy()
    assert (light(scaled, training=False).numpy() == scaled.numpy()).all()
    assert changed.shape == scaled.shape and np.abs(changed - scaled.numpy()).max(axis=(1, 2, 3)).min() > 0
    assert changed.min() >= OFFSET and changed.max() <= 255 * SCALE + OFFSET
    spread = changed.std(axis=-1).max(axis=(1, 2))
    assert 0 < (spread < 0.7).sum() < 32, "some are grey but for noise, not all"


def test_light_of_grey_images() -> None:
    grey = replace(TINY, colour=False)
    scaled = encoders.prepare(tf.zeros((2, 8, 8, 3), tf.uint8), grey)
    assert pretraining.RandomLight(seed=0)(scaled, training=True).shape == (2, 8, 8, 1)


def test_a_blurred_point_keeps_its_light_and_has_variance_two() -> None:
    point = np.zeros((1, 21, 21, 3), np.float32)
    point[0, 10, 10] = 1
    blurred = pretraining._blur(tf.constant(point), 3).numpy()[0, :, :, 1]
    rows = np.arange(21) - 10
    assert blurred.sum() == pytest.approx(1) and (blurred.sum(axis=1) * rows**2).sum() == pytest.approx(2)
    assert blurred == pytest.approx(blurred.T)


# --------------------------------------------------------------- training


def trained(epochs: int) -> tuple[str, dict[str, list[float]]]:
    """The digest of an encoder trained on 48 drawn galaxies, and its curves."""
    keras.utils.set_random_seed(0)
    encoder = encoders.build(TINY, 32, 3)
    pictures = np.stack([galaxy.image for galaxy in demo.survey(48, seed=0, size_px=32)])
    images = tf.data.Dataset.from_tensor_slices(pictures).batch(24)
    chosen = PretrainSettings(epochs=epochs, batch_size=24)
    curves = pretraining.train(encoder, images, 2, TINY, chosen)
    return encoders.digest(encoder), curves


@pytest.mark.long
def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_bytes() -> None:
    (digest, curves), (again, _) = trained(30), trained(30)
    assert digest == again and len(curves["loss"]) == 30
    assert np.mean(curves["loss"][-5:]) < math.log(47) - 0.25 and np.mean(curves["accuracy"][-5:]) > 4 / 47


@pytest.mark.long
def test_it_learns_in_float16_as_on_a_gpu() -> None:
    """With model.mixed_precision; a machine without GPU ignores the setting, but can compute so."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        _, curves = trained(12)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert curves["loss"][-1] < curves["loss"][0] - 0.3


# --------------------------------------------------------------- the stage

QUICK = ("stage=pretrain", "quick=true", "model=pretrained")


@pytest.fixture(scope="module")
def done(compose: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Shards, and an encoder from their pool."""
    settings = compose(*QUICK, data_dir=tmp_path_factory.mktemp("data"))
    for stage in (master_catalog, catalogs, shards, pretrain):
        stage.run(settings)
    return settings


def test_the_stage_writes_an_encoder_once(done: Settings, caplog: pytest.LogCaptureFixture) -> None:
    path = done.encoders_dir / "galaxies"
    assert {p.name for p in path.iterdir()} == {"encoder.weights.h5", "encoder.json", "curves.json", "manifest.json"}
    assert folders.verify(path) == []
    pool = tfrecords.load_config(done.shard_dir).galaxies["pool"]
    curves = json.loads((path / "curves.json").read_text())
    assert curves["galaxies"] == pool and len(curves["loss"]) == len(curves["accuracy"]) == 1
    caplog.set_level("INFO")
    assert pretrain.run(done) == path and "nothing to do" in caplog.text


def test_other_settings_are_refused_with_their_keys(done: Settings) -> None:
    with pytest.raises(FolderError, match=r"pretrain\.epochs: 1 there, 5 now"):
        pretrain.run(replace(done, pretrain=replace(done.pretrain, epochs=5)))
    with pytest.raises(FolderError, match=r"model\.blocks"):
        pretrain.run(replace(done, model=replace(done.model, blocks=[[4]])))
    pretrain.run(replace(done, model=replace(done.model, n_samples=7)))  # no part of an encoder


def test_the_first_shards_are_enough_for_max_galaxies(done: Settings) -> None:
    config = tfrecords.load_config(done.shard_dir)
    names, total = config.splits["pool"], config.galaxies["pool"]
    assert config.shard_size == 32 and 64 < total == sum(len(tfrecords.read_ids(done.shard_dir / n)) for n in names)
    for wanted, n_files, n_galaxies in ((0, 3, total), (1, 1, 32), (33, 2, 64), (65, 3, total), (10**6, 3, total)):
        chosen = replace(done, pretrain=replace(done.pretrain, max_galaxies=wanted))
        assert pretrain._pool_files(chosen, config) == ([done.shard_dir / n for n in names[:n_files]], n_galaxies)


def test_training_that_diverges_publishes_nothing(done: Settings) -> None:
    settings = replace(done, pretrain=replace(done.pretrain, name="diverged", learning_rate=math.nan))
    with pytest.raises(
        InputError, match=r"Pretraining diverged.*Nothing was published.*pretrain\.learning_rate \(now nan\)"
    ):
        pretrain.run(settings)
    assert not (done.encoders_dir / "diverged").exists()


def test_a_pool_of_one_galaxy_is_refused_before_work(done: Settings) -> None:
    with pytest.raises(InputError, match=r"needs at least 2 galaxies in the pool of .*; it has 1"):
        pretrain._pool_files(done, a_shard_config(splits={"pool": ["pool/a"]}, galaxies={"pool": 1}))


def test_without_shards_it_says_what_to_run(compose: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="stage=shards"):
        pretrain.run(compose(*QUICK, data_dir=tmp_path))
