"""What an oracle is: it answers requests for labels.

``request`` asks about galaxies; ``receive`` returns the votes that have come in for them, one or more iterations later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pandas as pd

from zoobot.votes.rows import Row

Metadata = Mapping[str, Mapping[str, float]]  # {id_str: {key: value}}, hidden from the volunteers


@dataclass(frozen=True)
class Asked:
    """A galaxy that was asked about: its subject ("" if it has none), the number of votes requested, and when."""

    subject_id: str
    votes: int
    iteration: int = 0


@dataclass(frozen=True)
class Receipt:
    """What was sent: the subject set, its id, and the subject of each galaxy. Simulations leave some of it empty."""

    subject_set: str = ""
    subject_set_id: str = ""
    subjects: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Received:
    """What has come in. ``votes`` holds all votes so far for the waiting galaxies, indexed by ``id_str``."""

    classifications: Sequence[Row]  # new raw rows about these galaxies, in order of id
    votes: pd.DataFrame
    last_classification_id: int  # the largest seen so far, other galaxies included
    rejected: pd.DataFrame | None = None  # answers that do not count as votes, with the reason
    workflow_versions: Sequence[Row] | None = None  # what the answers' indices mean; None if nothing was read
    finished: frozenset[str] = frozenset()  # galaxies that nobody is shown any more: no further votes will come


class Oracle(Protocol):
    """Answers requests for labels. Repeating a call changes nothing."""

    def request(self, ids: Sequence[str], name: str, n_votes: int) -> Receipt:
        """Ask for ``n_votes`` votes on each galaxy, in order of rank; ``name`` is unique to the experiment, iteration
        and stream.
        """

    def receive(self, waiting: Mapping[str, Asked], earlier: Iterable[Row], last_classification_id: int) -> Received:
        """What has come in for galaxies that were asked about; ``earlier`` holds the raw rows received before."""


@runtime_checkable
class LiveOracle(Oracle, Protocol):
    """An oracle that can do more: what ``oracle.write_predictions`` and ``oracle.retire_confident`` need."""

    def request(self, ids: Sequence[str], name: str, n_votes: int, metadata: Metadata | None = None) -> Receipt:
        """The same; ``metadata`` is written to the galaxies' subjects."""

    def retire(self, waiting: Mapping[str, Asked]) -> None:
        """Show these galaxies to nobody any more. Their votes so far still count."""
