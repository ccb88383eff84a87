"""How an iteration learns from the labels it has: by training a network, or by fitting a head to a frozen encoder.

In both cases ``learn`` writes the model's folder, and ``load`` turns that folder into a ``Predictor``, which gives the
features of any TFRecord file, and posterior samples from features. Axes: N galaxies, K samples, H features, A answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.galaxies import database
from zoobot.galaxies.tasks import Group
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations.iteration import Iteration
from zoobot.models import features, head, saved
from zoobot.models.architectures import Floats32
from zoobot.models.features import FeatureCache
from zoobot.models.saved import Training
from zoobot.settings import ModelSettings

HEAD_FILE, HEAD = "head.npz", "gaussian process"
SCALED = 2000  # galaxies of the pool whose features give the head its scale


@dataclass(frozen=True)
class Predictor:
    """``features``: TFRecord file → features N × H; ``sample``: features, K and a random stream → posterior samples
    N × K × A; ``member_K``: which network of an ensemble gives each sample, None without an ensemble; ``joint``: the
    head, None without one; ``fill``: have worker processes compute the features of files, where that is faster.
    """

    features: Callable[[Path], Floats32]
    sample: Callable[[Floats32, int, np.random.Generator], Floats32]
    member_K: npt.NDArray[np.int64] | None = None
    joint: head.Head | None = None
    fill: Callable[[Iterable[Path]], None] = lambda files: None


def learn(it: Iteration) -> Training:
    """Learn from all labels so far, and write ``model/``."""
    if it.settings.model.train == "head":
        return _fit_head(it)
    from zoobot.iterations import networks  # late: only networks need TensorFlow

    return networks.train_networks(it)


def load(it: Iteration, folder: Path) -> Predictor:
    """The predictor for the model in ``folder``."""
    model = it.settings.model
    if model.train == "head":
        frozen = features.frozen_features(it.settings, it.shard_config)
        if folders.read_json(folder / saved.ARCHITECTURE)["encoder"] != frozen.weights_sha256:
            raise FolderError(
                f"The head in {folder} belongs to another encoder than model.weights={model.weights} now."
            )
        fill = functools.partial(features.fill, frozen, it.settings, it.shard_config.shard_size)
        return replace(load_head(frozen, folder), fill=fill)
    return load_networks(model, it.task.groups, it.shard_config, folder, it.unfinished / "features")


def load_head(frozen: FeatureCache, folder: Path) -> Predictor:
    """The predictor for the head in ``folder``, on features of its encoder."""
    kind = folders.read_json(folder / saved.ARCHITECTURE)["head"]
    if kind != HEAD:
        raise FolderError(
            f"The head in {folder} is a {kind} one, made by an earlier version of the program, which can go on with it."
            " Or start a new experiment."
        )
    fitted = head.load(folder / HEAD_FILE)
    return Predictor(frozen.of, fitted.sample, joint=fitted)


def load_networks(
    model: ModelSettings, groups: Sequence[Group], config: ShardConfig, folder: Path, kept: Path
) -> Predictor:
    """The predictor for the networks in ``folder``; features of the shards of ``config`` are kept in ``kept``."""
    from zoobot.iterations import networks

    cache, sample, member_K = networks.load_networks(model, groups, config, folder, kept)
    return Predictor(cache.of, sample, member_K)


def _fit_head(it: Iteration) -> Training:
    frozen = features.frozen_features(it.settings, it.shard_config)
    names = [name for split in ("train", "eval", "test") for name in it.shard_config.splits[split]]
    files = [it.shard_dir / name for name in (*names, *_scale_shards(it))]
    features.fill(frozen, it.settings, it.shard_config.shard_size, files)
    return write_head(it, frozen, *training_set(it, frozen.of))


def training_set(it: Iteration, of: Callable[[Path], Floats32]) -> tuple[Floats32, Floats32, npt.NDArray[np.bool_]]:
    """What a head is fitted to: features N × H, which ``of`` gives of a file, votes N × A of all labels so far, and
    which galaxies were drawn at random (N).
    """
    labelled = it.labelled("train")
    return features_of(it, of, labelled.ids), labelled.counts_N_A, drawn_at_random(it, labelled.ids)


def features_of(it: Iteration, of: Callable[[Path], Floats32], ids: Sequence[str]) -> Floats32:
    """Features N × H of these galaxies, from those that ``of`` gives of their shards. An iteration that chose them has
    predicted these shards, so with a cache nothing is encoded, and no network is built.
    """
    with database.connect(it.folder.database) as connection:
        places = database.shards_of(connection, ids)
    row = {id_str: i for i, id_str in enumerate(ids)}
    by_shard_N_H = np.concatenate([of(it.shard_dir / shard)[list(at)] for shard, at in places.items()])
    found_N_H = np.empty_like(by_shard_N_H)
    found_N_H[[row[id_str] for at in places.values() for id_str in at.values()]] = by_shard_N_H
    return found_N_H


def write_head(
    it: Iteration,
    frozen: FeatureCache,
    features_N_H: Floats32,
    counts_N_A: Floats32,
    at_random_N: npt.NDArray[np.bool_],
) -> Training:
    """Fit the head, and write ``model/``."""
    fitted = head.fit(features_N_H, counts_N_A, it.task.groups, at_random_N, scale_of(it, frozen.of))
    folder = it.folder.model
    folder.mkdir()
    fitted.save(folder / HEAD_FILE)
    architecture = {"encoder": frozen.weights_sha256, "orientations": frozen.orientations, "head": HEAD}
    folders.write_json(folder / saved.ARCHITECTURE, architecture)
    history = {"epochs": 0, "questions": fitted.history(it.task.groups), "weights_sha256": fitted.digest()}
    return saved.write_training(folder, history)


def drawn_at_random(it: Iteration, ids: list[str]) -> npt.NDArray[np.bool_]:
    """Which training galaxies were drawn at random: those from before the first iteration, which come first, and those
    that no acquisition function chose.
    """
    acquisition = it.settings.acquisition
    if acquisition.name == "random" and acquisition.skip_confident == 1:
        return np.ones(len(ids), bool)
    drawn = set().union(*(folder.drawn_at_random() for folder in it.before))
    n_first = it.shard_config.galaxies["train"]
    return np.array([row < n_first or id_ in drawn for row, id_ in enumerate(ids)])


def scale_of(it: Iteration, of: Callable[[Path], Floats32]) -> head.Scale:
    """That of the first pool shards."""
    return head.Scale.of(np.concatenate([of(it.shard_dir / name) for name in _scale_shards(it)]))


def _scale_shards(it: Iteration) -> list[str]:
    """As many as hold enough galaxies if none was dropped: always the same ones."""
    return it.shard_config.splits["pool"][: -(-SCALED // it.shard_config.shard_size)]
