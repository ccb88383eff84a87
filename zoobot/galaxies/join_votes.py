"""Join reduced votes, counted by subject, with a survey's table of galaxies, by the galaxy's name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from zoobot.errors import InputError
from zoobot.galaxies import cells, templates, vote_kinds
from zoobot.galaxies.questions import QuestionTree
from zoobot.galaxies.tables import read_table

log = logging.getLogger("zoobot")
_SHOWN = 3  # examples from each side of a join that fails


@dataclass(frozen=True)
class Names:
    """The names of a survey's galaxies: of the rows that are kept, and of all rows of its table."""

    kept: pd.Series
    all: pd.Series
    source: Path
    templates: Sequence[str]  # how the votes may name a galaxy

    def in_votes(self, votes: pd.DataFrame) -> str:
        """The first way of naming whose columns the votes have; otherwise the first."""
        fits = (t for t in self.templates if set(templates.columns_of(t, "survey.id_str")) <= set(votes.columns))
        return next(fits, self.templates[0])


def join_votes(
    table: pd.DataFrame, names: Names, path: Path, questions: QuestionTree, may_lose: float
) -> tuple[pd.DataFrame, int]:
    """Left-join votes to ``table``, whose rows have ``names.kept``. The votes of a galaxy's subjects are added.

    Also returns how many classified galaxies the survey's table does not have. It is an error if that is all, or a
    larger fraction than ``may_lose``.
    """
    votes = vote_kinds.with_fractions(read_table(path), questions)
    template = names.in_votes(votes)
    name = templates.made(template, votes, path, "survey.id_str").str.strip()
    columns = [c for c in questions.columns if c in votes.columns]
    if not columns:
        raise InputError(f"{path} has no vote column of the survey's questions, such as {questions.root.columns[0]}.")
    if "subject_id" in votes.columns:
        votes = _one_row_per_subject(votes, path)
        name = name[votes.index]
    known, galaxy = votes[name.notna()], name.dropna()
    summed = _summed(known, galaxy, questions, str(path))[columns]
    if len(summed) < len(known):
        several = int(galaxy.value_counts().gt(1).sum())
        log.info("%s: %d galaxies have several subjects; their votes were added", path.name, several)
    lost = summed.index[~summed.index.isin(names.all)]
    n_lost, n_all = len(lost) + len(votes) - len(known), len(summed) + len(votes) - len(known)
    if n_lost == n_all or n_lost > may_lose * n_all:
        _refuse(path, template, n_lost, n_all, list(lost), names, may_lose)
    table = table.drop(columns=[c for c in columns if c in table.columns])
    joined = summed.reindex(names.kept.to_numpy()).set_index(table.index)
    return pd.concat([table, joined], axis=1), n_lost


def _summed(votes: pd.DataFrame, galaxy: pd.Series, questions: QuestionTree, where: str) -> pd.DataFrame:
    """The sums of the votes by galaxy; "no count" where one is none: stage=master_catalog drops that row."""
    numbers = votes[[c for c in questions.columns if c in votes.columns]].apply(cells.numbers)
    no_count = ~votes[numbers.columns].apply(cells.is_empty) & ~((numbers >= 0) & (numbers % 1 == 0))
    for question in questions:
        answers = [c for c in question.all_columns if c in numbers.columns]
        if answers:
            counts, wrong = vote_kinds.as_counts(numbers[answers], numbers.get(question.total), question, where)
            bad = ((counts % 1 != 0) | (counts < 0)).apply(lambda column, wrong=wrong: column | wrong)
            no_count[answers] &= bad
            numbers[answers] = counts
    summed = numbers.groupby(galaxy).sum(min_count=1)
    for column in no_count.columns[no_count.any()]:
        summed[column] = summed[column].astype(object).mask(no_count[column].groupby(galaxy).any(), "no count")
    return summed


def _refuse(path: Path, name: str, n_lost: int, n_all: int, lost: list[str], names: Names, may_lose: float) -> None:
    there = ", ".join(map(repr, lost[:_SHOWN])) or f"no {name} at all"
    here = ", ".join(map(repr, names.all.dropna().head(_SHOWN)))
    much = "all" if n_lost == n_all else f"more than max_dropped_fraction={may_lose}"
    raise InputError(
        f"{path}: {n_lost} of {n_all} classified galaxies are not in {names.source.name}: {much} of the votes would be"
        f" lost. {name} in the votes: {there}; in the survey: {here}. Write the names alike in both tables. If the"
        " votes are of more galaxies than the survey has, raise max_dropped_fraction."
    )


def _one_row_per_subject(votes: pd.DataFrame, path: Path) -> pd.DataFrame:
    votes = votes.drop_duplicates()
    repeated = sorted(votes.loc[votes["subject_id"].duplicated(), "subject_id"].dropna().unique())
    if repeated:
        raise InputError(
            f"{path} has different rows for the same subject_id: {', '.join(repeated[:5])} ({len(repeated)} in all)."
            " Give one row per subject; stage=reduce makes such a table."
        )
    return votes
