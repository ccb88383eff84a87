"""stage=catalogs: which galaxies are labelled, and which labels a simulation hides.

The survey's retirement rule splits galaxies into labelled and unlabelled. For simulations, the labelled galaxies are
split again into mock_labelled and mock_unlabelled; oracle holds the hidden votes. ``mock_unlabelled.csv`` has only ids,
pictures and positions, so no column can reveal a hidden vote.

Reads: the master catalog.
Writes: {survey}/prepared_catalogs/{catalogs.name}/: who is labelled; for simulations, whose labels are hidden.
Needs: stage=master_catalog.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from zoobot import folders
from zoobot.engine.seeds import stream
from zoobot.errors import InputError
from zoobot.galaxies import cells, picture_paths, repeats, same_galaxy
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.repeats import Ints
from zoobot.galaxies.tables import read_table
from zoobot.galaxies.tasks import LABEL, TOTAL_VOTES, Task, build_task, check_columns
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
NEXT = "shards"  # the stage to run afterwards
PUBLIC_COLUMNS = ("id_str", "file_loc", "ra", "dec")


def run(settings: Settings) -> Path:
    """Write the five catalogs, unless they exist with the same settings and master catalog."""
    questions = load_questions(settings.survey.questions)
    task = build_task(settings.task, questions)
    path = settings.survey_dir / f"{settings.survey.name}_master_catalog.csv"
    if not path.is_file():
        raise InputError(f"{path} is missing. First run: python run.py stage=master_catalog survey=…")
    used = stage_settings(settings, "catalogs") | {"questions": questions.as_dict()}
    inputs = {"master_catalog": path}
    if folders.is_done(settings.catalog_dir, used, inputs):
        return settings.catalog_dir
    master = read_master(path, questions)
    check_columns(master, task, str(path))
    for column in {LABEL, TOTAL_VOTES} & set(master.columns) if task.label_columns else ():
        log.warning("%s: the task's column %s replaces the survey's; rename the survey's to keep it", path, column)
    tables, lost = split(master, questions, task, settings)
    for reason, count in lost.items():
        log.info("not in the catalogs: %d galaxies, task.filters %s", count, reason)
    with folders.create(settings.catalog_dir, used, inputs) as staging:
        for name, catalog in tables.items():
            with (staging / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                for number, part in enumerate(catalog.parts()):
                    part.to_csv(file, index=False, header=number == 0)
        folders.write_json(staging / "lost.json", lost)
    log.info("%s: %s", settings.catalog_dir, ", ".join(f"{len(each.rows)} {name}" for name, each in tables.items()))
    return settings.catalog_dir


def read_master(path: Path, questions: QuestionTree) -> pd.DataFrame:
    """The master catalog; vote columns as nullable whole numbers, empty where a galaxy has no votes."""
    table = read_table(path)
    for column in questions.columns:
        if column in table.columns:  # one after the other: each is smaller than its text
            table[column] = cells.numbers(table[column]).astype("Int64").astype("Int32")
    return table


@dataclass(frozen=True)
class Catalog:
    """Some rows of the shuffled master catalog, in order, which are made into tables a part at a time."""

    master: pd.DataFrame
    rows: Ints
    columns: Sequence[str]
    votes: Sequence[str] = ()  # the columns that are counts in each row
    task: Task | None = None  # it adds the label

    def parts(self) -> Iterator[pd.DataFrame]:
        """The table, in parts."""
        for part in repeats.parts_of(len(self.rows)):
            table = self.master[list(self.columns)].iloc[self.rows[part]].astype(dict.fromkeys(self.votes, "int64"))
            yield self.task.add_label(table) if self.task else table


def split(
    master: pd.DataFrame, questions: QuestionTree, task: Task, settings: Settings
) -> tuple[dict[str, Catalog], dict[str, int]]:
    """The five catalogs by name, and how many labelled galaxies each filter removed. ``master`` is shuffled in place.

    If a galaxy has several ids, a column names the first, and a simulation hides all of them or none.
    """
    order = stream(settings.catalogs.seed, "catalogs").permutation(len(master))  # surveys are often sorted
    for at, name in enumerate(list(master.columns)):
        pa.default_memory_pool().release_unused()
        master.insert(at, name, _taken(master.pop(name), order))
    where, same_pictures = f"{settings.survey.name}_master_catalog.csv", partial(picture_paths.same_pictures, settings)
    galaxy_N = same_galaxy.groups(master, settings.survey, where, same_pictures)
    votes = master[questions.root.total].fillna(0)
    retired = (votes > settings.survey.retirement_votes).to_numpy(dtype=bool)
    if (galaxy_N != np.arange(len(master))).any():
        master[same_galaxy.SAME_AS] = master["id_str"].array.take(galaxy_N)
    counts = [c for c in questions.columns if c in master.columns]
    labelled, lost = _filtered(master, np.flatnonzero(retired), counts, task)
    if len(labelled) < 2:
        raise _too_few(len(labelled), votes, task, sum(lost.values()), settings)
    size, most = settings.catalogs.mock_labelled, settings.catalogs.max_galaxies
    labelled, unlabelled = _first(most, labelled, "labelled"), _first(most, np.flatnonzero(~retired), "unlabelled")
    starts = same_galaxy.fill(repeats.first_of(galaxy_N[labelled]), [size]) == 0
    starting, hidden = labelled[starts], labelled[~starts]
    if settings.shards.source == "mock":
        _require_hidden(size, len(labelled))
    columns = list(master.columns)
    return {
        "labelled": Catalog(master, np.concatenate([starting, hidden]), columns, counts, task),
        "unlabelled": Catalog(master, unlabelled, columns),
        "mock_labelled": Catalog(master, starting, columns, counts, task),
        "mock_unlabelled": Catalog(master, hidden, [c for c in PUBLIC_COLUMNS if c in columns]),
        "oracle": Catalog(master, hidden[_by_id(master, hidden)], ["id_str", *counts], counts),
    }, lost


def _taken(column: pd.Series, order: Ints) -> pd.Series:
    """The column in another order. Of a text, the parts in which it was read are first put together and forgotten."""
    if not isinstance(column.dtype, pd.StringDtype):
        return pd.Series(column.array.take(order))
    text = pa.array(column)
    whole = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    del column, text
    return pd.Series(pd.array(whole.take(pa.array(order)), dtype="string"))


def _by_id(master: pd.DataFrame, rows: Ints) -> Ints:
    found: Ints = pc.array_sort_indices(pa.array(master["id_str"].astype("string").array.take(rows))).to_numpy()
    return found


def _filtered(master: pd.DataFrame, rows: Ints, counts: Sequence[str], task: Task) -> tuple[Ints, dict[str, int]]:
    """Those of the rows that meet every filter, and how many each filter removed."""
    used = task.columns_of_filters(master)
    table = master[used].iloc[rows].astype({name: "int64" for name in used if name in counts})
    kept, lost = task.apply_filters(table)
    return kept.index.to_numpy(), lost


def sizes_that_fit(n_labelled: int) -> dict[str, int]:
    """Sizes for a simulation: a tenth of the labelled galaxies to start with, a tenth for eval, a fifth for test."""
    parts = ((100, 10), (200, 10), (500, 5))
    n_train, n_eval, n_test = (min(most, max(5, n_labelled // part)) for most, part in parts)
    hidden = n_labelled - n_train - n_eval - n_test
    return {
        "catalogs.mock_labelled": n_train + n_eval + n_test,
        "shards.eval_size": n_eval,
        "shards.test_size": n_test,
        "iterate.subjects_per_iteration": max(1, min(50, hidden // 8)),
    }


def _require_hidden(mock_labelled: int, n_labelled: int) -> None:
    """InputError: a simulation would hide no galaxy."""
    if mock_labelled < n_labelled:
        return
    fit = sizes_that_fit(n_labelled)
    sizes = " ".join(f"{key}={value}" for key, value in fit.items())
    raise InputError(
        f"catalogs.mock_labelled={mock_labelled}, but only {n_labelled} galaxies are labelled: none are left for a"
        " simulation to hide."
        + (f" These sizes fit: {sizes}." if fit["catalogs.mock_labelled"] < n_labelled else "")
        + " For live work set shards.source=real, which hides none."
    )


def _too_few(n_labelled: int, votes: pd.Series, task: Task, n_filtered: int, settings: Settings) -> InputError:
    retirement = settings.survey.retirement_votes
    return InputError(
        f"{n_labelled} galaxies are labelled for task {task.name}, too few: {int((votes > retirement).sum())} of"
        f" {len(votes)} have more than survey.retirement_votes={retirement} votes for the first question (half of all"
        f" galaxies have {votes.median():g} or more), and filters removed {n_filtered} of them."
        + _advice(votes, settings)
    )


def _advice(votes: pd.Series, settings: Settings) -> str:
    if votes.max() == 0:
        return " No galaxy has a vote: join votes (survey.classifications), or run stage=reduce."
    if votes.max() == 1 and settings.survey.retirement_votes:
        return (
            " Each galaxy has one vote, a consensus label: set survey.retirement_votes=0 oracle=known"
            " acquisition.expected_votes=1."
        )
    return " Lower survey.retirement_votes, or choose another task."


def _first(most: int, rows: Ints, what: str) -> Ints:
    if most and len(rows) > most:
        log.info("left out by catalogs.max_galaxies=%d: %d %s galaxies", most, len(rows) - most, what)
        return rows[:most]
    return rows
