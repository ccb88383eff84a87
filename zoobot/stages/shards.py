"""stage=shards: galaxies and their pictures become TFRecord shards with a SQLite index.

train, eval and test come from the labelled galaxies, the pool from the rest. Every later stage reads pixels from the
shards only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from zoobot import database, folders, tfrecords
from zoobot.errors import InputError
from zoobot.images import Pixels, read_image, resize
from zoobot.progress import track
from zoobot.questions import load_questions
from zoobot.settings import Settings, stage_settings
from zoobot.surveys import read_table
from zoobot.tasks import LABEL, TOTAL_VOTES, build_task

log = logging.getLogger("zoobot")
SPLITS = ("train", "eval", "test", "pool")
READ_THREADS = 4  # decoding pictures releases Python's lock


@dataclass
class _Written:
    """What became of the galaxies, so far."""

    total: int
    files: dict[str, list[str]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: list[dict[str, str]] = field(default_factory=list)


def run(settings: Settings) -> Path:
    """Build the shards; say so and do nothing when they exist with the same settings and catalogs."""
    folders.require(settings.catalog_dir, "catalogs")
    inputs = {"catalogs": settings.catalog_dir}
    used = stage_settings(settings, "shards")
    if folders.exists_with(settings.shard_dir, used, inputs):
        log.info("%s exists with these settings: nothing to do", settings.shard_dir)
        return settings.shard_dir
    splits = split_galaxies(settings)
    questions = load_questions(settings.survey.questions)
    task = build_task(settings.task, questions)
    label_columns = (LABEL, TOTAL_VOTES) if task.label_columns else ()
    vote_columns = [c for c in (*label_columns, *questions.columns) if c in splits["train"].columns]
    _check_unique(splits, settings.catalog_dir)
    _check_images_exist(splits, settings)
    with folders.create(settings.shard_dir, used, inputs) as staging:
        database.create(staging / "shards.db")
        written = _Written(sum(map(len, splits.values())))
        for split, galaxies in splits.items():
            _write_split(split, galaxies, [] if split == "pool" else vote_columns, settings, staging, written)
        for entry in written.dropped:
            log.warning("dropped %s: %s", entry["id_str"], entry["reason"])
        config = {
            "version": tfrecords.FORMAT_VERSION,
            "survey": settings.survey.name,
            "task": task.name,
            "image_size_px": settings.shards.image_size_px,
            "channels": settings.shards.channels,
            "encoding": settings.shards.encoding,
            "shard_size": settings.shards.shard_size,
            "seed": settings.catalogs.seed,
            "splits": written.files,
            "galaxies": written.counts,
            "dropped": written.dropped,
            "database": "shards.db",
        }
        folders.write_json(staging / "shard_config.json", config)
        check_agreement(staging, {split: list(table["id_str"]) for split, table in splits.items()})
    counts = ", ".join(f"{count} {split}" for split, count in written.counts.items())
    log.info("%s: %s, %d dropped", settings.shard_dir, counts, len(written.dropped))
    return settings.shard_dir


def split_galaxies(settings: Settings) -> dict[str, pd.DataFrame]:
    """The galaxies of each split. The catalogs are shuffled already, so a split is a range of rows."""
    prefix = "mock_" if settings.shards.source == "mock" else ""
    labelled = read_table(settings.catalog_dir / f"{prefix}labelled.csv")
    pool = _read_pool(settings.catalog_dir / f"{prefix}unlabelled.csv")
    n_eval, n_test = settings.shards.eval_size, settings.shards.test_size
    if len(labelled) <= n_eval + n_test:
        raise InputError(
            f"{settings.catalog_dir}/{prefix}labelled.csv has {len(labelled)} galaxies: none is left to train on after"
            f" shards.eval_size={n_eval} and shards.test_size={n_test}. Make these smaller, or label more galaxies"
            " (catalogs.mock_labelled for a simulation)."
        )
    return {
        "train": labelled.iloc[n_eval + n_test :],
        "eval": labelled.iloc[:n_eval],
        "test": labelled.iloc[n_eval : n_eval + n_test],
        "pool": pool,
    }


def _read_pool(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except InputError as error:
        raise InputError(
            f"{path} has no galaxy, so there is no pool to choose from. For a simulation, lower catalogs.mock_labelled."
        ) from error


def _write_split(
    split: str, galaxies: pd.DataFrame, vote_columns: list[str], settings: Settings, folder: Path, written: _Written
) -> None:
    records: list[bytes] = []
    rows: list[tuple[str, str, str, str, int]] = []
    votes: dict[str, dict[str, int]] = {}

    def finish_shard() -> None:
        if records:
            tfrecords.write(folder / written.files[split][-1], records)
            with database.connect(folder / "shards.db") as connection:
                database.add_galaxies(connection, rows)
                database.add_labels(connection, votes, database.INITIAL)
            records.clear()
            rows.clear()
            votes.clear()

    for row, pixels in track(_read_images(galaxies, settings), f"writing {split} shards", len(galaxies)):
        if isinstance(pixels, str):
            written.dropped.append({"id_str": row["id_str"], "reason": pixels})
            _check_dropped(written, settings)
            continue
        if not records:
            written.files[split].append(f"{split}/{split}_{len(written.files[split]):05d}.tfrecord")
        counts = {column: int(row[column]) for column in vote_columns}
        records.append(tfrecords.encode(row["id_str"], pixels, counts, settings.shards.encoding))
        rows.append((row["id_str"], row["file_loc"], split, written.files[split][-1], len(rows)))
        if counts:
            votes[row["id_str"]] = counts
        written.counts[split] += 1
        if len(records) == settings.shards.shard_size:
            finish_shard()
    finish_shard()
    if not written.counts[split]:
        raise InputError(
            f"No galaxy of split {split} has a readable picture; for example: {written.dropped[-1]['reason']}."
        )


def _read_images(galaxies: pd.DataFrame, settings: Settings) -> Iterator[tuple[dict[str, Any], Pixels | str]]:
    """Each galaxy with its pixels, in order, or with the reason why it has none."""

    def read(row: dict[str, Any]) -> tuple[dict[str, Any], Pixels | str]:
        try:
            pixels = read_image(settings.image_path(str(row["file_loc"])))
        except InputError as error:
            return row, str(error)
        chosen = settings.shards
        return row, resize(pixels, chosen.image_size_px, chosen.channels, chosen.crop)

    rows = [dict(zip(galaxies.columns, row, strict=True)) for row in galaxies.itertuples(index=False)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for start in range(0, len(rows), 256):  # a bounded number of pictures in memory
            yield from pool.map(read, rows[start : start + 256])


def _check_images_exist(splits: Mapping[str, pd.DataFrame], settings: Settings) -> None:
    """Refuse before the work starts, not after hours of it."""
    locations = [str(loc) for table in splits.values() for loc in table["file_loc"]]
    missing = [loc for loc in locations if not settings.image_path(loc).is_file()]
    if len(missing) > settings.max_dropped_fraction * len(locations):
        raise InputError(
            f"{len(missing)} of {len(locations)} images are not below {settings.source_dir}, for example {missing[0]}."
            " Set survey.folder to the folder that file_loc is relative to, or download the images."
        )


def _check_unique(splits: Mapping[str, pd.DataFrame], where: Path) -> None:
    ids = pd.concat([table["id_str"] for table in splits.values()])
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{where}: galaxy {repeated.iloc[0]} is there more than once, and so are {repeated.nunique() - 1} others."
            " The catalogs were changed by hand; make them again under another catalogs.name."
        )


def _check_dropped(written: _Written, settings: Settings) -> None:
    """Refuse as soon as too many pictures turn out bad, not after hours of work."""
    if len(written.dropped) > settings.max_dropped_fraction * written.total:
        first = "; ".join(f"{d['id_str']}: {d['reason']}" for d in written.dropped[:5])
        raise InputError(
            f"{len(written.dropped)} of {written.total} images cannot be used so far, more than max_dropped_fraction="
            f"{settings.max_dropped_fraction}. The first: {first}. Mend them, or allow more."
        )


def check_agreement(folder: Path, expected: Mapping[str, list[str]]) -> None:
    """Read every shard back: each galaxy is in exactly one, where the database says, and none of the catalog's is
    lost.
    """
    config = tfrecords.load_config(folder)
    dropped = {entry["id_str"] for entry in config["dropped"]}
    seen: set[str] = set()
    with database.connect(folder / config["database"]) as connection:
        for split, files in config["splits"].items():
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
                raise AssertionError(f"the database holds other {split} galaxies than the shards")
