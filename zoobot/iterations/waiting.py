"""Galaxies that still wait for votes: since which iteration, and with how many votes so far."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from zoobot.iterations.files import Waiting
from zoobot.oracles.protocol import Asked

log = logging.getLogger("zoobot")
NAMED = 3  # galaxies that a line names


@dataclass(frozen=True)
class Group:
    """The waiting galaxies of one stream that were asked about in the same iteration."""

    stream: str
    asked_in: int
    age: int  # iterations since then
    votes: dict[str, int]  # so far, of each galaxy

    def examples(self) -> str:
        """The first few, such as ``g7 (12 votes), g9 (0 votes)``."""
        return ", ".join(f"{id_} ({n} vote{'' if n == 1 else 's'})" for id_, n in list(self.votes.items())[:NAMED])


def since(asked: Mapping[str, Asked], votes: Mapping[str, int]) -> dict[int, dict[str, int]]:
    """The votes so far of galaxies that wait, by the iteration in which they were asked about, oldest first."""
    found: dict[int, dict[str, int]] = {}
    for id_ in sorted(asked, key=lambda id_: (asked[id_].iteration, id_)):
        found.setdefault(asked[id_].iteration, {})[id_] = votes[id_]
    return found


def groups(waiting: Waiting, now: int) -> list[Group]:
    """All groups that wait in iteration ``now``, oldest first."""
    found = [
        Group(stream, asked_in, now - asked_in, votes)
        for stream, by_iteration in waiting.items()
        for asked_in, votes in by_iteration.items()
    ]
    return sorted(found, key=lambda group: (-group.age, group.stream))


def warn(waiting: Waiting, now: int, longest: int) -> None:
    """Warn of galaxies that wait for more than ``longest`` iterations; 0: never."""
    old = [group for group in groups(waiting, now) if longest and group.age > longest]
    if old:
        log.warning(
            "%d galaxies have waited for votes for longer than iterate.waiting_iterations=%d; the oldest,"
            " since iteration_%d: %s. Look at their subjects on Zooniverse: do volunteers see them?",
            sum(len(group.votes) for group in old), longest, old[0].asked_in, old[0].examples(),
        )  # fmt: skip
