"""What an oracle is: it answers requests for labels.

``request`` asks about galaxies; ``receive`` returns the votes that have come in for them, one or more iterations later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pandas as pd

from zoobot.votes.classifications import Row


@dataclass(frozen=True)
class Asked:
    """A galaxy that was asked about: its subject ("" if it has none) and the number of votes requested."""

    subject_id: str
    votes: int


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


class Oracle(Protocol):
    """Answers requests for labels. Repeating a call changes nothing."""

    def request(self, ids: Sequence[str], name: str, n_votes: int) -> Receipt:
        """Ask for ``n_votes`` votes on each galaxy; ``name`` is unique to the experiment, iteration and stream."""

    def receive(self, waiting: Mapping[str, Asked], earlier: Iterable[Row], last_classification_id: int) -> Received:
        """What has come in for galaxies that were asked about; ``earlier`` holds the raw rows received before."""
