"""Pull new classifications from Zooniverse into a folder that only grows.

    rows_00000.jsonl, …       one row a line, as the API gave it; a file takes MAX_ROWS rows, then the next begins
    workflow_versions.json    all versions of the workflows
    state.json                how far the walk came, and how many bytes of each file are whole: written after each page

A walk that was broken goes on where it stopped. Ids are given out before a classification can be seen, so each walk
reads a window of ids again (``oracle.overlap_ids``); a row that is there already is not stored twice.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from zoobot import folders
from zoobot.errors import FolderError, ServiceError
from zoobot.folders import disk
from zoobot.settings import OracleSettings
from zoobot.votes import classifications
from zoobot.votes.classifications import Json

if TYPE_CHECKING:
    from zoobot.oracles.panoptes import Zooniverse

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1
MAX_ROWS = 100_000
STATE, VERSIONS = "state.json", "workflow_versions.json"


def pull(service: Zooniverse, folder: Path, oracle: OracleSettings, since_id: int) -> int:
    """Bring ``folder`` up to date; how many rows are new. ``since_id`` is where a new folder begins.

    ServiceError: Zooniverse could not be reached; what came before is stored. FolderError: the folder is another
    project's, or its files were changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with disk.lock(folder):
        state = _open(folder, oracle, since_id)
        position = max(state["since_id"], state["last_id"] - oracle.overlap_ids)
        known = {id_ for id_ in _ids(folder, state, position) if id_ > position}
        n_new, page = 0, 0
        while rows := service.classifications_after(position):
            if int(rows[-1]["id"]) <= position:
                raise ServiceError(
                    f"Zooniverse gave no classification after {position}, though it was asked for those."
                )
            new = []
            for row in rows:  # in order, so what does not exceed the one before is there twice
                id_ = int(row["id"])
                if id_ > position and id_ not in known and _workflow(row) in oracle.workflow_ids:
                    new.append(row)
                position = max(position, id_)
            _append(folder, state, new)
            state |= {"last_id": max(state["last_id"], position), "complete": False}
            _save(folder, state)
            n_new, page = n_new + len(new), page + 1
            if page % 100 == 0:
                log.info("pulling classifications: %d new, at id %d", n_new, position)
        folders.publish_file(folder / VERSIONS, _bytes({"workflow_versions": service.workflow_versions()}))
        _save(folder, state | {"complete": True})
    return n_new


def is_complete(folder: Path) -> bool:
    """Whether the last walk came to its end."""
    return (folder / STATE).is_file() and bool(folders.read_json(folder / STATE)["complete"])


def last_id(folder: Path) -> int:
    """The largest id of any classification of the project that was seen."""
    return int(folders.read_json(folder / STATE)["last_id"])


def row_files(folder: Path) -> list[Path]:
    """The files of rows, in order."""
    return [folder / chunk["name"] for chunk in folders.read_json(folder / STATE)["chunks"]]


def rows(folder: Path) -> Iterator[Json]:
    """All rows that were pulled, each once."""
    return chain.from_iterable(map(classifications.read_api_dump, row_files(folder)))


def _open(folder: Path, oracle: OracleSettings, since_id: int) -> Json:
    """The state of a folder, without what a broken walk wrote after its last checkpoint."""
    about = {"endpoint": oracle.endpoint, "project_id": oracle.project_id, "workflow_ids": list(oracle.workflow_ids)}
    if not (folder / STATE).is_file():
        return {"format_version": FORMAT_VERSION, **about, "since_id": since_id, "last_id": since_id, "complete": False,
                "chunks": []}  # fmt: skip
    state: Json = folders.read_json(folder / STATE)
    differences = [
        f"{key}: {state.get(key)!r} there, {value!r} now" for key, value in about.items() if state[key] != value
    ]
    if differences:
        raise FolderError("\n  ".join([f"{folder} holds what was pulled with other settings:", *differences]))
    for chunk in state["chunks"]:
        path = folder / chunk["name"]
        if not path.is_file() or path.stat().st_size < chunk["bytes"]:
            raise FolderError(f"{path} is shorter than it was written, or gone. Put it back, or move {folder} away.")
    return state


def _append(folder: Path, state: Json, new: Sequence[Json]) -> None:
    if not new:
        return
    if not state["chunks"] or state["chunks"][-1]["rows"] >= MAX_ROWS:
        name = f"rows_{len(state['chunks']):05d}.jsonl"
        state["chunks"].append({"name": name, "rows": 0, "bytes": 0, "largest_id": 0})
    chunk = state["chunks"][-1]
    # Escaped: a text may hold half a surrogate pair, which has no UTF-8.
    text = "".join(json.dumps(row) + "\n" for row in new).encode()
    with (folder / chunk["name"]).open("ab") as file:
        file.truncate(chunk["bytes"])
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    chunk["rows"] += len(new)
    chunk["bytes"] += len(text)
    chunk["largest_id"] = max(chunk["largest_id"], int(new[-1]["id"]))


def _ids(folder: Path, state: Json, above: int) -> Iterator[int]:
    for chunk in state["chunks"]:
        if chunk["largest_id"] > above:
            with (folder / chunk["name"]).open("rb") as file:
                for line in file.read(chunk["bytes"]).splitlines():
                    yield int(json.loads(line)["id"])


def _workflow(row: Json) -> str:
    links = row.get("links")
    return str(links.get("workflow")) if isinstance(links, dict) else ""


def _save(folder: Path, state: Json) -> None:
    folders.publish_file(folder / STATE, _bytes(state))


def _bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
