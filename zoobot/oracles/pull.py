"""Pull new classifications from Zooniverse into a folder that only grows.

    rows_00000.jsonl, …       one row per line, as the API gave it; after MAX_ROWS rows a new file begins
    workflow_versions.json    all versions of the workflows
    state.json                the last id read, and how many bytes of each file are complete; written after each page

A pull that was interrupted continues where it stopped. Zooniverse assigns ids before classifications become visible, so
each pull reads the last ids again (``oracle.overlap_ids``); a row that is already stored is not stored twice.
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
    """Bring ``folder`` up to date and return the number of new rows. A new folder begins after ``since_id``.

    Raises ServiceError if Zooniverse cannot be reached (rows that came before are kept), and FolderError if the folder
    belongs to another project or its files were changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with disk.lock(folder):
        state = _open(folder, oracle, since_id)
        position = max(state["since_id"], state["last_id"] - oracle.overlap_ids)
        known = {id_ for id_ in _ids(folder, state, position) if id_ > position}
        n_new, page = 0, 0
        while rows := service.classifications_after(position):
            if int(rows[-1]["id"]) <= position:
                raise ServiceError(f"Zooniverse was asked for classifications after id {position} but gave older ones.")
            new = []
            for row in rows:  # in order, so a row whose id is not higher than the last is a repeat
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
    """Whether the last pull was completed."""
    return (folder / STATE).is_file() and bool(folders.read_json(folder / STATE)["complete"])


def last_id(folder: Path) -> int:
    """The largest classification id seen in the project."""
    return int(folders.read_json(folder / STATE)["last_id"])


def row_files(folder: Path) -> list[Path]:
    """The files of rows, in order."""
    return [folder / chunk["name"] for chunk in folders.read_json(folder / STATE)["chunks"]]


def rows(folder: Path) -> Iterator[Json]:
    """All pulled rows, without repeats."""
    return chain.from_iterable(map(classifications.read_api_dump, row_files(folder)))


def _open(folder: Path, oracle: OracleSettings, since_id: int) -> Json:
    """The state of a folder, without what an interrupted pull wrote after its last checkpoint."""
    about = {"endpoint": oracle.endpoint, "project_id": oracle.project_id, "workflow_ids": list(oracle.workflow_ids)}
    if not (folder / STATE).is_file():
        return {"format_version": FORMAT_VERSION, **about, "since_id": since_id, "last_id": since_id, "complete": False,
                "chunks": []}  # fmt: skip
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
