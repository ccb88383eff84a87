"""Encoders: stored images → features, N × H. Built from scratch or of keras.applications, saved, loaded, digested.

An encoder is two steps, so that training can put random views between them: ``prepare`` (uint8 pixels → scaled floats)
and the convolutions (floats → features). Axes: N galaxies, H features.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from zoobot.errors import SettingsError
from zoobot.settings import ENCODER_SHAPE, ModelSettings

ENCODER_FILE = "encoder.json"
# Sky comes near -1 and the brightest pixels near 4: trains several times faster than pixels between 0 and 1.
SCALE, OFFSET = 5 / 255, -1.0
_BATCH_MOMENTUM = 0.9  # Keras' 0.99 needs more steps than a small training set gives
APPLICATIONS: dict[str, Callable[..., keras.Model]] = {
    "efficientnet_b0": keras.applications.EfficientNetB0,
    "efficientnet_v2_b0": keras.applications.EfficientNetV2B0,
    "convnext_tiny": keras.applications.ConvNeXtTiny,
}


def build(chosen: ModelSettings, image_size_px: int, channels: int) -> keras.Model:
    """Stored images → features, with random weights (imagenet ones if the settings say so)."""
    images = keras.Input((image_size_px, image_size_px, channels), dtype="uint8", name="images")
    convolutions = _build_convolutions(chosen, image_size_px)
    return keras.Model(images, convolutions(prepare(images, chosen)), name="encoder")


def prepare(images: Any, chosen: ModelSettings) -> Any:
    """Stored images N × H × W × C, uint8, as scaled floats: of three colours, or one grey channel."""
    scaled = keras.layers.Rescaling(SCALE, offset=OFFSET)(images)
    return scaled if chosen.colour else keras.ops.mean(scaled, axis=-1, keepdims=True)


def _build_convolutions(chosen: ModelSettings, image_size_px: int) -> keras.Model:
    """Scaled floats of the stored size → features."""
    inputs = keras.Input((image_size_px, image_size_px, 3 if chosen.colour else 1), name="scaled")
    values: Any = inputs
    if image_size_px != chosen.final_size_px:
        values = keras.layers.Resizing(chosen.final_size_px, chosen.final_size_px, antialias=True)(values)
    build = {"cnn": _cnn, "pooled_cnn": _pooled_cnn}.get(chosen.architecture, _application)
    return keras.Model(inputs, build(chosen, values), name="convolutions")


def _cnn(chosen: ModelSettings, values: Any) -> Any:
    """The network of Walmsley et al. 2020 (MNRAS 491, 1554): its last layer keeps where in the picture things are."""
    for block in chosen.blocks:
        for filters in block:
            values = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(values)
        values = keras.layers.MaxPooling2D(2)(values)
    return keras.layers.Dense(chosen.hidden, activation="relu", name="hidden")(keras.layers.Flatten()(values))


def _pooled_cnn(chosen: ModelSettings, values: Any) -> Any:
    """Convolutions with batch normalisation, then each channel's mean and maximum over the picture."""
    for number, block in enumerate(chosen.blocks):
        for position, filters in enumerate(block):
            strides = 1 if number or position else 2  # the first block halves before, not after
            values = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(values)
            values = keras.layers.BatchNormalization(momentum=_BATCH_MOMENTUM)(values)
            values = keras.layers.ReLU()(values)
        if number:
            values = keras.layers.MaxPooling2D(2)(values)
    pooled = [keras.layers.GlobalAveragePooling2D()(values), keras.layers.GlobalMaxPooling2D()(values)]
    return keras.layers.Concatenate(name="features")(pooled)


def _application(chosen: ModelSettings, values: Any) -> Any:
    """A network of keras.applications, which scales pixels of 0 to 255 itself."""
    pixels = keras.layers.Rescaling(1 / SCALE, offset=-OFFSET / SCALE)(values)
    if not chosen.colour:
        pixels = keras.layers.Concatenate()([pixels] * 3)
    size = chosen.final_size_px
    network = APPLICATIONS[chosen.architecture](
        include_top=False,
        weights="imagenet" if chosen.weights == "imagenet" else None,
        input_shape=(size, size, 3),
        pooling="avg",
    )
    return network(pixels)


def save(encoder: keras.Model, chosen: ModelSettings, folder: Path, name: str = "encoder") -> None:
    """Write ``{name}.weights.h5``, and encoder.json: what its shape depends on, and the digest of its weights."""
    encoder.save_weights(folder / f"{name}.weights.h5")
    shape = {key: getattr(chosen, key) for key in ENCODER_SHAPE}
    _, size, _, channels = encoder.input_shape
    content = {**shape, "image_size_px": size, "channels": channels, "weights_sha256": digest(encoder)}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(encoder: keras.Model, path: Path, name: str = "encoder") -> None:
    """Take the weights of a folder of stage=pretrain or of an iteration's model, or of a ``.weights.h5`` file.

    Raises SettingsError if they are not there or belong to a network of another shape.
    """
    source = path if path.suffix == ".h5" else path / f"{name}.weights.h5"
    if not source.is_file():
        raise SettingsError(
            f"model.weights: {source} does not exist. Name an encoder that stage=pretrain made, or give the path of its"
            " folder, of an iteration's model folder or of a .weights.h5 file."
        )
    load_file(encoder if path != source else _innermost(encoder), source)
    told = path / f"{name}.json"
    if told.is_file() and json.loads(told.read_text(encoding="utf-8"))["weights_sha256"] != digest(encoder):
        raise SettingsError(f"{source} does not fit this network: other values came back than were saved")


def _innermost(encoder: keras.Model) -> keras.Model:
    """The network whose weights a file holds: that of keras.applications, where there is one."""
    convolutions = encoder.get_layer("convolutions")
    return next((layer for layer in convolutions.layers if isinstance(layer, keras.Model)), convolutions)


def load_file(network: keras.Model, source: Path) -> None:
    """Take the weights in a file; SettingsError if they belong to a network of another shape."""
    try:
        there, wanted = _shapes(source), sorted(tuple(values.shape) for values in network.get_weights())
        if there != wanted:  # Keras would take the first layers of a deeper network
            raise ValueError(f"it holds {_count(there)}, the network has {_count(wanted)}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)  # containers without weights
            network.load_weights(source)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{source} does not fit this network: {str(error).splitlines()[0]}. Its shape follows from"
            f" {', '.join(f'model.{key}' for key in ENCODER_SHAPE)} and shards.image_size_px."
        ) from error


def _shapes(source: Path) -> list[tuple[int, ...]]:
    """The shapes of all weights in a file; an optimiser and random streams are none."""
    found = []

    def visit(name: str, value: Any) -> None:
        if isinstance(value, h5py.Dataset) and not name.startswith("optimizer") and "seed_generator" not in name:
            found.append(tuple(value.shape))

    with h5py.File(source) as file:
        file.visititems(visit)
    return sorted(found)


def _count(shapes: list[tuple[int, ...]]) -> str:
    return f"{len(shapes)} arrays of {sum(map(math.prod, shapes)):,} numbers"


def digest(*networks: keras.Model) -> str:
    """SHA-256 over the values of the networks' weights, in order: independent of file formats."""
    return digest_arrays([values for network in networks for values in network.get_weights()])


def digest_arrays(arrays: Sequence[np.ndarray[Any, Any]]) -> str:
    """SHA-256 over types, shapes and values of arrays, in order."""
    found = hashlib.sha256()
    for values in arrays:
        found.update(f"{values.dtype}{values.shape}".encode())
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
