"""Votes that were counted already: the reductions that Caesar exports, or those of panoptes_aggregation (CSV).

A row has the counts of one subject and task. Caesar (``reducer_key``) names an answer by its index: ``data.0``,
``data.1``; panoptes_aggregation (``task``, ``reducer``) by its label: ``data.yes``. Neither says which version of the
workflow a vote is from, and neither looks at the path through the tree. So an index is only read if it means the same
answer in all versions, and a question may have more votes than the answers that lead to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from zoobot.errors import InputError
from zoobot.galaxies import ids
from zoobot.galaxies.questions import Question, QuestionTree
from zoobot.votes import classifications
from zoobot.votes.judge import NO_ANSWER, REJECTED, VOTE
from zoobot.votes.reduction import REJECTED_COLUMNS, Reduction
from zoobot.votes.versions import Version, normalise_label, read_versions

OTHER_REDUCER = "row of another reducer"
# What reducers give besides counts of answers.
_NO_COUNTS = re.compile(r"aggregation_version|classifications|extracts|most_likely|num_votes|agreement|user_ids.*")
_INDEX = re.compile(r"[0-9]+")


def read_caesar(
    path: Path, questions: QuestionTree, workflow_versions: Iterable[object], reducers: Mapping[str, str]
) -> Reduction:
    """The votes in a file of reductions, in the shape that ``reduce_all`` gives.

    ``reducers`` gives the task of each ``reducer_key``. If it is empty, a key must begin with the task's: T0, t0-stats.
    InputError: the file is of neither kind, or none of its reducers is about a task of the questions.
    """
    header = classifications.header(path)
    kind = next((column for column in ("reducer_key", "task") if column in header), "")
    if not kind or "subject_id" not in header:
        raise InputError(
            f"{path} has no column subject_id and reducer_key (as Caesar exports reductions) or task (as"
            f" panoptes_aggregation writes them). It has: {', '.join(header)[:300]}"
        )
    counted = _Counted(questions, read_versions(workflow_versions)[0], kind == "reducer_key")
    others: Counter[str] = Counter()
    for cells in classifications.records(path):
        task = cells[kind] if kind == "task" else _task(cells[kind], reducers)
        if task in counted.by_task and cells.get("reducer", "question_reducer") == "question_reducer":
            counted.add(cells, counted.by_task[task])
        else:
            others[cells[kind]] += 1
    if others and not counted.rows:
        raise InputError(
            f"{path}: none of its reducers is about a question of this survey: {', '.join(others)[:300]}. Say which"
            " task each is for: reduce.caesar_reducers=[KEY:T0]."
        )
    counted.tally[OTHER_REDUCER] = others.total()
    return counted.reduction()


def _task(reducer_key: str, reducers: Mapping[str, str]) -> str:
    if reducers:
        return reducers.get(reducer_key, "")
    found = re.match(r"(?i)T[0-9]+(?![0-9a-z])", reducer_key)
    return found[0].upper() if found else ""


@dataclass
class _Counted:
    questions: QuestionTree
    versions: Mapping[tuple[str, str], Version]
    by_index: bool
    rows: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)  # subject, task -> counts by column
    rejected: list[tuple[str, str, str, str]] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    columns: dict[tuple[str, str, str], str] = field(default_factory=dict)  # workflow, task, key -> column, or why not

    @cached_property
    def by_task(self) -> dict[str, Question]:
        return {question.task: question for question in self.questions}

    def add(self, cells: Mapping[str, str], question: Question) -> None:
        """Take in a row. It is rejected as one: a question that lacks some of its answers would be biased."""
        subject = ids.zooniverse_id(cells["subject_id"])
        votes: Counter[str] = Counter()
        problem = "" if subject else "the subject is not an id"
        for name, text in cells.items():
            key = name.removeprefix("data.")
            if key == name or not text.strip() or _NO_COUNTS.fullmatch(key):
                continue
            n, column = ids.whole_number(text), self._column(cells.get("workflow_id", ""), question, key)
            if n is None:
                problem = problem or f"{name} is not a count: {text[:40]}"
            elif n and column not in (*question.all_columns, NO_ANSWER):
                problem = problem or column
            votes[column] += n or 0
        if not problem and self.rows.setdefault((subject, question.task), votes) is not votes:
            problem = "there twice; the first row counts"
        if problem:
            self.rejected.append(("", subject or cells["subject_id"], question.task, problem))
            self.tally[REJECTED] += votes.total()

    def _column(self, workflow: str, question: Question, key: str) -> str:
        """The vote column of an answer's index or label, ``NO_ANSWER``, or why there is none."""
        found = self.columns.get((workflow, question.task, key))
        if found is None:
            found = self._by_index(workflow, question, int(key)) if self.by_index and _INDEX.fullmatch(key) else ""
            found = found or (NO_ANSWER if key in ("", "None", "none") else _by_label(question, key))
            self.columns[workflow, question.task, key] = found
        return found

    def _by_index(self, workflow: str, question: Question, index: int) -> str:
        workflow = ids.zooniverse_id(workflow)
        shown = [
            version.tasks[question.task].labels[index]
            for (of_workflow, _), version in self.versions.items()
            if of_workflow in ("", workflow) or not workflow
            if question.task in version.tasks and index < len(version.tasks[question.task].labels)
        ]
        labels = {normalise_label(label): question.column(a.name) for a in question.answers for label in a.labels}
        meanings = {labels.get(label, f"unknown answer {label!r}") for label in shown}
        if len(meanings) == 1:
            return meanings.pop()
        if not meanings:
            return f"no version of workflow {workflow or '(none named)'} has answer {index} of task {question.task}"
        return f"answer {index} of task {question.task} means several: {', '.join(sorted(meanings))}"

    def reduction(self) -> Reduction:
        """All counts as a table."""
        by_subject: dict[str, Counter[str]] = {}
        for (subject, _), votes in sorted(self.rows.items()):
            self.tally[NO_ANSWER] += votes.pop(NO_ANSWER, 0)
            self.tally[VOTE] += votes.total()
            if votes.total():
                by_subject.setdefault(subject, Counter()).update(votes)
        index = pd.Index(list(by_subject), dtype="string", name="subject_id")
        table = pd.DataFrame(list(by_subject.values()), index, list(self.questions.columns)).fillna(0).astype("int64")
        for question in self.questions:
            table[question.total] = table[list(question.all_columns)].sum(axis=1)
        rejected = pd.DataFrame(self.rejected, columns=list(REJECTED_COLUMNS), dtype="string")
        tally = {VOTE: 0, REJECTED: 0, **self.tally}
        return Reduction(table, rejected, tally, sum(tally.values()))


def _by_label(question: Question, key: str) -> str:
    """The column of an answer whose label is written as a slug, perhaps after the address of its image."""
    slugs = {_slug(label): question.column(a.name) for a in question.answers for label in a.labels}
    if key in slugs:
        return slugs[key]
    ends = [slug for slug in slugs if slug and "http" in key and key.endswith("-" + slug)]
    return slugs[max(ends, key=len)] if ends else f"unknown answer {key[:80]!r}"


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", normalise_label(label)).strip("-")
