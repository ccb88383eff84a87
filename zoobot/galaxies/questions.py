"""Questions, their answers, and which answer leads to which question.

A question set is one YAML file (in configs/questions/, or the user's). Votes for answer A of question Q are counted in
the column ``Q_A``, their sum in ``Q_total-votes``, as in the published GZ DECaLS catalogs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from zoobot.errors import InputError
from zoobot.galaxies.question_file import line_of, read_question_file
from zoobot.settings.paths import CONFIGS

QUESTION_SETS_DIR = CONFIGS / "questions"


@dataclass(frozen=True)
class Answer:
    """One answer. ``labels`` are the texts that volunteers see; a retired answer keeps its votes but is no longer
    offered.
    """

    name: str
    labels: tuple[str, ...]
    retired: bool = False


@dataclass(frozen=True)
class Question:
    """One question. ``after`` holds the vote columns of the answers that lead to it; empty for a question that is
    always asked.
    """

    name: str
    task: str
    answers: tuple[Answer, ...]
    after: tuple[str, ...] = ()

    def column(self, answer: str) -> str:
        """The vote column of one answer."""
        return f"{self.name}_{answer}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The vote columns of the answers that are offered, in order."""
        return tuple(self.column(a.name) for a in self.answers if not a.retired)

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The vote columns of all answers, retired ones last."""
        return tuple(self.column(a.name) for a in self.answers)

    @property
    def total(self) -> str:
        """The column with the sum of all votes for this question."""
        return f"{self.name}_total-votes"


@dataclass(frozen=True)
class QuestionTree:
    """All questions of a survey, parents before children; the first is asked about every galaxy."""

    questions: tuple[Question, ...]

    def __iter__(self) -> Iterator[Question]:
        return iter(self.questions)

    def __len__(self) -> int:
        return len(self.questions)

    @cached_property
    def _by_name(self) -> dict[str, Question]:
        return {question.name: question for question in self.questions}

    def __getitem__(self, name: str) -> Question:
        if name not in self._by_name:
            raise InputError(f"there is no question {name!r}; the questions are {', '.join(q.name for q in self)}")
        return self._by_name[name]

    @property
    def root(self) -> Question:
        """The question asked about every galaxy: its votes decide whether a galaxy is retired."""
        return self.questions[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """The vote columns of all questions, retired answers and totals included."""
        return tuple(c for q in self for c in (*q.all_columns, q.total))

    def subset(self, names: Sequence[str]) -> QuestionTree:
        """Only these questions, in the order of the tree. If its parent is left out, a question is always asked."""
        wanted = {self[name].name for name in names}
        taken = [q for q in self if q.name in wanted]
        kept = {c for q in taken for c in q.all_columns}
        return QuestionTree(
            tuple(Question(q.name, q.task, q.answers, tuple(c for c in q.after if c in kept)) for q in taken)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``parse_questions`` reads them back."""
        return {
            q.name: {
                "task": q.task,
                "after": list(q.after),
                "answers": {a.name: list(a.labels) for a in q.answers if not a.retired},
                "retired": {a.name: list(a.labels) for a in q.answers if a.retired},
            }
            for q in self
        }


def load_questions(name: str) -> QuestionTree:
    """The question set ``configs/questions/{name}.yaml``, or the one in the YAML file at path ``name``."""
    is_path = name.lower().endswith((".yaml", ".yml")) or "/" in name
    path = Path(name) if is_path else QUESTION_SETS_DIR / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in QUESTION_SETS_DIR.glob("*.yaml")))
        raise InputError(
            f"survey.questions: there is no question set {path}. Use one of {known}, or the path of a YAML file."
        )
    return parse_questions(read_question_file(path), str(path))


def parse_questions(raw: object, where: str) -> QuestionTree:
    """Check and build a question set from plain values (the layout of ``configs/questions/gz2.yaml``)."""
    if not isinstance(raw, Mapping) or not raw:
        raise InputError(f"{where}: expected a mapping from question to its answers, got {_kind(raw)}")
    questions: list[Question] = []
    question_of: dict[str, str] = {}  # by vote column, of the questions so far
    for position, (name, body) in enumerate(raw.items()):
        place = f"{where}{line_of(raw, name)}: question {name}"
        question = _parse_question(str(name), body, f"T{position}", place)
        unknown = [c for c in question.after if c not in question_of]
        if unknown:
            raise InputError(f"{place} comes after {', '.join(unknown)}, which no earlier question has")
        if len({question_of[c] for c in question.after}) > 1:
            raise InputError(f"{place} comes after answers of several questions; use answers of one")
        questions.append(question)
        question_of |= dict.fromkeys(question.columns, question.name)
    if questions[0].after:
        raise InputError(f"{where}: the first question, {questions[0].name}, must be asked about every galaxy")
    tree = QuestionTree(tuple(questions))
    for what, names in (("task", [q.task for q in tree]), ("vote column", tree.columns)):
        repeated = sorted(name for name, times in Counter(names).items() if times > 1)
        if repeated:
            raise InputError(f"{where}: the {what} {', '.join(repeated)} is used more than once; rename one")
    return tree


def _kind(raw: object) -> str:
    return "a mapping without questions" if isinstance(raw, Mapping) else type(raw).__name__


def _parse_question(name: str, body: object, default_task: str, where: str) -> Question:
    if not isinstance(body, Mapping) or not isinstance(body.get("answers"), Mapping):
        raise InputError(f"{where}: expected `answers`, a mapping from answer to its labels")
    unknown = set(body) - {"task", "after", "answers", "retired"}
    if unknown:
        raise InputError(
            f"{where}: unknown key {', '.join(sorted(map(str, unknown)))}; known are task, after, answers, retired"
        )
    if not isinstance(body.get("retired") or {}, Mapping):
        raise InputError(f"{where}: expected `retired` to be a mapping from answer to its labels")
    answers = [
        _parse_answer(answer, labels, retired, f"{where}, answer {answer}{line_of(body[key], answer)}", where)
        for key, retired in (("answers", False), ("retired", True))
        for answer, labels in (body.get(key) or {}).items()
    ]
    if len(body["answers"]) < 2:
        raise InputError(f"{where}: a question needs at least two answers")
    after = _texts(body.get("after") or [], f"{where}, after{line_of(body, 'after')}")
    return Question(name, _texts([body.get("task") or default_task], where)[0], tuple(answers), after)


def _parse_answer(answer: object, labels: object, retired: bool, where: str, question: str) -> Answer:
    return Answer(_texts([answer], question)[0], _texts(labels or [answer], where), retired)


def _texts(values: object, where: str) -> tuple[str, ...]:
    if not isinstance(values, list | tuple):
        shown = type(values).__name__ if isinstance(values, Mapping) else values
        raise InputError(f"{where}: expected a list such as [{shown}], got {shown!r}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            shown = type(value).__name__ if isinstance(value, list | tuple | Mapping) else repr(value)
            raise InputError(f"{where}: {shown} is not text. Put it in quotes")
    return tuple(map(str, values))
