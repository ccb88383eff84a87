"""What one iteration works with: its settings, its place, and the files it trains on, tests on and chooses from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoobot import folders
from zoobot.galaxies import database
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.tasks import Task
from zoobot.settings import Settings, stage_settings


@dataclass
class Iteration:
    """One iteration, while it is made."""

    number: int
    settings: Settings
    questions: QuestionTree
    task: Task
    shard_dir: Path
    shard_config: dict[str, Any]
    catalog_dir: Path
    before: list[Path]  # folders of the iterations before, in order
    folder: Path  # where this one is being written
    timings_s: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0  # of the posterior samples, once the network is trained

    @property
    def db(self) -> Path:
        """The shards' index, with all labels so far."""
        return self.folder / "iteration.db"

    @property
    def unfinished(self) -> Path:
        """A hidden folder beside this one that outlives a crash, until the iteration is finished."""
        return folders.unfinished(self.settings.experiment_dir / f"iteration_{self.number}")

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long a step took, in seconds."""
        start = time.perf_counter()
        yield
        self.timings_s[step] = round(time.perf_counter() - start, 3)

    def split_files(self, split: str) -> list[Path]:
        """The shards of one split."""
        return [self.shard_dir / name for name in self.shard_config["splits"][split]]

    def labelled_files(self, name: str) -> list[tuple[int, Path]]:
        """The files of galaxies labelled so far (``acquired`` or ``control``), each with the iteration's number."""
        folders = enumerate([*self.before, self.folder])
        return [(number, path) for number, folder in folders for path in sorted((folder / name).glob("*.tfrecord"))]

    def train_files(self) -> dict[str, Path]:
        """Every file to train on, by its name relative to the shards or to the experiment."""
        files = {name: self.shard_dir / name for name in self.shard_config["splits"]["train"]}
        acquired = {
            f"iteration_{number}/acquired/{path.name}": path for number, path in self.labelled_files("acquired")
        }
        return files | acquired

    def count_train(self) -> int:
        """How many galaxies there are to train on."""
        with database.connect(self.db) as connection:
            acquired = database.labelled_ids(connection) & database.ids_in_split(connection, "pool")
        return int(self.shard_config["galaxies"]["train"]) + len(acquired)


def fixed_settings(settings: Settings) -> dict[str, Any]:
    """What an experiment never changes: the settings that its instructions depend on, and its questions."""
    return stage_settings(settings, "instructions") | {"questions": load_questions(settings.survey.questions).as_dict()}
