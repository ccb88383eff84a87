"""Encoders: each can be built and trained for a step, and weights can be loaded from every kind of path."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoobot.errors import SettingsError
from zoobot.galaxies.tasks import Group
from zoobot.models import encoders, mc_dropout
from zoobot.models.architectures import ARCHITECTURES
from zoobot.models.encoders import forward
from zoobot.settings import ModelSettings

PAIR = (Group("smooth", ("label", "not_label")),)
POOLED = ModelSettings(name="pooled", architecture="pooled_cnn", blocks=[[4], [6]], colour=True, final_size_px=32)
CNN = replace(POOLED, name="cnn", architecture="cnn", hidden=16)
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)


def of_applications(name: str) -> ModelSettings:
    return ModelSettings(name=name, architecture=name, blocks=[], colour=True, final_size_px=32)


def features(encoder: keras.Model, pictures: Any = PICTURES) -> np.ndarray:
    return np.asarray(encoder(pictures, training=False))


def test_every_architecture_is_an_own_one_or_of_keras_applications() -> None:
    assert all((a.layers is None) != (a.fixed is None) for a in ARCHITECTURES.values())


@pytest.mark.parametrize(
    ("chosen", "n_features"),
    [(CNN, 16), (replace(CNN, colour=False), 16), (POOLED, 12), (replace(POOLED, colour=False), 12)]
    + [
        pytest.param(of_applications(name), 768 if "convnext" in name else 1280, marks=pytest.mark.long)
        for name, a in ARCHITECTURES.items()
        if a.has_imagenet
    ],
    ids=lambda value: value.name if isinstance(value, ModelSettings) else str(value),
)
def test_each_builds_and_takes_a_step(chosen: ModelSettings, n_features: int) -> None:
    network = mc_dropout.build(replace(chosen, dropout_rate=0.0), PAIR, 32, 3, seed=0)
    assert features(network.encoder).shape == (4, n_features) and np.isfinite(features(network.encoder)).all()
    before = encoders.digest(network.encoder)
    network.trainer.run_eagerly = True  # one step: compiling it takes half a minute
    loss = network.trainer.train_on_batch(PICTURES[:2], np.array([[3, 1], [0, 4]], np.float32))
    assert np.isfinite(loss) and encoders.digest(network.encoder) != before


def test_a_grey_network_sees_the_mean_of_the_colours() -> None:
    encoder = encoders.build(replace(POOLED, colour=False), 32, 3)
    assert features(encoder) == pytest.approx(features(encoder, PICTURES[..., ::-1].copy()), abs=1e-5)
    black, white = (encoders.prepare(tf.fill((1, 2, 2, 3), np.uint8(v)), POOLED).numpy().max() for v in (0, 255))
    assert (black, white) == pytest.approx((-1, 4))


# --------------------------------------------------------------- weights come in


def two(chosen: ModelSettings) -> tuple[keras.Model, keras.Model]:
    """Two encoders with different weights."""
    keras.utils.set_random_seed(1)
    return encoders.build(chosen, 32, 3), encoders.build(chosen, 32, 3)


@pytest.mark.parametrize("chosen", [POOLED, CNN], ids=["pooled_cnn", "cnn"])
def test_from_a_folder_of_an_encoder(chosen: ModelSettings, tmp_path: Path) -> None:
    there, here = two(chosen)
    encoders.save(there, chosen, tmp_path)
    assert encoders.digest(there) != encoders.digest(here)
    encoders.load(here, tmp_path)
    assert encoders.digest(there) == encoders.digest(here)
    record = json.loads((tmp_path / "encoder.json").read_text())
    assert record["weights_sha256"] == encoders.digest(here) and record["architecture"] == chosen.architecture


def test_from_the_model_folder_of_an_iteration(tmp_path: Path) -> None:
    network, encoder = mc_dropout.build(POOLED, PAIR, 32, 3, seed=1), two(POOLED)[0]
    mc_dropout.save([network], POOLED, tmp_path / "model", {"epochs": 0})
    encoders.load(encoder, tmp_path / "model")
    assert encoders.digest(encoder) == encoders.digest(network.encoder)


def test_from_a_file_that_the_network_of_keras_applications_wrote(tmp_path: Path) -> None:
    theirs = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    theirs.save_weights(tmp_path / "b0.weights.h5")
    ours = encoders.build(of_applications("efficientnet_b0"), 32, 3)
    encoders.load(ours, tmp_path / "b0.weights.h5")
    assert encoders.digest(ours) == encoders.digest(theirs)
    pixels = PICTURES.astype(np.float32)
    assert features(ours) == pytest.approx(np.asarray(theirs(pixels, training=False)), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        replace(POOLED, blocks=[[4], [7]]),
        replace(POOLED, blocks=[[4], [6], [6]]),  # its first layers would fit
        replace(POOLED, blocks=[[4]]),
        replace(POOLED, colour=False),
        CNN,
    ],
)
def test_weights_of_another_shape_are_refused_and_change_nothing(other: ModelSettings, tmp_path: Path) -> None:
    encoders.save(encoders.build(other, 32, 3), other, tmp_path)
    encoder = two(POOLED)[0]
    before = encoders.digest(encoder)
    with pytest.raises(SettingsError, match=r"does not fit this network: it holds \d+ arrays.*model\.blocks"):
        encoders.load(encoder, tmp_path)
    assert encoders.digest(encoder) == before


def test_a_file_without_weights_or_a_missing_one_is_refused(tmp_path: Path) -> None:
    encoder = two(POOLED)[0]
    with pytest.raises(SettingsError, match=r"encoder\.weights\.h5 does not exist\. Give the name of an encoder"):
        encoders.load(encoder, tmp_path)
    (tmp_path / "a.weights.h5").write_bytes(b"no HDF5")
    with pytest.raises(SettingsError, match=r"a\.weights\.h5 does not fit this network"):
        encoders.load(encoder, tmp_path / "a.weights.h5")


def test_values_that_changed_since_they_were_saved_are_refused(tmp_path: Path) -> None:
    there, here = two(POOLED)
    encoders.save(there, POOLED, tmp_path)
    here.save_weights(tmp_path / "encoder.weights.h5")
    with pytest.raises(SettingsError, match="differ from the saved ones"):
        encoders.load(there, tmp_path)


# --------------------------------------------------------------- orientations


def test_the_mean_over_8_orientations_does_not_change_when_pictures_turn() -> None:
    encoder = two(CNN)[0]  # its last layer still knows positions in the picture
    compiled = {n: forward(encoder, n) for n in (1, 8)}

    def of(pictures: np.ndarray, orientations: int) -> np.ndarray:
        return np.asarray(compiled[orientations](pictures.copy()))

    turned = [np.rot90(flipped, k, axes=(1, 2)) for flipped in (PICTURES, PICTURES[:, :, ::-1]) for k in range(4)]
    for pictures in turned:
        assert of(pictures, 8) == pytest.approx(of(PICTURES, 8), abs=1e-5)
    assert np.mean([of(pictures, 1) for pictures in turned], axis=0) == pytest.approx(of(PICTURES, 8), abs=1e-5)
    assert np.abs(of(turned[1], 1) - of(PICTURES, 1)).max() > 0.01


@pytest.mark.parametrize("orientations", [1, 8])
def test_a_pass_compiled_with_xla_gives_the_same_features(orientations: int) -> None:
    encoder = two(CNN)[0]
    plain, compiled = (np.asarray(forward(encoder, orientations, xla)(PICTURES)) for xla in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-4, abs=1e-5)


def test_a_first_block_of_equal_layers_halves_once() -> None:
    chosen = ModelSettings(name="equal", architecture="pooled_cnn", blocks=[[4, 4], [8]], final_size_px=16)
    convolutions = encoders.build(chosen, 16, 3).get_layer("convolutions")
    sizes = [layer.output.shape[1] for layer in convolutions.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sizes == [8, 8, 8]


@pytest.mark.parametrize("name", [name for name, of in ARCHITECTURES.items() if not of.takes_features])
def test_an_encoder_has_as_many_features_as_it_says(name: str) -> None:
    model = ModelSettings(name=name, architecture=name, blocks=[[4], [7]], hidden=9, final_size_px=32, colour=True)
    architecture = ARCHITECTURES[name]
    if architecture.fixed:
        n_features = architecture.fixed(model, PICTURES).shape[1]
    else:
        n_features = encoders.build(model, 32, 3).output_shape[1]
    assert architecture.n_features(model) == n_features


def test_pixels_are_means_of_cells_whatever_the_size() -> None:
    model = ModelSettings(name="pixels", architecture="pixels", blocks=[], final_size_px=2, colour=True)
    fixed = ARCHITECTURES["pixels"].fixed
    assert fixed
    image = np.zeros((1, 3, 3, 3), np.uint8)
    image[0, 0, 0] = [255, 0, 51]
    found = fixed(model, image)  # cells of 2 and 1 rows, 2 and 1 columns
    assert found.shape == (1, 12) and found[0, :3] == pytest.approx([0.25, 0.0, 0.05]) and not found[0, 3:].any()
    grey = fixed(replace(model, colour=False, final_size_px=1), image)
    assert grey == pytest.approx(np.array([[306 / 3 / 255 / 9]]))
