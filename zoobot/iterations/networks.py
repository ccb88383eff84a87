"""Train an iteration's networks on all labels so far, and load them again. Imports TensorFlow.

Axes: N galaxies, K samples, H features, A answers.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoobot import folders
from zoobot.engine.seeds import number, stream
from zoobot.galaxies.tasks import Group
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations.iteration import Iteration
from zoobot.models import encoders, mc_dropout, training
from zoobot.models.architectures import Floats32
from zoobot.models.datasets import dataset
from zoobot.models.features import FeatureCache
from zoobot.models.saved import Training
from zoobot.settings import ModelSettings

log = logging.getLogger("zoobot")
Sample = Callable[[Floats32, int, np.random.Generator], Floats32]


@dataclass(frozen=True)
class Records:
    """Labelled galaxies: their TFRecord files, and how many there are."""

    files: list[Path]
    n: int


def _build(
    model: ModelSettings, groups: Sequence[Group], config: ShardConfig, seed: int, member: int
) -> mc_dropout.Network:
    if not member:
        keras.backend.clear_session()  # frees earlier networks and resets the names of layers
    seed = number(seed, "member", member) if member else seed
    return mc_dropout.build(model, groups, config.image_size_px, config.channels, seed)


def train_networks(it: Iteration) -> Training:
    """Train each network of the ensemble, and write ``model/``."""
    labelled = it.labelled("train")
    galaxies = Records(list(labelled.files.values()), len(labelled.ids))
    held_out = Records(list(it.split_files("eval").values()), it.shard_config.galaxies["eval"])
    networks, histories = [], []
    for member in range(it.settings.model.ensemble):
        network = _build(it.settings.model, it.task.groups, it.shard_config, it.settings.seed, member)
        if it.settings.model.warm_start and it.before:
            mc_dropout.load_weights(network, it.before[-1].model, member)
        elif it.settings.weights_path:
            encoders.load(network.encoder, it.settings.weights_path)
        histories.append(_train(it, network, galaxies, held_out, member))
        networks.append(network)
    return mc_dropout.save(networks, it.settings.model, it.folder.model, _history(histories))


def _history(of_members: Sequence[training.History]) -> dict[str, object]:
    first, *others = [asdict(one) for one in of_members]
    return {**first, "members": others} if others else first


def fine_tune(it: Iteration, parts: Sequence[Records], folder: Path) -> Floats32:
    """Train one network for each part of the labels, on all other parts, from the experiment's encoder. The part left
    out says when to stop. Writes ``folder`` and returns each network's posterior samples for its part, in order.
    """
    model, groups, config = it.settings.model, it.task.groups, it.shard_config
    networks, histories, samples = [], [], []
    for member, part in enumerate(parts):
        log.info("fine-tuning: network %d of %d", member + 1, len(parts))
        network = _build(model, groups, config, it.settings.seed, member)
        if it.settings.weights_path:
            encoders.load(network.encoder, it.settings.weights_path)
        others = [*parts[:member], *parts[member + 1 :]]
        galaxies = Records([file for other in others for file in other.files], sum(other.n for other in others))
        histories.append(_train(it, network, galaxies, part, member))
        networks.append(network)
        of_records = encoders.forward_records(network.encoder, config, model)
        features_N_H = [encoders.encode(of_records, file, model.predict_batch_size) for file in part.files]
        random = stream(it.settings.seed, "samples of the part left out", member)
        samples.append(mc_dropout.sample([network], np.concatenate(features_N_H), model.n_samples, random))
    mc_dropout.save(networks, model, folder, _history(histories))
    return np.concatenate(samples)


def _train(
    it: Iteration, network: mc_dropout.Network, galaxies: Records, held_out: Records, member: int
) -> training.History:
    model, config = it.settings.model, it.shard_config
    passes = math.ceil(model.steps_per_epoch * model.batch_size / galaxies.n)

    def of_epoch(epoch: int) -> tf.data.Dataset:
        order = number(it.settings.seed, "data order", it.number, member, epoch)
        return dataset(galaxies.files, galaxies.n, it.task, config, model.batch_size, order, passes)

    eval_data = dataset(held_out.files, held_out.n, it.task, config, model.predict_batch_size).cache()
    # Other initial weights or other galaxies (such as labels that came in after a crash) mean a different training.
    content = [encoders.digest(network.encoder, network.head), *map(folders.digest_in, galaxies.files)]
    key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    return training.train(network, of_epoch, eval_data, model, it.unfinished / f"training_{member}_{key}.npz")


def load_networks(
    model: ModelSettings, groups: Sequence[Group], config: ShardConfig, folder: Path, kept: Path
) -> tuple[FeatureCache, Sample, npt.NDArray[np.int64] | None]:
    """For the networks in ``folder``: their features, side by side, which are kept in ``kept``; the function that
    samples from features; and which network gives each sample (None if there is only one network).
    """
    networks = [_build(model, groups, config, 0, member) for member in range(model.ensemble)]
    for member, network in enumerate(networks):
        mc_dropout.load_weights(network, folder, member)
    passes = [encoders.forward_records(network.encoder, config, model) for network in networks]

    def encode(path: Path) -> Floats32:
        return np.concatenate([encoders.encode(one, path, model.predict_batch_size) for one in passes], axis=1)

    digest = mc_dropout.weights_digest(networks)
    cache = FeatureCache(kept, digest, model.orientations, encode)
    member_K = mc_dropout.members(model.ensemble, model.n_samples) if model.ensemble > 1 else None
    return cache, functools.partial(mc_dropout.sample, networks), member_K
