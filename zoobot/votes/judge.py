"""Judge the answers of one classification: rules 2 and 4 to 8 of zoobot/votes/reduction.py.

A judgement has one outcome for each answer, so the totals include everything that was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from zoobot.errors import InputError
from zoobot.galaxies import ids
from zoobot.galaxies.questions import QuestionTree
from zoobot.votes.rows import Row, Unreadable, as_list, as_mapping, as_text
from zoobot.votes.versions import Version, missing_label, normalise_label, read_versions

VOTE = "vote"
REJECTED = "rejected"
NO_ANSWER = "no answer"
NO_QUESTION = "task without a question"
NOT_SINGLE = "not a single-choice task in this version"
BEFORE_LAUNCH = "test before the launch of the project"
GOLD_STANDARD = "gold standard"

_MAX_KNOWN, _LONGEST_KNOWN = 100_000, 1_000  # answers that are remembered, and their length


class Outcome(NamedTuple):
    """The outcome of one answer. ``text`` is a vote's column or the reason of a rejection, otherwise empty."""

    kind: str
    task: str = ""
    text: str = ""


class Judgement(NamedTuple):
    """The outcome of every answer in a classification, and whether it counts as its volunteer's turn."""

    takes_turn: bool
    outcomes: tuple[Outcome, ...]


class Classification(NamedTuple):
    """One judged row. ``id`` is None if the row has no usable id; missing text is empty."""

    id: int | None
    id_text: str
    subject: str
    volunteer: str
    session: str
    updated_at: str
    judgement: Judgement


@dataclass(frozen=True)
class Counted:
    """What is counted besides the classifications that every project counts. All of it is off at first.

    ``anonymous_repeats`` is all or first_per_session: which classifications of a volunteer who is not logged in.
    ``before_launch``: those made as a test, before the project was live. ``gold_standard``: experts' examples.
    """

    anonymous_repeats: str = "all"
    before_launch: bool = False
    gold_standard: bool = False


@dataclass(frozen=True)
class Judge:
    """Judges rows for a question set and the workflow versions that volunteers were shown."""

    questions: QuestionTree
    columns: dict[str, dict[str, str]]  # task -> normalised label -> vote column
    versions: dict[tuple[str, str], Version]  # workflow ("" if the record names none), version
    counted: Counted

    @classmethod
    def of(cls, questions: QuestionTree, workflow_versions: Iterable[object], counted: Counted) -> Judge:
        """InputError: two answers of a question share a label."""
        return cls(questions, _columns_by_label(questions), read_versions(workflow_versions)[0], counted)

    def classification(self, row: object) -> Classification:
        """Judge a row in the shape of the Zooniverse API. Any value is judged; none raises."""
        fields = as_mapping(row)
        links, metadata = as_mapping(fields.get("links")), as_mapping(fields.get("metadata"))
        id_text = ids.zooniverse_id(fields.get("id")) or as_text(fields.get("id"))
        subject = ";".join(ids.zooniverse_id(s) or as_text(s) for s in as_list(links.get("subjects")))
        user = ids.volunteer(links.get("user"))
        # A row that was cut off is not a copy of a complete one, so its id is only shown.
        id_ = ids.zooniverse_id(id_text) if not isinstance(row, Unreadable) else ""
        annotations, problem = fields.get("annotations"), _problem(row, id_, links, user)
        left_out = self._left_out(fields, metadata)
        if problem or left_out:
            judgement = _set_aside(REJECTED if problem else left_out, annotations, problem)
        else:
            judgement = self.judgement(links.get("workflow"), metadata.get("workflow_version"), annotations)
        session, updated_at = as_text(metadata.get("session")), as_text(fields.get("updated_at"))
        return Classification(int(id_) if id_ else None, id_text, subject, user or "", session, updated_at, judgement)

    def _left_out(self, fields: Row, metadata: Row) -> str:
        """The kind of classification that is not counted; "" if it is."""
        if not self.counted.before_launch and _says(metadata.get("live_project"), "false", "f", "no", "0"):
            return BEFORE_LAUNCH
        if not self.counted.gold_standard and _says(fields.get("gold_standard"), "true", "t", "yes", "1"):
            return GOLD_STANDARD
        return ""

    def judgement(self, workflow: object, version: object, annotations: object) -> Judgement:
        """The judgement on a row's annotations, if the rest of the row is valid."""
        if not isinstance(annotations, list | None):
            return _set_aside(REJECTED, annotations, "the annotations are not a list")
        found = self.version(workflow, version)
        return self.together(found, [o for answer in as_list(annotations) for o in self.alone(found, answer)])

    def alone(self, found: Version | str, annotation: object) -> list[Outcome]:
        """The outcome of one annotation, whatever the others are; a combo has an outcome for each of its answers."""
        answers = [as_mapping(answer) for answer in _without_combos([annotation])]
        if isinstance(found, str):
            return [Outcome(REJECTED, as_text(answer.get("task")), found) for answer in answers]
        return [self._outcome(answer, found) for answer in answers]

    def together(self, found: Version | str, outcomes: Sequence[Outcome]) -> Judgement:
        """The judgement on a row, from the outcomes that ``alone`` gave for its annotations."""
        if isinstance(found, str):
            return Judgement(False, tuple(outcomes) or (Outcome(REJECTED, text=found),))
        return Judgement(True, self._along_the_tree(outcomes) if outcomes else (Outcome(NO_ANSWER),))

    def version(self, workflow: object, version: object) -> Version | str:
        """What was offered, or why that is unknown. A number is not a version: 28.30 and 28.3 would be the same."""
        if not isinstance(version, str) or not version.strip():
            return "the workflow version is missing or not text"
        number, id_ = as_text(version), ids.zooniverse_id(workflow)
        if not id_ and workflow not in (None, ""):
            return "the workflow is not an id"
        found = self.versions.get((id_, number)) or self.versions.get(("", number))
        if found:
            return found.problem or found
        if any(known in ("", id_) for known, _ in self.versions):
            return f"unknown workflow version {number}"
        return f"unknown workflow {id_ or '(none named)'}"

    def _along_the_tree(self, outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
        """The same answers, judged together: votes in the order of the tree, then all others."""
        first: dict[str, Outcome] = {}  # by task
        others: list[Outcome] = []
        for outcome in outcomes:
            if outcome.kind != VOTE:
                others.append(outcome)
            elif outcome.task in first:
                others.append(Outcome(REJECTED, outcome.task, "answered twice in one classification"))
            else:
                first[outcome.task] = outcome
        given: dict[str, Outcome] = {}  # by column
        for question in self.questions:  # parents first, so that all questions of a branch are rejected with its first
            vote = first.get(question.task)
            if vote and question.after and given.keys().isdisjoint(question.after):
                reason = f"off the path: {question.name} is only for {' or '.join(question.after)}"
                others.append(Outcome(REJECTED, question.task, reason))
            elif vote:
                given[vote.text] = vote
        return (*given.values(), *others)

    def _outcome(self, answer: Row, version: Version) -> Outcome:
        """The outcome of one answer alone, wherever it is on the tree."""
        task, value = answer.get("task"), answer.get("value")
        if not isinstance(task, str) or not isinstance(value, str | int):
            return self._judged(as_text(task), value, version)
        key = (task, value, type(value))
        if key in version.known:
            known: Outcome = version.known[key]
            return known
        outcome = self._judged(as_text(task), value, version)
        if len(version.known) < _MAX_KNOWN and (isinstance(value, int) or len(value) < _LONGEST_KNOWN):
            version.known[key] = outcome
        return outcome

    def _judged(self, task: str, value: Any, version: Version) -> Outcome:
        if not task:
            return Outcome(REJECTED, task, "not an answer to a task")
        if task not in self.columns:
            return Outcome(NO_QUESTION)
        if value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
            return Outcome(NO_ANSWER)
        shown = version.tasks.get(task)
        if shown is None or shown.problem:
            return Outcome(REJECTED, task, shown.problem if shown else "this workflow version has no such task")
        if not shown.is_single:
            return Outcome(NOT_SINGLE)
        label, problem = _label(task, value, shown.labels, version.name)
        if not problem and label not in self.columns[task]:
            problem = f"unknown answer {label[:80]!r}"
        return Outcome(REJECTED, task, problem) if problem else Outcome(VOTE, task, self.columns[task][label])


def _columns_by_label(questions: QuestionTree) -> dict[str, dict[str, str]]:
    columns: dict[str, dict[str, str]] = {q.task: {} for q in questions}
    for question in questions:
        for label, column in ((label, question.column(a.name)) for a in question.answers for label in a.labels):
            if columns[question.task].setdefault(normalise_label(label), column) != column:
                raise InputError(f"question {question.name}: two answers have the label {label!r}")
    return columns


def _problem(row: object, id_: str, links: Row, user: str | None) -> str:
    """Why a classification cannot be read under any workflow, in this order; "" if it can."""
    subjects = as_list(links.get("subjects"))
    problems = (
        (not isinstance(row, dict), "not an object"),
        (isinstance(row, Unreadable), getattr(row, "reason", "")),
        (not id_, "no usable classification id"),
        (len(subjects) > 1, f"{len(subjects)} subjects, expected one"),
        (not subjects or subjects[0] in (None, ""), "no subject"),
        (not all(map(ids.zooniverse_id, subjects)), "the subject is not an id"),
        (user is None, "the user is neither an id nor empty"),
    )
    return next((reason for is_so, reason in problems if is_so), "")


def _set_aside(kind: str, annotations: object, reason: str = "") -> Judgement:
    """The judgement on a classification of which no answer counts."""
    tasks = [as_text(as_mapping(a).get("task")) for a in _without_combos(as_list(annotations))] or [""]
    return Judgement(False, tuple(Outcome(kind, task, reason) for task in tasks))


def _says(value: object, *words: str) -> bool:
    return str(value).strip().casefold() in words if isinstance(value, bool | int | str) else False


def _without_combos(annotations: list[Any]) -> Iterator[object]:
    stack = annotations[::-1]  # not recursion: the sender decides how deep the nesting is
    while stack:
        annotation = stack.pop()
        value = as_mapping(annotation).get("value")
        if isinstance(value, list) and any("task" in as_mapping(part) for part in value):
            stack.extend(reversed(value))
        else:
            yield annotation


def _label(task: str, value: Any, labels: tuple[str, ...], version: str) -> tuple[str, str]:
    """The normalised label of an answer, or why it has none."""
    if isinstance(value, str):
        return normalise_label(as_text(value)), ""
    if isinstance(value, bool) or not isinstance(value, int):
        return "", f"unknown answer of type {type(value).__name__}, expected an index or a label"
    if not 0 <= value < len(labels):
        return "", f"unknown answer {as_text(value) or 'of many digits'}; this workflow version has {len(labels)}"
    return labels[value], "" if labels[value] else missing_label(task, value, version)
