"""How an iteration learns from the labels it has: by training a network, or by fitting a head to a frozen encoder.

In both cases ``learn`` writes the model's folder, and ``load`` turns that folder into a ``Predictor``, which gives the
features of any TFRecord file, and posterior samples from features. Axes: N galaxies, K samples, H features, A answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.galaxies.tasks import Group
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations.iteration import Iteration
from zoobot.models import features, heads, saved
from zoobot.models.architectures import Floats32
from zoobot.models.features import FeatureCache
from zoobot.models.saved import Training
from zoobot.settings import ModelSettings

HEAD_FILE = "head.npz"


@dataclass(frozen=True)
class Predictor:
    """``features``: TFRecord file → features N × H; ``sample``: features, K and a random stream → posterior samples
    N × K × A; ``member_K``: which network of an ensemble gives each sample, None without an ensemble.
    """

    features: Callable[[Path], Floats32]
    sample: Callable[[Floats32, int, np.random.Generator], Floats32]
    member_K: npt.NDArray[np.int64] | None = None


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
        return load_head(frozen, model.head, folder)
    return load_networks(model, it.task.groups, it.shard_config, folder, it.unfinished / "features")


def load_head(frozen: FeatureCache, head: str, folder: Path) -> Predictor:
    """The predictor for the head in ``folder``, on features of its encoder."""
    return Predictor(frozen.of, heads.HEADS[head].load(folder / HEAD_FILE).sample)


def load_networks(
    model: ModelSettings, groups: Sequence[Group], config: ShardConfig, folder: Path, kept: Path
) -> Predictor:
    """The predictor for the networks in ``folder``; features of the shards of ``config`` are kept in ``kept``."""
    from zoobot.iterations import networks

    cache, sample, member_K = networks.load_networks(model, groups, config, folder, kept)
    return Predictor(cache.of, sample, member_K)


def _fit_head(it: Iteration) -> Training:
    frozen = features.frozen_features(it.settings, it.shard_config)
    labelled = it.labelled("train")
    features_N_H = np.concatenate([frozen.of(path) for path in labelled.files.values()])
    head = it.settings.model.head
    at_random = drawn_at_random(it, labelled.ids)
    fitted = heads.fit(head, features_N_H, labelled.counts_N_A, it.task.groups, at_random)
    folder = it.folder.model
    folder.mkdir()
    fitted.save(folder / HEAD_FILE)
    architecture = {"encoder": frozen.weights_sha256, "orientations": frozen.orientations, "head": head}
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
