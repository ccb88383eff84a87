"""The context of one iteration: its settings, its folders, and the galaxies that it learns from and is tested on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.tasks import Task
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations.files import ACQUIRED, CONTROL, ExperimentFolder, InstructionsFolder, IterationFolder
from zoobot.settings import Settings, stage_settings


@dataclass(frozen=True)
class Labelled:
    """Galaxies with votes, in the order of the records in ``files``."""

    files: dict[str, Path]  # by their paths relative to the shards or to the experiment
    ids: list[str]
    counts_N_A: npt.NDArray[np.float32]


@dataclass
class Iteration:
    """One iteration while it runs."""

    number: int
    settings: Settings
    questions: QuestionTree
    task: Task
    shard_dir: Path
    shard_config: ShardConfig
    catalog_dir: Path
    before: list[IterationFolder]  # in order
    folder: IterationFolder  # where this iteration is being written
    unfinished: Path  # a hidden folder that survives a crash; removed when the iteration is finished
    timings_s: dict[str, float] = field(default_factory=dict)
    on_step: Callable[[str], None] = lambda step: None  # is told of each step as it begins

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Record how long a step takes, in seconds."""
        self.on_step(step)
        start = time.perf_counter()
        yield
        self.timings_s[step] = round(time.perf_counter() - start, 3)

    def split_files(self, split: str) -> dict[str, Path]:
        """The shards of one split, by name."""
        return {name: self.shard_dir / name for name in self.shard_config.splits[split]}

    def records(self, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """These galaxies' records in the shards, by shard and position: read alone, not with all others of a shard."""
        with database.connect(self.folder.database) as connection:
            for shard, positions in database.shards_of(connection, ids).items():
                path = self.shard_dir / shard
                offsets = database.record_offsets(connection, shard, path)
                if max(positions) >= len(offsets):
                    raise FolderError(f"{path} holds {len(offsets)} galaxies, fewer than the index of the shards says.")
                yield from zip(positions.values(), tfrecords.read_at(path, offsets[list(positions)]), strict=True)

    def labelled(self, split: str) -> Labelled:
        """The galaxies of a split that have votes; ``train`` includes all galaxies labelled by iterations so far."""
        with database.connect(self.folder.database) as connection:
            if split == CONTROL:
                files = self._files_since(CONTROL)
                ids, votes = database.read_votes(connection, "pool", control=True)
            else:
                files = self.split_files(split)
                ids, votes = database.read_votes(connection, split)
            if split == "train":
                files |= self._files_since(ACQUIRED)
                since = database.read_votes(connection, "pool")
                ids, votes = ids + since[0], votes + since[1]
        columns = {name: [counts[name] for counts in votes] for name in self.task.stored_columns}
        return Labelled(files, ids, self.task.counts(columns))

    def _files_since(self, kind: str) -> dict[str, Path]:
        """The files of galaxies labelled in each iteration so far."""
        made = enumerate([*self.before, self.folder])
        return {
            f"iteration_{number}/{kind}/{path.name}": path
            for number, folder in made
            for path in folder.labelled_files(kind)
        }


def open_experiment(settings: Settings) -> tuple[ExperimentFolder, dict[str, object]]:
    """The experiment in the settings, and its fixed settings. FolderError: it has no instructions, or other ones."""
    experiment = ExperimentFolder(settings.experiment_dir)
    folders.require(experiment.instructions.path, "instructions", settings.verify_inputs)
    used = fixed_settings(settings)
    folders.exists_with(experiment.instructions.path, used, inputs=None)
    return experiment, used


def fixed_settings(settings: Settings) -> dict[str, object]:
    """What never changes in an experiment: the settings that its instructions depend on, its questions, and the files
    of its extensions.
    """
    used = stage_settings(settings, "instructions")
    used["questions"] = load_questions(settings.survey.questions).as_dict()
    if settings.extensions:
        used["extensions"] = extension_digests(settings)
    return used


def extension_digests(settings: Settings) -> dict[str, str]:
    """The name and the digest of each file of extensions."""
    return {Path(path).name: folders.digest_file(Path(path)) for path in settings.extensions}


def finished_iterations(experiment: ExperimentFolder, check: str) -> list[IterationFolder]:
    """The finished iterations in order. Raises an error if one was changed since it was written."""
    before = experiment.iterations()
    for earlier in before:
        folders.require(earlier.path, "iterate", check)
        earlier.summary()  # refuses other format versions
        folders.remove_unfinished(earlier.path)
    return before


def input_dirs(instructions: InstructionsFolder, check: str) -> tuple[Path, Path]:
    """The shards and catalogs that the instructions were written for. Raises an error if they, or the encoder, are now
    different.
    """
    content = instructions.read()
    found = []
    for name, source, stage in (
        ("shards", content.shards, "shards"),
        ("catalogs", content.catalogs, "catalogs"),
        ("encoder", content.encoder, "pretrain"),
    ):
        if source is None:
            continue
        path = instructions.source(source)
        if not path.is_file():
            folders.require(path, stage, check)
        if folders.digest_of(path) != source.digest:
            noun = "the encoder" if name == "encoder" else f"the {name}"
            raise FolderError(
                f"{path} no longer holds {noun} that {instructions.path} was written for. Start a new experiment to use"
                " what is there now."
            )
        found.append(path)
    return found[0], found[1]
