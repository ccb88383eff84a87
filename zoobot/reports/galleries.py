"""Rows of galaxies: those chosen in each iteration, those the model is most and least certain of, and its worst errors.

Of each line, those of its first seed. No vote is shown that the experiment has not received.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoobot.galaxies import database
from zoobot.metrics import fractions, vote_fractions
from zoobot.metrics.predicted_votes import Floats
from zoobot.reports import pictures
from zoobot.reports.experiments import Experiment, Section
from zoobot.reports.galaxy_tables import answer_name, describe_votes

_OTHER_ROWS = 3  # most certain, least certain, worst errors


@dataclass(frozen=True)
class Shown:
    """A galaxy of a row: its picture if there is one, a value, and its votes, or what is expected of them."""

    id_str: str
    picture: str | None
    value: float
    said: str  # empty: no votes yet


@dataclass(frozen=True)
class Row:
    """Galaxies in order, below a title."""

    title: str
    galaxies: list[Shown]

    @property
    def has_pictures(self) -> bool:
        """Whether any galaxy has one."""
        return any(galaxy.picture for galaxy in self.galaxies)


def count_rows(sections: Sequence[Section]) -> int:
    """How many rows of galaxies all sections have together."""
    return sum(len(line[0].iterations) + _OTHER_ROWS for section in sections for line in section.lines.values())


def chosen(e: Experiment, most: int) -> list[Row]:
    """The first galaxies asked about in each iteration, in order of rank, with the votes received since."""
    task = e.instructions.build_task()
    newest = database.read_new_votes(e.iterations[-1].folder.database)  # holds the votes of all iterations
    rows = []
    for number, folder in enumerate(i.folder for i in e.iterations):
        n = min(most, len(folder.requests().ids))
        best = folder.predictions(["id_str", "acquisition", "rank"], best=n)
        galaxies = [
            Shown(
                id_str, pictures.of_file(folder.picture(rank)), score,
                describe_votes(task, newest[id_str]) if id_str in newest else "",
            )
            for id_str, score, rank in best.itertuples(index=False, name=None)
        ]  # fmt: skip
        rows.append(Row(f"Asked about in iteration {number}", galaxies))
    return rows


def others(e: Experiment, most: int) -> list[Row]:
    """After the last iteration: the pool galaxies whose next vote is most and least certain, and the test galaxies with
    the highest loss.
    """
    return [row for row in [*_certain(e, most), *_worst(e, most)] if row.galaxies]


def _certain(e: Experiment, most: int) -> list[Row]:
    """The value is the entropy of the expected fractions of the first question, in nats."""
    answers = list(e.instructions.build_task().groups[0].answers)
    last = e.iterations[-1].folder
    ids = list(last.predictions(["id_str"])["id_str"])
    if not ids:
        return []
    expected_N_A = fractions(last.samples(answers)).mean(axis=1)
    entropy_N = vote_fractions.entropy(expected_N_A)
    order = np.argsort(entropy_N, kind="stable")
    ends = {"Most certain of the pool": order[:most], "Least certain of the pool": order[::-1][:most]}
    found = pictures.of_shards(_shards(e), [ids[n] for rows in ends.values() for n in rows])
    return [
        Row(title, [Shown(ids[n], found.get(ids[n]), float(entropy_N[n]), _expected(e, expected_N_A[n])) for n in rows])
        for title, rows in ends.items()
    ]


def _expected(e: Experiment, expected_A: Floats) -> str:
    task = e.instructions.build_task()
    at = 0 if task.label_columns else int(expected_A.argmax())
    return f"{answer_name(task, at)} {100 * expected_A[at]:.0f}\u00a0% expected"


def _worst(e: Experiment, most: int) -> list[Row]:
    """The value is the loss, in nats."""
    last, task = e.iterations[-1].folder, e.instructions.build_task()
    if not last.has_test_losses:
        return []
    table = last.test_losses()
    ids, losses_N = table["id_str"].to_pylist(), table["loss"].to_numpy()
    worst = np.argsort(-losses_N, kind="stable")[:most]
    with database.connect(last.database) as connection:
        votes = dict(zip(*database.read_votes(connection, "test"), strict=True))
    found = pictures.of_shards(_shards(e), [ids[n] for n in worst])
    galaxies = [
        Shown(ids[n], found.get(ids[n]), float(losses_N[n]), describe_votes(task, votes[ids[n]])) for n in worst
    ]
    return [Row("Worst errors: test galaxies whose votes were expected least", galaxies)]


def _shards(e: Experiment) -> Path:
    return e.folder.instructions.source(e.instructions.shards)


def first_answer(e: Experiment) -> str:
    """The name of the first answer to the first question."""
    return answer_name(e.instructions.build_task(), 0)
