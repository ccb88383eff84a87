"""stage=shards: turn galaxies and their pictures into TFRecord shards with a SQLite index.

train, eval and test come from the labelled galaxies, the pool from the rest. All later stages read pixels only from the
shards. If the survey has published features (``survey.features``), they are stored and no picture is read. Shard n of a
split has the galaxies n × shard_size … of the catalog; worker processes write shards side by side (shard_writer.py). A
run that was stopped continues with the shards that are not finished. At the end the index is made from their records.

Reads: the catalogs, and pictures or published features.
Writes: {survey}/shards/{shards.name}/: TFRecords for train, eval, test and pool, and their index.
Needs: stage=catalogs; for live work shards.source=real.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from zoobot import folders
from zoobot.engine import map as engine
from zoobot.engine.progress import track
from zoobot.errors import InputError
from zoobot.folders import disk
from zoobot.galaxies import (
    cells,
    database,
    feature_tables,
    picture_paths,
    repeats,
    same_galaxy,
    shard_writer,
    tables,
    tfrecords,
)
from zoobot.galaxies.feature_tables import FeatureTable, Gathered
from zoobot.galaxies.images import PIXELS
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.shard_writer import Part, Work
from zoobot.galaxies.tables import read_table
from zoobot.galaxies.tasks import LABEL, TOTAL_VOTES, build_task
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
NEXT = "instructions"  # the stage to run afterwards
GALAXIES_PER_WORKER = 1000  # with fewer, starting a process takes as long as it saves


@dataclass(frozen=True)
class _Source:
    """Where the shards are made from: the galaxies of each split, which votes are stored, and published features."""

    settings: Settings
    splits: Mapping[str, pd.DataFrame]
    vote_columns: Sequence[str]
    gathered: Gathered | None  # None: pictures are read

    def work(self, staging: Path, finished: Mapping[str, Part]) -> Iterator[Work]:
        """Each shard that is not finished."""
        size, kept = self.settings.shards.shard_size, folders.unfinished(self.settings.shard_dir)
        for split, table in self.splits.items():
            for number, start in enumerate(range(0, len(table), size)):
                file = shard_writer.name_of(split, number)
                if file not in finished:
                    galaxies, votes = self._galaxies(split, table.iloc[start : start + size])
                    features = list(self.gathered.of([i for i, _ in galaxies])) if self.gathered else None
                    yield Work(file, galaxies, votes, features, self.settings, staging, kept)

    def _galaxies(self, split: str, table: pd.DataFrame) -> tuple[list[tuple[str, str]], list[dict[str, int]]]:
        locations = table["file_loc"]
        if self.gathered:
            locations = locations.mask(cells.no_text(locations), "")
        columns = [] if split == "pool" else self.vote_columns
        votes = [
            {column: int(count) for column, count in zip(columns, row, strict=True)}
            for row in table[list(columns)].itertuples(index=False)
        ]
        return list(zip(map(str, table["id_str"]), map(str, locations), strict=True)), votes


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
    with (
        _gathered(splits, settings, published) as gathered,
        folders.create(settings.shard_dir, used, inputs, resumes=True, needs_bytes=space) as staging,
    ):
        parts = _write_all(_Source(settings, splits, vote_columns, gathered), staging)
        config = _config(settings, task.name, parts)
        _report(parts, config)
        listed = {staging / name for names in config.splits.values() for name in names}
        for path in {path for path in staging.rglob("*") if path.is_file()} - listed:
            path.unlink()  # left by a stopped run
        folders.write_record(staging / tfrecords.SHARD_CONFIG, config)
        _write_index(staging / config.database, parts)
        _check_agreement(staging, parts, {split: list(table["id_str"]) for split, table in splits.items()})
    counts = ", ".join(f"{count} {split}" for split, count in config.galaxies.items())
    log.info("%s: %s, %d dropped", settings.shard_dir, counts, len(config.dropped))
    return settings.shard_dir


def dropped(path: Path) -> str:
    """How many galaxies were dropped, and where it says why."""
    return f"{len(tfrecords.load_config(path).dropped)} galaxies: {path / tfrecords.SHARD_CONFIG} says why"


def _report(parts: Mapping[str, Sequence[Part]], config: ShardConfig) -> None:
    for entry in config.dropped:
        log.warning("dropped %s: %s", entry.id_str, entry.reason)
    notes = Counter[str]()
    for part in (part for found in parts.values() for part in found):
        notes.update(part.notes)
    for note, count in sorted(notes.items()):
        log.info("%d pictures: %s", count, note)


def _config(settings: Settings, task_name: str, parts: Mapping[str, Sequence[Part]]) -> ShardConfig:
    return ShardConfig(
        survey=settings.survey.name,
        task=task_name,
        image_size_px=0 if settings.survey.features else settings.shards.image_size_px,
        channels=0 if settings.survey.features else settings.shards.channels,
        encoding=shard_writer.encoding(settings),
        shard_size=settings.shards.shard_size,
        seed=settings.catalogs.seed,
        splits={split: [part.file for part in found if part.rows] for split, found in parts.items()},
        galaxies={split: sum(len(part.rows) for part in found) for split, found in parts.items()},
        dropped=[entry for found in parts.values() for part in found for entry in part.dropped],
        database="shards.db",
    )


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
    return {"train": splits["train"], "eval": splits["eval"], "test": splits["test"],
            "pool": pool[~known] if known.any() else pool}  # fmt: skip


def _read_pool(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except InputError as error:
        raise InputError(
            f"{path} has no galaxies, so no pool to choose from. In a simulation, lower catalogs.mock_labelled."
        ) from error


def _write_all(source: _Source, staging: Path) -> dict[str, list[Part]]:
    """Write all shards, side by side. The parts of each split, in order."""
    settings, n = source.settings, sum(map(len, source.splits.values()))
    finished = shard_writer.finished(folders.unfinished(settings.shard_dir))
    if finished:
        log.info("%s: %d shards already exist", settings.shard_dir, len(finished))
    left = n - sum(part.n_galaxies for part in finished.values())
    most = 1 if source.gathered else engine.cores(settings.cluster)  # features are only copied
    workers = settings.workers or max(1, min(most, left // GALAXIES_PER_WORKER))
    n_dropped, problem = sum(len(part.dropped) for part in finished.values()), ""
    works = source.work(staging, finished)
    made = engine.in_order(shard_writer.write, works, workers, lambda work: work.file, settings.cluster)
    with closing(made) as written:
        for part in track(written, "writing shards", left, lambda part: part.n_galaxies):
            finished[part.file] = part
            n_dropped += len(part.dropped)
            if part.dropped and n_dropped > settings.max_dropped_fraction * n:
                problem = _too_many(n_dropped, n, part, settings)
                break
    if problem:
        disk.remove(folders.unfinished(settings.shard_dir))  # start again once the pictures are fixed
        raise InputError(problem)
    return {split: _parts_of(split, finished, settings) for split in source.splits}


def _too_many(n_dropped: int, n: int, part: Part, settings: Settings) -> str:
    """What is said of too many dropped galaxies: as soon as there are so many, not after hours of work."""
    first = "; ".join(f"{dropped.id_str}: {dropped.reason}" for dropped in part.dropped[:5])
    return (
        f"{n_dropped} of {n} images cannot be used so far, more than max_dropped_fraction="
        f"{settings.max_dropped_fraction}. The newest: {first}. Fix them, or raise max_dropped_fraction."
    )


def _parts_of(split: str, parts: Mapping[str, Part], settings: Settings) -> list[Part]:
    found = [parts[file] for file in sorted(parts) if file.startswith(f"{split}/")]
    if not any(part.rows for part in found):
        what = "features" if settings.survey.features else "a readable picture"
        raise InputError(f"No galaxy of split {split} has {what}; for example: {found[-1].dropped[-1].reason}.")
    return found


def _write_index(path: Path, parts: Mapping[str, Sequence[Part]]) -> None:
    path.unlink(missing_ok=True)  # left by a stopped run
    database.create(path)
    with database.connect(path) as connection:
        for part in (part for found in parts.values() for part in found):
            database.add_galaxies(connection, part.rows)
            database.add_labels(connection, part.votes, database.INITIAL)


@contextmanager
def _gathered(
    splits: Mapping[str, pd.DataFrame], settings: Settings, published: FeatureTable | None
) -> Iterator[Gathered | None]:
    """Published features in the order of the catalogs, in a temporary file: they lie in the order of their own file.
    InputError: too many galaxies have none; nothing is begun then, so that the file may be fixed.
    """
    if published is None:
        yield None
        return
    log.info("%s: %d features of each galaxy (%s)", published.path, published.n_features, published.shown)
    disk.require_space(settings.survey_dir, 2 * _bytes_needed(splits, settings, published))
    with tempfile.TemporaryFile(dir=settings.survey_dir) as file:
        with disk.clear_errors(settings.survey_dir):
            gathered = feature_tables.gather(published, [i for table in splits.values() for i in table["id_str"]], file)
        if problem := gathered.problem(settings.max_dropped_fraction):
            raise InputError(problem)
        log.info("%s; %d rows of other galaxies", gathered.described(), gathered.n_other)
        yield gathered


def _check_images_exist(splits: Mapping[str, pd.DataFrame], settings: Settings) -> None:
    """Raise an error about missing images before the work starts, not after hours."""
    n = sum(map(len, splits.values()))
    missing = [each for table in splits.values() for each in picture_paths.missing(table["file_loc"], settings)]
    if len(missing) > settings.max_dropped_fraction * n:
        raise InputError(
            f"{len(missing)} of {n} images are missing from {settings.pictures_place}, for example"
            f" {missing[0]}. Set survey.folder to the folder that file_loc is relative to, or download the images."
            f"{picture_paths.advice(missing, settings)}"
        )


def _check_unique(splits: Mapping[str, pd.DataFrame], where: Path) -> None:
    ids = pd.concat([table["id_str"] for table in splits.values()])
    repeated = ids.iloc[repeats.repeated(ids)]
    if len(repeated):
        raise InputError(
            f"{where}: galaxy {repeated.iloc[0]} appears more than once, and so do {repeated.nunique() - 1} others."
            " The catalogs were changed by hand. Make them again with another catalogs.name."
        )


def _check_agreement(folder: Path, parts: Mapping[str, Sequence[Part]], expected: Mapping[str, list[str]]) -> None:
    """Check that each galaxy of the catalog is in exactly one shard, the one that the database says. What is in a shard
    was read back when it was written.
    """
    config = tfrecords.load_config(folder)
    dropped = {entry.id_str for entry in config.dropped}
    seen: set[str] = set()
    with database.connect(folder / config.database) as connection:
        for split, found in parts.items():
            ids = [id_str for part in found for id_str, *_ in part.rows]
            if ids != [id_str for id_str in expected[split] if id_str not in dropped]:
                raise AssertionError(f"the {split} shards do not hold the galaxies of the catalog, in its order")
            if seen & set(ids) or len(set(ids)) != len(ids):
                raise AssertionError("a galaxy is in two shards")
            seen |= set(ids)
            in_database = [i for file in config.splits[split] for i in database.ids_in_shard(connection, file)]
            if in_database != ids:
                raise AssertionError(f"the database does not say where the {split} galaxies are")
            if not all((folder / file).is_file() for file in config.splits[split]):
                raise AssertionError(f"a {split} shard is missing")
