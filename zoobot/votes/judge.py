"""Judge the answers of one classification: rules 2 and 4 to 8 of zoobot/votes/reduction.py.

A judgement has one outcome for each answer, so the totals include everything that was read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from zoobot.errors import InputError
from zoobot.galaxies.questions import QuestionTree
from zoobot.votes.classifications import Row, Unreadable

VOTE = "vote"
REJECTED = "rejected"
NO_ANSWER = "no answer"
NO_QUESTION = "task without a question"
NOT_SINGLE = "not a single-choice task in this version"

# An image, a size after it, and the rest of an address with an unmatched parenthesis: "![a](b).png =60x) Smooth".
_IMAGE = re.compile(r"!\[.*?\]\((?:[^()]|\([^()]*\))*\)(?:[^\s()]*\.\w{3,4}(?:\s*=\d*x\d*)?\s*\))?(?:\s*=\d*x\d*)?")

_Offered: TypeAlias = dict[str, tuple[str, ...]]  # task -> normalised label of each index; () if not single-choice
_MAX_KNOWN = 100_000


class Outcome(NamedTuple):
    """The outcome of one answer. ``text`` is a vote's column or the reason of a rejection, otherwise empty."""

    kind: str
    task: str = ""
    text: str = ""


class Judgement(NamedTuple):
    """The outcome of every answer in a classification. If ``rejected_whole``, it does not count as its
    volunteer's turn.
    """

    rejected_whole: bool
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


@lru_cache(maxsize=10_000)
def normalise_label(text: str) -> str:
    """A label without image markdown, in lower case, with single spaces: the form in which answers are compared."""
    return " ".join(_IMAGE.sub(" ", text).split()).casefold()


@dataclass(frozen=True)
class Version:
    """What one version of a workflow offered."""

    offered: _Offered
    known: dict[tuple[Any, ...], Outcome] = field(default_factory=dict)  # outcomes of answers seen before


@dataclass(frozen=True)
class Judge:
    """Judges rows for a question set and the workflow versions that volunteers were shown."""

    questions: QuestionTree
    columns: dict[str, dict[str, str]]  # task -> normalised label -> vote column
    versions: dict[tuple[str, str], Version]  # workflow ("" if the record names none), version

    @classmethod
    def of(cls, questions: QuestionTree, workflow_versions: Sequence[Row]) -> Judge:
        """InputError: a workflow version is malformed, or two answers of a question share a label."""
        return cls(questions, _columns_by_label(questions), _offered_by_version(workflow_versions))

    def classification(self, row: object) -> Classification:
        """Judge a row in the shape of the Zooniverse API. Any value is judged; none raises."""
        fields = _mapping(row)
        links, metadata = _mapping(fields.get("links")), _mapping(fields.get("metadata"))
        id_text, subject = _text(fields.get("id")), ";".join(_text(s) for s in _list(links.get("subjects")))
        # A row that was cut off is not a copy of a complete one, so its id is only shown.
        usable = re.fullmatch(r"[0-9]{1,18}", id_text) and not isinstance(row, Unreadable)
        id_ = int(id_text) if usable else None
        annotations, problem = fields.get("annotations"), _problem(row, id_, links, subject)
        if problem:
            judgement = _rejected_whole(problem, annotations)
        else:
            judgement = self.judgement(links.get("workflow"), metadata.get("workflow_version"), annotations)
        user, session, updated_at = (
            _text(x) for x in (links.get("user"), metadata.get("session"), fields.get("updated_at"))
        )
        return Classification(id_, id_text, subject, user, session, updated_at, judgement)

    def judgement(self, workflow: object, version: object, annotations: object) -> Judgement:
        """The judgement on a row's annotations, if the rest of the row is valid."""
        if not isinstance(annotations, list | None):
            return _rejected_whole("the annotations are not a list", annotations)
        found = self.version(workflow, version)
        return self.together(found, [o for answer in _list(annotations) for o in self.alone(found, answer)])

    def alone(self, found: Version | str, annotation: object) -> list[Outcome]:
        """The outcome of one annotation, whatever the others are; a combo has an outcome for each of its answers."""
        answers = [_mapping(answer) for answer in _without_combos([annotation])]
        if isinstance(found, str):
            return [Outcome(REJECTED, _text(answer.get("task")), found) for answer in answers]
        return [self._outcome(answer, found) for answer in answers]

    def together(self, found: Version | str, outcomes: Sequence[Outcome]) -> Judgement:
        """The judgement on a row, from the outcomes that ``alone`` gave for its annotations."""
        if isinstance(found, str):
            return Judgement(True, tuple(outcomes) or (Outcome(REJECTED, text=found),))
        return Judgement(False, self._along_the_tree(outcomes) if outcomes else (Outcome(NO_ANSWER),))

    def version(self, workflow: object, version: object) -> Version | str:
        """What was offered, or why that is unknown. A number is not a version: 28.30 and 28.3 would be the same."""
        if not isinstance(version, str) or not version.strip():
            return "the workflow version is missing or not text"
        workflow = _text(workflow)
        for key in ((workflow, _text(version)), ("", _text(version))):
            if key in self.versions:
                return self.versions[key]
        if any(known in ("", workflow) for known, _ in self.versions):
            return f"unknown workflow version {_text(version)}"
        return f"unknown workflow {workflow or '(none named)'}"

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
            return self._judged(_text(task), value, version.offered)
        key = (task, value, type(value))
        if key not in version.known:
            if len(version.known) > _MAX_KNOWN:
                version.known.clear()
            version.known[key] = self._judged(_text(task), value, version.offered)
        return version.known[key]

    def _judged(self, task: str, value: Any, offered: _Offered) -> Outcome:
        if not task:
            return Outcome(REJECTED, task, "not an answer to a task")
        if task not in self.columns:
            return Outcome(NO_QUESTION)
        if value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
            return Outcome(NO_ANSWER)
        if offered.get(task) == ():
            return Outcome(NOT_SINGLE)
        label, problem = (
            _label(value, offered[task]) if task in offered else ("", "this workflow version has no such task")
        )
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


def _offered_by_version(workflow_versions: Sequence[Row]) -> dict[tuple[str, str], Version]:
    versions: dict[tuple[str, str], Version] = {}
    for number, record in enumerate(workflow_versions, start=1):
        offered: _Offered = {}
        try:
            workflow = _text(_mapping(record.get("links")).get("workflow"))
            version = f"{record['major_number']}.{record['minor_number']}"
            for task, body in record["tasks"].items():
                labels = [a["label"] for a in body["answers"]] if body.get("type") == "single" else []
                offered[task] = tuple(normalise_label(record.get("strings", {}).get(x, x)) for x in labels)
        except (KeyError, TypeError, AttributeError) as error:
            what = "expected major_number, minor_number, strings and tasks with type and answers, as from Zooniverse"
            raise InputError(f"workflow version {number} of {len(workflow_versions)}: {what}; {error!r}") from error
        if versions.setdefault((workflow, version), Version(offered)).offered != offered:
            raise InputError(f"workflow version {version} appears twice for the same workflow, with different answers")
    return versions


def _problem(row: object, id_: int | None, links: Row, subject: str) -> str:
    """Why a classification cannot be read under any workflow; "" if it can."""
    n_subjects, user = len(_list(links.get("subjects"))), links.get("user")
    problems = (
        (not isinstance(row, dict), "not an object"),
        (isinstance(row, Unreadable), getattr(row, "reason", "")),
        (id_ is None, "no usable classification id"),
        (n_subjects > 1, f"{n_subjects} subjects, expected one"),
        (not subject, "no subject"),
        (user not in (None, "") and not _text(user), "the user is neither an id nor null"),
    )
    return next((reason for is_so, reason in problems if is_so), "")


def _rejected_whole(problem: str, annotations: object) -> Judgement:
    tasks = [_text(_mapping(a).get("task")) for a in _without_combos(_list(annotations))] or [""]
    return Judgement(True, tuple(Outcome(REJECTED, task, problem) for task in tasks))


def _without_combos(annotations: list[Any]) -> Iterator[object]:
    stack = annotations[::-1]  # not recursion: the sender decides how deep the nesting is
    while stack:
        annotation = stack.pop()
        value = _mapping(annotation).get("value")
        if isinstance(value, list) and any("task" in _mapping(part) for part in value):
            stack.extend(reversed(value))
        else:
            yield annotation


def _label(value: Any, labels: tuple[str, ...]) -> tuple[str, str]:
    """The normalised label of an answer, or why it has none."""
    if isinstance(value, str):
        return normalise_label(_text(value)[:1000]), ""  # cut: a text of megabytes would keep the pattern busy
    if isinstance(value, bool) or not isinstance(value, int):
        return "", f"unknown answer of type {type(value).__name__}, expected an index or a label"
    if not 0 <= value < len(labels):
        return "", f"unknown answer {_text(value) or 'of many digits'}; this workflow version has {len(labels)}"
    return labels[value], ""


def _mapping(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    """An id or a name as text that a file can hold; "" for neither text nor a whole number of at most 18 digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else ""
    return value.strip().encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else ""
