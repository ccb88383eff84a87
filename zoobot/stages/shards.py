"""stage=shards: turn galaxies and their pictures into TFRecord shards with a SQLite index.

train, eval and test come from the labelled galaxies, the pool from the rest. All later stages read pixels only from the
shards. If the survey has published features (``survey.features``), they are stored and no picture is read. A shard's
record (``_Part``) is published once its file is on disk, so a run that was stopped continues after the last finished
shard. At the end the index is made from these records.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from zoobot import folders
from zoobot.engine.progress import track
from zoobot.errors import InputError
from zoobot.folders import disk
from zoobot.galaxies import cells, database, feature_tables, picture_paths, same_galaxy, tables, tfrecords
from zoobot.galaxies.feature_tables import FeatureTable
from zoobot.galaxies.images import PIXELS, read_for_shards
from zoobot.galaxies.pictures import Pixels
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tables import read_table
from zoobot.galaxies.tasks import LABEL, TOTAL_VOTES, build_task
from zoobot.galaxies.tfrecords import Dropped, Floats32, ShardConfig
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
READ_THREADS = 4  # decoding a picture releases Python's lock
# Each galaxy in order, with its pixels or features, or with the reason why it has none.
Read = Callable[[pd.DataFrame], Iterator[tuple[dict[str, Any], Pixels | Floats32 | str]]]


@dataclass
class _Part:
    """A shard, and what happened to the next ``taken`` galaxies of the catalog: some may be dropped. The last part of a
    split may have only dropped galaxies and no file.
    """

    file: str
    taken: int = 0
    rows: list[tuple[str, str, str, str, int]] = field(default_factory=list)  # of database.add_galaxies
    votes: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)


@dataclass
class _Tally:
    """What was found in the pictures so far, and how many there are in total."""

    total: int
    so_far: int = 0
    notes: Counter[str] = field(default_factory=Counter)  # how many pictures were changed, by what was changed

    def check(self, new: list[Dropped], settings: Settings) -> None:
        """Count more dropped galaxies. Raises an error as soon as there are too many, not after hours of work."""
        self.so_far += 1
        if self.so_far > settings.max_dropped_fraction * self.total:
            disk.remove(folders.unfinished(settings.shard_dir))  # start again once the pictures are fixed
            first = "; ".join(f"{d.id_str}: {d.reason}" for d in new[:5])
            raise InputError(
                f"{self.so_far} of {self.total} images cannot be used so far, more than max_dropped_fraction="
                f"{settings.max_dropped_fraction}. The newest: {first}. Fix them, or raise max_dropped_fraction."
            )


@dataclass(frozen=True)
class _Writer:
    """What the splits share."""

    settings: Settings
    folder: Path
    read: Read
    tally: _Tally


def run(settings: Settings) -> Path:
    """Build the shards, unless they exist with the same settings and catalogs."""
    folders.require(settings.catalog_dir, "catalogs", settings.verify_inputs)
    inputs = {"catalogs": settings.catalog_dir}
    used = stage_settings(settings, "shards")
    published = feature_tables.find(settings) if settings.survey.features else None
    if published:  # by their digest, as questions are: they may be moved once they are in the shards
        used["features"] = tables.digest(published.path)
    else:
        used["pixels"] = PIXELS
    if folders.is_done(settings.shard_dir, used, inputs):
        return settings.shard_dir
    splits = split_galaxies(settings)
    questions = load_questions(settings.survey.questions)
    task = build_task(settings.task, questions)
    label_columns = (LABEL, TOTAL_VOTES) if task.label_columns else ()
    vote_columns = [c for c in (*label_columns, *questions.columns) if c in splits["train"].columns]
    _check_unique(splits, settings.catalog_dir)
    if not published:
        _check_images_exist(splits, settings)
    space = _bytes_needed(splits, settings, published)
    tally = _Tally(sum(map(len, splits.values())))
    with (
        _reader(splits, settings, published, tally) as read,
        folders.create(settings.shard_dir, used, inputs, resumes=True, needs_bytes=space) as staging,
    ):
        writer = _Writer(settings, staging, read, tally)
        parts = {
            split: _write_split(split, table, [] if split == "pool" else vote_columns, writer)
            for split, table in splits.items()
        }
        config = _config(settings, task.name, parts)
        for entry in config.dropped:
            log.warning("dropped %s: %s", entry.id_str, entry.reason)
        for note, count in sorted(tally.notes.items()):
            log.info("%d pictures: %s", count, note)
        listed = {staging / name for names in config.splits.values() for name in names}
        for path in set(staging.rglob("*.tfrecord")) - listed:
            path.unlink()  # left by a stopped run; its pictures are gone now
        folders.write_record(staging / tfrecords.SHARD_CONFIG, config)
        _write_index(staging / config.database, parts)
        check_agreement(staging, {split: list(table["id_str"]) for split, table in splits.items()})
    counts = ", ".join(f"{count} {split}" for split, count in config.galaxies.items())
    log.info("%s: %s, %d dropped", settings.shard_dir, counts, len(config.dropped))
    return settings.shard_dir


def _config(settings: Settings, task_name: str, parts: Mapping[str, list[_Part]]) -> ShardConfig:
    return ShardConfig(
        survey=settings.survey.name,
        task=task_name,
        image_size_px=0 if settings.survey.features else settings.shards.image_size_px,
        channels=0 if settings.survey.features else settings.shards.channels,
        encoding=_encoding(settings),
        shard_size=settings.shards.shard_size,
        seed=settings.catalogs.seed,
        splits={split: [part.file for part in found if part.rows] for split, found in parts.items()},
        galaxies={split: sum(len(part.rows) for part in found) for split, found in parts.items()},
        dropped=[entry for found in parts.values() for part in found for entry in part.dropped],
        database="shards.db",
    )


def _encoding(settings: Settings) -> str:
    return tfrecords.FEATURES if settings.survey.features else settings.shards.encoding


def _bytes_needed(splits: Mapping[str, pd.DataFrame], settings: Settings, published: FeatureTable | None) -> int:
    """An upper limit for the size of the shards: their pixels or features, and a few numbers per galaxy."""
    pixels = settings.shards.image_size_px**2 * settings.shards.channels
    one = (4 * published.n_features if published else pixels) + 2000
    return one * sum(map(len, splits.values()))


def split_galaxies(settings: Settings) -> dict[str, pd.DataFrame]:
    """The galaxies of each split. The catalogs are already shuffled, so a split is a range of rows; but all rows of one
    galaxy go to one split.
    """
    labelled = read_table(settings.catalog("labelled"))
    pool = _read_pool(settings.catalog("unlabelled"))
    n_eval, n_test = settings.shards.eval_size, settings.shards.test_size
    if len(labelled) <= n_eval + n_test:
        raise InputError(
            f"{settings.catalog('labelled')} has {len(labelled)} galaxies: none are left to train on after"
            f" shards.eval_size={n_eval} and shards.test_size={n_test}. Make these smaller, or label more galaxies"
            " (catalogs.mock_labelled for a simulation)."
        )
    known = same_galaxy.elsewhere(pool, labelled)
    if known.all():
        raise InputError(
            f"{settings.catalog('unlabelled')}: all {len(pool)} galaxies are labelled under another id, so no pool is"
            " left. Is survey.same_within_arcsec too large?"
        )
    if known.any():
        log.warning("left out of the pool: %d galaxies that are labelled under another id", known.sum())
    split_N = same_galaxy.fill(same_galaxy.rows_of(labelled), [n_eval, n_test])
    splits = {split: labelled[split_N == n] for n, split in enumerate(("eval", "test", "train"))}
    return {"train": splits["train"], "eval": splits["eval"], "test": splits["test"], "pool": pool[~known]}


def _read_pool(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except InputError as error:
        raise InputError(
            f"{path} has no galaxies, so no pool to choose from. In a simulation, lower catalogs.mock_labelled."
        ) from error


def _write_split(split: str, galaxies: pd.DataFrame, vote_columns: list[str], writer: _Writer) -> list[_Part]:
    settings, tally = writer.settings, writer.tally
    kept = folders.unfinished(settings.shard_dir)
    parts = _finished_parts(kept, split)
    tally.so_far += sum(len(part.dropped) for part in parts)
    if parts:
        log.info("%s: %d %s shards already exist", settings.shard_dir, len(parts), split)
    left = galaxies.iloc[sum(part.taken for part in parts) :]
    part, records = _Part(_name(split, len(parts))), list[bytes]()
    for row, content in track(writer.read(left), f"writing {split} shards", len(left)):
        part.taken += 1
        if isinstance(content, str):
            part.dropped.append(Dropped(row["id_str"], content))
            tally.check(part.dropped, settings)
            continue
        counts = {column: int(row[column]) for column in vote_columns}
        records.append(tfrecords.encode(row["id_str"], content, counts, _encoding(settings)))
        part.rows.append((row["id_str"], row["file_loc"], split, part.file, len(part.rows)))
        if counts:
            part.votes[row["id_str"]] = counts
        if len(records) == settings.shards.shard_size:
            parts.append(_finish(part, records, writer.folder, kept))
            part, records = _Part(_name(split, len(parts))), []
    if part.taken:
        parts.append(_finish(part, records, writer.folder, kept))
    if not any(part.rows for part in parts):
        what = "features" if settings.survey.features else "a readable picture"
        raise InputError(f"No galaxy of split {split} has {what}; for example: {parts[-1].dropped[-1].reason}.")
    return parts


def _name(split: str, number: int) -> str:
    return f"{split}/{split}_{number:05d}.tfrecord"


def _finished_parts(kept: Path, split: str) -> list[_Part]:
    """The parts of a split that a stopped run had finished."""
    return [folders.parse(folders.read_json(path), _Part, str(path)) for path in sorted(kept.glob(f"{split}_*.json"))]


def _finish(part: _Part, records: list[bytes], folder: Path, kept: Path) -> _Part:
    if records:
        path = folder / part.file
        disk.make_folder(path.parent)
        tfrecords.write(path, records)
        disk.flush_file(path)
        disk.flush_folder(path.parent)
    record = kept / Path(part.file).with_suffix(".json").name
    folders.publish_file(record, json.dumps(dataclasses.asdict(part)).encode())
    return part


def _write_index(path: Path, parts: Mapping[str, list[_Part]]) -> None:
    path.unlink(missing_ok=True)  # left by a stopped run
    database.create(path)
    with database.connect(path) as connection:
        for part in (part for found in parts.values() for part in found):
            database.add_galaxies(connection, part.rows)
            database.add_labels(connection, part.votes, database.INITIAL)


@contextmanager
def _reader(
    splits: Mapping[str, pd.DataFrame], settings: Settings, published: FeatureTable | None, tally: _Tally
) -> Iterator[Read]:
    """How galaxies are read. Features lie in the order of their file, so they are first put in that of the catalogs, in
    a temporary file. InputError: too many galaxies have none; nothing is begun then, so that the file may be fixed.
    """
    if published is None:
        yield partial(_read_images, settings=settings, notes=tally.notes)
        return
    log.info("%s: %d features of each galaxy (%s)", published.path, published.n_features, published.shown)
    disk.require_space(settings.survey_dir, 2 * _bytes_needed(splits, settings, published))
    with tempfile.TemporaryFile(dir=settings.survey_dir) as file:
        with disk.clear_errors(settings.survey_dir):
            gathered = feature_tables.gather(published, [i for table in splits.values() for i in table["id_str"]], file)
        if problem := gathered.problem(settings.max_dropped_fraction):
            raise InputError(problem)
        log.info("%s; %d rows of other galaxies", gathered.described(), gathered.n_other)

        def read(galaxies: pd.DataFrame) -> Iterator[tuple[dict[str, Any], Floats32 | str]]:
            galaxies = galaxies.assign(file_loc=galaxies["file_loc"].mask(cells.no_text(galaxies["file_loc"]), ""))
            for row, found in zip(galaxies.itertuples(index=False), gathered.of(list(galaxies["id_str"])), strict=True):
                yield dict(zip(galaxies.columns, row, strict=True)), found

        yield read


def _read_images(
    galaxies: pd.DataFrame, settings: Settings, notes: Counter[str]
) -> Iterator[tuple[dict[str, Any], Pixels | str]]:
    """Galaxies with their pixels. What was changed in them is counted in ``notes``."""

    def read(row: dict[str, Any]) -> tuple[dict[str, Any], Pixels | str, tuple[str, ...]]:
        try:
            return row, *read_for_shards(settings.image_path(str(row["file_loc"])), settings.survey, settings.shards)
        except InputError as error:
            return row, str(error), ()

    rows = [dict(zip(galaxies.columns, row, strict=True)) for row in galaxies.itertuples(index=False)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(rows), 256):  # limits the number of pictures in memory
            for row, pixels, changes in pool.map(read, rows[start : start + 256]):
                notes.update(changes)
                yield row, pixels


def _check_images_exist(splits: Mapping[str, pd.DataFrame], settings: Settings) -> None:
    """Raise an error about missing images before the work starts, not after hours."""
    locations = [str(loc) for table in splits.values() for loc in table["file_loc"]]
    missing = [loc for loc in locations if not settings.image_path(loc).is_file()]
    if len(missing) > settings.max_dropped_fraction * len(locations):
        raise InputError(
            f"{len(missing)} of {len(locations)} images are missing from {settings.source_dir}, for example"
            f" {missing[0]}. Set survey.folder to the folder that file_loc is relative to, or download the images."
            f"{picture_paths.advice(missing, settings.source_dir)}"
        )


def _check_unique(splits: Mapping[str, pd.DataFrame], where: Path) -> None:
    ids = pd.concat([table["id_str"] for table in splits.values()])
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{where}: galaxy {repeated.iloc[0]} appears more than once, and so do {repeated.nunique() - 1} others."
            " The catalogs were changed by hand. Make them again with another catalogs.name."
        )


def check_agreement(folder: Path, expected: Mapping[str, list[str]]) -> None:
    """Read every shard back and check that each galaxy of the catalog is in exactly one, the one that the database
    says.
    """
    config = tfrecords.load_config(folder)
    dropped = {entry.id_str for entry in config.dropped}
    seen: set[str] = set()
    with database.connect(folder / config.database) as connection:
        for split, files in config.splits.items():
            ids = [id_str for file in files for id_str in tfrecords.read_ids(folder / file)]
            if ids != [id_str for id_str in expected[split] if id_str not in dropped]:
                raise AssertionError(f"the {split} shards do not hold the galaxies of the catalog, in its order")
            if seen & set(ids) or len(set(ids)) != len(ids):
                raise AssertionError("a galaxy is in two shards")
            seen |= set(ids)
            index = database.shards_of(connection, ids)
            if [id_str for file in files for id_str in index[file].values()] != ids:
                raise AssertionError(f"the database does not say where the {split} galaxies are")
            if database.ids_in_split(connection, split) != set(ids):
                raise AssertionError(f"the {split} galaxies in the database are not those in the shards")
