"""What an iteration exchanges with its oracle: votes come in, requests go out, each a step that outlives a crash."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.folders import once
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.surveys import read_table
from zoobot.galaxies.tasks import LABEL, TOTAL_VOTES
from zoobot.iterations import pool
from zoobot.iterations.iteration import Iteration
from zoobot.iterations.pool import CHOSEN, CONTROL
from zoobot.oracles.protocol import Oracle, Received
from zoobot.oracles.simulated import KnownVotes, SimulatedVolunteers
from zoobot.oracles.zooniverse import LiveProject


class NothingSent(Exception):
    """The end of a dry run: the iteration is not written, since nobody was asked."""


def request(it: Iteration, oracle: Oracle, ids: dict[str, list[str]]) -> None:
    """Ask about both streams and write requests.json.

    What was chosen is kept until the iteration is finished, so that one which is made again after a crash asks about
    what is on Zooniverse already, even if other hardware now ranks galaxies a little differently.
    """
    chosen = it.settings.oracle
    name = f"{it.settings.experiment_name}_iteration_{it.number}"
    requests: dict[str, dict[str, Any]] = {}
    for kind, n_votes in ((CHOSEN, chosen.votes_per_galaxy), (CONTROL, chosen.control_votes)):
        stream_name = name if kind == CHOSEN else f"{name}_{kind}"
        ask = functools.partial(oracle.request, name=stream_name, n_votes=n_votes)
        sent: dict[str, Any] = {"intent": [], "receipt": {}}
        if chosen.dry_run:
            sent = {"intent": ids[kind], "receipt": ask(ids[kind]) if ids[kind] else {}}
        elif ids[kind] or kind == CHOSEN:
            sent = once.send(it.unfinished / f"request_{kind}.json", ids[kind], ask)
        requests[kind] = {"ids": sent["intent"], "votes": n_votes, "receipt": sent["receipt"]}
    if chosen.dry_run:
        raise NothingSent
    folders.write_json(it.folder / "requests.json", {**requests[CHOSEN], CONTROL: requests[CONTROL]})


def receive(it: Iteration, oracle: Oracle, instructions_dir: Path) -> dict[str, int]:
    """Put what has come in into the folder: after a crash what had been received before it, though more may have come,
    so that training goes on. Returns the counts for iteration.json.
    """
    kept, counts = it.unfinished / "received", "counts.json"
    if not kept.is_dir():
        with folders.step(kept) as staging:
            received = _receive(replace(it, folder=staging), oracle, instructions_dir)
            folders.write_json(staging / counts, received)
    shutil.copytree(kept, it.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(counts))
    found: dict[str, int] = folders.read_json(kept / counts)
    return found


def _receive(it: Iteration, oracle: Oracle, instructions_dir: Path) -> dict[str, int]:
    shutil.copyfile((it.before[-1] if it.before else instructions_dir) / "iteration.db", it.db)
    waiting = pool.waiting(it.before, it.db)
    last_id = folders.read_json((it.before[-1] / "iteration.json") if it.before else
                                instructions_dir / "instructions.json")["last_classification_id"]  # fmt: skip
    received = oracle.receive({**waiting[CHOSEN], **waiting[CONTROL]}, pool.classifications(it.before), last_id)
    labels = _new_labels(it, received.votes.loc[list(waiting[CHOSEN])])
    control_labels = _new_control_labels(it, received.votes.loc[list(waiting[CONTROL])])
    _write_received(it, received)
    _write_labelled(it, labels, "acquired")
    if control_labels:
        _write_labelled(it, control_labels, CONTROL)
    return {
        "labels_received": len(labels),
        "control_labels_received": len(control_labels),
        "classifications_received": len(received.classifications),
        "last_classification_id": received.last_classification_id,
    }


def _write_received(it: Iteration, received: Received) -> None:
    folder = it.folder / "classifications"
    folder.mkdir()
    with (folder / "classifications.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in received.classifications)
    if received.workflow_versions is not None:
        folders.write_json(folder / "workflow_versions.json", {"workflow_versions": received.workflow_versions})
    if received.rejected is not None:
        received.rejected.to_csv(folder / "rejected.csv", index=False)


def build_oracle(it: Iteration) -> Oracle:
    """The oracle that the settings name."""
    if it.settings.oracle.kind == "panoptes":
        return LiveProject(it.settings, it.catalog_dir / "unlabelled.csv", it.questions, it.unfinished)
    hidden = read_table(it.catalog_dir / "oracle.csv").set_index("id_str")
    if it.settings.oracle.kind == "known":
        return KnownVotes(hidden)
    return SimulatedVolunteers(hidden, it.questions, it.settings.oracle, it.settings.seed)


def _new_labels(it: Iteration, votes: pd.DataFrame) -> dict[str, dict[str, int]]:
    """The votes of galaxies that are retired now, in the pool and not yet labelled; they enter the database."""
    retired = _with_more_votes(it, votes, it.settings.survey.retirement_votes)
    with database.connect(it.db) as connection:
        new = database.ids_in_split(connection, "pool") - database.labelled_ids(connection)
        labels = {id_str: counts for id_str, counts in retired.items() if id_str in new}
        database.add_labels(connection, labels, it.number)
    return labels


def _new_control_labels(it: Iteration, votes: pd.DataFrame) -> dict[str, dict[str, int]]:
    """The votes of control galaxies that have all they were to get; kept apart from labels, which train."""
    labels = _with_more_votes(it, votes, it.settings.oracle.control_votes - 1)
    with database.connect(it.db) as connection:
        database.add_labels(connection, labels, it.number, control=True)
    return labels


def _with_more_votes(it: Iteration, votes: pd.DataFrame, than: int) -> dict[str, dict[str, int]]:
    root_total = votes[list(it.questions.root.columns)].sum(axis=1)
    table = it.task.add_label(votes[root_total > than])
    stored = [c for c in (LABEL, TOTAL_VOTES, *it.questions.columns) if c in table.columns]
    return {str(id_str): {c: int(row[c]) for c in stored} for id_str, row in table.iterrows()}


def _write_labelled(it: Iteration, labels: dict[str, dict[str, int]], name: str) -> None:
    """Write galaxies with their new labels as TFRecords, with the pixels of the pool's own shards."""
    with database.connect(it.db) as connection:
        places = database.shards_of(connection, list(labels))
    records = []
    for shard, positions in places.items():
        for position, record in enumerate(tfrecords.read(it.shard_dir / shard)):
            if position in positions:
                records.append(tfrecords.add_votes(record, labels[positions[position]]))
    if len(records) != len(labels):
        raise FolderError(
            f"{it.shard_dir}: {len(labels) - len(records)} labelled galaxies are not in the shards the index names."
        )
    size = it.shard_config["shard_size"]
    (it.folder / name).mkdir()
    for number, start in enumerate(range(0, len(records), size)):
        tfrecords.write(it.folder / name / f"{name}_{number:05d}.tfrecord", records[start : start + size])
