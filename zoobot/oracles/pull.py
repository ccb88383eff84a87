"""Pull new classifications from Zooniverse into a folder that only grows.

    rows_00000.jsonl, …       one row per line, as the API gave it; after MAX_ROWS rows a new file begins
    workflow_versions.json    all versions of the workflows
    state.json                which ids were read, and how many bytes of each file are complete; written after each page

A pull that was interrupted continues where it stopped. Zooniverse assigns ids before classifications become visible, so
each pull reads the last ids again (``oracle.overlap_ids``). A row that is already stored is not stored twice, unless
the server has corrected it: then its ``updated_at`` is later, and the reduction counts the newest.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from zoobot import folders
from zoobot.errors import FolderError, ServiceError
from zoobot.folders import disk
from zoobot.galaxies.ids import zooniverse_id
from zoobot.settings import OracleSettings
from zoobot.votes import classifications
from zoobot.votes.rows import Json, Row

if TYPE_CHECKING:
    from zoobot.oracles.panoptes import Zooniverse

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1
MAX_ROWS = 100_000
_HIGHEST_ID = 10**18
STATE, VERSIONS = "state.json", "workflow_versions.json"


def pull(service: Zooniverse, folder: Path, oracle: OracleSettings, since_id: int) -> int:
    """Bring ``folder`` up to date and return the number of new rows. A new folder begins after ``since_id``.

    If an old folder begins later, the rows before it are read too; if it begins earlier, its rows stay. InputError: the
    workflows are not of this project, or not for us to see. ServiceError: Zooniverse cannot be reached, or its answer
    is not what it should be (rows that came before are kept). FolderError: the folder belongs to another project, or
    its files were changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with disk.lock(folder):
        state = _open(folder, oracle, since_id)
        service.workflows()
        if since_id > state["since_id"]:
            log.warning("%s holds classifications from id %d on, though they are now to begin after %d: they stay. Move"
                        " the folder away to drop them", folder, state["since_id"] + 1, since_id)  # fmt: skip
        n_new = _pull_earlier(service, folder, state, oracle, since_id) if since_id < state["since_id"] else 0
        n_new += _pull_later(service, folder, state, oracle)
        folders.publish_file(folder / VERSIONS, _bytes({"workflow_versions": service.workflow_versions()}))
        _save(folder, state)
    return n_new


def _pull_earlier(service: Zooniverse, folder: Path, state: Json, oracle: OracleSettings, since_id: int) -> int:
    """Read the ids from ``since_id`` to where the folder begins; ``before`` in ``state`` says how far that has come."""
    if "before" not in state or since_id < state["before"]["since_id"]:
        state["before"] = {"since_id": since_id, "last_id": since_id}
    n_new = 0
    for position, new in _news(service, folder, state, oracle, state["before"]["last_id"], state["since_id"]):
        _append(folder, state, new)
        state["before"]["last_id"] = position
        _save(folder, state)
        n_new += len(new)
    state["since_id"] = state.pop("before")["since_id"]
    _save(folder, state)
    return n_new


def _pull_later(service: Zooniverse, folder: Path, state: Json, oracle: OracleSettings) -> int:
    n_new, last_before = 0, state["last_id"]
    start = seen = max(state["since_id"], last_before - oracle.overlap_ids)
    for page, (seen, new) in enumerate(_news(service, folder, state, oracle, start, _HIGHEST_ID), start=1):
        _append(folder, state, new)
        state["last_id"] = max(state["last_id"], seen)
        _save(folder, state)
        n_new += len(new)
        if page % 100 == 0:
            log.info("pulling classifications: %d new, at id %d", n_new, seen)
    if is_gone(last_before, seen, oracle):
        log.warning("Zooniverse no longer shows classification %d: all after %d are read again", last_before,
                    state["since_id"])  # fmt: skip
        state["last_id"] = state["since_id"]
        return n_new + _pull_later(service, folder, state, oracle)
    if seen == start:
        service.require_visible_classifications()
    return n_new


def is_gone(last_id: int, seen_id: int, oracle: OracleSettings) -> bool:
    """Whether the row that was the last seems never to have been: the server shows none near it any more.

    Then its id was wrong, and rows far below it may be unread. A server that is only behind shows those shortly before.
    """
    return seen_id < last_id - oracle.overlap_ids // 2


def _news(
    service: Zooniverse, folder: Path, state: Json, oracle: OracleSettings, start: int, end: int
) -> Iterator[tuple[int, list[Json]]]:
    """After each page of the ids from ``start`` to ``end``: how far we are, and the rows that the folder lacks."""
    position, known = start, last_updates(_stored(folder, state, start, end))
    while position < end and (rows := service.classifications_after(position)):
        if int(rows[-1]["id"]) <= position:
            raise ServiceError(f"Zooniverse was asked for classifications after id {position} but gave older ones.")
        new = []
        for row in rows:  # in order, so a row whose id is not higher than the last is a repeat
            id_ = int(row["id"])
            ours = zooniverse_id(row["links"]["workflow"]) in oracle.workflow_ids
            if position < id_ <= end and ours and is_news(row, known):
                new.append(row)
            position = max(position, id_)
        position = min(position, end)
        yield position, new


def is_news(row: Row, known: Mapping[str, str]) -> bool:
    """Whether a row is new, or was corrected since ``known``, which says when each row was last updated."""
    return row["id"] not in known or _updated_at(row) > known[row["id"]]


def last_updates(rows: Iterable[Row]) -> dict[str, str]:
    """When each row was last updated, by id: as text, as the reduction compares it."""
    found: dict[str, str] = {}
    for row in rows:
        found[row["id"]] = max(found.get(row["id"], ""), _updated_at(row))
    return found


def _updated_at(row: Row) -> str:
    updated_at = row.get("updated_at")
    return updated_at if isinstance(updated_at, str) else ""


def last_id(folder: Path) -> int:
    """The largest classification id seen in the project."""
    return int(folders.read_json(folder / STATE)["last_id"])


def row_files(folder: Path) -> list[Path]:
    """The files of rows, in order."""
    return [folder / chunk["name"] for chunk in folders.read_json(folder / STATE)["chunks"]]


def rows(folder: Path) -> Iterator[Json]:
    """All pulled rows. One that was corrected appears again, with a later ``updated_at``."""
    return chain.from_iterable(map(classifications.read_api_dump, row_files(folder)))


def _open(folder: Path, oracle: OracleSettings, since_id: int) -> Json:
    """The state of a folder, without what an interrupted pull wrote after its last checkpoint."""
    about = {"endpoint": oracle.endpoint, "project_id": oracle.project_id, "workflow_ids": list(oracle.workflow_ids)}
    if not (folder / STATE).is_file():
        return {"format_version": FORMAT_VERSION, **about, "since_id": since_id, "last_id": since_id, "chunks": []}
    state: Json = folders.read_json(folder / STATE)
    differences = [
        f"{key}: {state.get(key)!r} there, {value!r} now" for key, value in about.items() if state[key] != value
    ]
    if differences:
        raise FolderError("\n  ".join([f"{folder} was pulled with other settings:", *differences]))
    for chunk in state["chunks"]:
        path = folder / chunk["name"]
        if not path.is_file() or path.stat().st_size < chunk["bytes"]:
            raise FolderError(f"{path} is missing or has been cut short. Restore it, or move {folder} away.")
    return state


def _append(folder: Path, state: Json, new: Sequence[Json]) -> None:
    if not new:
        return
    if not state["chunks"] or state["chunks"][-1]["rows"] >= MAX_ROWS:
        name = f"rows_{len(state['chunks']):05d}.jsonl"
        state["chunks"].append({"name": name, "rows": 0, "bytes": 0, "largest_id": 0})
    chunk = state["chunks"][-1]
    # Escaped: a text may hold half a surrogate pair, which UTF-8 cannot encode.
    text = "".join(json.dumps(row) + "\n" for row in new).encode()
    with (folder / chunk["name"]).open("ab") as file:
        file.truncate(chunk["bytes"])
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    chunk["rows"] += len(new)
    chunk["bytes"] += len(text)
    chunk["largest_id"] = max(chunk["largest_id"], int(new[-1]["id"]))


def _stored(folder: Path, state: Json, above: int, up_to: int) -> Iterator[Json]:
    """The stored rows with an id above ``above`` and up to ``up_to``."""
    for chunk in state["chunks"]:
        if chunk["largest_id"] > above:
            with (folder / chunk["name"]).open("rb") as file:
                rows = map(json.loads, file.read(chunk["bytes"]).splitlines())
                yield from (row for row in rows if above < int(row["id"]) <= up_to)


def _save(folder: Path, state: Json) -> None:
    folders.publish_file(folder / STATE, _bytes(state))


def _bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
