"""The SQLite index of a set of shards: where each galaxy is stored, and which labels are known.

Ids are TEXT in STRICT tables: an 18-digit id must never become a number. Each iteration adds labels to its own copy.
``record_offsets``, where the records of a shard begin, is made when records are first taken out of that shard.
``control_labels`` are the labels of galaxies drawn at random, with fewer votes: they test the model and never train it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from zoobot.errors import FolderError
from zoobot.galaxies import tfrecords
from zoobot.galaxies.tfrecords import Offsets

_SCHEMA = """
CREATE TABLE galaxies(id_str TEXT PRIMARY KEY, file_loc TEXT NOT NULL, split TEXT NOT NULL) STRICT;
CREATE TABLE shard_index(id_str TEXT PRIMARY KEY REFERENCES galaxies, shard TEXT NOT NULL, position INTEGER NOT NULL)
    STRICT;
CREATE TABLE labels(id_str TEXT PRIMARY KEY REFERENCES galaxies, label INTEGER, total_votes INTEGER,
    votes TEXT NOT NULL, iteration INTEGER NOT NULL) STRICT;
CREATE TABLE control_labels(id_str TEXT PRIMARY KEY REFERENCES galaxies, label INTEGER, total_votes INTEGER,
    votes TEXT NOT NULL, iteration INTEGER NOT NULL) STRICT;
CREATE INDEX shard_index_by_shard ON shard_index(shard, position);
"""
_OFFSETS = "CREATE TABLE IF NOT EXISTS record_offsets(shard TEXT PRIMARY KEY, offsets BLOB NOT NULL) STRICT"
INITIAL = -1  # the `iteration` of labels that were known before the first iteration


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection inside one transaction: committed if the block ends without an error, otherwise rolled back."""
    if not path.is_file():
        raise FolderError(f"{path}, the index of the shards, is missing. Was only a part of its folder moved?")
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        with connection:
            yield connection
    finally:
        connection.close()


def create(path: Path) -> None:
    """Make an empty index."""
    connection = sqlite3.connect(path)
    connection.executescript(_SCHEMA)
    connection.close()


def add_galaxies(connection: sqlite3.Connection, rows: Iterable[tuple[str, str, str, str, int]]) -> None:
    """Add ``(id_str, file_loc, split, shard, position)``; an id that already exists is an error."""
    rows = list(rows)
    connection.executemany("INSERT INTO galaxies VALUES (?, ?, ?)", [(i, f, s) for i, f, s, _, _ in rows])
    connection.executemany("INSERT INTO shard_index VALUES (?, ?, ?)", [(i, h, p) for i, _, _, h, p in rows])


def add_labels(
    connection: sqlite3.Connection, votes: Mapping[str, Mapping[str, int]], iteration: int, *, control: bool = False
) -> None:
    """Add the votes of galaxies that have no label yet: ``{id_str: {vote column: count}}``."""
    table = "control_labels" if control else "labels"
    connection.executemany(
        f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)",
        [
            (id_str, counts.get("label"), counts.get("total_votes"), json.dumps(counts), iteration)
            for id_str, counts in votes.items()
        ],
    )


def read_votes(
    connection: sqlite3.Connection, split: str, *, control: bool = False
) -> tuple[list[str], list[dict[str, int]]]:
    """The ids and votes of the labelled galaxies of one split, by iteration, shard and position: the order in which
    their records are written.
    """
    table = "control_labels" if control else "labels"
    rows = connection.execute(
        f"SELECT id_str, votes FROM {table} JOIN galaxies USING (id_str) JOIN shard_index USING (id_str)"
        " WHERE split = ? ORDER BY iteration, shard, position",
        (split,),
    ).fetchall()
    return [id_str for id_str, _ in rows], [json.loads(votes) for _, votes in rows]


def read_only(path: Path) -> closing[sqlite3.Connection]:
    """A connection to a published index, which it cannot change."""
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))


def read_new_votes(path: Path) -> dict[str, dict[str, int]]:
    """The votes of the galaxies that were labelled since the first iteration; the index is opened read-only."""
    with read_only(path) as connection:
        rows = connection.execute("SELECT id_str, votes FROM labels WHERE iteration > ?", (INITIAL,))
        return {id_str: json.loads(votes) for id_str, votes in rows}


def labelled_ids(connection: sqlite3.Connection, split: str) -> set[str]:
    """The galaxies of one split that have a label."""
    query = "SELECT id_str FROM labels JOIN galaxies USING (id_str) WHERE split = ?"
    return {id_str for (id_str,) in connection.execute(query, (split,))}


def control_ids(connection: sqlite3.Connection) -> set[str]:
    """The galaxies of the control sample whose votes have arrived."""
    return {id_str for (id_str,) in connection.execute("SELECT id_str FROM control_labels")}


def ids_in_shard(connection: sqlite3.Connection, shard: str) -> list[str]:
    """The galaxies in a shard, in the order of its records."""
    rows = connection.execute("SELECT id_str FROM shard_index WHERE shard = ? ORDER BY position", (shard,))
    return [id_str for (id_str,) in rows]


def counts_by_shard(connection: sqlite3.Connection, split: str) -> dict[str, int]:
    """How many galaxies each shard of one split has, by its name, in order."""
    query = "SELECT shard, COUNT(*) FROM shard_index JOIN galaxies USING (id_str) WHERE split = ? GROUP BY shard"
    return dict(sorted(connection.execute(query, (split,))))


def ids_in_split(connection: sqlite3.Connection, split: str) -> set[str]:
    """The galaxies of one split."""
    return {id_str for (id_str,) in connection.execute("SELECT id_str FROM galaxies WHERE split = ?", (split,))}


def shards_of(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, dict[int, str]]:
    """Where galaxies are stored: ``{shard: {position: id_str}}``, both in order."""
    connection.execute("CREATE TEMP TABLE wanted(id_str TEXT PRIMARY KEY) STRICT")
    connection.executemany("INSERT INTO wanted VALUES (?)", [(i,) for i in ids])
    found: dict[str, dict[int, str]] = {}
    query = "SELECT shard, position, id_str FROM shard_index JOIN wanted USING (id_str) ORDER BY shard, position"
    for shard, position, id_str in connection.execute(query):
        found.setdefault(shard, {})[position] = id_str
    connection.execute("DROP TABLE wanted")
    return found


def record_offsets(connection: sqlite3.Connection, shard: str, path: Path) -> Offsets:
    """Where the records of a shard begin, by position: looked up in the file at ``path`` once, then in the index."""
    connection.execute(_OFFSETS)
    for (kept,) in connection.execute("SELECT offsets FROM record_offsets WHERE shard = ?", (shard,)):
        return np.frombuffer(kept, "<i8")
    found = tfrecords.find_records(path)
    connection.execute("INSERT INTO record_offsets VALUES (?, ?)", (shard, found.tobytes()))
    return found
