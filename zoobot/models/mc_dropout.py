"""The network, its training, and samples from its posterior.

Image → encoder (zoobot/models/encoders.py) → dropout → head (probabilities or concentrations per question, see
zoobot/models/losses.py). Dropout comes only between encoder and head, so K posterior samples cost one pass of the
encoder and K passes of the small head. Axes: N galaxies, K samples, H features, A answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoobot import folders
from zoobot.engine.seeds import number
from zoobot.galaxies.tasks import Group
from zoobot.models import encoders, losses, saved
from zoobot.models.saved import Training
from zoobot.models.views import RandomView
from zoobot.settings import ModelSettings

_ROWS = 1024  # galaxies whose samples are computed at a time
Floats32 = npt.NDArray[np.float32]
tf.get_logger().setLevel("ERROR")  # it would warn that each iteration compiles a new network, which is intended


@dataclass(frozen=True)
class Network:
    """``encoder``: stored images → features N × H; ``head``: features → probabilities or concentrations N × A;
    ``trainer``: both, with augmentation and dropout.
    """

    encoder: keras.Model
    head: keras.Model
    trainer: keras.Model
    dropout_rate: float


def build(model: ModelSettings, groups: Sequence[Group], image_size_px: int, channels: int, seed: int) -> Network:
    """A network with new weights. The same seed gives the same weights, dropout and augmentation."""
    keras.utils.set_random_seed(number(seed, "network"))
    tf.config.experimental.enable_op_determinism()
    with (
        encoders.precision(model) as on_gpu,
        tf.distribute.MirroredStrategy().scope() if on_gpu and model.all_gpus else nullcontext(),
    ):
        images = keras.Input((image_size_px, image_size_px, channels), dtype="uint8", name="images")
        encoder = encoders.build(model, image_size_px, channels)
        convolutions = encoder.get_layer("convolutions")
        scaled = encoders.prepare(images, model)
        head = _build_head(encoder.output_shape[-1], model.likelihood, groups)
        view = RandomView(model.rotate, model.zoom, number(seed, "augmentation"))(scaled)
        dropped = keras.layers.Dropout(model.dropout_rate, seed=number(seed, "dropout in training"))(convolutions(view))
        trainer = keras.Model(images, head(dropped), name="trainer")
        trainer.compile(
            keras.optimizers.Adam(model.learning_rate),
            loss=losses.loss(model.likelihood, groups),
            jit_compile=False,  # XLA knows no random views, and Keras has no XLA for deterministic operations
        )
    return Network(encoder, head, trainer, model.dropout_rate)


def _build_head(n_features: int, likelihood: str, groups: Sequence[Group]) -> keras.Model:
    features = keras.Input((n_features,), name="features")
    outputs = [losses.outputs(likelihood, features, len(g.answers), f"question_{i}") for i, g in enumerate(groups)]
    joined = keras.layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0]
    return keras.Model(features, joined, name="head")


def sample(
    networks: Sequence[Network], features_N_H: Floats32, n_samples: int, random: np.random.Generator
) -> Floats32:
    """Posterior samples N × K × A: the heads' outputs under K dropout masks (Gal & Ghahramani 2016).

    All galaxies share the K masks, so each sample is one network's view of all galaxies; choosing a batch needs this.
    Each network of an ensemble reads its own part of the features and gives an equal share of the samples, in order.
    """
    member_K = members(len(networks), n_samples)
    n_features = features_N_H.shape[1] // len(networks)
    keep = np.float32(1 - networks[0].dropout_rate)
    mask_K_H = (random.random((n_samples, n_features), dtype=np.float32) < keep) / keep
    samples = np.empty((len(features_N_H), n_samples, networks[0].head.output_shape[-1]), np.float32)
    for member, network in enumerate(networks):
        own = member_K == member
        for start in range(0, len(samples), _ROWS):
            part_N_H = features_N_H[start : start + _ROWS, member * n_features : (member + 1) * n_features]
            masked = part_N_H[:, None] * mask_K_H[own]
            outputs = network.head(masked.reshape(-1, n_features), training=False).numpy()
            samples[start : start + _ROWS, own] = outputs.reshape(*masked.shape[:2], -1)
    return samples


def members(n_networks: int, n_samples: int) -> npt.NDArray[np.int64]:
    """Which network of an ensemble gives each of K samples: equal shares, in order."""
    return np.arange(n_samples) * n_networks // n_samples


def save(networks: Sequence[Network], model: ModelSettings, folder: Path, history: Mapping[str, object]) -> Training:
    """Write weights, architecture and history, with the digest of the weights."""
    folder.mkdir()
    for i, network in enumerate(networks):
        encoders.save(network.encoder, model, folder, _part("encoder", i))
        network.head.save_weights(folder / f"{_part('head', i)}.weights.h5")
    parts = {"encoder": networks[0].encoder, "head": networks[0].head}
    architecture = {name: json.loads(part.to_json()) for name, part in parts.items()}
    folders.write_json(folder / saved.ARCHITECTURE, architecture)
    return saved.write_training(folder, {**history, "weights_sha256": weights_digest(networks)})


def load_weights(network: Network, folder: Path, member: int = 0) -> None:
    """Load the weights of an earlier iteration. Raises SettingsError if the network has another shape."""
    encoders.load(network.encoder, folder, _part("encoder", member))
    encoders.load_file(network.head, folder / f"{_part('head', member)}.weights.h5")


def _part(name: str, member: int) -> str:
    return f"{name}_{member}" if member else name


def weights_digest(networks: Sequence[Network]) -> str:
    """SHA-256 over the values of all encoders and heads, in order: independent of file formats."""
    return encoders.digest(*[part for network in networks for part in (network.encoder, network.head)])
