"""The files in the folder of an experiment's final model: their names, their format version, and a typed record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoobot import folders
from zoobot.galaxies.questions import parse_questions
from zoobot.galaxies.tasks import Task, build_task
from zoobot.iterations.files import ExperimentFolder
from zoobot.iterations.model_files import ModelFolder
from zoobot.metrics.temperature import Calibration
from zoobot.settings import ModelSettings, TaskSettings

FINAL = "final"  # the name of the folder


@dataclass(frozen=True)
class Recipe:
    """How to predict with the weights in ``model/``: everything but the galaxies."""

    model: ModelSettings  # of the networks, or of the head and its encoder
    calibration: Calibration
    task: TaskSettings
    questions: dict[str, object]
    seed: int
    iteration: int  # the newest, whose labels the model learnt from; with the seed, the stream of posterior samples

    def build_task(self) -> Task:
        """The task over these questions."""
        return build_task(self.task, parse_questions(self.questions, FINAL))


@dataclass(frozen=True)
class Final:
    """final.json: what the final model is, and by how much it is better. Losses are in nats per galaxy."""

    FORMAT: ClassVar = ("format_version", 1)
    train_galaxies: int
    fine_tuned: bool  # no: it is the model of the newest iteration
    better_by: float  # how much lower its eval loss is than that of the newest iteration's model
    eval_loss: float
    test_loss: float
    iteration_test_loss: float
    tried_eval_loss: float | None  # of the fine-tuned networks, used or not; None: there are none
    weights_sha256: str
    recipe: Recipe


@dataclass(frozen=True)
class FinalFolder(ModelFolder):
    """The folder of an experiment's final model."""

    def read(self) -> Final:
        """Read final.json."""
        return folders.read_record(self.path / "final.json", Final)

    def write(self, content: Final) -> None:
        """Write final.json."""
        folders.write_record(self.path / "final.json", content)


def final_of(experiment: ExperimentFolder) -> FinalFolder:
    """The folder of an experiment's final model, whether it exists or not."""
    return FinalFolder(experiment.path / FINAL)
