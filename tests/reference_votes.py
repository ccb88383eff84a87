"""The rules at the top of zoobot's reduction once more, in plain Python, to compare the reduction with.

Written from those nine rules alone. It imports nothing of zoobot and shares no code with it, so that a rule which
one of the two gets wrong shows as a difference. Clear beats fast. Questions are plain values, as
``QuestionTree.as_dict`` gives them.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from sys import intern
from typing import Any

SIZE = re.compile(r"\s*=\d*x\d*")  # of an image: " =60x"
SIZE_AT_THE_END = re.compile(r"\s+=\d*x\d*\s*(?=\))")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # which no file can hold
FILE_ENDING = re.compile(r"\S*\.\w{3,4}")  # "-small.png"
NOBODY = set(
    "NA N/A #N/A #NA <NA> nan -nan null none nil NaT undefined \\N 1.#QNAN -1.#QNAN 1.#IND -1.#IND".casefold().split()
) | {"", "#n/a n/a"}


@dataclass(slots=True)
class Broken:
    """A row of a file that cannot be read, and what could be read of it."""

    fields: dict[str, Any]


@dataclass(slots=True)
class Classification:
    """What the rules need of a row. ``answers`` are pairs of task and value; ``problem`` is why rule 2 rejects it."""

    id: int
    shown_id: str
    subject: str
    user: str
    session: str
    updated_at: str
    version: tuple[str, str]
    answers: list[tuple[str, Any]]
    problem: str
    left_out: str


@dataclass
class Counted:
    """The result: votes by subject and column (zeros left out), (id, subject, task, why), and what became of answers.

    ``tally`` has vote, rejected, duplicate, repeat, session repeat, before launch, gold standard, no answer, no
    question and not single.
    """

    votes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    rejected: list[tuple[str, str, str, str]] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    answers_read: int = 0


def count(
    rows: Iterable[object],
    questions: dict[str, Any],
    workflow_versions: Iterable[Any],
    anonymous_repeats: str = "all",
) -> Counted:
    """Go through the rules one after the other."""
    labels_shown = labels_by_version(workflow_versions)
    columns_of_task = {question["task"]: columns_by_label(name, question) for name, question in questions.items()}
    counted = Counted()
    classifications = [understood(row, labels_shown) for row in rows]
    counted.answers_read = sum(max(1, len(c.answers)) for c in classifications)

    # Rule 1. What has no usable id is no copy of anything. Which of two equally new copies counts is left open.
    newest: dict[int, Classification] = {}
    for c in classifications:
        if c.id >= 0 and (c.id not in newest or c.updated_at >= newest[c.id].updated_at):
            newest[c.id] = c
    for c in classifications:
        if c.id >= 0 and newest[c.id] is not c:
            counted.tally["duplicate"] += max(1, len(c.answers))

    # Rule 2.
    for c in [*(c for c in classifications if c.id < 0), *newest.values()]:
        if c.problem:
            reject(counted, c, [(task, c.problem) for task, _ in c.answers] or [("", c.problem)])

    # Rule 3.
    for c in newest.values():
        if c.left_out:
            counted.tally[c.left_out] += max(1, len(c.answers))

    # Rules 4 to 9, in the order of the ids.
    turns: set[tuple[str, str, str]] = set()
    for c in sorted((c for c in newest.values() if not c.problem and not c.left_out), key=lambda c: c.id):
        if c.user:
            turn = ("repeat", c.user, c.subject)
        elif c.session and anonymous_repeats == "first_per_session":
            turn = ("session repeat", c.session, c.subject)
        else:
            turn = ("", "", "")
        if turn in turns:
            counted.tally[turn[0]] += max(1, len(c.answers))
        else:
            count_answers(counted, c, questions, columns_of_task, labels_shown[c.version])
            if turn[0]:
                turns.add(turn)
    return counted


def count_answers(
    counted: Counted,
    c: Classification,
    questions: dict[str, Any],
    columns_of_task: dict[str, dict[str, str]],
    labels_of_task: dict[str, list[str] | None],
) -> None:
    """Rules 6 to 9 for one classification."""
    chosen: dict[str, str] = {}  # question -> vote column
    rejected: list[tuple[str, str]] = []
    question_of_task = {question["task"]: name for name, question in questions.items()}
    if not c.answers:
        counted.tally["no answer"] += 1
    for task, value in c.answers:
        what, column = worth(task, value, columns_of_task, labels_of_task)
        if what in ("no question", "no answer", "not single"):
            counted.tally[what] += 1
        elif what != "vote":
            rejected.append((task, what))
        elif question_of_task[task] in chosen:
            rejected.append((task, "answered twice"))
        else:
            chosen[question_of_task[task]] = column

    def is_on_the_path(question: str) -> bool:
        after = questions[question]["after"]
        return not after or any(column in after and is_on_the_path(other) for other, column in chosen.items())

    for question, column in chosen.items():
        if is_on_the_path(question):
            counted.tally["vote"] += 1
            counted.votes[c.subject][column] += 1
            counted.votes[c.subject][f"{question}_total-votes"] += 1
        else:
            rejected.append((questions[question]["task"], "off the path"))
    reject(counted, c, rejected)


def worth(
    task: str, value: Any, columns_of_task: dict[str, dict[str, str]], labels_of_task: dict[str, list[str] | None]
) -> tuple[str, str]:
    """Rules 6 and 7: "vote" and its column, or what becomes of the answer instead."""
    if not task:
        return "no task", ""
    if task not in columns_of_task:
        return "no question", ""
    if value is None or value == [] or value == {} or (isinstance(value, str) and not value.strip()):
        return "no answer", ""
    if task not in labels_of_task:
        return "not asked", ""
    labels = labels_of_task[task]
    if labels is None:
        return "not single", ""
    if isinstance(value, str):
        label = plain_label(value)
    elif type(value) is int and 0 <= value < len(labels):  # true and false are no indices
        label = labels[value]
    else:
        return "unknown answer", ""
    column = columns_of_task[task].get(label)
    return ("vote", column) if column else ("unknown answer", "")


def reject(counted: Counted, c: Classification, answers: list[tuple[str, str]]) -> None:
    """A row of ``rejected`` for each task and reason."""
    counted.tally["rejected"] += len(answers)
    counted.rejected += [(c.shown_id, c.subject, task, why) for task, why in answers]


def understood(row: object, labels_shown: dict[tuple[str, str], Any]) -> Classification:
    """A row in the shape of the Zooniverse API, whatever is in it. Rule 2's reasons go in the order of its words."""
    fields = row.fields if isinstance(row, Broken) else row
    subjects, user, annotations = (inside(fields, *path) for path in (
        ("links", "subjects"), ("links", "user"), ("annotations",)))  # fmt: skip
    subjects = subjects if isinstance(subjects, list) else []
    id_, version = inside(fields, "id"), inside(fields, "metadata", "workflow_version")
    workflow, number = inside(fields, "links", "workflow"), text(version) if isinstance(version, str) else ""
    known = next((key for key in ((plain_id(workflow), number), ("", number)) if key in labels_shown), None)
    problem = ""
    if not isinstance(row, dict):
        problem = "unreadable"
    elif not plain_id(id_):
        problem = "no id"
    elif len(subjects) != 1 or not plain_id(subjects[0]):
        problem = "not one subject"
    elif not plain_id(user) and not is_nobody(user):
        problem = "no such user"
    left_out = ""
    if not problem and says(inside(fields, "metadata", "live_project"), "false f no 0"):
        left_out = "before launch"
    elif not problem and says(inside(fields, "gold_standard"), "true t yes 1"):
        left_out = "gold standard"
    elif not problem and not (annotations is None or isinstance(annotations, list)):
        problem = "no list of answers"
    elif not problem and (known is None or not (plain_id(workflow) or workflow in (None, ""))):
        problem = "unknown version"
    return Classification(
        id=int(plain_id(id_)) if plain_id(id_) and not isinstance(row, Broken) else -1,
        shown_id=plain_id(id_) or text(id_),
        subject=";".join(plain_id(subject) or text(subject) for subject in subjects),
        user=plain_id(user),
        session=text(inside(fields, "metadata", "session")),
        updated_at=text(inside(fields, "updated_at")),
        version=known or ("", ""),
        answers=list(single_answers(annotations)),
        problem=problem,
        left_out=left_out,
    )


def plain_id(value: object) -> str:
    """A whole number above 0 of at most 18 digits, written as 11, "11", "011" or 11.0; "" if it is none."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() and value <= 2**53 else None
    if type(value) is int:
        return str(value) if 0 < value < 10**18 else ""
    found = re.fullmatch("([0-9]+)([.]0*)?", value.strip(), re.ASCII) if isinstance(value, str) else None
    digits = found[1].lstrip("0") if found else ""
    return digits if len(digits) <= 18 else ""


def is_nobody(value: object) -> bool:
    """How files say that a volunteer was not logged in."""
    if isinstance(value, str):
        word = value.strip().casefold()
        return word in NOBODY or word.startswith("not-logged-in") or bool(re.fullmatch("0+([.]0*)?", word))
    return value is None or (type(value) in (int, float) and (value == 0 or value != value))


def says(value: object, words: str) -> bool:
    """Whether a value is one of these words."""
    return type(value) in (bool, int, str) and str(value).strip().lower() in words.split()


def single_answers(annotations: object) -> Iterator[tuple[str, Any]]:
    """Rule 5: task and value of each answer, those inside combo tasks too. A combo's value is a list with tasks."""
    waiting = list(annotations) if isinstance(annotations, list) else []
    while waiting:
        answer = waiting.pop(0)
        value = inside(answer, "value")
        if isinstance(value, list) and any(isinstance(part, dict) and "task" in part for part in value):
            waiting = value + waiting
        else:
            # Tasks and labels are few: each is kept once, so that a million rows fit into memory.
            yield intern(text(inside(answer, "task"))), intern(value) if isinstance(value, str) else value


def columns_by_label(name: str, question: dict[str, Any]) -> dict[str, str]:
    """The vote column for each label of a question, in the form in which labels are compared."""
    answers = question["answers"] | question["retired"]
    return {plain_label(label): f"{name}_{answer}" for answer, labels in answers.items() for label in labels}


def labels_by_version(workflow_versions: Iterable[Any]) -> dict[tuple[str, str], dict[str, list[str] | None]]:
    """For each workflow ("" if none is named) and version: task -> the labels shown, None for other kinds of task."""
    shown: dict[tuple[str, str], dict[str, list[str] | None]] = {}
    for record in workflow_versions:
        version = plain_id(inside(record, "links", "workflow")), f"{record['major_number']}.{record['minor_number']}"
        tasks: dict[str, list[str] | None] = {}
        for task, body in record["tasks"].items():
            tasks[task] = None
            if body["type"] == "single":
                keys = [answer["label"] for answer in body["answers"]]
                tasks[task] = [plain_label(record["strings"].get(key, key)) for key in keys]
        shown[version] = tasks
    return shown


@cache
def plain_label(label: str) -> str:
    """A label without image markdown, case and spacing: ``![alt](address =60x) A  Disk`` is ``a disk``."""
    kept, whole = "", label
    while "![" in label:
        before, _, after = label.partition("![")
        alt, has_address, _ = after.partition("](")
        end = end_of_address(after, len(alt) + 2) if has_address and "\n" not in alt else 0
        kept += before + (" " if end else "![")
        label = after[end:]
    words = (kept + label).casefold().split()
    return " ".join(words or SIZE_AT_THE_END.sub("", whole).casefold().split())


def end_of_address(label: str, start: int) -> int:
    """Where an image's address ends, which may have pairs of parentheses in it; 0 if it does not."""
    depth = 1
    for end in range(start, len(label)):
        depth += {"(": 1, ")": -1}.get(label[end], 0)
        if depth == 0:
            break
    else:
        return 0
    end += 1
    rest, closed, _ = label[end:].partition(")")  # "![x](a).png) Smooth": the address itself has a lone parenthesis
    ending = FILE_ENDING.match(rest)
    if closed and ending and "(" not in rest and not SIZE.sub("", rest[ending.end() :]).strip():
        end += len(rest) + 1
    size = SIZE.match(label, end)
    return size.end() if size else end


def read(path: Path) -> Iterator[object]:
    """The rows of a dump of the API (a JSON object a line) or of an export (CSV), both also with .gz."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    if ".csv" in path.suffixes:
        with opened(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from rows_of_export(file)
    else:
        with opened(path, "rb") as file:
            yield from (row for line in file if line.strip() for row in rows_of_line(line))


def rows_of_line(line: bytes) -> list[object]:
    """The rows in one line of a dump: mostly one; or several, an array of them, or a page of the API."""
    rows: list[object] = []
    try:
        rest = line.decode("utf-8-sig").strip()
        try:
            return rows_in(parsed(rest))
        except ValueError:
            while rest := rest.lstrip(" \t\r\n,[]"):
                value, end = json.JSONDecoder(object_pairs_hook=first_of_each).raw_decode(rest)
                rows, rest = rows + rows_in(value), rest[end:]
    except (ValueError, RecursionError):
        return [Broken({})]
    return rows


def rows_in(value: object) -> list[object]:
    """The rows in a value of a dump."""
    if isinstance(value, dict) and isinstance(value.get("classifications"), list):
        return [row for each in value["classifications"] for row in rows_in(each)]
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return [row for each in value for row in rows_in(each)]
    return [value if isinstance(value, dict) else Broken({})]


def rows_of_export(file: Iterable[str]) -> Iterator[object]:
    """An export in the shape of the API. Its answers are labels, its empty cells are absent values."""
    csv.field_size_limit(10**9)
    texts = list(file)
    lines = csv.reader(texts)
    header = next(lines)
    for line in filter(None, lines):
        cells = dict.fromkeys([*header, "gold_standard"], "") | dict(zip(header, line, strict=False))
        values: dict[str, Any] = {}
        ends = texts[lines.line_num - 1].endswith(("\n", "\r"))
        broken = len(line) != len(header) or not ends
        for column in ("metadata", "annotations"):
            try:
                values[column] = parsed(cells[column]) if cells[column] else None
            except (ValueError, RecursionError):
                broken = True
        row = {
            "id": cells["classification_id"],
            "annotations": values.get("annotations"),
            "gold_standard": cells["gold_standard"],
            "links": {
                "workflow": cells["workflow_id"],
                "user": cells["user_id"],
                "subjects": [subject for subject in cells["subject_ids"].split(";") if subject.strip()],
            },
            "metadata": {
                "session": inside(values, "metadata", "session"),
                "live_project": inside(values, "metadata", "live_project"),
                "workflow_version": cells["workflow_version"],
            },
        }
        yield Broken(row) if broken else row


def first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands twice in an object, the first counts."""
    return dict(reversed(pairs))


def parsed(json_text: str) -> Any:
    """A JSON value, in which a comma may stand before a closing bracket, and nan and inf for a number."""
    try:
        return json.loads(json_text, object_pairs_hook=first_of_each)
    except ValueError:
        return json.loads(strict_json(json_text), object_pairs_hook=first_of_each)


def strict_json(json_text: str) -> str:
    """The same without what only some readers of JSON accept. Texts in quotes are left as they are."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', json_text, flags=re.DOTALL)
    for i in range(0, len(parts), 2):
        following = re.sub(r",(\s*[\]}])", r"\1", parts[i])
        following = re.sub(r"\bnan\b", "NaN", following, flags=re.IGNORECASE)
        parts[i] = re.sub(r"\binf(inity)?\b", "Infinity", following, flags=re.IGNORECASE)
    return "".join(parts)


def inside(value: Any, *keys: str) -> Any:
    """What stands there in nested objects; None if nothing does."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text(value: object) -> str:
    """An id or a name, which may be text or a whole number: 7 and "7" are the same. "" if it is neither."""
    if type(value) is int:
        return str(value) if -(10**18) < value < 10**18 else ""
    if not isinstance(value, str):
        return ""
    return LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):x}", value.strip())
