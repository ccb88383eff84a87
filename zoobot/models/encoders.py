"""Encoders: stored images → features, N × H. How they are built, saved, loaded and digested.

An encoder has two steps, so that training can put random views between them: ``prepare`` (uint8 pixels → scaled floats)
and the convolutions (floats → features). Axes: N galaxies, H features.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from zoobot import folders
from zoobot.errors import SettingsError
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.models import datasets, saved, timm_weights
from zoobot.models.architectures import ARCHITECTURES, OFFSET, SCALE, Floats32, Tensor
from zoobot.models.shapes import read_record, shape_of
from zoobot.settings import ENCODER_SHAPE, ModelSettings

log = logging.getLogger("zoobot")
Pass = Callable[[Tensor], Tensor]


def build(model: ModelSettings, image_size_px: int, channels: int) -> keras.Model:
    """An encoder with random weights, or ImageNet weights if the settings say so: stored images → features."""
    images = keras.Input((image_size_px, image_size_px, channels), dtype="uint8", name="images")
    convolutions = _build_convolutions(model, image_size_px)
    return keras.Model(images, convolutions(prepare(images, model)), name="encoder")


@contextmanager
def precision(model: ModelSettings) -> Iterator[bool]:
    """Networks built inside compute in the precision of the settings; gives whether the machine has a GPU.

    A machine without one computes in float32, and warns which settings it ignores.
    """
    on_gpu = _on_gpu()
    wanted = [key for key in ("mixed_precision", "xla", "all_gpus") if getattr(model, key)]
    if wanted and not on_gpu:
        _warn_once(f"this machine has no GPU: model.{', model.'.join(wanted)} ignored")
    keras.mixed_precision.set_global_policy("mixed_float16" if on_gpu and model.mixed_precision else "float32")
    try:
        yield on_gpu
    finally:
        keras.mixed_precision.set_global_policy("float32")


def _on_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


@functools.cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)  # once, not for each network that is built or loaded


def prepare(images: Tensor, model: ModelSettings) -> Tensor:
    """Stored images N × H × W × C, uint8, as scaled floats: three colours, or one grey channel."""
    scaled = keras.layers.Rescaling(SCALE, offset=OFFSET)(images)
    return scaled if model.colour else keras.ops.mean(scaled, axis=-1, keepdims=True)


def _build_convolutions(model: ModelSettings, image_size_px: int) -> keras.Model:
    """Scaled floats of the stored size → features."""
    inputs = keras.Input((image_size_px, image_size_px, 3 if model.colour else 1), name="scaled")
    values: Tensor = inputs
    if image_size_px != model.final_size_px:
        values = keras.layers.Resizing(model.final_size_px, model.final_size_px, antialias=True)(values)
    layers = ARCHITECTURES[model.architecture].layers
    assert layers, "fixed features need no network"
    return keras.Model(inputs, layers(model, values), name="convolutions")


# --------------------------------------------------------------- the pass over stored images


def forward(encoder: keras.Model, orientations: int = 1, xla: bool = False) -> Pass:
    """A compiled function: stored images → features N × H, the mean over 1 or 8 orientations, without dropout or
    augmentation. With ``xla`` it is compiled once for each number of images that it is given.
    """

    def mean(batch: Tensor) -> Tensor:
        views = [batch]
        if orientations == 8:
            views = [tf.image.rot90(v, k) for v in (batch, tf.image.flip_left_right(batch)) for k in range(4)]
        return tf.cast(tf.add_n([encoder(view, training=False) for view in views]), tf.float32) / len(views)

    given = tf.TensorSpec(encoder.input_shape, tf.uint8)
    return tf.function(mean, input_signature=[given], jit_compile=xla or None)  # type: ignore[no-any-return]


def forward_records(encoder: keras.Model, config: ShardConfig, model: ModelSettings) -> Pass:
    """A compiled function: serialised galaxies → features N × H."""
    of_batch = forward(encoder, model.orientations, model.xla and _on_gpu())

    def of_records(records: Tensor) -> Tensor:
        return of_batch(datasets.decode_images(records, config))

    return tf.function(of_records, input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[no-any-return]


def encode(of_records: Pass, path: Path, batch_size: int) -> Floats32:
    """The features N × H of the galaxies in a TFRecord file."""
    return np.concatenate([of_records(batch).numpy() for batch in datasets.batches(path, batch_size)])


# --------------------------------------------------------------- weights


def save(encoder: keras.Model, model: ModelSettings, folder: Path, name: str = "encoder") -> None:
    """Write ``{name}.weights.h5``, and ``{name}.json`` with its shape and the digest of its weights."""
    encoder.save_weights(folder / f"{name}.weights.h5")
    _, size, _, channels = encoder.input_shape
    shape = shape_of(model, size, channels)
    folders.write_json(folder / f"{name}.json", asdict(shape) | {"weights_sha256": digest(encoder)})


def load(encoder: keras.Model, path: Path, name: str = "encoder") -> None:
    """Load weights from a folder of stage=pretrain, from an iteration's model, from a ``.weights.h5`` file, or from a
    published encoder of Zoobot.

    Raises SettingsError if they do not exist or belong to a network of another shape.
    """
    if published := timm_weights.find(path):
        timm_weights.load(encoder.get_layer("convolutions"), published)
        return
    source, network = _source(encoder, path, name)
    load_file(network, source)
    record = read_record(path, name)
    if record and record.weights_sha256 != digest(encoder):
        raise SettingsError(f"{source} does not fit this network: the loaded weights differ from the saved ones")


def refuse_another(model: ModelSettings, image_size_px: int, channels: int, path: Path) -> None:
    """SettingsError: the weights at ``path`` do not exist, or belong to another encoder than that of these settings."""
    if published := timm_weights.find(path):
        timm_weights.refuse_another(model.architecture, published)
        timm_weights.match(build(model, image_size_px, channels).get_layer("convolutions"), published)
        return
    with _refusing(path):
        source, network = _source(build(model, image_size_px, channels), path, "encoder")
        _check_shapes(network, source)


def _source(encoder: keras.Model, path: Path, name: str) -> tuple[Path, keras.Model]:
    """The file of weights at ``path``, and the part of an encoder that it belongs to."""
    source = path if path.suffix == ".h5" else path / f"{name}.weights.h5"
    if not source.is_file():
        raise SettingsError(
            f"model.weights: {source} does not exist. Give the name of an encoder from stage=pretrain, or the path of"
            " its folder, of an iteration's model folder, of a .weights.h5 file, or of a published encoder of Zoobot"
            f" ({' or '.join(timm_weights.FILES)})."
        )
    return source, encoder if path != source else _innermost(encoder)


def _innermost(encoder: keras.Model) -> keras.Model:
    """The network whose weights are in a file: for keras.applications, the network inside."""
    convolutions = encoder.get_layer("convolutions")
    return next((layer for layer in convolutions.layers if isinstance(layer, keras.Model)), convolutions)


def load_file(network: keras.Model, source: Path) -> None:
    """Load the weights in a file. Raises SettingsError if they belong to a network of another shape."""
    with _refusing(source), warnings.catch_warnings():
        _check_shapes(network, source)
        warnings.filterwarnings("ignore", "Skipping nested container", UserWarning)  # containers without weights
        network.load_weights(source)


@contextmanager
def _refusing(source: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{source} does not fit this network: {str(error).splitlines()[0]}. The shape depends on"
            f" {', '.join(f'model.{key}' for key in ENCODER_SHAPE)} and shards.image_size_px."
        ) from error


def _check_shapes(network: keras.Model, source: Path) -> None:
    there, wanted = _shapes(source), sorted(tuple(values.shape) for values in network.get_weights())
    if there != wanted:  # Keras would silently load the first layers of a deeper network
        raise ValueError(f"it holds {_count(there)}, the network has {_count(wanted)}")


def _shapes(source: Path) -> list[tuple[int, ...]]:
    """The shapes of all weights in a file, without those of the optimiser and of random streams."""
    found = []

    def visit(name: str, value: object) -> None:
        if isinstance(value, h5py.Dataset) and not name.startswith("optimizer") and "seed_generator" not in name:
            found.append(tuple(value.shape))

    with h5py.File(source) as file:
        file.visititems(visit)
    return sorted(found)


def _count(shapes: list[tuple[int, ...]]) -> str:
    return f"{len(shapes)} arrays of {sum(map(math.prod, shapes)):,} numbers"


def digest(*networks: keras.Model) -> str:
    """SHA-256 over the values of the networks' weights, in order: independent of file formats."""
    return saved.digest_arrays([values for network in networks for values in network.get_weights()])
