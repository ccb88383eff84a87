"""The two streams of galaxies that are asked about, as the finished iterations tell them.

``chosen`` galaxies get many votes and train the model; the ``control`` sample is drawn at random, gets few, and only
tests it. A galaxy is in one stream or the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoobot import folders
from zoobot.galaxies import database
from zoobot.oracles.protocol import Asked

CHOSEN, CONTROL = "chosen", "control"


def asked(before: Sequence[Path], kind: str) -> dict[str, Asked]:
    """What was asked in the iterations ``before``, in order."""
    found: dict[str, Asked] = {}
    for path in before:
        content = folders.read_json(path / "requests.json")
        one = content if kind == CHOSEN else content[CONTROL]
        subjects = one["receipt"].get("subjects", {})
        found |= {id_str: Asked(subjects.get(id_str, ""), one["votes"]) for id_str in one["ids"]}
    return found


def waiting(before: Sequence[Path], db: Path) -> dict[str, dict[str, Asked]]:
    """The galaxies of each stream that were asked about and have no label in ``db`` yet."""
    with database.connect(db) as connection:
        done = {CHOSEN: database.labelled_ids(connection), CONTROL: database.control_ids(connection)}
    return {kind: {i: one for i, one in asked(before, kind).items() if i not in done[kind]} for kind in done}


def draw_control(before: Sequence[Path], db: Path, size: int, random: np.random.Generator) -> list[str]:
    """The control sample: drawn from all of the pool that was never asked about, before anything is chosen."""
    with database.connect(db) as connection:
        open_ids = database.ids_in_split(connection, "pool") - database.labelled_ids(connection)
    ids = sorted(open_ids - set(asked(before, CHOSEN)) - set(asked(before, CONTROL)))
    return [ids[i] for i in random.choice(len(ids), min(size, len(ids)), replace=False)]


def classifications(before: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The raw classifications received in the iterations ``before``."""
    for path in before:
        with (path / "classifications" / "classifications.jsonl").open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
