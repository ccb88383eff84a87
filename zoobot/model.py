"""The network, its training, and samples from its posterior.

Image → encoder (convolutions, one dense layer) → dropout → head (probabilities per question, or concentrations:
zoobot/likelihoods.py). Dropout sits only between encoder and head, so K posterior samples cost one pass of the encoder
and K passes of the small head. Axes: N galaxies, K samples, H hidden units, A answers.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoobot import likelihoods, settings
from zoobot.errors import InputError, SettingsError
from zoobot.seeds import number
from zoobot.tasks import Group

Floats32 = npt.NDArray[np.float32]
WEIGHTS_FILE, TRAINING_FILE = "network.weights.h5", "training.json"
tf.get_logger().setLevel("ERROR")  # it warns that each iteration compiles its own network, which is meant


@dataclass(frozen=True)
class Network:
    """``encoder``: stored images → hidden N × H; ``head``: hidden → probabilities or concentrations N × A;
    ``trainer``: both, with augmentation and dropout.
    """

    encoder: keras.Model
    head: keras.Model
    trainer: keras.Model
    dropout_rate: float


def build(chosen: settings.Model, groups: Sequence[Group], image_size_px: int, channels: int, seed: int) -> Network:
    """A network with new weights. The same seed gives the same weights, dropout and augmentation."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(number(seed, "network"))
    tf.config.experimental.enable_op_determinism()
    convolutions = _build_convolutions(chosen, image_size_px)
    head = _build_head(chosen, groups)
    images = keras.Input((image_size_px, image_size_px, channels), dtype="uint8", name="images")
    # sky comes near -1 and the brightest pixels near 4: trains several times faster than pixels between 0 and 1
    grey = keras.ops.mean(keras.layers.Rescaling(5 / 255, offset=-1.0)(images), axis=-1, keepdims=True)
    encoder = keras.Model(images, convolutions(grey), name="encoder")
    hidden = convolutions(RandomView(chosen.rotate, chosen.zoom, number(seed, "augmentation"))(grey))
    dropped = keras.layers.Dropout(chosen.dropout_rate, seed=number(seed, "dropout in training"))(hidden)
    trainer = keras.Model(images, head(dropped), name="trainer")
    trainer.compile(keras.optimizers.Adam(chosen.learning_rate), loss=likelihoods.loss(chosen.likelihood, groups))
    return Network(encoder, head, trainer, chosen.dropout_rate)


class RandomView(keras.layers.Layer):
    """Each training image flipped, turned and magnified at random: what a galaxy's votes survive.

    All three are one affine transformation, so pixels are interpolated once. Beyond the border the image is reflected.
    """

    def __init__(self, rotate: bool, zoom: float, seed: int) -> None:
        super().__init__()
        self._rotate, self._zoom = rotate, zoom
        self._random = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """Images N × H × W × C, float; unchanged unless ``training``."""
        if not training:
            return images
        n, size = keras.ops.shape(images)[0], images.shape[1]
        angle_N = keras.random.uniform((n,), 0.0, 2 * math.pi if self._rotate else 0.0, seed=self._random)
        scale_N = 1 / (1 + keras.random.uniform((n,), 0.0, self._zoom, seed=self._random))
        flip_N = keras.ops.where(keras.random.uniform((n,), seed=self._random) < 0.5, -1.0, 1.0)
        mirror_N = keras.ops.where(keras.random.uniform((n,), seed=self._random) < 0.5, -1.0, 1.0)
        cos_N, sin_N = scale_N * keras.ops.cos(angle_N), scale_N * keras.ops.sin(angle_N)
        a, b, c, d = cos_N * flip_N, -sin_N * mirror_N, sin_N * flip_N, cos_N * mirror_N
        centre, zero_N = (size - 1) / 2, keras.ops.zeros_like(angle_N)
        rows = [a, b, centre * (1 - a - b), c, d, centre * (1 - c - d), zero_N, zero_N]
        return keras.ops.image.affine_transform(images, keras.ops.stack(rows, axis=1), fill_mode="reflect")


def _build_convolutions(chosen: settings.Model, image_size_px: int) -> keras.Model:
    """Grey images of the stored size → hidden N × H."""
    grey = keras.Input((image_size_px, image_size_px, 1), name="grey")
    values = keras.layers.Resizing(chosen.final_size_px, chosen.final_size_px, antialias=True)(grey)
    for block in chosen.blocks:
        for filters in block:
            values = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(values)
        values = keras.layers.MaxPooling2D(2)(values)
    hidden = keras.layers.Dense(chosen.hidden, activation="relu", name="hidden")(keras.layers.Flatten()(values))
    return keras.Model(grey, hidden, name="convolutions")


def _build_head(chosen: settings.Model, groups: Sequence[Group]) -> keras.Model:
    hidden = keras.Input((chosen.hidden,), name="hidden")
    likelihood = likelihoods.LIKELIHOODS[chosen.likelihood]
    outputs = [likelihood.outputs(hidden, len(g.answers), f"question_{i}") for i, g in enumerate(groups)]
    joined = keras.layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0]
    return keras.Model(hidden, joined, name="head")


def train(
    network: Network, train_data: tf.data.Dataset, eval_data: tf.data.Dataset, chosen: settings.Model
) -> dict[str, Any]:
    """Train until the eval loss stops falling, and keep the best weights. Returns the history, a list per epoch for
    each loss.

    Raises InputError if the loss becomes NaN or infinite; nothing of such a network is worth keeping.
    """
    stop_early = keras.callbacks.EarlyStopping(monitor="val_loss", patience=chosen.patience, restore_best_weights=True)
    fitted = network.trainer.fit(
        train_data,
        validation_data=eval_data,
        epochs=chosen.max_epochs,
        callbacks=[stop_early, keras.callbacks.TerminateOnNaN()],
        shuffle=False,  # the data is shuffled already
        verbose=0,
    )
    history = {name: [float(value) for value in values] for name, values in fitted.history.items()}
    if not all(math.isfinite(value) for values in history.values() for value in values):
        raise InputError(
            f"Training diverged: the loss was not finite in epoch {len(history['loss'])}. Nothing was published."
            f" Lower model.learning_rate (now {chosen.learning_rate}) and start the iteration again."
        )
    return {
        "epochs": len(history["loss"]),
        "best_epoch": int(np.argmin(history["val_loss"])) + 1,
        "train_loss": history["loss"],
        "eval_loss": history["val_loss"],
    }


def encode(network: Network, images: tf.data.Dataset) -> Floats32:
    """The hidden values N × H of stored images, without dropout or augmentation."""
    forward = tf.function(lambda batch: network.encoder(batch, training=False), reduce_retracing=True)
    return np.concatenate([forward(batch).numpy() for batch in images])


def sample(network: Network, hidden_N_H: Floats32, n_samples: int, random: np.random.Generator) -> Floats32:
    """Posterior samples N × K × A: the head's outputs under K dropout masks (Gal & Ghahramani 2016).

    All galaxies share the K masks, so that a sample is one network's view of all of them, as batches need.
    """
    keep = 1 - network.dropout_rate
    samples = []
    for _ in range(n_samples):
        mask_H = (random.random((hidden_N_H.shape[1],), dtype=np.float32) < keep).astype(np.float32) / np.float32(keep)
        samples.append(network.head(hidden_N_H * mask_H, training=False).numpy())
    return np.stack(samples, axis=1)


def save(network: Network, folder: Path, history: dict[str, Any]) -> str:
    """Write weights, architecture and history; returns the digest of the weights."""
    folder.mkdir()
    network.trainer.save_weights(folder / WEIGHTS_FILE)
    architecture = {"encoder": json.loads(network.encoder.to_json()), "head": json.loads(network.head.to_json())}
    (folder / "architecture.json").write_text(json.dumps(architecture, indent=1) + "\n", encoding="utf-8")
    digest = weights_digest(network)
    (folder / TRAINING_FILE).write_text(
        json.dumps({**history, "weights_sha256": digest}, indent=1) + "\n", encoding="utf-8"
    )
    return digest


def load_weights(network: Network, folder: Path) -> None:
    """Take the weights of a former iteration. Raises SettingsError if the network has another shape."""
    path = folder / WEIGHTS_FILE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras only warns of layers that it leaves as they were
            network.trainer.load_weights(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} does not fit this network: {str(error).splitlines()[0]}") from error
    if weights_digest(network) != json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))["weights_sha256"]:
        raise SettingsError(f"{path} does not fit this network: other values came back than were saved")


def weights_digest(network: Network) -> str:
    """SHA-256 over the values of encoder and head, in order: independent of file formats."""
    digest = hashlib.sha256()
    for values in (*network.encoder.get_weights(), *network.head.get_weights()):
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
