"""Receive votes from the oracle and turn them into labels. What was received survives a crash."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain

import pandas as pd

from zoobot import folders
from zoobot.folders import disk
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.tasks import LABEL, TOTAL_VOTES
from zoobot.iterations import waiting as still_waiting
from zoobot.iterations.files import ACQUIRED, CHOSEN, CONTROL, InstructionsFolder, IterationFolder, Waiting
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.pool import Pool, read_pool
from zoobot.oracles.protocol import Asked, Oracle, Received

log = logging.getLogger("zoobot")
Labels = Mapping[str, Mapping[str, int]]  # {id_str: {vote column: count}}
_COUNTS = "counts.json"


@dataclass(frozen=True)
class Counts:
    """How much came in, and who still waits: the fields of these names in iteration.json."""

    labels_received: int
    control_labels_received: int
    classifications_received: int
    last_classification_id: int
    labels_below_threshold: int = 0
    control_labels_below_threshold: int = 0
    returned_to_pool: list[str] = field(default_factory=list)
    waiting: Waiting = field(default_factory=dict)


@dataclass(frozen=True)
class _Stream:
    """What became of the galaxies of one stream that were waiting."""

    labels: Labels
    below_threshold: int  # how many of them were retired with fewer votes than a label needs
    returned: list[str]  # retired without a vote
    waiting: dict[int, dict[str, int]]


def receive(it: Iteration, oracle: Oracle, instructions: InstructionsFolder) -> tuple[Counts, Pool]:
    """Write what has come in to the folder. Returns how much came in, and the pool with the new labels.

    After a crash it uses what was received before the crash, even if more has come in since, so that training can
    continue.
    """
    index = it.before[-1].database if it.before else instructions.database
    pool = read_pool(it.before, index, it.shard_config.splits["pool"])
    kept = it.unfinished / "received"
    if not kept.is_dir():
        with folders.step(kept) as staging:
            disk.copy(index, IterationFolder(staging).database)
            last_id = (
                it.before[-1].summary().last_classification_id
                if it.before
                else instructions.read().last_classification_id
            )
            counts = _receive(replace(it, folder=IterationFolder(staging)), oracle, pool, last_id)
            folders.write_json(staging / _COUNTS, asdict(counts))
    left_out = shutil.ignore_patterns(_COUNTS)
    shutil.copytree(kept, it.folder.path, copy_function=disk.copy, dirs_exist_ok=True, ignore=left_out)
    with database.connect(it.folder.database) as connection:
        pool = pool.with_labels(database.labelled_ids(connection, "pool"), database.control_ids(connection))
    counts = folders.parse(folders.read_json(kept / _COUNTS), Counts, str(kept / _COUNTS))
    _say(counts)
    still_waiting.warn(counts.waiting, it.number, it.settings.iterate.waiting_iterations)
    return counts, pool.without(counts.returned_to_pool)


def _say(counts: Counts) -> None:
    below, of_control = counts.labels_below_threshold, counts.control_labels_below_threshold
    if below or of_control:
        log.info("%d galaxies (%d of the control sample) were retired with fewer votes than a label needs: they are"
                 " labelled with those they have", below + of_control, of_control)  # fmt: skip
    if back := counts.returned_to_pool:
        log.warning("%d galaxies were retired without a vote, for example %s: they may be asked about again. If their"
                    " answers were rejected, classifications/rejected.csv says why", len(back), back[0])  # fmt: skip


def _receive(it: Iteration, oracle: Oracle, pool: Pool, last_id: int) -> Counts:
    waiting, control_waiting = pool.waiting, pool.control_waiting
    earlier: Iterator[Mapping[str, object]] = chain.from_iterable(folder.raw.rows() for folder in it.before)
    received = oracle.receive({**waiting, **control_waiting}, earlier, last_id)
    enough = it.settings.oracle.control_votes - 1
    chosen = _sort(it, received, waiting, it.settings.survey.retirement_votes)
    control = _sort(it, received, control_waiting, enough)
    with database.connect(it.folder.database) as connection:
        database.add_labels(connection, chosen.labels, it.number)
        database.add_labels(connection, control.labels, it.number, control=True)
    it.folder.raw.write(received.classifications, received.rejected, received.workflow_versions)
    _write_labelled(it, chosen.labels, ACQUIRED)
    if control.labels:
        _write_labelled(it, control.labels, CONTROL)
    by_stream = {CHOSEN: chosen.waiting, CONTROL: control.waiting}
    return Counts(
        labels_received=len(chosen.labels),
        control_labels_received=len(control.labels),
        classifications_received=len(received.classifications),
        last_classification_id=received.last_classification_id,
        labels_below_threshold=chosen.below_threshold,
        control_labels_below_threshold=control.below_threshold,
        returned_to_pool=chosen.returned + control.returned,
        waiting={stream: found for stream, found in by_stream.items() if found},
    )


def _sort(it: Iteration, received: Received, asked: Mapping[str, Asked], than: int) -> _Stream:
    """Sort a stream's waiting galaxies. One is labelled once it has more votes than ``than``, or once it is finished:
    the oracle counts classifications, and some of them give no vote. A finished galaxy without a vote goes back to the
    pool. The others wait on.
    """
    votes = received.votes.loc[list(asked)].astype("int64")  # an oracle of one's own may give them as text
    root_N = votes[list(it.questions.root.columns)].sum(axis=1)
    enough_N, finished_N = root_N > than, votes.index.isin(list(received.finished))
    early_N = finished_N & ~enough_N & (root_N > 0)
    back_N = finished_N & (root_N == 0)
    waits_N = ~(enough_N | early_N | back_N)
    so_far = {str(id_str): int(n) for id_str, n in root_N[waits_N].items()}
    return _Stream(
        _labels(it, votes[enough_N | early_N]),
        int(early_N.sum()),
        [str(id_str) for id_str in votes.index[back_N]],
        still_waiting.since({id_str: asked[id_str] for id_str in so_far}, so_far),
    )


def _labels(it: Iteration, votes: pd.DataFrame) -> dict[str, dict[str, int]]:
    table = it.task.add_label(votes)
    stored = [c for c in (LABEL, TOTAL_VOTES, *it.questions.columns) if c in table.columns]
    columns = [table[c].astype("int64").tolist() for c in stored]
    return {
        str(id_str): dict(zip(stored, row, strict=True)) for id_str, *row in zip(table.index, *columns, strict=True)
    }


def _write_labelled(it: Iteration, labels: Labels, kind: str) -> None:
    """Write galaxies with their new labels as TFRecords; the pixels come from the pool's shards."""
    records = [tfrecords.add_votes(record, labels[id_str]) for id_str, record in it.records(list(labels))]
    size = it.shard_config.shard_size
    (it.folder.path / kind).mkdir()
    for number, start in enumerate(range(0, len(records), size)):
        tfrecords.write(it.folder.labelled_file(kind, number), records[start : start + size])
