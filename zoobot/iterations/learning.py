"""How an iteration learns from the labels it has: by training a network, or by fitting a head to a frozen encoder.

Either way ``learn`` writes the model's folder, and ``load`` makes of such a folder a ``Predictor``: features of any
TFRecord file, and posterior samples from features. Axes: N galaxies, K samples, H features, A answers.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from zoobot import folders
from zoobot.engine.seeds import number
from zoobot.errors import FolderError
from zoobot.galaxies import tfrecords
from zoobot.iterations.iteration import Iteration
from zoobot.models import encoders, features, linear_head, mc_dropout, training

Floats32 = npt.NDArray[np.float32]
HEAD_FILE = "head.npz"


@dataclass(frozen=True)
class Predictor:
    """``features``: of the galaxies of a TFRecord file, N × H; ``sample``: posterior samples N × K × A from features
    (K and a random stream given); ``member_K``: which network of an ensemble gives each sample, None without one.
    """

    features: Callable[[Path], Floats32]
    sample: Callable[[Floats32, int, np.random.Generator], Floats32]
    member_K: npt.NDArray[np.int64] | None = None


def learn(it: Iteration) -> dict[str, Any]:
    """Learn from all labels so far, write ``model/`` and return the training history."""
    return (_fit_head if it.settings.model.train == "head" else _train_networks)(it)


def load(it: Iteration, folder: Path) -> Predictor:
    """What the model in ``folder`` predicts."""
    return (_load_head if it.settings.model.train == "head" else _load_networks)(it, folder)


# --------------------------------------------------------------- train a network


def _build(it: Iteration, member: int) -> mc_dropout.Network:
    if not member:
        keras.backend.clear_session()  # frees the networks before, and lets names of layers begin anew
    seed = number(it.settings.seed, "member", member) if member else it.settings.seed
    config = it.shard_config
    return mc_dropout.build(it.settings.model, it.task.groups, config["image_size_px"], config["channels"], seed)


def _train_networks(it: Iteration) -> dict[str, Any]:
    networks, histories = [], []
    for member in range(it.settings.model.ensemble):
        network = _build(it, member)
        if it.settings.model.warm_start and it.before:
            mc_dropout.load_weights(network, it.before[-1] / "model", member)
        elif it.settings.weights_path:
            encoders.load(network.encoder, it.settings.weights_path)
        histories.append(_train(it, network, member))
        networks.append(network)
    history = histories[0] | ({"members": histories[1:]} if len(histories) > 1 else {})
    return mc_dropout.save(networks, it.settings.model, it.folder / "model", history)


def _train(it: Iteration, network: mc_dropout.Network, member: int) -> dict[str, Any]:
    chosen, config = it.settings.model, it.shard_config
    files = it.train_files()
    n_train = it.count_train()
    passes = math.ceil(chosen.steps_per_epoch * chosen.batch_size / n_train)

    def of_epoch(epoch: int) -> Any:
        order = number(it.settings.seed, "data order", it.number, member, epoch)
        return tfrecords.dataset(list(files.values()), n_train, it.task, config, chosen.batch_size, order, passes)

    eval_files, n_eval = it.split_files("eval"), config["galaxies"]["eval"]
    eval_data = tfrecords.dataset(eval_files, n_eval, it.task, config, chosen.predict_batch_size).cache()
    # Another start or other galaxies, such as labels that came in since a crash, make another training.
    content = [encoders.digest(network.encoder, network.head), *map(folders.digest_in, files.values())]
    key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    return training.train(network, of_epoch, eval_data, chosen, it.unfinished / f"training_{member}_{key}.npz")


def _load_networks(it: Iteration, folder: Path) -> Predictor:
    chosen = it.settings.model
    networks = [_build(it, member) for member in range(chosen.ensemble)]
    for member, network in enumerate(networks):
        mc_dropout.load_weights(network, folder, member)

    passes = [features.encoder_pass(network.encoder, it.shard_config, chosen) for network in networks]

    def encode(path: Path) -> Floats32:
        return np.concatenate([one(path) for one in passes], axis=1)

    cache = features.FeatureCache(
        it.unfinished / "features", mc_dropout.weights_digest(networks), chosen.orientations, encode
    )
    member_K = mc_dropout.members(chosen.ensemble, chosen.n_samples) if chosen.ensemble > 1 else None
    return Predictor(cache.of, functools.partial(mc_dropout.sample, networks), member_K)


# --------------------------------------------------------------- fit a head to a frozen encoder


def _fit_head(it: Iteration) -> dict[str, Any]:
    frozen = features.frozen(it.settings, it.shard_config)
    files = it.train_files().values()
    counts = [it.task.counts(tfrecords.read_votes(path, it.task.stored_columns)) for path in files]
    fitted = linear_head.fit(
        np.concatenate([frozen.of(path) for path in files]), np.concatenate(counts), it.task.groups, _at_random(it)
    )
    folder = it.folder / "model"
    folder.mkdir()
    fitted.save(folder / HEAD_FILE)
    architecture = {"encoder": frozen.weights_sha256, "orientations": frozen.orientations, "head": "linear"}
    folders.write_json(folder / "architecture.json", architecture)
    told = {g.question: {"prior_precision": q.prior_precision, "slope": q.slope, "votes_correlation": q.predicted_rho}
            for g, q in zip(it.task.groups, fitted.questions, strict=True)}  # fmt: skip
    history = {"epochs": 0, "questions": told, "weights_sha256": encoders.digest_arrays([*fitted.arrays().values()])}
    folders.write_json(folder / mc_dropout.TRAINING_FILE, history)
    return history


def _at_random(it: Iteration) -> npt.NDArray[np.bool_]:
    """Which of the galaxies to learn from, in order, were drawn at random: those before the first iteration, and those
    that no acquisition function chose.
    """
    chosen = it.settings.acquisition
    if chosen.name == "random" and chosen.skip_confident == 1:
        return np.ones(it.count_train(), bool)
    drawn: set[str] = set()
    for folder in it.before:
        path = folder / "predictions.parquet"
        drawn |= set(pd.read_parquet(path, columns=["id_str"], filters=[("at_random", "==", True)])["id_str"])
    files = it.train_files().values()
    return np.array([p.is_relative_to(it.shard_dir) or id_ in drawn for p in files for id_ in tfrecords.read_ids(p)])


def _load_head(it: Iteration, folder: Path) -> Predictor:
    frozen = features.frozen(it.settings, it.shard_config)
    if folders.read_json(folder / "architecture.json")["encoder"] != frozen.weights_sha256:
        raise FolderError(
            f"{folder} has a head for another encoder than model.weights={it.settings.model.weights} is now."
        )
    return Predictor(frozen.of, linear_head.load(folder / HEAD_FILE).sample)


# --------------------------------------------------------------- keep features
