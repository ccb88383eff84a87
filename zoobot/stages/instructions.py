"""stage=instructions: everything that never changes in an experiment, written once before its first iteration.

Reads: the catalogs, the shards, the encoder and the settings.
Writes: experiments/{kind}/{experiment_name}/instructions/: what the experiment never changes.
Needs: stage=shards; for live work oracle=panoptes, oracle.project_id and oracle.workflow_ids.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from zoobot import folders
from zoobot.folders import disk
from zoobot.galaxies import cells, tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tables import read_table
from zoobot.galaxies.tasks import Task, build_task
from zoobot.iterations.files import ExperimentFolder, Instructions, InstructionsFolder, Source
from zoobot.iterations.iteration import extension_digests, fixed_settings
from zoobot.models import features, shapes, timm_weights
from zoobot.oracles import build
from zoobot.settings import ORACLE_FIXED, PUBLISHED, Settings

log = logging.getLogger("zoobot")
NEXT = "iterate"  # the stage to run afterwards


def run(settings: Settings) -> Path:
    """Write the instructions, unless they exist with the same settings and shards."""
    path = ExperimentFolder(settings.experiment_dir).instructions.path
    folders.require(settings.catalog_dir, "catalogs", settings.verify_inputs)
    folders.require(settings.shard_dir, "shards", settings.verify_inputs)
    inputs = {"catalogs": settings.catalog_dir, "shards": settings.shard_dir}
    if encoder := encoder_source(settings):
        inputs["encoder"] = encoder
    questions = load_questions(settings.survey.questions)
    task = build_task(settings.task, questions)
    used = fixed_settings(settings)
    if folders.is_done(path, used, inputs):
        return path
    features.refuse_other_shards(settings.model, tfrecords.load_config(settings.shard_dir), settings.shard_dir)
    build.require_pictures(settings)
    _check_weights(settings)
    _check_expected_votes(settings, task)
    sources = {
        name: Source(os.path.relpath(source, path), folders.digest_of(source)) for name, source in inputs.items()
    }
    content = Instructions(
        experiment=settings.experiment_name,
        survey=settings.survey.name,
        **sources,
        questions=questions.as_dict(),
        retirement_votes=settings.survey.retirement_votes,
        task=settings.task,
        answers=list(task.answers),
        model=settings.model,
        acquisition=settings.acquisition,
        oracle={key: getattr(settings.oracle, key) for key in ORACLE_FIXED},
        iterations=settings.simulate.iterations,
        subjects_per_iteration=settings.iterate.subjects_per_iteration,
        shards_per_iteration=settings.iterate.shards_per_iteration,
        initial_size_px=settings.shards.image_size_px,
        final_size_px=settings.model.final_size_px,
        warm_start=settings.model.warm_start,
        seed=settings.seed,
        catalog_seed=settings.catalogs.seed,
        last_classification_id=settings.oracle.last_classification_id,
        extensions=extension_digests(settings),
    )
    with folders.create(path, used, inputs) as staging:
        folder = InstructionsFolder(staging)
        folder.write(content)
        disk.copy(settings.shard_dir / tfrecords.load_config(settings.shard_dir).database, folder.database)
    log.info("%s: written", path)
    return path


def _check_expected_votes(settings: Settings, task: Task) -> None:
    """Warn if the labelled galaxies have far more or far fewer votes than ``acquisition.expected_votes``."""
    labelled = read_table(settings.catalog("labelled"))
    typical = max(1, round(cells.numbers(labelled[task.tree.root.total]).median()))
    expected = settings.acquisition.expected_votes
    if settings.acquisition.name != "random" and not expected / 3 <= typical <= expected * 3:
        log.warning(
            "the labelled galaxies have %d votes (median), but acquisition.expected_votes=%d: if new galaxies get about"
            " as many, set acquisition.expected_votes=%d", typical, expected, typical,
        )  # fmt: skip


def _check_weights(settings: Settings) -> None:
    """Refuse weights of a network of another shape now, not when an iteration loads them."""
    path = settings.weights_path
    if path is None:
        return
    config = tfrecords.load_config(settings.shard_dir)
    record = shapes.read_record(path)
    if record:
        wanted = shapes.shape_of(settings.model, config.image_size_px, config.channels)
        shapes.refuse_another(path, record, wanted)
    else:
        from zoobot.models import encoders  # late: only a file without a record needs TensorFlow

        encoders.refuse_another(settings.model, config.image_size_px, config.channels, path)


def encoder_source(settings: Settings) -> Path | None:
    """Where the encoder's weights come from: a folder of stage=pretrain, or a file; None for ImageNet or no weights.

    Raises FolderError if it does not exist, or was changed since it was written; SettingsError if a published encoder
    was not downloaded.
    """
    path = settings.weights_path
    if path is None:
        return None
    if published := timm_weights.find(path):
        return published
    if settings.model.weights.startswith(PUBLISHED):
        raise timm_weights.missing(path)
    if not (path / folders.MANIFEST).is_file():
        file = path if path.is_file() else path / "encoder.weights.h5"  # a model folder of an iteration
        if file.is_file():
            return file
    folders.require(path, "pretrain", settings.verify_inputs)
    return path
