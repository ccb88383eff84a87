"""Evaluate an iteration's model on the eval, the test and the control galaxies.

Axes: N galaxies, K posterior samples, A answers.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from zoobot import metrics
from zoobot.engine.seeds import stream
from zoobot.iterations import learning
from zoobot.iterations.files import CONTROL
from zoobot.iterations.iteration import Iteration, Labelled
from zoobot.iterations.learning import Predictor
from zoobot.iterations.model_files import Metrics, ModelFolder
from zoobot.metrics import PredictedVotes
from zoobot.metrics.temperature import Calibration, calibrate, fit_calibration
from zoobot.models.architectures import Floats32

log = logging.getLogger("zoobot")


@dataclass(frozen=True)
class Evaluated:
    """A model, what corrects its samples, and its metrics."""

    predictor: Predictor
    calibration: Calibration
    metrics: Metrics
    worse_by: float | None = None  # how much higher the new model's eval loss is than the previous iteration's

    def loss(self, split: str) -> float:
        """The loss of all votes, nats per galaxy."""
        loss = self.metrics[split]["all"]["loss"]
        assert isinstance(loss, float)
        return loss


def predict(it: Iteration, predictor: Predictor, features_N_H: Floats32, calibration: Calibration) -> PredictedVotes:
    """Corrected posterior samples, from the same K models for every shard."""
    random = stream(it.settings.seed, "posterior samples", it.number)
    samples = predictor.sample(features_N_H, it.settings.model.n_samples, random)
    found = calibrate(PredictedVotes(samples, it.task.groups, it.settings.model.likelihood), calibration)
    return found.with_samples(found.samples_N_K_A.astype(np.float32))


def evaluate(it: Iteration) -> Evaluated:
    """Evaluate the model in the iteration's folder. If it is worse than the previous iteration's model, and
    ``iterate.keep_better`` is set, the previous model takes its place.
    """
    found = _evaluate(it)
    worse_by = _worse_by(it, found)
    if worse_by and it.settings.iterate.keep_better:
        _keep_previous(it)
        found = _evaluate(it)
    it.folder.write_metrics(found.metrics)
    return Evaluated(found.predictor, found.calibration, found.metrics, worse_by)


def _evaluate(it: Iteration) -> Evaluated:
    predictor = learning.load(it, it.folder.model)
    calibration = Calibration()
    if it.settings.model.recalibrate:
        galaxies = it.labelled("eval")
        calibration = fit_calibration(_predict(it, predictor, galaxies, calibration), galaxies.counts_N_A)
    measured = measure(it, it.folder, lambda galaxies: _predict(it, predictor, galaxies, calibration))
    return Evaluated(predictor, calibration, measured)


def measure(it: Iteration, folder: ModelFolder, predict: Callable[[Labelled], PredictedVotes]) -> Metrics:
    """The metrics of a model's predictions on each split; ``folder`` gets the loss of each eval and test galaxy."""
    measured: Metrics = {}
    for split in ("eval", "test", CONTROL):
        galaxies = it.labelled(split)
        if galaxies.files:
            predicted = predict(galaxies)
            measured[split] = metrics.evaluate(predicted, galaxies.counts_N_A)
            table = pa.table({"id_str": galaxies.ids, "loss": metrics.losses(predicted, galaxies.counts_N_A)})
            if split == "test":
                folder.write_test_losses(table)
            elif split == "eval":
                folder.write_eval(_with_fractions(table, predicted))
    return measured


def _with_fractions(table: pa.Table, predicted: PredictedVotes) -> pa.Table:
    """The table with the expected fraction of each answer of the first question."""
    first = next(predicted.questions())
    expected_N_A = metrics.fractions(first.samples_N_K_A).mean(axis=1)
    for answer, expected_N in zip(first.group.answers, expected_N_A.T, strict=True):
        table = table.append_column(answer, pa.array(expected_N))
    return table


def _predict(it: Iteration, predictor: Predictor, galaxies: Labelled, calibration: Calibration) -> PredictedVotes:
    features_N_H = np.concatenate([predictor.features(path) for path in galaxies.files.values()])
    return predict(it, predictor, features_N_H, calibration)


def _worse_by(it: Iteration, found: Evaluated) -> float | None:
    """How much higher the eval loss is than the previous iteration's; None unless by over ``iterate.gate_margin``."""
    if not it.before or not it.settings.iterate.gate_margin:
        return None
    difference = found.loss("eval") - it.before[-1].loss("eval")
    if difference <= it.settings.iterate.gate_margin:
        return None
    log.warning("the new model is worse than that of %s: its eval loss is %.3f higher", it.before[-1].name, difference)
    return difference


def _keep_previous(it: Iteration) -> None:
    """Replace the new model by the previous iteration's."""
    log.warning("iterate.keep_better: the model of %s is used again", it.before[-1].name)
    shutil.rmtree(it.folder.model)
    shutil.copytree(it.before[-1].model, it.folder.model, copy_function=shutil.copyfile)
    it.folder.model.chmod(0o755)
