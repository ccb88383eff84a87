"""stage=catalogs: which galaxies are labelled, and which labels a simulation hides.

The survey's retirement rule splits galaxies into labelled and unlabelled. For simulations, the labelled galaxies are
split again into mock_labelled and mock_unlabelled; oracle holds the hidden votes. ``mock_unlabelled.csv`` has only ids,
pictures and positions, so no column can reveal a hidden vote.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot import folders
from zoobot.engine.seeds import stream
from zoobot.errors import InputError
from zoobot.galaxies import cells, same_galaxy
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.tables import read_table
from zoobot.galaxies.tasks import LABEL, TOTAL_VOTES, Task, build_task, check_columns
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
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
        for name, table in tables.items():
            table.to_csv(staging / f"{name}.csv", index=False)
        folders.write_json(staging / "lost.json", lost)
    log.info("%s: %s", settings.catalog_dir, ", ".join(f"{len(table)} {name}" for name, table in tables.items()))
    return settings.catalog_dir


def read_master(path: Path, questions: QuestionTree) -> pd.DataFrame:
    """The master catalog; vote columns as nullable whole numbers, empty where a galaxy has no votes."""
    table = read_table(path)
    columns = [c for c in questions.columns if c in table.columns]
    return table.assign(**{c: cells.numbers(table[c]).astype("Int64") for c in columns})


def split(
    master: pd.DataFrame, questions: QuestionTree, task: Task, settings: Settings
) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """The five catalogs by name, and how many labelled galaxies each filter removed.

    If a galaxy has several ids, a column names the first, and a simulation hides all of them or none.
    """
    order = stream(settings.catalogs.seed, "catalogs").permutation(len(master))
    shuffled = master.iloc[order].reset_index(drop=True)  # surveys are often sorted
    files = _pictures(settings, shuffled["file_loc"])
    galaxy_N = same_galaxy.groups(shuffled, settings.survey, f"{settings.survey.name}_master_catalog.csv", files)
    votes = shuffled[questions.root.total].fillna(0)
    retired = (votes > settings.survey.retirement_votes).astype(bool)
    if (galaxy_N != np.arange(len(shuffled))).any():
        shuffled[same_galaxy.SAME_AS] = shuffled["id_str"].to_numpy()[galaxy_N]
    unlabelled = shuffled[~retired]
    columns = [c for c in questions.columns if c in master.columns]
    labelled = shuffled[retired].astype(dict.fromkeys(columns, "int64"))
    labelled, lost = task.apply_filters(labelled)
    labelled = task.add_label(labelled)
    size, most = settings.catalogs.mock_labelled, settings.catalogs.max_galaxies
    if len(labelled) < 2:
        raise _too_few(len(labelled), votes, task, sum(lost.values()), settings)
    labelled, unlabelled = _first(most, labelled, "labelled"), _first(most, unlabelled, "unlabelled")
    starts = same_galaxy.fill(same_galaxy.rows_of(labelled), [size]) == 0
    labelled = pd.concat([labelled[starts], labelled[~starts]])
    if settings.shards.source == "mock":
        _require_hidden(size, len(labelled))
    starting, hidden = labelled.iloc[: int(starts.sum())], labelled.iloc[int(starts.sum()) :]
    return {
        "labelled": labelled,
        "unlabelled": unlabelled,
        "mock_labelled": starting,
        "mock_unlabelled": hidden[[c for c in PUBLIC_COLUMNS if c in hidden.columns]],
        "oracle": hidden[["id_str", *columns]].sort_values("id_str"),
    }, lost


def _pictures(settings: Settings, locations: pd.Series) -> list[Path]:
    """Where the pictures are; the survey's folder, which is no picture, for one outside of it and for none."""
    folder, found = settings.source_dir, []
    for location, is_none in zip(locations, cells.no_text(locations), strict=True):
        try:
            found.append(folder if is_none else settings.image_path(str(location)))
        except InputError:
            found.append(folder)
    return found


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


def _first(most: int, table: pd.DataFrame, what: str) -> pd.DataFrame:
    if most and len(table) > most:
        log.info("left out by catalogs.max_galaxies=%d: %d %s galaxies", most, len(table) - most, what)
        return table.iloc[:most]
    return table
