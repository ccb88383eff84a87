"""Votes by the rules of zoobot/votes.py in plain Python, row by row: slow, independent of DuckDB."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from zoobot.errors import InputError, SettingsError
from zoobot.galaxies.questions import QuestionTree
from zoobot.votes.classifications import Unreadable

VOTE = "vote"
REJECTED = "rejected"
DUPLICATE = "duplicate of a classification"
REPEAT = "repeat by the same volunteer"
SESSION_REPEAT = "repeat in the same anonymous session"
NO_ANSWER = "no answer"
NO_QUESTION = "task without a question"
NOT_SINGLE = "not a single-choice task in this version"

REJECTED_COLUMNS = ("classification_id", "subject_id", "task", "reason")


# An image, a size after it, and what an address with an unmatched parenthesis leaves: "![a](b).png =60x) Smooth".
_IMAGE = re.compile(r"!\[.*?\]\((?:[^()]|\([^()]*\))*\)(?:[^\s()]*\.\w{3,4}(?:\s*=\d*x\d*)?\s*\))?(?:\s*=\d*x\d*)?")

Row: TypeAlias = Mapping[str, Any]
AnonymousRepeats: TypeAlias = Literal["all", "first_per_session"]
_Outcome: TypeAlias = tuple[
    tuple[str, ...], tuple[str, ...], tuple[tuple[str, str], ...]
]  # the last three fields below
_Offered: TypeAlias = dict[str, tuple[str, ...]]  # task -> normalised label of each index; () if not single-choice


@dataclass(frozen=True)
class Reduction:
    """Votes, rejected answers, and ``tally``: what became of the answers. ``sum(tally.values()) == answers_read``."""

    votes: pd.DataFrame
    rejected: pd.DataFrame
    tally: dict[str, int]
    answers_read: int


@dataclass(frozen=True)
class _Tables:
    questions: QuestionTree
    columns: dict[str, dict[str, str]]  # task -> normalised label -> vote column
    versions: dict[tuple[str, str], _Offered]  # workflow ("" if the record names none), version


@dataclass(frozen=True, slots=True)
class _Classification:
    id: int  # -1 if it has none that is usable
    id_text: str
    subject: str
    turn: tuple[str, ...]  # alike for classifications of which one counts; () for one that always counts
    updated_at: str
    columns: tuple[str, ...]
    without_vote: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]  # task, reason

    @property
    def n_answers(self) -> int:
        return len(self.columns) + len(self.without_vote) + len(self.rejected)


def reduce(
    classifications: Iterable[Row],
    questions: QuestionTree,
    workflow_versions: Sequence[Row],
    *,
    anonymous_repeats: AnonymousRepeats = "all",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count votes by the rules at the top of this file; the order of ``classifications`` does not matter.

    Args:
        classifications: rows in the shape of the Zooniverse API (``read_api_dump``, ``read_export``).
        questions: their tasks and labels say which answer a vote is for.
        workflow_versions: all that volunteers were shown (``read_workflow_versions``, ``workflow_of``). One with
            ``links.workflow`` is for the classifications of that workflow only.

    Returns:
        votes: a row per subject with a vote; string index ``subject_id``, sorted; int64 columns ``questions.columns``.
        rejected: a row per rejected answer; string columns classification_id, subject_id, task, reason.

    No classification, whatever is in it, raises. InputError: a workflow version is malformed, or two answers of a
    question share a label. SettingsError: ``anonymous_repeats`` is neither of the two.
    """
    reduction = reduce_all(classifications, questions, workflow_versions, anonymous_repeats=anonymous_repeats)
    return reduction.votes, reduction.rejected


def reduce_all(
    classifications: Iterable[Row],
    questions: QuestionTree,
    workflow_versions: Sequence[Row],
    *,
    anonymous_repeats: AnonymousRepeats = "all",
) -> Reduction:
    """``reduce``, with the tally of all answers read."""
    if anonymous_repeats not in ("all", "first_per_session"):
        raise SettingsError(f"anonymous_repeats must be all or first_per_session, got {anonymous_repeats!r}")
    tables = _Tables(questions, _columns_by_label(questions), _offered_by_version(workflow_versions))
    newest: dict[int, _Classification] = {}
    answers_read, tally = 0, Counter[str]()
    for position, row in enumerate(classifications):
        new = _read_row(row, tables, anonymous_repeats == "first_per_session")
        answers_read += new.n_answers
        key = new.id if new.id >= 0 else -1 - position
        if key in newest:  # repr only breaks ties, so that the order of rows does not matter
            old, new = sorted((newest[key], new), key=lambda c: (c.updated_at, repr(c)))
            tally[DUPLICATE] += old.n_answers
        newest[key] = new
    kept = _one_per_turn(sorted(newest.values(), key=lambda c: (c.id, repr(c) if c.id < 0 else "")), tally)
    for classification in kept:
        tally.update(classification.without_vote)
    tally[VOTE] = sum(len(c.columns) for c in kept)
    rejected = [(c.id_text, c.subject, task, reason) for c in kept for task, reason in c.rejected]
    tally[REJECTED] = len(rejected)
    assert sum(tally.values()) == answers_read, (tally, answers_read)
    rejected_table = pd.DataFrame(rejected, columns=list(REJECTED_COLUMNS), dtype="string")
    return Reduction(_votes_table(kept, questions), rejected_table, dict(tally), answers_read)


@lru_cache(maxsize=10_000)
def normalise_label(text: str) -> str:
    """A label without image markdown, in lower case, with single spaces: what answers are compared by."""
    return " ".join(_IMAGE.sub(" ", text).split()).casefold()


def _columns_by_label(questions: QuestionTree) -> dict[str, dict[str, str]]:
    columns: dict[str, dict[str, str]] = {q.task: {} for q in questions}
    for question in questions:
        for label, column in ((label, question.column(a.name)) for a in question.answers for label in a.labels):
            if columns[question.task].setdefault(normalise_label(label), column) != column:
                raise InputError(f"question {question.name}: two answers have the label {label!r}")
    return columns


def _offered_by_version(workflow_versions: Sequence[Row]) -> dict[tuple[str, str], _Offered]:
    versions: dict[tuple[str, str], _Offered] = {}
    for number, record in enumerate(workflow_versions, start=1):
        offered: _Offered = {}
        try:
            workflow = _text(_mapping(record.get("links")).get("workflow"))
            version = f"{record['major_number']}.{record['minor_number']}"
            for task, body in record["tasks"].items():
                labels = [a["label"] for a in body["answers"]] if body.get("type") == "single" else []
                offered[task] = tuple(normalise_label(record.get("strings", {}).get(x, x)) for x in labels)
        except (KeyError, TypeError, AttributeError) as error:
            what = "expected major_number, minor_number, strings and tasks with type and answers, as Zooniverse has it"
            raise InputError(f"workflow version {number} of {len(workflow_versions)}: {what}; {error!r}") from error
        if versions.setdefault((workflow, version), offered) != offered:
            raise InputError(f"workflow version {version} is there twice, with other answers but the same workflow")
    return versions


def _read_row(row: object, tables: _Tables, one_per_session: bool) -> _Classification:
    fields = _mapping(row)
    links, metadata = _mapping(fields.get("links")), _mapping(fields.get("metadata"))
    id_text, user, session = _text(fields.get("id")), _text(links.get("user")), _text(metadata.get("session"))
    # A row that was cut off is no copy of a whole one, so it has no id here.
    id_ = int(id_text) if re.fullmatch(r"[0-9]{1,18}", id_text) and not isinstance(row, Unreadable) else -1
    subject = ";".join(_text(s) for s in _list(links.get("subjects")))
    answers = list(_without_combos(_list(fields.get("annotations"))))
    offered, problem = _find_version(tables, _text(links.get("workflow")), metadata.get("workflow_version"))
    problem = _problem(row, id_, links, subject) or problem
    turn: tuple[str, ...] = ()
    if problem:
        tasks = [_text(_mapping(a).get("task")) for a in answers] or [""]
        outcome: _Outcome = (), (), tuple((task, problem) for task in tasks)
    else:
        outcome = _outcome(answers, tables, offered)
        if user or (session and one_per_session):
            turn = (REPEAT, user, subject) if user else (SESSION_REPEAT, session, subject)
    return _Classification(id_, id_text, subject, turn, _text(fields.get("updated_at")), *outcome)


def _problem(row: object, id_: int, links: Row, subject: str) -> str:
    """Why a classification cannot be read whatever its workflow; "" if it can."""
    fields, n_subjects, user = _mapping(row), len(_list(links.get("subjects"))), links.get("user")
    problems = (
        (not isinstance(row, Mapping), "not an object"),
        (isinstance(row, Unreadable), getattr(row, "reason", "")),
        (id_ < 0, "no usable classification id"),
        (n_subjects > 1, f"{n_subjects} subjects, expected one"),
        (not subject, "no subject"),
        (user not in (None, "") and not _text(user), "the user is neither an id nor null"),
        (not isinstance(fields.get("annotations"), list | None), "the annotations are not a list"),
    )
    return next((reason for is_so, reason in problems if is_so), "")


def _find_version(tables: _Tables, workflow: str, version: object) -> tuple[_Offered, str]:
    """What was offered, or why that is unknown. A number is no version: 28.30 and 28.3 would be the same."""
    if not isinstance(version, str) or not version.strip():
        return {}, "the workflow version is missing or not text"
    for key in ((workflow, _text(version)), ("", _text(version))):
        if key in tables.versions:
            return tables.versions[key], ""
    if any(known in ("", workflow) for known, _ in tables.versions):
        return {}, f"unknown workflow version {_text(version)}"
    return {}, f"unknown workflow {workflow or '(none named)'}"


def _without_combos(annotations: list[Any]) -> Iterator[object]:
    stack = annotations[::-1]  # not recursion: the sender chooses how deep it goes
    while stack:
        annotation = stack.pop()
        parts = _list(_mapping(annotation).get("value"))
        if any("task" in _mapping(part) for part in parts):
            stack.extend(reversed(parts))
        else:
            yield annotation


def _outcome(answers: list[object], tables: _Tables, offered: _Offered) -> _Outcome:
    """Vote columns, reasons for no vote, and rejected (task, reason) of one classification."""
    chosen: dict[str, str] = {}  # task -> vote column
    without_vote: list[str] = [] if answers else [NO_ANSWER]
    rejected: list[tuple[str, str]] = []
    for answer in answers:
        task = _text(_mapping(answer).get("task"))
        kind, text = _vote(task, _mapping(answer).get("value"), tables.columns, offered)
        if kind == REJECTED or (kind == VOTE and task in chosen):
            rejected.append((task, text if kind == REJECTED else "answered twice in one classification"))
        elif kind == VOTE:
            chosen[task] = text
        else:
            without_vote.append(kind)
    columns: list[str] = []
    for question in tables.questions:  # parents first, so that a whole branch falls with its first question
        column = chosen.get(question.task)
        if column and question.after and not set(question.after) & set(columns):
            rejected.append((question.task, f"off the path: {question.name} is only for {' or '.join(question.after)}"))
        elif column:
            columns.append(column)
    return tuple(columns), tuple(without_vote), tuple(rejected)


def _vote(task: str, value: Any, columns: dict[str, dict[str, str]], offered: _Offered) -> tuple[str, str]:
    """(VOTE, column), (REJECTED, reason), or (why there is no vote, "")."""
    if not task:
        return REJECTED, "not an answer to a task"
    if task not in columns:
        return NO_QUESTION, ""
    if value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
        return NO_ANSWER, ""
    if offered.get(task) == ():
        return NOT_SINGLE, ""
    label, problem = _label(value, offered[task]) if task in offered else ("", "this workflow version has no such task")
    if not problem and label not in columns[task]:
        problem = f"unknown answer {label[:80]!r}"
    return (REJECTED, problem) if problem else (VOTE, columns[task][label])


def _label(value: Any, labels: tuple[str, ...]) -> tuple[str, str]:
    """The normalised label that an answer means, or why it means none."""
    if isinstance(value, str):
        return normalise_label(_text(value)[:1000]), ""  # cut: a text of megabytes would keep the pattern busy
    if isinstance(value, bool) or not isinstance(value, int):
        return "", f"unknown answer of type {type(value).__name__}, expected an index or a label"
    if not 0 <= value < len(labels):
        return "", f"unknown answer {_text(value) or 'of many digits'}; this workflow version has {len(labels)}"
    return labels[value], ""


def _one_per_turn(ordered: list[_Classification], tally: Counter[str]) -> list[_Classification]:
    """The first classification of each turn, and all that take none; the answers of the others are tallied."""
    kept: list[_Classification] = []
    turns: set[tuple[str, ...]] = set()
    for classification in ordered:
        if classification.turn and classification.turn in turns:
            tally[classification.turn[0]] += classification.n_answers
        else:
            turns.add(classification.turn)
            kept.append(classification)
    return kept


def _votes_table(kept: list[_Classification], questions: QuestionTree) -> pd.DataFrame:
    votes = Counter((c.subject, column) for c in kept for column in c.columns)
    subjects = sorted({subject for subject, _ in votes})
    row_of = {subject: row for row, subject in enumerate(subjects)}
    column_of = {column: position for position, column in enumerate(questions.columns)}
    counts = np.zeros((len(subjects), len(column_of)), dtype=np.int64)
    for (subject, column), n_votes in votes.items():
        counts[row_of[subject], column_of[column]] = n_votes
    for question in questions:
        counts[:, column_of[question.total]] = counts[:, [column_of[c] for c in question.all_columns]].sum(axis=1)
    return pd.DataFrame(counts, pd.Index(subjects, dtype="string", name="subject_id"), list(questions.columns))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """An id or a name as text that a file can hold; "" for neither text nor a whole number of at most 18 digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else ""
    return value.strip().encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else ""
