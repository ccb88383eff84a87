"""Training of one network, with a checkpoint after each epoch."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from zoobot import folders
from zoobot.errors import InputError
from zoobot.models.mc_dropout import Network
from zoobot.settings import ModelSettings

log = logging.getLogger("zoobot")


@dataclass(frozen=True)
class History:
    """How many epochs there were, the one whose weights were kept (from 1), and the losses of each."""

    epochs: int
    best_epoch: int
    train_loss: list[float]
    eval_loss: list[float]


def train(
    network: Network,
    train_data: Callable[[int], tf.data.Dataset],
    eval_data: tf.data.Dataset,
    model: ModelSettings,
    checkpoint: Path | None = None,
) -> History:
    """Train until the eval loss stops falling, and keep the best weights. Returns the history, a list per epoch for
    each loss.

    Args:
        train_data: epoch number → the data of that epoch, seeded by the number, so that no epoch depends on another.
        checkpoint: written after each epoch. If it exists, training continues from it and ends with the same weights.

    Raises:
        InputError: the loss became NaN or infinite, so the network is useless.
    """
    state = _TrainingState(network.trainer, checkpoint)
    while state.epoch < model.max_epochs and state.epoch - state.best_epoch < model.patience:
        fitted = network.trainer.fit(
            train_data(state.epoch),
            validation_data=eval_data,
            initial_epoch=state.epoch,
            epochs=state.epoch + 1,
            shuffle=False,  # the data is shuffled already
            verbose=0,
        )
        losses = [float(fitted.history[name][0]) for name in ("loss", "val_loss")]
        if not all(map(math.isfinite, losses)):
            raise InputError(
                f"Training diverged: the loss was not finite in epoch {state.epoch + 1}. Nothing was published."
                f" Lower model.learning_rate (now {model.learning_rate}) and start the iteration again."
            )
        state.add(*losses)
    network.trainer.set_weights(state.best_weights)
    return History(state.epoch, state.best_epoch, state.train_loss, state.eval_loss)


class _TrainingState:
    """What training needs to continue: all variables (weights, optimiser, random streams) and the best weights."""

    def __init__(self, trainer: keras.Model, checkpoint: Path | None) -> None:
        self.train_loss: list[float] = []
        self.eval_loss: list[float] = []
        self.best_weights = trainer.get_weights()
        self._checkpoint = checkpoint
        trainer.optimizer.build(trainer.trainable_variables)
        self._trainer = trainer
        self._variables = [*trainer.variables, *trainer.optimizer.variables]
        if checkpoint and checkpoint.is_file():
            self._read(checkpoint)
            log.info("training continues after epoch %d", self.epoch)

    @property
    def epoch(self) -> int:
        return len(self.eval_loss)

    @property
    def best_epoch(self) -> int:
        """From 1; 0 before the first."""
        return int(np.argmin(self.eval_loss)) + 1 if self.eval_loss else 0

    def add(self, train_loss: float, eval_loss: float) -> None:
        self.train_loss.append(train_loss)
        self.eval_loss.append(eval_loss)
        if self.best_epoch == self.epoch:
            self.best_weights = self._trainer.get_weights()
        if self._checkpoint:
            content = io.BytesIO()
            arrays = {f"variable_{i}": v.numpy() for i, v in enumerate(self._variables)}
            best = {f"best_{i}": values for i, values in enumerate(self.best_weights)}
            np.savez(content, losses=np.array([self.train_loss, self.eval_loss]), **arrays, **best)
            folders.publish_file(self._checkpoint, content.getvalue())

    def _read(self, checkpoint: Path) -> None:
        with np.load(checkpoint) as stored:
            self.train_loss, self.eval_loss = stored["losses"].tolist()
            for i, variable in enumerate(self._variables):
                variable.assign(stored[f"variable_{i}"])
            self.best_weights = [stored[f"best_{i}"] for i in range(len(self.best_weights))]
