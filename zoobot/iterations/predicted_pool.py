"""The pool as an iteration predicts it: part by part, so that memory does not grow with it.

Axes: N galaxies, K posterior samples, A answers, H features, M labelled galaxies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zoobot.acquisition import Candidates, Choice, Rows
from zoobot.acquisition.candidates import PART
from zoobot.engine.progress import track
from zoobot.iterations.evaluate import predict
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.learning import Predictor
from zoobot.metrics import PredictedVotes
from zoobot.metrics.temperature import Calibration
from zoobot.models.architectures import Floats32


@dataclass(frozen=True)
class PredictedPool:
    """The galaxies that may be asked about. Their samples are in a file, their features in the cache of features;
    ``take`` brings some of both into memory.
    """

    it: Iteration
    predictor: Predictor
    ids_N: npt.NDArray[np.str_]
    records: dict[str, Rows]  # where they are in each shard, in the order of ``ids_N``
    labelled_M_H: Floats32  # features of labelled galaxies
    file: BinaryIO  # samples N × K × A, as ``_rounded`` gives them

    def __len__(self) -> int:
        return len(self.ids_N)

    def predict(self, calibration: Calibration) -> None:
        """Predict all galaxies."""
        starts = range(0, len(self), PART)
        for start in track(starts, "predicting the pool", len(starts)):
            features_N_H = self._features(np.arange(start, min(start + PART, len(self))))
            samples_N_K_A = predict(self.it, self.predictor, features_N_H, calibration).samples_N_K_A
            self.file.write(_rounded(samples_N_K_A).tobytes())

    def take(self, rows: Rows) -> Candidates:
        """The galaxies at these rows, in this order, with their samples as they are stored."""
        settings = self.it.settings
        stored = PredictedVotes(self._samples(rows), self.it.task.groups, settings.model.likelihood)
        return Candidates(
            self.ids_N[rows],
            stored.normalised(),
            settings.acquisition.expected_votes,
            self._features(rows),
            self.labelled_M_H,
            self.predictor.member_K,
            settings.acquisition.coldness,
            joint=self.predictor.joint,
        )

    def tables(self, choice: Choice) -> Iterator[pa.Table]:
        """What predictions.parquet holds, in parts: at least one."""
        names = np.array(list(self.records), np.str_)
        for start in range(0, max(len(self), 1), PART):
            rows = np.arange(start, min(start + PART, len(self)))
            samples_A_N_K = np.moveaxis(self._samples(rows), 2, 0)
            columns = {
                answer: pa.FixedSizeListArray.from_arrays(pa.array(samples_N_K.ravel()), samples_N_K.shape[1])
                for answer, samples_N_K in zip(self.it.task.answers, samples_A_N_K, strict=True)
            }
            texts = {"id_str": self.ids_N[rows], "shard": names[self._shard_of(rows)]}
            result = {"acquisition": choice.scores_N, "rank": choice.rank_N, "at_random": choice.at_random_N}
            yield pa.table(
                {name: pa.array(of_N, pa.string()) for name, of_N in texts.items()}
                | columns
                | {name: of_N[rows] for name, of_N in result.items()}
            )

    @cached_property
    def _starts(self) -> Rows:
        """The row of each shard's first galaxy."""
        return np.cumsum([0, *map(len, self.records.values())])[:-1]

    def _shard_of(self, rows: Rows) -> Rows:
        return np.searchsorted(self._starts, rows, side="right") - 1

    def _features(self, rows: Rows) -> Floats32:
        shards, parts = list(self.records), _groups(self._shard_of(rows))
        n_features = self.predictor.features(next(iter(self.it.split_files("test").values()))).shape[1]
        found_N_H = np.empty((len(rows), n_features), np.float32)
        for shard, places in parts:
            records = self.records[shards[shard]][rows[places] - self._starts[shard]]
            found_N_H[places] = self.predictor.features(self.it.shard_dir / shards[shard])[records]
        return found_N_H

    def _samples(self, rows: Rows) -> Floats32:
        shape = (self.it.settings.model.n_samples, len(self.it.task.answers))
        found_N_K_A = np.empty((len(rows), *shape), np.float32)
        for part, places in _groups(rows // PART):
            self.file.seek(part * PART * shape[0] * shape[1] * 2)
            stored = np.frombuffer(self.file.read(PART * shape[0] * shape[1] * 2), np.uint16).reshape(-1, *shape)
            found_N_K_A[places] = _as_floats(stored[rows[places] - part * PART])
        return found_N_K_A


def _groups(group_N: Sequence[int] | Rows) -> Iterator[tuple[int, Rows]]:
    """Each group, and where its members are."""
    order = np.argsort(group_N, kind="stable")
    groups, starts = np.unique(np.asarray(group_N)[order], return_index=True)
    return zip(groups.tolist(), np.split(order, starts[1:]), strict=False)


def _rounded(values: Floats32) -> npt.NDArray[np.uint16]:
    """Floats with 8 significant bits, at most 0.4 % off (bfloat16): the upper half of a float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _as_floats(halves: npt.NDArray[np.uint16]) -> Floats32:
    return (halves.astype(np.uint32) << 16).view(np.float32)
