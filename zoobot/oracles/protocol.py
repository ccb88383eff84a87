"""What an oracle is: it answers requests for labels.

An oracle is asked for galaxies by ``request`` and gives what it has for them by ``receive``, one iteration later or
more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pandas as pd

from zoobot.votes.classifications import Row


@dataclass(frozen=True)
class Asked:
    """What was asked about one galaxy: its subject ("" where there is none) and how many votes."""

    subject_id: str
    votes: int


@dataclass(frozen=True)
class Receipt:
    """What was sent: the subject set, its id, and the subject of each galaxy. A simulation leaves out what it lacks."""

    subject_set: str = ""
    subject_set_id: str = ""
    subjects: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Received:
    """What has come in. ``votes`` are all votes so far of the galaxies waited for, indexed by ``id_str``."""

    classifications: Sequence[Row]  # new raw rows about these galaxies, in order of their ids
    votes: pd.DataFrame
    last_classification_id: int  # the largest that was seen, also of other galaxies
    rejected: pd.DataFrame | None = None  # answers that are no votes, with the reason
    workflow_versions: Sequence[Row] | None = None  # what the answers' indices meant; None where nothing was read


class Oracle(Protocol):
    """Answers requests for labels. Asking or receiving again changes nothing."""

    def request(self, ids: Sequence[str], name: str, n_votes: int) -> Receipt:
        """Ask for ``n_votes`` about each galaxy; ``name`` is unique to experiment, iteration and stream."""

    def receive(self, waiting: Mapping[str, Asked], earlier: Iterable[Row], last_classification_id: int) -> Received:
        """What has come in for galaxies that were asked about; ``earlier`` are the raw rows received before."""
