"""A survey's catalogue: its columns, and the values in a part of it, some shards in a row.

Each part is one call of ``predict_part`` with plain values, which may run in any process and again after a crash.
Axes: N galaxies, A answers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from zoobot import folders
from zoobot.galaxies import table_writers, tfrecords
from zoobot.galaxies.table_writers import Column
from zoobot.galaxies.tasks import LABEL, NOT_LABEL, Task, asked_probability
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations import finishing
from zoobot.iterations.final_files import FinalFolder
from zoobot.iterations.finishing import FinalModel
from zoobot.metrics import PredictedVotes, vote_fractions

PART_GALAXIES = 50_000  # so that a catalogue of a million is a handful of files
_OF_QUESTION = {
    "asked": "probability that a volunteer is asked {0}: the product of the expected fractions that lead to it",
    "entropy": "uncertainty of the next vote on {0}, in nats: entropy of its expected fractions",
}
_OF_ANSWER = {
    "fraction": "expected fraction of the votes on {1} that are for {0}",
    "fraction_low": "lower end of the central 90 % credible interval of the fraction of {0}",
    "fraction_high": "upper end of the central 90 % credible interval of the fraction of {0}",
    "concentration": "concentration of {0} in the Dirichlet posterior of the fractions of {1}",
}


@dataclass(frozen=True)
class Part:
    """Shards in a row, and what is known of their galaxies, in the order of the records."""

    final: Path  # the folder of the model
    shard_dir: Path
    kept: Path  # the folder of features
    shards: tuple[str, ...]
    known: pa.Table
    target: Path


def predict_part(part: Part) -> Path:
    """Write the file of a part, unless it exists. Returns its path."""
    if not part.target.is_file():
        model = _load(part.final, folders.digest_of(part.final), part.shard_dir, part.kept)
        task = model.recipe.build_task()
        found = [_values(model.predict_alone(part.shard_dir / name), task) for name in part.shards]
        fields = table_writers.schema(predicted_columns(task))
        columns = [np.concatenate([values[name] for values in found]).astype(np.float32) for name in fields.names]
        table = pa.table([*part.known.columns, *columns], pa.schema([*part.known.schema, *fields]))
        table_writers.write_part(part.target, table)
    return part.target


@functools.lru_cache(maxsize=1)
def _load(final: Path, digest: str, shard_dir: Path, kept: Path) -> FinalModel:
    """The model, once in each process; ``digest`` says which one lies in its folder."""
    return finishing.load(FinalFolder(final), tfrecords.load_config(shard_dir), kept)


def groups_of_shards(config: ShardConfig) -> Iterator[tuple[str, ...]]:
    """All shards in order, as many together as hold a part's galaxies."""
    names = [name for split in config.splits.values() for name in split]
    step = max(1, PART_GALAXIES // config.shard_size)
    yield from (tuple(names[start : start + step]) for start in range(0, len(names), step))


def predicted_columns(task: Task) -> list[Column]:
    """The columns of a prediction, in order."""
    names, found = _names(task), []
    for group in task.groups:
        question = group.question
        found += [(f"{question}_{end}", text.format(question)) for end, text in _OF_QUESTION.items()]
        for answer in group.answers:
            name = names[answer]
            found += [(f"{name}_{end}", text.format(name, question)) for end, text in _OF_ANSWER.items()]
    return [Column(name, description, pa.float32()) for name, description in found]


def _names(task: Task) -> Mapping[str, str]:
    """What each answer is called: in a task of one question the label has the task's name."""
    if task.label_columns:
        return {LABEL: task.name, NOT_LABEL: f"not_{task.name}"}
    return {answer: answer for answer in task.answers}


def _values(predicted: PredictedVotes, task: Task) -> dict[str, npt.NDArray[np.float64]]:
    """The values N of each predicted column."""
    names, found, fractions = _names(task), {}, {}
    for question in predicted.questions():
        concentrations_N_A = vote_fractions.concentrations(question)
        expected_N_A = concentrations_N_A / concentrations_N_A.sum(axis=1, keepdims=True)
        found[f"{question.group.question}_entropy"] = vote_fractions.entropy(expected_N_A)
        low_N_A, high_N_A = vote_fractions.interval(concentrations_N_A)
        for at, answer in enumerate(question.group.answers):
            of_answer = expected_N_A, low_N_A, high_N_A, concentrations_N_A
            for end, values_N_A in zip(_OF_ANSWER, of_answer, strict=True):
                found[f"{names[answer]}_{end}"] = values_N_A[:, at]
            fractions[answer] = expected_N_A[:, at]
    asked = asked_probability(task.groups, fractions)
    return found | {f"{question}_asked": asked_N for question, asked_N in asked.items()}
