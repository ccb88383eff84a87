"""Train an iteration's networks on all labels so far, and load them again. Imports TensorFlow.

Axes: N galaxies, K samples, H features, A answers.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoobot import folders
from zoobot.engine.seeds import number
from zoobot.iterations.iteration import Iteration
from zoobot.models import encoders, mc_dropout, training
from zoobot.models.architectures import Floats32
from zoobot.models.datasets import dataset
from zoobot.models.features import FeatureCache
from zoobot.models.saved import Training

Sample = Callable[[Floats32, int, np.random.Generator], Floats32]


def _build(it: Iteration, member: int) -> mc_dropout.Network:
    if not member:
        keras.backend.clear_session()  # frees earlier networks and resets the names of layers
    seed = number(it.settings.seed, "member", member) if member else it.settings.seed
    config = it.shard_config
    return mc_dropout.build(it.settings.model, it.task.groups, config.image_size_px, config.channels, seed)


def train_networks(it: Iteration) -> Training:
    """Train each network of the ensemble, and write ``model/``."""
    networks, histories = [], []
    for member in range(it.settings.model.ensemble):
        network = _build(it, member)
        if it.settings.model.warm_start and it.before:
            mc_dropout.load_weights(network, it.before[-1].model, member)
        elif it.settings.weights_path:
            encoders.load(network.encoder, it.settings.weights_path)
        histories.append(_train(it, network, member))
        networks.append(network)
    history: dict[str, object] = asdict(histories[0])
    if len(histories) > 1:
        history["members"] = [asdict(one) for one in histories[1:]]
    return mc_dropout.save(networks, it.settings.model, it.folder.model, history)


def _train(it: Iteration, network: mc_dropout.Network, member: int) -> training.History:
    model, config = it.settings.model, it.shard_config
    labelled = it.labelled("train")
    files, n_train = list(labelled.files.values()), len(labelled.ids)
    passes = math.ceil(model.steps_per_epoch * model.batch_size / n_train)

    def of_epoch(epoch: int) -> tf.data.Dataset:
        order = number(it.settings.seed, "data order", it.number, member, epoch)
        return dataset(files, n_train, it.task, config, model.batch_size, order, passes)

    eval_files, n_eval = list(it.split_files("eval").values()), config.galaxies["eval"]
    eval_data = dataset(eval_files, n_eval, it.task, config, model.predict_batch_size).cache()
    # Other initial weights or other galaxies (such as labels that came in after a crash) mean a different training.
    content = [encoders.digest(network.encoder, network.head), *map(folders.digest_in, files)]
    key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    return training.train(network, of_epoch, eval_data, model, it.unfinished / f"training_{member}_{key}.npz")


def load_networks(it: Iteration, folder: Path) -> tuple[FeatureCache, Sample, npt.NDArray[np.int64] | None]:
    """For the networks in ``folder``: their features, side by side; the function that samples from features; and which
    network gives each sample (None if there is only one network).
    """
    model = it.settings.model
    networks = [_build(it, member) for member in range(model.ensemble)]
    for member, network in enumerate(networks):
        mc_dropout.load_weights(network, folder, member)
    passes = [encoders.forward_records(network.encoder, it.shard_config, model.orientations) for network in networks]

    def encode(path: Path) -> Floats32:
        return np.concatenate([encoders.encode(one, path, model.predict_batch_size) for one in passes], axis=1)

    digest = mc_dropout.weights_digest(networks)
    cache = FeatureCache(it.unfinished / "features", digest, model.orientations, encode)
    member_K = mc_dropout.members(model.ensemble, model.n_samples) if model.ensemble > 1 else None
    return cache, functools.partial(mc_dropout.sample, networks), member_K
