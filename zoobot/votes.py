"""Raw Zooniverse classifications -> votes per subject: the reduction.

Rules, in the order in which they act:

1. Rows with the same classification id are copies: the one updated last counts, the others are tallied as duplicates.
2. A classification is rejected whole, and takes nobody's turn in rule 3, if it is unreadable, has no usable id, is not about exactly
   one subject, or comes from a workflow version that is not known. Versions are text (28.30 is not 28.3) and belong to a workflow.
3. A logged-in volunteer has one classification per subject: the first by id, whole. Later ones are tallied as repeats. All anonymous
   ones count, or (``anonymous_repeats="first_per_session"``) the first of each session and subject, where the session is known.
4. Answers inside a combo task are read like any other.
5. Null, empty and absent answers, tasks without a question (tutorials, rare features) and tasks that are not single-choice in that
   version give no vote.
6. An index means the label that this version gives it; a text is a label. Labels match without image markdown, case and spacing.
   One that no answer of the question has is rejected.
7. A question answered twice in one classification: the first readable answer counts, the others are rejected.
8. An answer off the tree's path (no counted answer of that classification leads to its question) is rejected, so a question never
   has more votes than the answers which lead to it.

Each answer read is a vote, a tallied answer without a vote, or one row of ``rejected``; a classification without answers counts as one.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from zoobot.errors import InputError, SettingsError
from zoobot.questions import Question, QuestionTree

VOTE = "vote"
REJECTED = "rejected"
DUPLICATE = "duplicate of a classification"
REPEAT = "repeat by the same volunteer"
SESSION_REPEAT = "repeat in the same anonymous session"
NO_ANSWER = "no answer"
NO_QUESTION = "task without a question"
NOT_SINGLE = "not a single-choice task in this version"

EXPORT_COLUMNS = ("classification_id", "user_id", "workflow_id", "workflow_version", "metadata", "annotations", "subject_ids")
REJECTED_COLUMNS = ("classification_id", "subject_id", "task", "reason")
# The readers below put the reason here when they could not read a row: it then goes to `rejected` like any other.
UNREADABLE = "unreadable"

# An image, a size written after it, and what is left of an address with a parenthesis in it: "![a](b).png =60x) Smooth".
_IMAGE = re.compile(r"!\[.*?\]\((?:[^()]|\([^()]*\))*\)(?:[^\s()]*\.\w{3,4}(?:\s*=\d*x\d*)?\s*\))?(?:\s*=\d*x\d*)?")
_CLASSIFICATION_ID = re.compile(r"[0-9]{1,18}")

Row: TypeAlias = Mapping[str, Any]
_Version: TypeAlias = tuple[str, str]  # workflow id ("" if the version names none), version
_Given: TypeAlias = tuple[str, int | str | None, str]  # task, index or normalised label, why it cannot be read


@dataclass(frozen=True)
class Reduction:
    """Votes, rejected answers, and ``tally``: what became of the answers. ``sum(tally.values()) == answers_read``."""

    votes: pd.DataFrame
    rejected: pd.DataFrame
    tally: dict[str, int]
    answers_read: int


@dataclass(frozen=True)
class _Outcome:
    """What the answers of one classification come to, taken by themselves."""

    columns: tuple[str, ...] = ()
    without_vote: tuple[str, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()  # task, reason

    @property
    def n_answers(self) -> int:
        return len(self.columns) + len(self.without_vote) + len(self.rejected)


@dataclass(frozen=True, slots=True)
class _Classification:
    id: int | None
    id_text: str
    subject: str
    user: str
    session: str
    updated_at: str
    rejected_whole: bool
    outcome: _Outcome


@dataclass(frozen=True)
class _Tables:
    """``labels``: task -> normalised label -> vote column. ``versions``: per version, task -> labels by index (None: not single-choice)."""

    questions: QuestionTree
    labels: dict[str, dict[str, str]]
    versions: dict[_Version, dict[str, tuple[str, ...] | None]]


def reduce(
    classifications: Iterable[Row],
    questions: QuestionTree,
    workflow_versions: Sequence[Row],
    *,
    anonymous_repeats: Literal["all", "first_per_session"] = "all",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count votes by the rules at the top of this file.

    Args:
        classifications: rows as the Zooniverse API gives them, in any order (``read_api_dump``, ``read_export``).
        questions: the survey's questions; their tasks and labels say which answer a vote is for.
        workflow_versions: every version that the classifications were made with (``read_workflow_versions``, ``workflow_of``).
        anonymous_repeats: whether all anonymous classifications count, or the first per session and subject.

    Returns:
        votes: a row per subject with at least one vote, index ``subject_id`` (string, sorted), int64 columns ``questions.columns``.
        rejected: a row per rejected answer, string columns classification_id, subject_id, task, reason, sorted by id.

    Raises:
        InputError: a workflow version is malformed, or two answers of a question share a label. No classification raises.
        SettingsError: ``anonymous_repeats`` is neither of the two.
    """
    reduction = reduce_all(classifications, questions, workflow_versions, anonymous_repeats=anonymous_repeats)
    return reduction.votes, reduction.rejected


def reduce_all(
    classifications: Iterable[Row],
    questions: QuestionTree,
    workflow_versions: Sequence[Row],
    *,
    anonymous_repeats: Literal["all", "first_per_session"] = "all",
) -> Reduction:
    """``reduce``, with the tally of all answers read."""
    if anonymous_repeats not in ("all", "first_per_session"):
        raise SettingsError(f"anonymous_repeats must be all or first_per_session, got {anonymous_repeats!r}")
    tables = _Tables(questions, _labels(questions), _versions(workflow_versions))
    # Most classifications give the same few sequences of answers.
    outcome_of = lru_cache(maxsize=100_000)(partial(_outcome, tables))
    newest: dict[int, _Classification] = {}
    unnamed: list[_Classification] = []
    tally: Counter[str] = Counter()
    answers_read = 0
    for row in classifications:
        new = _read_row(row, tables, outcome_of)
        answers_read += new.outcome.n_answers
        if new.id is None:
            unnamed.append(new)
            continue
        old = newest.setdefault(new.id, new)
        if old is not new:
            newest[new.id] = _later_copy(old, new)
            tally[DUPLICATE] += old.outcome.n_answers + new.outcome.n_answers - newest[new.id].outcome.n_answers
    ordered = [newest[id_] for id_ in sorted(newest)] + sorted(unnamed, key=repr)
    kept = _without_repeats(ordered, anonymous_repeats == "first_per_session", tally)
    for classification in kept:
        tally.update(classification.outcome.without_vote)
    votes, rejected = _votes_table(kept, questions), _rejected_table(kept)
    tally[VOTE] = sum(len(c.outcome.columns) for c in kept)
    tally[REJECTED] = len(rejected)
    assert sum(tally.values()) == answers_read, (tally, answers_read)
    return Reduction(votes, rejected, dict(tally), answers_read)


@lru_cache(maxsize=10_000)
def normalise_label(text: str) -> str:
    """A label without image markdown, in lower case, with single spaces: what answers are compared by."""
    return " ".join(_IMAGE.sub(" ", text).split()).casefold()


def read_api_dump(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a file with one JSON object of the Zooniverse API a line.

    A line that cannot be read becomes a row which ``reduce`` rejects, with the line's number. InputError: there is no such file.
    """
    return _api_rows(_existing(path, "API dump"))


def read_export(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a Zooniverse classification export (CSV), in the shape of the API's rows; answers are labels, not indices.

    Ids and versions stay text. A row with broken JSON in it becomes one which ``reduce`` rejects. InputError: no such file, a column
    is missing, or the text is no CSV.
    """
    path = _existing(path, "classification export")
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    missing = [column for column in EXPORT_COLUMNS if column not in header]
    if missing:
        raise InputError(
            f"{path}: the classification export has no column {', '.join(missing)}. Export classifications "
            "(not subjects or workflows) from Zooniverse, or name an API dump instead."
        )
    return _export_rows(path)


def read_workflow_versions(path: str | Path) -> list[dict[str, Any]]:
    """The versions in a JSON file as the API gives it: ``{"workflow_versions": [...]}``, or only the list. InputError otherwise."""
    path = _existing(path, "file of workflow versions")
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    versions = raw.get("workflow_versions") if isinstance(raw, dict) else raw
    if not isinstance(versions, list) or not versions or not all(isinstance(v, dict) for v in versions):
        raise InputError(f'{path}: expected {{"workflow_versions": [...]}} with at least one version, as the Zooniverse API gives it')
    return versions


def workflow_of(questions: QuestionTree, version: str = "1.1") -> dict[str, Any]:
    """A workflow version, as the API gives it, which asks these questions; it names no workflow, so it fits any.

    Answers have their first label, in the order of the question set; retired ones are not offered. Following ``next`` asks exactly
    the questions on the tree's path; where that depends on more than the last answer, a question is asked if it may be on the path.
    """
    match = re.fullmatch(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", version)
    if match is None:
        raise InputError(f"a workflow version is two whole numbers, such as 1.1, got {version!r}")
    by_column = {column: q for q in questions for column in q.all_columns}
    ordered = _depth_first(questions, None, by_column)
    tasks: dict[str, Any] = {}
    strings: dict[str, str] = {}
    for position, question in enumerate(ordered):
        answers: list[dict[str, str]] = []
        for index, answer in enumerate(a for a in question.answers if not a.retired):
            key = f"{question.task}.answers.{index}.label"
            strings[key] = answer.labels[0]
            past = {question.column(answer.name), *_leading_to(question, by_column)}
            following = (q.task for q in ordered[position + 1 :] if not q.after or past & set(q.after))
            answers.append({"label": key} | {"next": task for task in list(following)[:1]})
        strings[f"{question.task}.question"] = question.name
        tasks[question.task] = {"type": "single", "question": f"{question.task}.question", "required": True, "answers": answers}
    return {
        "major_number": int(match[1]),
        "minor_number": int(match[2]),
        "first_task": ordered[0].task,
        "tasks": tasks,
        "strings": strings,
    }


def _depth_first(questions: QuestionTree, parent: Question | None, by_column: dict[str, Question]) -> list[Question]:
    """The questions below ``parent``; one that several answers lead to comes last, so that their own questions come before it."""
    children = [q for q in questions if (by_column[q.after[0]] if q.after else None) == parent]
    children.sort(key=lambda q: len(q.after) if q.after else len(by_column) + 1)
    return [q for child in children for q in (child, *_depth_first(questions, child, by_column))]


def _leading_to(question: Question, by_column: dict[str, Question]) -> set[str]:
    """All answers that may have been given by one who is asked this question."""
    found: set[str] = set()
    while question.after:
        found |= set(question.after)
        question = by_column[question.after[0]]
    return found


def _existing(path: str | Path, what: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no {what} {path}")
    return path


def _api_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                row = {UNREADABLE: f"broken JSON in line {number}"}
            yield row if isinstance(row, dict) else {UNREADABLE: f"line {number} is not a JSON object"}


def _export_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # drawings in other tasks exceed the default of 128 kB
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, restval="")
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise InputError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error
            if cells is None:
                return
            yield _export_row(cells, reader.line_num)


def _export_row(cells: dict[str, str], line: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": cells["classification_id"],
        "links": {
            "user": cells["user_id"] or None,
            "workflow": cells["workflow_id"],
            "subjects": [subject for subject in cells["subject_ids"].split(";") if subject.strip()],
        },
    }
    for column in ("metadata", "annotations"):
        try:
            row[column] = json.loads(cells[column]) if cells[column] else None
        except (ValueError, RecursionError):
            row[UNREADABLE] = f"broken JSON in column {column}, line {line}"
    row["metadata"] = {**_mapping(row.get("metadata")), "workflow_version": cells["workflow_version"]}
    return row


def _labels(questions: QuestionTree) -> dict[str, dict[str, str]]:
    by_task: dict[str, dict[str, str]] = {}
    for question in questions:
        labels = by_task.setdefault(question.task, {})
        for answer in question.answers:
            for label in answer.labels:
                column = question.column(answer.name)
                if labels.setdefault(normalise_label(label), column) != column:
                    raise InputError(f"question {question.name}: two answers have the label {label!r}; a vote could be for either")
    return by_task


def _versions(workflow_versions: Sequence[Row]) -> dict[_Version, dict[str, tuple[str, ...] | None]]:
    versions: dict[_Version, dict[str, tuple[str, ...] | None]] = {}
    for position, record in enumerate(workflow_versions):
        try:
            key = (_text(_mapping(record.get("links")).get("workflow")), f"{record['major_number']}.{record['minor_number']}")
            strings = record.get("strings") or {}
            tasks = {
                task: tuple(normalise_label(strings.get(a["label"], a["label"])) for a in body["answers"])
                if body.get("type") == "single"
                else None
                for task, body in record["tasks"].items()
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"workflow version {position + 1} of {len(workflow_versions)} is not as the Zooniverse API gives it "
                f"(major_number, minor_number, tasks with type and answers, strings): {error!r}"
            ) from error
        if versions.setdefault(key, tasks) != tasks:
            raise InputError(f"workflow version {key[1]} is there twice, with different answers; versions of several workflows need links")
    return versions


def _read_row(row: object, tables: _Tables, outcome_of: Callable[[_Version, tuple[_Given, ...]], _Outcome]) -> _Classification:
    fields, links = _mapping(row), _mapping(_mapping(row).get("links"))
    metadata, annotations = _mapping(fields.get("metadata")), fields.get("annotations")
    id_text = _text(fields.get("id"))
    id_ = int(id_text) if _CLASSIFICATION_ID.fullmatch(id_text) else None
    subjects = links.get("subjects") if isinstance(links.get("subjects"), list) else []
    version, problem = _find_version(tables, _text(links.get("workflow")), metadata.get("workflow_version"))
    if not isinstance(row, Mapping):
        problem = "not an object"
    elif isinstance(fields.get(UNREADABLE), str):
        problem = _text(fields[UNREADABLE])
    elif id_ is None:
        problem = "no usable classification id"
    elif len(subjects) != 1 or not _text(subjects[0]):
        problem = f"{len(subjects)} subjects, expected one" if len(subjects) > 1 else "no subject"
    elif links.get("user") not in (None, "") and not _text(links["user"]):
        problem = "the user is neither an id nor null"
    elif annotations is not None and not isinstance(annotations, list):
        problem = "the annotations are not a list"
    answers = tuple(_given(a) for a in _without_combos(annotations if isinstance(annotations, list) else []))
    if problem:
        outcome = _Outcome(rejected=tuple((task, problem) for task, _, _ in answers) or (("", problem),))
    else:
        outcome = outcome_of(version, answers)
    return _Classification(
        id=id_,
        id_text=id_text if id_ is None else str(id_),
        subject=";".join(_text(s) for s in subjects),
        user=_text(links.get("user")),
        session=_text(metadata.get("session")),
        updated_at=_text(fields.get("updated_at")),
        rejected_whole=bool(problem),
        outcome=outcome,
    )


def _find_version(tables: _Tables, workflow: str, version: object) -> tuple[_Version, str]:
    """The key of this version in the tables, or why there is none. A number is no version: 28.30 and 28.3 would be the same."""
    if not isinstance(version, str) or not version.strip():
        return ("", ""), "no workflow version" if version in (None, "") else "the workflow version is not text"
    for key in ((workflow, _text(version)), ("", _text(version))):
        if key in tables.versions:
            return key, ""
    if all(known not in ("", workflow) for known, _ in tables.versions):
        return ("", ""), f"unknown workflow {workflow or '(none named)'}"
    return ("", ""), f"unknown workflow version {_text(version)}"


def _without_combos(annotations: list[Any]) -> Iterator[object]:
    # A stack, not recursion: nesting is the sender's choice.
    stack = annotations[::-1]
    while stack:
        annotation = stack.pop()
        value = _mapping(annotation).get("value")
        if isinstance(value, list) and any("task" in _mapping(part) for part in value):
            stack.extend(reversed(value))
        else:
            yield annotation


def _given(annotation: object) -> _Given:
    if not isinstance(annotation, Mapping):
        return "", None, "the answer is not an object"
    task, value = _text(annotation.get("task")), annotation.get("value")
    if not task:
        return "", None, "the answer names no task"
    if isinstance(value, str):
        return task, normalise_label(_text(value)) if value.strip() else None, ""
    if value is None or value == [] or value == {}:
        return task, None, ""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
        return task, value, ""
    return task, None, f"the answer is neither an index nor a label but of type {type(value).__name__}"


def _outcome(tables: _Tables, version: _Version, answers: tuple[_Given, ...]) -> _Outcome:
    chosen: dict[str, tuple[str, str]] = {}  # question -> column, task
    without_vote: list[str] = [] if answers else [NO_ANSWER]
    rejected: list[tuple[str, str]] = []
    by_task = {q.task: q for q in tables.questions}
    for given in answers:
        kind, text = _map_answer(tables.labels, tables.versions[version], given)
        if kind == NO_ANSWER:
            without_vote.append(text)
        elif kind == REJECTED:
            rejected.append((given[0], text))
        elif by_task[given[0]].name in chosen:
            rejected.append((given[0], "answered twice in one classification; the first answer counts"))
        else:
            chosen[by_task[given[0]].name] = (text, given[0])
    columns: list[str] = []
    for question in tables.questions:  # parents first, so a whole branch falls with its first question
        if question.name not in chosen:
            continue
        column, task = chosen[question.name]
        if question.after and not any(c in columns for c in question.after):
            rejected.append((task, f"off the path: {question.name} is asked only after {' or '.join(question.after)}"))
        else:
            columns.append(column)
    return _Outcome(tuple(columns), tuple(without_vote), tuple(rejected))


def _map_answer(
    labels: dict[str, dict[str, str]], version_tasks: dict[str, tuple[str, ...] | None], given: _Given
) -> tuple[str, str]:
    """(VOTE, column), (NO_ANSWER, why there is no vote) or (REJECTED, reason)."""
    task, value, problem = given
    if not task:
        return REJECTED, problem
    if task not in labels:
        return NO_ANSWER, NO_QUESTION
    if value is None and not problem:
        return NO_ANSWER, NO_ANSWER
    if task not in version_tasks:
        return REJECTED, "this workflow version has no such task"
    offered = version_tasks[task]
    if offered is None:
        return NO_ANSWER, NOT_SINGLE
    if problem:
        return REJECTED, problem
    if isinstance(value, int) and not 0 <= value < len(offered):
        return REJECTED, f"unknown answer {value}; there are {len(offered)} in this workflow version"
    label = offered[value] if isinstance(value, int) else str(value)
    if label not in labels[task]:
        return REJECTED, f"unknown answer {label[:80]!r}"
    return VOTE, labels[task][label]


def _later_copy(a: _Classification, b: _Classification) -> _Classification:
    # The representation only breaks ties, so that the order of rows does not matter.
    return a if a == b else max(a, b, key=lambda c: (c.updated_at, repr(c)))


def _without_repeats(ordered: list[_Classification], by_session: bool, tally: Counter[str]) -> list[_Classification]:
    kept: list[_Classification] = []
    seen: set[tuple[str, str, str]] = set()
    for classification in ordered:
        who = ("user", classification.user) if classification.user else ("session", classification.session if by_session else "")
        turn = (*who, classification.subject)
        if classification.rejected_whole or not who[1] or turn not in seen:
            kept.append(classification)
        else:
            tally[REPEAT if classification.user else SESSION_REPEAT] += classification.outcome.n_answers
        if not classification.rejected_whole:
            seen.add(turn)
    return kept


def _votes_table(kept: list[_Classification], questions: QuestionTree) -> pd.DataFrame:
    voted = [c for c in kept if c.outcome.columns]
    subjects = sorted({c.subject for c in voted})
    row_of = {subject: row for row, subject in enumerate(subjects)}
    column_of = {column: position for position, column in enumerate(questions.columns)}
    counts = np.zeros((len(subjects), len(column_of)), dtype=np.int64)
    for classification in voted:
        for column in classification.outcome.columns:
            counts[row_of[classification.subject], column_of[column]] += 1
    for question in questions:
        counts[:, column_of[question.total]] = counts[:, [column_of[c] for c in question.all_columns]].sum(axis=1)
    return pd.DataFrame(counts, index=pd.Index(subjects, dtype="string", name="subject_id"), columns=list(questions.columns))


def _rejected_table(kept: list[_Classification]) -> pd.DataFrame:
    rows = [(c.id_text, c.subject, task, reason) for c in kept for task, reason in c.outcome.rejected]
    return pd.DataFrame(rows, columns=list(REJECTED_COLUMNS), dtype="string")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    """An id or a name as text that a CSV can hold; "" for what is neither text nor a whole number."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    if not isinstance(value, str):
        return ""
    return value.strip().encode("utf-8", "backslashreplace").decode("utf-8")
