"""stage=predict: the survey's catalogue: the final model of an experiment predicts every galaxy of some shards.

A part of the catalogue is published once it is complete, so a run that was stopped continues after the last one.

Reads: an experiment's final model, shards, and the catalogs that these were made from.
Writes: {survey}/predictions/{predict.name}/: a catalogue of every galaxy, with a data card.
Needs: stage=finish, and the experiment's settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from zoobot import folders
from zoobot.engine import map as engine
from zoobot.engine.progress import track
from zoobot.errors import FolderError, SettingsError
from zoobot.folders import disk
from zoobot.galaxies import cells, database, table_writers, tables, tfrecords
from zoobot.galaxies.table_writers import Column
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations import catalogue, data_card, finishing
from zoobot.iterations.catalogue import Part
from zoobot.iterations.data_card import Card
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.iterations.final_files import FinalFolder, final_of
from zoobot.models.architectures import ARCHITECTURES
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
_POSITION = {"ra": "right ascension", "dec": "declination"}


@dataclass(frozen=True)
class _Known:
    """What is known of all galaxies of the catalogs: a row each, and its columns."""

    columns: list[Column]
    table: pa.Table
    ids: pd.Index
    learnt: set[str]

    def of(self, ids: list[str]) -> pa.Table:
        """The rows of these galaxies."""
        rows = self.ids.get_indexer(pd.Index(ids, dtype=object))
        if (rows < 0).any():
            raise FolderError(f"galaxy {ids[int(np.argmin(rows))]} is in the shards, but not in their catalogs.")
        learnt = pa.array([id_ in self.learnt for id_ in ids])
        schema = table_writers.schema(self.columns)
        return pa.table([pa.array(ids), *self.table.take(pa.array(rows)).columns, learnt], schema)


def run(settings: Settings) -> Path:
    """Write the catalogue, unless it exists with the same settings, model and shards. Returns its folder."""
    final = _final(settings)
    folders.require(settings.shard_dir, "shards", settings.verify_inputs)
    catalog_dir = _input(settings.shard_dir, "catalogs")
    folders.require(catalog_dir, "catalogs", settings.verify_inputs)
    path, used = settings.predictions_dir / settings.predict.name, stage_settings(settings, "predict")
    inputs = {"final": final.path, "shards": settings.shard_dir, "catalogs": catalog_dir}
    if folders.is_done(path, used, inputs):
        return path
    config = tfrecords.load_config(settings.shard_dir)
    _refuse_others(settings, final, config)
    finishing.refuse_other_shards(final, config, settings.shard_dir)
    known = _known(settings, catalog_dir, final)
    columns = [*known.columns, *catalogue.predicted_columns(final.read().recipe.build_task())]
    _refuse_twice([c.name for c in columns])
    needs_bytes = 2 * sum(config.galaxies.values()) * (40 + 4 * len(columns))
    with folders.create(path, used, inputs, resumes=True, needs_bytes=needs_bytes) as staging:
        files = _files(settings, staging, _predict_all(settings, final, known, staging))
        card = _card(settings, final, known, columns, config)
        pd.DataFrame([vars(d) for d in config.dropped], columns=["id_str", "reason"]).to_csv(
            staging / data_card.DROPPED, index=False
        )
        data_card.write(staging, card, files)
    log.info("%s: %d galaxies, %d without a prediction", path, card.n_galaxies, card.n_dropped)
    return path


def dropped(path: Path) -> str:
    """How many galaxies have no prediction, and where it says why."""
    return f"{len(pd.read_csv(path / data_card.DROPPED))} galaxies: {path / data_card.DROPPED} says why"


def _final(settings: Settings) -> FinalFolder:
    """The final model of the experiment in the settings. FolderError: there is none, and what to run."""
    experiment = ExperimentFolder(settings.experiment_dir)
    if not experiment.path.is_dir():
        raise FolderError(
            f"{experiment.path} does not exist: no experiment has this name. Set experiment_name (and oracle=panoptes"
            " for a live one) to the experiment whose final model is to predict."
        )
    if not final_of(experiment).path.is_dir():
        raise FolderError(
            f"{experiment.path} has no final model. Make it first: python run.py stage=finish … (with the settings of"
            " the experiment)."
        )
    folders.require(final_of(experiment).path, "finish", settings.verify_inputs)
    return final_of(experiment)


def _input(folder: Path, name: str) -> Path:
    """The current path of a folder that this one was made from."""
    return (folder / folders.read_manifest(folder).inputs[name].path).resolve()


def _refuse_others(settings: Settings, final: FinalFolder, config: ShardConfig) -> None:
    """SettingsError: the model learnt another task, or from pictures that were stored in another way."""
    recipe = final.read().recipe
    if recipe.model.architecture not in ARCHITECTURES:
        raise SettingsError(
            f"{final.path} has an encoder of an extension, {recipe.model.architecture}. Name its file in extensions."
        )
    if recipe.task.name != config.task:
        raise SettingsError(
            f"{settings.shard_dir} is for task {config.task}, and {final.path} has learnt task {recipe.task.name}."
            f" Set task={recipe.task.name} (or shards.name), or another experiment_name."
        )
    learnt_on = _input(_input(final.path, "instructions"), "shards")
    if config.encoding == tfrecords.FEATURES or not (learnt_on / folders.MANIFEST).is_file():
        return
    keys = ("shards.image_size_px", "shards.channels", "shards.crop", "survey.stretch")
    then, now = (
        {key: values[key] for key in keys if key in values}
        for values in (folders.read_manifest(shards).settings for shards in (learnt_on, settings.shard_dir))
    )
    if differences := folders.differing_keys(then, now):
        raise SettingsError(
            "\n  ".join([f"{settings.shard_dir} has other pictures than {final.path} has learnt from:", *differences])
            + "\nMake shards with those settings under another shards.name, or name another experiment."
        )


def _refuse_twice(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"predict.columns: the catalogue has a column {', '.join(twice)} anyway. Leave it out.")


def _known(settings: Settings, catalog_dir: Path, final: FinalFolder) -> _Known:
    """The ids of the catalogs, positions if they have them, the columns in ``predict.columns``, and what was learnt."""
    paths = [catalog_dir / f"{name}.csv" for name in ("labelled", "unlabelled")]
    wanted = ["id_str", *_POSITION, *settings.predict.columns]
    read = [pd.read_csv(p, usecols=lambda c: c in wanted, dtype="string", keep_default_na=False, na_values=[""])
            for p in paths]  # fmt: skip
    frame = pd.concat(read, ignore_index=True)
    tables.require_columns(frame, settings.predict.columns, catalog_dir, " Correct predict.columns.")
    columns, arrays = [Column("id_str", "the galaxy's id", pa.string())], []
    for name in [*(name for name in _POSITION if name in frame), *settings.predict.columns]:
        values = cells.numbers(frame[name]) if name in _POSITION else cells.typed(frame[name])
        array = pa.array(values, pa.string() if pd.api.types.is_string_dtype(values) else None, from_pandas=True)
        unit = "deg" if name in _POSITION else ""
        columns.append(Column(name, _POSITION.get(name, "a column of the survey's table"), array.type, unit))
        arrays.append(array)
    columns.append(Column("learnt_from", "whether the model has learnt from this galaxy's votes", pa.bool_()))
    with database.connect(IterationFolder(_input(final.path, "iteration")).database) as connection:
        learnt = database.labelled_ids(connection, "train") | database.labelled_ids(connection, "pool")
    return _Known(columns, pa.table(arrays, [c.name for c in columns[1:-1]]), pd.Index(frame["id_str"], dtype=object),
                  learnt)  # fmt: skip


def _predict_all(settings: Settings, final: FinalFolder, known: _Known, staging: Path) -> list[Path]:
    """Write the parts of the catalogue, side by side. Their files, in order. A network uses all cores by itself, and an
    extension is known to this process only.
    """
    groups = list(catalogue.groups_of_shards(tfrecords.load_config(settings.shard_dir)))
    cluster = None if settings.extensions else settings.cluster
    side_by_side = final.read().recipe.model.train == "head" or cluster
    most = engine.cores(cluster) if side_by_side else 1
    workers = 1 if settings.extensions else settings.workers or min(most, len(groups))
    parts = _parts(settings, final, known, staging, groups)
    made = engine.in_order(catalogue.predict_part, parts, workers, lambda part: part.target.name, cluster)
    with closing(made) as written:
        return list(track(written, "predicting galaxies", len(groups)))


def _parts(
    settings: Settings, final: FinalFolder, known: _Known, staging: Path, groups: list[tuple[str, ...]]
) -> Iterator[Part]:
    """The parts of the catalogue, in order. Features of a fixed encoder are those that iterations keep."""
    config, path = tfrecords.load_config(settings.shard_dir), settings.predictions_dir / settings.predict.name
    fixed = final.read().recipe.model.train == "head"
    kept = settings.features_dir if fixed else folders.unfinished(path) / "features"
    folder = (staging if settings.predict.format == "parquet" else folders.unfinished(path)) / "galaxies"
    disk.make_folder(folder)
    with database.connect(settings.shard_dir / config.database) as connection:
        for number, shards in enumerate(groups):
            ids = [id_ for shard in shards for id_ in database.ids_in_shard(connection, shard)]
            target = folder / f"part_{number:05d}.parquet"
            yield Part(final.path, settings.shard_dir, kept, shards, known.of(ids), target)


def _files(settings: Settings, staging: Path, parts: list[Path]) -> list[Path]:
    """The files of the catalogue, in the format of the settings."""
    combine = table_writers.FORMATS[settings.predict.format]
    if combine is None:
        return parts
    target = staging / f"catalogue.{settings.predict.format}"
    combine(parts, target)
    return [target]


def _card(settings: Settings, final: FinalFolder, known: _Known, columns: list[Column], config: ShardConfig) -> Card:
    with database.connect(settings.shard_dir / config.database) as connection:
        learnt = database.shards_of(connection, sorted(known.learnt))
    return Card(
        survey=settings.survey.name,
        experiment=settings.experiment_name,
        settings=settings.predict,
        columns=columns,
        n_galaxies=sum(config.galaxies.values()),
        n_learnt=sum(map(len, learnt.values())),
        n_dropped=len(config.dropped),
        final=final.read(),
        measured=final.metrics(),
    )
