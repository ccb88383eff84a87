"""The state of each pool galaxy at one point of an iteration: open, waiting for votes, or labelled.

Galaxies are asked about in two streams: ``chosen`` galaxies get many votes and train the model; ``control`` galaxies
are drawn at random, get few votes and only test the model. No galaxy is in both streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from zoobot.galaxies import database
from zoobot.iterations.files import IterationFolder
from zoobot.oracles.protocol import Asked


@dataclass(frozen=True)
class Pool:
    """Which galaxies are in which shard, which were asked about, and which are labelled."""

    ids: pa.StringArray  # of all galaxies, shard after shard, in the order of the records
    rows: dict[str, slice]  # of each shard, in ``ids``
    chosen: dict[str, Asked]  # all that were asked about to train on, labelled or not
    control: dict[str, Asked]  # all that were drawn for the control sample
    labelled: frozenset[str]
    control_labelled: frozenset[str]

    @property
    def waiting(self) -> dict[str, Asked]:
        """The chosen galaxies without a label."""
        return {id_: asked for id_, asked in self.chosen.items() if id_ not in self.labelled}

    @property
    def control_waiting(self) -> dict[str, Asked]:
        """The control galaxies without a label."""
        return {id_: asked for id_, asked in self.control.items() if id_ not in self.control_labelled}

    @cached_property
    def open_N(self) -> npt.NDArray[np.bool_]:
        """Which galaxies may be asked about: N."""
        closed = pa.array([*self.labelled, *self.chosen, *self.control], pa.string())
        is_closed: npt.NDArray[np.bool_] = pc.is_in(self.ids, value_set=closed).to_numpy(zero_copy_only=False)
        return ~is_closed

    def open_in(self, shard: str) -> npt.NDArray[np.int64]:
        """Which records of a shard may be asked about."""
        return np.flatnonzero(self.open_N[self.rows[shard]])

    def open_ids(self, shards: Iterable[str]) -> npt.NDArray[np.str_]:
        """The galaxies of these shards that may be asked about, in the order of their records."""
        parts = [self.rows[shard].start + self.open_in(shard) for shard in shards]
        longest = pc.max(pc.utf8_length(self.ids)).as_py() or 1
        found_N, end = np.empty(sum(map(len, parts)), f"<U{longest}"), 0
        for rows in parts:  # one shard's as Python's own at a time
            found_N[end : end + len(rows)] = self.ids.take(pa.array(rows)).to_pylist()
            end += len(rows)
        return found_N

    def with_labels(self, labelled: Iterable[str], control_labelled: Iterable[str]) -> Pool:
        """The pool after new labels came in."""
        return replace(
            self,
            labelled=self.labelled | frozenset(labelled),
            control_labelled=self.control_labelled | frozenset(control_labelled),
        )

    def without(self, ids: Iterable[str]) -> Pool:
        """The pool after these galaxies came back: they may be asked about again, in either stream."""
        back = set(ids)
        return replace(
            self,
            chosen={id_: asked for id_, asked in self.chosen.items() if id_ not in back},
            control={id_: asked for id_, asked in self.control.items() if id_ not in back},
        )

    def with_control(self, ids: Iterable[str], votes: int) -> Pool:
        """The pool after more of the control sample was drawn."""
        return replace(self, control=self.control | {id_: Asked("", votes) for id_ in ids})


def read_pool(before: Sequence[IterationFolder], index: Path, shards: Sequence[str]) -> Pool:
    """The pool in these shards after the iterations ``before``, with the labels in ``index``."""
    chosen: dict[str, Asked] = {}
    control: dict[str, Asked] = {}
    for number, folder in enumerate(before):
        for id_ in folder.summary().returned_to_pool:  # received first, then asked
            chosen.pop(id_, None)
            control.pop(id_, None)
        requests = folder.requests()
        chosen |= requests.asked(number)
        control |= requests.control.asked(number)
    with database.connect(index) as connection:
        ids = [pa.array(database.ids_in_shard(connection, shard), pa.string()) for shard in shards]
        ends = np.cumsum([len(of_shard) for of_shard in ids]).tolist()
        return Pool(
            pa.concat_arrays(ids),
            dict(zip(shards, map(slice, [0, *ends], ends), strict=False)),
            chosen,
            control,
            frozenset(database.labelled_ids(connection, "pool")),
            frozenset(database.control_ids(connection)),
        )


def draw_control(pool: Pool, size: int, random: np.random.Generator) -> list[str]:
    """More galaxies for the control sample, drawn from all open galaxies before any are chosen."""
    if not size:
        return []
    ids = np.sort(pool.open_ids(pool.rows))
    drawn: list[str] = ids[random.choice(len(ids), min(size, len(ids)), replace=False)].tolist()
    return drawn
