"""The pool as an iteration predicts it: part by part, so that memory does not grow with it, and side by side.

Axes: N galaxies, K posterior samples, A answers, H features, M labelled galaxies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zoobot.acquisition import Candidates, Choice, Floats, Rows
from zoobot.acquisition.candidates import PART
from zoobot.engine import map as engine
from zoobot.engine.progress import track
from zoobot.iterations import learning
from zoobot.iterations.evaluate import predict
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.learning import Predictor
from zoobot.metrics import PredictedVotes
from zoobot.metrics.temperature import Calibration
from zoobot.models.architectures import Floats32

PARTS_PER_WORKER = 2  # with fewer, the start of a process takes as long as it saves
A = TypeVar("A")
R = TypeVar("R")


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
        predictor = self.predictor if self._workers == 1 else None
        parts = (_Part(self.it, self._places(rows), calibration, predictor) for rows in self._parts())
        for samples in self._in_order(_predict_part, parts, "predicting the pool"):
            self.file.write(samples)

    def scores(self, score: Callable[[Candidates], Floats]) -> Floats:
        """The scores N by a function of a module's own that looks at each galaxy by itself, and at samples only."""
        parts = (self._candidates(rows) for rows in self._parts())
        return np.concatenate([np.zeros(0), *self._in_order(score, parts, "scoring the pool")])

    def take(self, rows: Rows) -> Candidates:
        """The galaxies at these rows, in this order, with their samples as they are stored."""
        return self._candidates(rows, self._features(rows))

    def _candidates(self, rows: Rows, features_N_H: Floats32 | None = None) -> Candidates:
        settings, none_N_H = self.it.settings, np.zeros((0, 0), np.float32)
        stored = PredictedVotes(self._samples(rows), self.it.task.groups, settings.model.likelihood)
        return Candidates(
            self.ids_N[rows],
            stored.normalised(),
            settings.acquisition.expected_votes,
            none_N_H if features_N_H is None else features_N_H,
            none_N_H if features_N_H is None else self.labelled_M_H,
            self.predictor.member_K,
            settings.acquisition.coldness,
            joint=None if features_N_H is None else self.predictor.joint,
        )

    def _parts(self) -> Iterator[Rows]:
        """The rows of each part."""
        for start in range(0, len(self), PART):
            yield np.arange(start, min(start + PART, len(self)))

    @property
    def _workers(self) -> int:
        """How many processes predict and score. Networks use all cores by themselves; an extension is known to this
        process only.
        """
        settings, n_parts = self.it.settings, -(-len(self) // PART)
        if settings.model.train != "head" or settings.extensions:
            return 1
        worth = n_parts // PARTS_PER_WORKER
        if not settings.workers and worth > 1:
            worth = min(worth, engine.cores(settings.cluster))  # asked only now: it may start a Ray
        return max(1, min(settings.workers or worth, n_parts))

    def _in_order(self, function: Callable[[A], R], parts: Iterable[A], what: str) -> Iterator[R]:
        workers = self._workers
        cluster = self.it.settings.cluster if workers > 1 else None
        with closing(engine.in_order(function, parts, workers, lambda part: what, cluster)) as done:
            yield from track(done, what, -(-len(self) // PART))

    def tables(self, choice: Choice) -> Iterator[pa.Table]:
        """What predictions.parquet holds, in parts: at least one."""
        names = np.array(list(self.records), np.str_)
        for rows in self._parts() if len(self) else [np.zeros(0, np.int64)]:
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
        n_features = self.predictor.features(next(iter(self.it.split_files("test").values()))).shape[1]
        found_N_H = np.empty((len(rows), n_features), np.float32)
        for path, records, places in self._places(rows):
            found_N_H[places] = self.predictor.features(path)[records]
        return found_N_H

    def _places(self, rows: Rows) -> list[tuple[Path, Rows, Rows]]:
        """The shards of the galaxies at these rows, their records in it, and their places among the rows."""
        shards = list(self.records)
        return [
            (self.it.shard_dir / shards[shard], self.records[shards[shard]][rows[at] - self._starts[shard]], at)
            for shard, at in _groups(self._shard_of(rows))
        ]

    def _samples(self, rows: Rows) -> Floats32:
        shape = (self.it.settings.model.n_samples, len(self.it.task.answers))
        found_N_K_A = np.empty((len(rows), *shape), np.float32)
        for part, places in _groups(rows // PART):
            self.file.seek(part * PART * shape[0] * shape[1] * 2)
            stored = np.frombuffer(self.file.read(PART * shape[0] * shape[1] * 2), np.uint16).reshape(-1, *shape)
            found_N_K_A[places] = _as_floats(stored[rows[places] - part * PART])
        return found_N_K_A


@dataclass(frozen=True)
class _Part:
    """Galaxies in the order of their shards, and what any process needs to predict them: plain values."""

    it: Iteration
    places: list[tuple[Path, Rows, Rows]]
    calibration: Calibration
    predictor: Predictor | None  # None: that in the iteration's folder


def _predict_part(part: _Part) -> bytes:
    """Their samples N × K × A, as they are stored."""
    predictor = part.predictor or _load(part.it)
    features_N_H = np.concatenate([predictor.features(path)[records] for path, records, _ in part.places])
    return _rounded(predict(part.it, predictor, features_N_H, part.calibration).samples_N_K_A).tobytes()


_loaded: dict[Path, Predictor] = {}


def _load(it: Iteration) -> Predictor:
    """The model of an iteration, once in each worker."""
    folder = it.folder.model
    if folder not in _loaded:
        _loaded.clear()
        _loaded[folder] = learning.load(it, folder)
    return _loaded[folder]


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
