"""What a model learns: one question as k of N votes, or a whole tree of questions.

Both are groups of exclusive answers with a vote count each, so one likelihood serves both: a single question is the
group (label, not_label). Axes: N galaxies, A answers of all groups together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoobot.errors import InputError, SettingsError
from zoobot.galaxies import cells, filters
from zoobot.galaxies.questions import QuestionTree
from zoobot.settings import TaskSettings

Array = TypeVar("Array", npt.NDArray[np.float32], Any)  # or a tensor
LABEL, NOT_LABEL, TOTAL_VOTES = "label", "not_label", "total_votes"


@dataclass(frozen=True)
class Group:
    """The answers to one question; a volunteer gives one of them. ``after`` are the answers that lead to the question
    (empty: it is always asked).
    """

    question: str
    answers: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """The groups to learn, and how labelled galaxies become their counts."""

    name: str
    tree: QuestionTree
    label_columns: tuple[str, ...]  # single question: the answers counted as k; empty for a tree
    filters: tuple[str, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of answers, in the order of the network's outputs."""
        if self.label_columns:
            return (Group(self.tree.root.name, (LABEL, NOT_LABEL)),)
        return tuple(Group(q.name, q.columns, q.after) for q in self.tree)

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers, in the order of the network's outputs."""
        return tuple(answer for group in self.groups for answer in group.answers)

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """The columns of a labelled galaxy from which ``counts`` are made."""
        return (LABEL, TOTAL_VOTES) if self.label_columns else self.answers

    def counts(self, columns: Mapping[str, npt.ArrayLike]) -> npt.NDArray[np.float32]:
        """Vote counts N × A, float32 whole numbers, from ``stored_columns``."""
        stored = [np.asarray(columns[name], dtype=np.float32) for name in self.stored_columns]
        return np.stack(self.count_answers(stored), axis=-1)

    def count_answers(self, stored: Sequence[Array]) -> list[Array]:
        """The counts of each answer from those of ``stored_columns``, arrays or tensors: k of N become k and N - k."""
        if not self.label_columns:
            return list(stored)
        label, total = stored
        return [label, total - label]

    def add_label(self, catalog: pd.DataFrame) -> pd.DataFrame:
        """A catalog with ``label`` and ``total_votes`` (k of N) for a single question; a tree's is unchanged."""
        if not self.label_columns:
            return catalog
        label = catalog[list(self.label_columns)].sum(axis=1).astype("int64")
        total = catalog[list(self.tree.root.columns)].sum(axis=1).astype("int64")
        return catalog.assign(**{LABEL: label, TOTAL_VOTES: total})

    def columns_of_filters(self, catalog: pd.DataFrame) -> list[str]:
        """The columns that ``apply_filters`` reads."""
        return list(dict.fromkeys(name for each in self.filters for name in _columns_in(catalog, each)))

    def apply_filters(self, catalog: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
        """The galaxies that meet every filter, and how many each filter removed."""
        lost = {}
        if refused := filters.problems(self.filters):
            raise SettingsError("\n  ".join(refused))
        for expression in self.filters:
            try:
                numbers = _with_numbers(catalog, expression)
                keep = numbers.eval(expression, engine="python", local_dict={}, global_dict={})
            except Exception as error:  # the user wrote the expression: pandas may raise anything
                raise SettingsError(
                    f"task.filters: cannot evaluate {expression!r} on the catalog: {error}"
                    f"{_texts_in(catalog, expression)}"
                ) from error
            if not isinstance(keep, pd.Series) or not pd.api.types.is_bool_dtype(keep):
                raise SettingsError(f"task.filters: {expression!r} must give true or false for each galaxy")
            keep = keep.fillna(False).astype(bool)
            lost[expression] = int((~keep).sum())
            catalog = catalog[keep]
        return catalog, lost


def _columns_in(catalog: pd.DataFrame, expression: str) -> list[str]:
    names = {*re.findall(r"`([^`]+)`", expression), *re.findall(r"[^\W\d]\w*", expression)}
    return [str(name) for name in catalog.columns if name in names]


def _with_numbers(catalog: pd.DataFrame, expression: str) -> pd.DataFrame:
    """The columns of a filter, as numbers where all their cells are; as text if the filter compares them with text."""
    columns = {}
    for name in _columns_in(catalog, expression):
        spelt = rf"(?:`{re.escape(name)}`|\b{re.escape(name)}\b)"
        then_text = rf"{spelt}\s*(?:[=!<>]=?|not in|in)\s*[\[(]?\s*[\"']|{spelt}\.(?:str\b|isin\(\[[\"'])"
        with_text = re.search(rf"{then_text}|[\"']\s*[=!<>]=?\s*{spelt}", expression)
        columns[name] = catalog[name] if with_text else cells.typed(catalog[name])
    return catalog[[]].assign(**columns)


def _texts_in(catalog: pd.DataFrame, expression: str) -> str:
    """What is no number in the columns of a filter, for the message."""
    said = []
    for name in _columns_in(catalog, expression):
        if pd.api.types.is_string_dtype(cells.typed(catalog[name])):
            odd = catalog.loc[cells.numbers(catalog[name]).isna() & ~cells.is_empty(catalog[name]), name]
            said += [f" {name} has {len(odd)} cells that are no numbers, such as {odd.iloc[0]!r}."] if len(odd) else []
    return "".join(said)


def build_task(task: TaskSettings, questions: QuestionTree) -> Task:
    """The task over a survey's questions. Raises SettingsError if the survey does not ask them."""
    known = {q.name for q in questions}
    absent = [name for name in task.questions if name not in known]
    if absent:
        raise SettingsError(
            f"Task {task.name} does not fit the survey: it has no question {', '.join(absent)}."
            f" Its questions are {', '.join(sorted(known))}. Choose another task, or set survey.questions."
        )
    tree = questions.subset(task.questions)
    if not task.label:
        return Task(task.name, tree, (), tuple(task.filters))
    if len(tree) != 1:
        raise SettingsError(
            f"task.label={task.label}: only for a task of one question, but task {task.name} has {len(tree)}"
        )
    columns = tuple(c for c in tree.root.columns if c in {tree.root.column(a) for a in task.label})
    if not columns or len(columns) == len(tree.root.columns):
        offered = ", ".join(a.name for a in tree.root.answers)
        raise SettingsError(
            f"task.label={task.label}: must be some, not all, of the answers to {tree.root.name}: {offered}"
        )
    return Task(task.name, tree, columns, tuple(task.filters))


def asked_probability(
    groups: Sequence[Group], probabilities: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[np.float64]]:
    """How likely each question is asked: ``{question: array}``, the product of the answers' probabilities up the tree.

    ``probabilities`` holds an array of one shape for each answer, given that its question is asked.
    """
    asked: dict[str, npt.NDArray[np.float64]] = {}
    parent = {answer: group.question for group in groups for answer in group.answers}
    for group in groups:  # parents come first
        if not group.after:
            asked[group.question] = np.ones_like(probabilities[group.answers[0]])
        else:
            asked[group.question] = asked[parent[group.after[0]]] * sum(probabilities[a] for a in group.after)
    return asked


def check_columns(catalog: pd.DataFrame, task: Task, where: str) -> None:
    """Refuse a catalog without the votes that the task learns from."""
    missing = [c for q in task.tree for c in q.columns if c not in catalog.columns]
    if missing:
        raise InputError(
            f"{where} has no column {', '.join(missing)}, which task {task.name} learns from."
            " Choose another task, or name the survey's own questions in survey.questions."
        )
