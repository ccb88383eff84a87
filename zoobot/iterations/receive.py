"""Receive votes from the oracle and turn them into labels. What was received survives a crash."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain

import pandas as pd

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.tasks import LABEL, TOTAL_VOTES
from zoobot.iterations.files import ACQUIRED, CONTROL, InstructionsFolder, IterationFolder
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.pool import Pool, read_pool
from zoobot.oracles.protocol import Oracle

Labels = Mapping[str, Mapping[str, int]]  # {id_str: {vote column: count}}
_COUNTS = "counts.json"


@dataclass(frozen=True)
class Counts:
    """How much came in."""

    labels_received: int
    control_labels_received: int
    classifications_received: int
    last_classification_id: int


def receive(it: Iteration, oracle: Oracle, instructions: InstructionsFolder) -> tuple[Counts, Pool]:
    """Write what has come in to the folder. Returns how much came in, and the pool with the new labels.

    After a crash it uses what was received before the crash, even if more has come in since, so that training can
    continue.
    """
    index = it.before[-1].database if it.before else instructions.database
    pool = read_pool(it.before, index)
    kept = it.unfinished / "received"
    if not kept.is_dir():
        with folders.step(kept) as staging:
            shutil.copyfile(index, IterationFolder(staging).database)
            last_id = (
                it.before[-1].summary().last_classification_id
                if it.before
                else instructions.read().last_classification_id
            )
            counts = _receive(replace(it, folder=IterationFolder(staging)), oracle, pool, last_id)
            folders.write_json(staging / _COUNTS, asdict(counts))
    shutil.copytree(kept, it.folder.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_COUNTS))
    with database.connect(it.folder.database) as connection:
        pool = pool.with_labels(database.labelled_ids(connection, "pool"), database.control_ids(connection))
    return folders.parse(folders.read_json(kept / _COUNTS), Counts, str(kept / _COUNTS)), pool


def _receive(it: Iteration, oracle: Oracle, pool: Pool, last_id: int) -> Counts:
    waiting, control_waiting = pool.waiting, pool.control_waiting
    earlier: Iterator[Mapping[str, object]] = chain.from_iterable(folder.raw.rows() for folder in it.before)
    received = oracle.receive({**waiting, **control_waiting}, earlier, last_id)
    labels = _with_more_votes(it, received.votes.loc[list(waiting)], it.settings.survey.retirement_votes)
    enough = it.settings.oracle.control_votes - 1
    control_labels = _with_more_votes(it, received.votes.loc[list(control_waiting)], enough)
    with database.connect(it.folder.database) as connection:
        database.add_labels(connection, labels, it.number)
        database.add_labels(connection, control_labels, it.number, control=True)
    it.folder.raw.write(received.classifications, received.rejected, received.workflow_versions)
    _write_labelled(it, labels, ACQUIRED)
    if control_labels:
        _write_labelled(it, control_labels, CONTROL)
    return Counts(len(labels), len(control_labels), len(received.classifications), received.last_classification_id)


def _with_more_votes(it: Iteration, votes: pd.DataFrame, than: int) -> dict[str, dict[str, int]]:
    votes = votes.astype("int64")  # an oracle of one's own may give them as text
    root_total = votes[list(it.questions.root.columns)].sum(axis=1)
    table = it.task.add_label(votes[root_total > than])
    stored = [c for c in (LABEL, TOTAL_VOTES, *it.questions.columns) if c in table.columns]
    return {str(id_str): {c: int(row[c]) for c in stored} for id_str, row in table.iterrows()}


def _write_labelled(it: Iteration, labels: Labels, kind: str) -> None:
    """Write galaxies with their new labels as TFRecords; the pixels come from the pool's shards."""
    records = _labelled_records(it, labels)
    size = it.shard_config.shard_size
    (it.folder.path / kind).mkdir()
    for number, start in enumerate(range(0, len(records), size)):
        tfrecords.write(it.folder.labelled_file(kind, number), records[start : start + size])


def _labelled_records(it: Iteration, labels: Labels) -> Sequence[bytes]:
    with database.connect(it.folder.database) as connection:
        places = database.shards_of(connection, list(labels))
    records = []
    for shard, positions in places.items():
        for position, record in enumerate(tfrecords.read(it.shard_dir / shard)):
            if position in positions:
                records.append(tfrecords.add_votes(record, labels[positions[position]]))
    if len(records) != len(labels):
        raise FolderError(
            f"{it.shard_dir}: {len(labels) - len(records)} labelled galaxies are not in the shards named in the index."
        )
    return records
