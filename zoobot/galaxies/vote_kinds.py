"""What the vote columns of a table hold: counts, or fractions, percentages or weights that must not pass for counts.

Axes: N galaxies, A answers to one question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from zoobot.errors import InputError
from zoobot.galaxies.questions import Question, QuestionTree

_MOSTLY = 0.5  # of the rows: then the columns are of this kind, and not just some rows wrong
_DECIMALS = range(2, 9)
GUIDE = "docs/own_survey.md, Votes that are not counts, says what to do."


def with_fractions(table: pd.DataFrame, questions: QuestionTree) -> pd.DataFrame:
    """The table with ``{question}_{answer}_fraction`` as votes, for questions with totals but without counts."""
    renamed: dict[str, str] = {}
    for question in questions:
        fractions = {f"{c}_fraction": c for c in question.columns}
        if set(fractions) | {question.total} <= set(table.columns) and not set(question.columns) & set(table.columns):
            renamed |= fractions
    return table.rename(columns=renamed)


def as_counts(
    votes_NA: pd.DataFrame, totals_N: pd.Series | None, question: Question, where: str
) -> tuple[pd.DataFrame, pd.Series]:
    """The votes as counts, and the rows for which that cannot be: their fractions are none of their total.

    Raises InputError if most rows hold something else than counts.
    """
    if not are_fractions([votes_NA]):
        return votes_NA, pd.Series(False, index=votes_NA.index)
    filled = votes_NA.dropna()
    fractional = (filled % 1 != 0).any(axis=1)
    sums = filled[fractional].sum(axis=1)
    whole = next((w for w in (1, 100) if ((sums - w).abs() < 0.02 * w).mean() > 0.9), None)
    if whole is None:
        raise InputError(
            f"{where}: the votes for {question.name} are weights, such as {_example(filled[fractional])}: no counts of"
            f" volunteers. Give the counts before weighting; surveys publish both. {GUIDE}"
        )
    if totals_N is None or totals_N.notna().sum() == 0:
        kind = "fractions" if whole == 1 else "percentages"
        raise InputError(
            f"{where}: the votes for {question.name} are {kind} that sum to {whole}, such as"
            f" {_example(filled[fractional])}. The program learns from counts: give them, or add a column"
            f" {question.total} with the number of volunteers who answered. {GUIDE}"
        )
    fractions = votes_NA / whole
    counts = fractions.mul(totals_N, axis=0).round()
    error = (counts.div(totals_N.where(totals_N > 0), axis=0) - fractions).abs().max(axis=1)
    exact = (error <= _half_unit(fractions)) & (counts.sum(axis=1) == totals_N)
    wrong_N = fractions.notna().any(axis=1) & ~exact & ~((totals_N == 0) & (fractions.fillna(0) == 0).all(axis=1))
    if wrong_N.sum() > _MOSTLY * len(filled):
        raise InputError(
            f"{where}: the fractions for {question.name} times {question.total} are no whole numbers, such as"
            f" {_example(filled[fractional])} of {totals_N[fractional.index].iloc[0]:g}: they are weighted, debiased or"
            f" predicted. Give the counts. {GUIDE}"
        )
    return counts, wrong_N


def are_fractions(parts: Iterable[pd.DataFrame]) -> bool:
    """Whether most of the rows that have a vote for each answer have one that is no whole number."""
    n_filled = n_fractional = 0
    for votes_NA in parts:
        filled = votes_NA.dropna()
        n_filled += len(filled)
        n_fractional += int((filled % 1 != 0).any(axis=1).sum())
    return n_fractional > _MOSTLY * n_filled


def _half_unit(fractions: pd.DataFrame) -> float:
    """How far a fraction may be from the true one, by the decimals with which it is written."""
    values = fractions.to_numpy(dtype="float64")
    values = values[~np.isnan(values)]
    digits = next((d for d in _DECIMALS if np.abs(values.round(d) - values).max(initial=0) < 1e-7), _DECIMALS[-1])
    return float(0.5 * 10.0**-digits + 1e-6)


def _example(rows: pd.DataFrame) -> str:
    return ", ".join(f"{value:g}" for value in rows.iloc[0])


def text_answers(table: pd.DataFrame, question: Question) -> str:
    """A hint, if a column holds the names of answers as text: consensus labels; otherwise ""."""
    names = {a.name for a in question.answers} | {label for a in question.answers for label in a.labels}
    for column in table.columns:
        if not pd.api.types.is_string_dtype(table[column]):
            continue
        found = set(table[column].dropna().unique()[:50])
        if found and found <= names:
            return f" {column} holds answers as text: write a column of 0 and 1 for each, as {question.columns[0]}."
    return ""


def predicted(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """A hint, if the table has fractions of these votes, but no counts; otherwise ""."""
    found = [c for c in (f"{column}_fraction" for column in columns) if c in table.columns]
    if not found:
        return ""
    return (
        f" It has {found[0]}, without the number of volunteers: predicted or published fractions are no votes."
        " survey.classifications=TABLE joins counts; survey.classifications=none takes every galaxy as unlabelled."
    )
