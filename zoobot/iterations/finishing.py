"""The final model of an experiment: its encoder trained further on all labels, or the newest iteration's own model if
that is not better on the eval galaxies.

One network is trained for each part of the labels, on all other parts. The part left out says when to stop, and the
predictions for all parts together, each by a network that has not seen it, say how sure the networks may be. Only
galaxies that were drawn at random count for the latter. Axes: N galaxies, K posterior samples, A answers.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from zoobot import folders
from zoobot.engine.seeds import stream
from zoobot.errors import SettingsError
from zoobot.folders import disk
from zoobot.galaxies import tfrecords
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations import evaluate, learning
from zoobot.iterations.final_files import Final, FinalFolder, Recipe
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.learning import Predictor
from zoobot.metrics import PredictedVotes
from zoobot.metrics.temperature import calibrate, fit_calibration
from zoobot.models import features, saved, shapes
from zoobot.models.architectures import ARCHITECTURES, Floats32
from zoobot.models.features import FrozenEncoder
from zoobot.settings import ModelSettings

Sample = Callable[[Floats32, int, np.random.Generator], Floats32]
_POINTS = 64  # of a head's posterior, at least: few of them pair badly where a question has three answers
log = logging.getLogger("zoobot")


@dataclass(frozen=True)
class FinalModel:
    """A final model, ready to predict."""

    recipe: Recipe
    predictor: Predictor

    def predict(self, files: Iterable[Path]) -> PredictedVotes:
        """Posterior samples for the galaxies in TFRecord files, in order; each call uses the same K models."""
        features_N_H = np.concatenate([self.predictor.features(path) for path in files])
        return self._predict(features_N_H, self.predictor.sample, self.recipe.model.n_samples)

    def predict_alone(self, file: Path) -> PredictedVotes:
        """The same for a catalogue: the samples of a head do not say how galaxies go together, which is faster."""
        joint, n_samples = self.predictor.joint, self.recipe.model.n_samples
        with threadpool_limits(1, "blas"):  # the same bytes, however many processes work on a catalogue
            features_N_H = self.predictor.features(file)
            if joint is None:
                return self._predict(features_N_H, self.predictor.sample, n_samples)
            return self._predict(features_N_H, joint.sample_alone, max(n_samples, _POINTS))

    def _predict(self, features_N_H: Floats32, sample: Sample, n_samples: int) -> PredictedVotes:
        model, random = self.recipe.model, stream(self.recipe.seed, "posterior samples", self.recipe.iteration)
        samples = sample(features_N_H, n_samples, random)
        predicted = PredictedVotes(samples, self.recipe.build_task().groups, model.likelihood)
        found = calibrate(predicted, self.recipe.calibration)
        return found.with_samples(found.samples_N_K_A.astype(np.float32))


def refuse_other_shards(folder: FinalFolder, config: ShardConfig, shard_dir: Path) -> None:
    """SettingsError: the final model takes features, not pictures, or the other way round; or others than these."""
    features.refuse_other_shards(folder.read().recipe.model, config, shard_dir)
    takes, holds = (
        _features(folder, config, shard_dir) if config.encoding == tfrecords.FEATURES else _pictures(folder, config)
    )
    if takes != holds:
        raise SettingsError(
            f"{folder.path} takes {takes}; {shard_dir} holds {holds}. Make shards as it takes them under another"
            " shards.name, or name another experiment."
        )


def _features(folder: FinalFolder, config: ShardConfig, shard_dir: Path) -> tuple[str, str]:
    """What the model takes, and what the shards hold."""
    with np.load(folder.model / learning.HEAD_FILE) as stored:
        n_taken = len(stored["centre_H"])
    first = next(name for names in config.splits.values() for name in names)
    n_held = len(tfrecords.decode(next(tfrecords.read(shard_dir / first)), config.encoding)[1])
    return f"{n_taken} features", f"{n_held} features"


def _pictures(folder: FinalFolder, config: ShardConfig) -> tuple[str, str]:
    holds = f"pictures of {config.image_size_px} px with {config.channels} channels"
    if record := shapes.read_record(folder.model):
        return f"pictures of {record.image_size_px} px with {record.channels} channels", holds
    learnt = folders.read_json(folder.model / saved.ARCHITECTURE)["encoder"]
    same = features.digest(FrozenEncoder(folder.read().recipe.model, config, None)) == learnt
    return holds if same else "pictures of another size", holds


def load(folder: FinalFolder, config: ShardConfig, kept: Path) -> FinalModel:
    """The final model in a folder, for shards like those of ``config``; features are kept in ``kept``. It reads no
    other folder. Raises SettingsError if the encoder takes images of another size.
    """
    return _load(folder.read().recipe, folder.model, config, kept)


def _load(recipe: Recipe, folder: Path, config: ShardConfig, kept: Path) -> FinalModel:
    model = recipe.model
    if model.train == "all":
        groups = recipe.build_task().groups
        return FinalModel(recipe, learning.load_networks(model, groups, config, folder, kept))
    fixed = ARCHITECTURES[model.architecture].fixed
    frozen = features.cached(FrozenEncoder(model, config, None if fixed else folder), kept)
    return FinalModel(recipe, learning.load_head(frozen, folder))


def finish(it: Iteration, folder: FinalFolder) -> Final:
    """Write the final model of an experiment, given its newest iteration. Returns its record."""
    disk.empty(folder.path)  # remove what a stopped run had written
    content = _fine_tune(it, folder)
    if content is None or content.better_by <= 0:
        disk.empty(folder.path)
        content = _keep_newest(it, folder, content.eval_loss if content else None)
    folder.write(content)
    return content


def _describe(it: Iteration, folder: FinalFolder, recipe: Recipe, fine_tuned: bool, tried: float | None) -> Final:
    """The record of what is in the folder; ``tried`` is the eval loss of networks that are not used."""
    eval_loss = folder.loss("eval")
    return Final(
        train_galaxies=len(it.labelled("train").ids),
        fine_tuned=fine_tuned,
        better_by=it.folder.loss("eval") - eval_loss,
        eval_loss=eval_loss,
        test_loss=folder.loss("test"),
        iteration_test_loss=it.folder.loss("test"),
        tried_eval_loss=eval_loss if fine_tuned else tried,
        weights_sha256=saved.read_training(folder.model).weights_sha256,
        recipe=recipe,
    )


def _newest(it: Iteration) -> Recipe:
    """How to predict with the newest iteration's model. Its encoder's weights lie beside it."""
    model, calibration = replace(it.settings.model, weights=""), it.folder.summary().calibration
    return Recipe(model, calibration, it.settings.task, it.questions.as_dict(), it.settings.seed, it.number)


def _keep_newest(it: Iteration, folder: FinalFolder, tried: float | None) -> Final:
    """Copy the newest iteration's model, and its encoder."""
    shutil.copytree(it.folder.model, folder.model, copy_function=shutil.copyfile)
    folder.model.chmod(0o755)
    if it.settings.model.train == "head":
        frozen = FrozenEncoder(it.settings.model, it.shard_config, it.settings.weights_path)
        features.save_encoder(frozen, folder.model)
    folder.write_metrics(it.folder.metrics())
    if it.folder.has_test_losses:
        folder.write_test_losses(it.folder.test_losses())
    return _describe(it, folder, _newest(it), False, tried)


# --------------------------------------------------------------- fine-tuning


def _fine_tune(it: Iteration, folder: FinalFolder) -> Final | None:
    """The networks; None if the encoder has no weights that can be trained, or if there are too few labels."""
    labelled = it.labelled("train")
    n_networks = min(it.settings.finish.networks, len(labelled.ids))
    if not ARCHITECTURES[it.settings.model.architecture].layers or n_networks < 2:
        return None
    from zoobot.iterations import networks  # late: only networks need TensorFlow

    model = _trained_further(it, n_networks)
    part_N = stream(it.settings.seed, "parts of the labels").permutation(len(labelled.ids)) % n_networks
    rows_of = [np.flatnonzero(part_N == n) for n in range(n_networks)]
    parts = [networks.Records([_write_part(it, n, rows)], len(rows)) for n, rows in enumerate(rows_of)]
    training = replace(it, settings=replace(it.settings, model=model))
    samples_N_K_A = networks.fine_tune(training, parts, folder.model)
    rows = np.concatenate(rows_of)  # the order of these samples
    left_out = PredictedVotes(samples_N_K_A, it.task.groups, model.likelihood)
    at_random = learning.drawn_at_random(it, labelled.ids)[rows]
    # Each of these samples is of one network, and the final model's are of all: their spread is another one.
    calibration = fit_calibration(left_out.take(at_random), labelled.counts_N_A[rows[at_random]], spread=False)
    recipe = replace(_newest(it), model=replace(model, weights=""), calibration=calibration)
    found = _load(recipe, folder.model, it.shard_config, it.unfinished / "features")
    folder.write_metrics(evaluate.measure(it, folder, lambda galaxies: found.predict(galaxies.files.values())))
    return _describe(it, folder, recipe, True, None)


def _trained_further(it: Iteration, n_networks: int) -> ModelSettings:
    """The settings of the networks. Where iterations train networks, these are trained in the same way."""
    model, finish = it.settings.model, it.settings.finish
    if model.train == "head":
        model = replace(
            model,
            train="all",
            dropout_rate=finish.dropout_rate,
            learning_rate=finish.learning_rate,
            max_epochs=finish.epochs,
            patience=finish.epochs,
        )
    return replace(model, ensemble=n_networks, n_samples=max(model.n_samples, n_networks), warm_start=False)


def _write_part(it: Iteration, number: int, rows: npt.NDArray[np.int64]) -> Path:
    """Write some of the labelled galaxies as a file of their own, beside the unfinished folder."""
    chosen = set(rows.tolist())
    records = itertools.chain.from_iterable(map(tfrecords.read, it.labelled("train").files.values()))
    path = it.unfinished / "parts" / f"part_{number:05d}.tfrecord"
    tfrecords.write(path, [record for row, record in enumerate(records) if row in chosen])
    return path
