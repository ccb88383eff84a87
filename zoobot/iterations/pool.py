"""The state of each pool galaxy at one point of an iteration: open, waiting for votes, or labelled.

Galaxies are asked about in two streams: ``chosen`` galaxies get many votes and train the model; ``control`` galaxies
are drawn at random, get few votes and only test the model. No galaxy is in both streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zoobot.galaxies import database
from zoobot.iterations.files import IterationFolder
from zoobot.oracles.protocol import Asked


@dataclass(frozen=True)
class Pool:
    """Which galaxies are in which shard, which were asked about, and which are labelled."""

    ids: dict[str, list[str]]  # of each shard, in the order of its records
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

    def open_in(self, shard: str) -> list[bool]:
        """Which galaxies of a shard may be asked about, in the order of its records."""
        return [not self._is_closed(id_) for id_ in self.ids[shard]]

    def open_ids(self) -> list[str]:
        """All galaxies that may be asked about, sorted."""
        return sorted(id_ for ids in self.ids.values() for id_ in ids if not self._is_closed(id_))

    def _is_closed(self, id_: str) -> bool:
        return id_ in self.labelled or id_ in self.chosen or id_ in self.control

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


def read_pool(before: Sequence[IterationFolder], index: Path) -> Pool:
    """The pool after the iterations ``before``, with the labels in ``index``."""
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
        return Pool(
            database.ids_by_shard(connection, "pool"),
            chosen,
            control,
            frozenset(database.labelled_ids(connection, "pool")),
            frozenset(database.control_ids(connection)),
        )


def draw_control(pool: Pool, size: int, random: np.random.Generator) -> list[str]:
    """More galaxies for the control sample, drawn from all open galaxies before any are chosen."""
    ids = pool.open_ids()
    return [ids[i] for i in random.choice(len(ids), min(size, len(ids)), replace=False)]
