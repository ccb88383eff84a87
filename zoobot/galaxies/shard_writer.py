"""Write one shard: a pure function of some galaxies, their votes and the settings, which any process may call.

A galaxy whose picture cannot be used is left out, so a shard may hold fewer than its share, or not exist at all. The
record of a shard (``Part``) is published once its file is on disk: so work that was stopped continues behind it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from zoobot import folders
from zoobot.errors import InputError
from zoobot.folders import disk
from zoobot.galaxies import picture_paths, tfrecords
from zoobot.galaxies.images import read_for_shards
from zoobot.galaxies.pictures import Pixels
from zoobot.galaxies.tfrecords import Dropped, Floats32
from zoobot.settings import Settings


@dataclass(frozen=True)
class Work:
    """A shard to write. Lists are in the order of the catalog."""

    file: str  # relative to the folder of the shards: {split}/{split}_{number}.tfrecord
    galaxies: list[tuple[str, str]]  # id_str and file_loc
    votes: list[dict[str, int]]  # of each galaxy; empty: not labelled
    features: list[Floats32 | str] | None  # of each galaxy, or why it has none; None: pictures are read
    settings: Settings
    folder: Path  # of the shards
    kept: Path  # of their records


@dataclass
class Part:
    """A shard that was written, and what happened to its galaxies. If all were dropped, there is no file."""

    file: str
    rows: list[tuple[str, str, str, str, int]] = field(default_factory=list)  # of database.add_galaxies
    votes: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)  # how many pictures were changed, by what was changed

    @property
    def n_galaxies(self) -> int:
        """How many galaxies of the catalog it is about."""
        return len(self.rows) + len(self.dropped)


def name_of(split: str, number: int) -> str:
    """The file of a shard, relative to the folder of the shards."""
    return f"{split}/{split}_{number:05d}.tfrecord"


def encoding(settings: Settings) -> str:
    """How the shards hold a galaxy."""
    return tfrecords.FEATURES if settings.survey.features else settings.shards.encoding


def finished(kept: Path) -> dict[str, Part]:
    """The parts that were finished before, by their file."""
    found = (folders.parse(folders.read_json(path), Part, str(path)) for path in sorted(kept.glob("*_[0-9]*.json")))
    return {part.file: part for part in found}


def write(work: Work) -> Part:
    """Write the shard and its record. The same galaxies, pictures and settings always give the same bytes."""
    part, records, notes = Part(work.file), list[bytes](), Counter[str]()
    split = work.file.partition("/")[0]
    for (id_str, file_loc), votes, (content, changes) in zip(work.galaxies, work.votes, _contents(work), strict=True):
        notes.update(changes)
        if isinstance(content, str):
            part.dropped.append(Dropped(id_str, content))
            continue
        part.rows.append((id_str, file_loc, split, part.file, len(records)))
        records.append(tfrecords.encode(id_str, content, votes, encoding(work.settings)))
        if votes:
            part.votes[id_str] = votes
    part.notes = dict(sorted(notes.items()))
    if records:
        _publish(work.folder / work.file, records)
        if tfrecords.read_ids(work.folder / work.file) != [id_str for id_str, *_ in part.rows]:
            raise AssertionError(f"{work.file} does not hold the galaxies of the catalog, in its order")
    record = work.kept / Path(work.file).with_suffix(".json").name
    folders.publish_file(record, json.dumps(dataclasses.asdict(part)).encode())
    return part


def _contents(work: Work) -> Iterator[tuple[Pixels | Floats32 | str, tuple[str, ...]]]:
    """The pixels or features of each galaxy, or why it has none; and what was changed in its picture."""
    if work.features is not None:
        yield from ((content, ()) for content in work.features)
        return
    settings, locations = work.settings, [file_loc for _, file_loc in work.galaxies]
    with closing(picture_paths.sources(settings, locations)) as sources:
        for source in sources:
            try:
                if isinstance(source, str):
                    raise InputError(source)
                yield read_for_shards(source, settings.survey, settings.shards)
            except InputError as error:
                yield str(error), ()


def _publish(path: Path, records: list[bytes]) -> None:
    """Write the file under another name first: a process whose parent was killed may for a moment write it, too."""
    disk.make_folder(path.parent)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    tfrecords.write(staged, records)
    disk.flush_file(staged)
    staged.replace(path)
    disk.flush_folder(path.parent)
