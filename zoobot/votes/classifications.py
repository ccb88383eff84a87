"""Raw classifications and workflow versions, read from files; and the workflow that asks a set of questions.

Readers yield rows in the shape of the Zooniverse API, even from damaged input: ``votes.reduce`` judges them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from zoobot.errors import InputError
from zoobot.galaxies.questions import Question, QuestionTree

Json: TypeAlias = dict[str, Any]  # an object of the Zooniverse API, with any content
Row: TypeAlias = Mapping[str, Any]  # such an object that is only read
EXPORT_IDS = ("classification_id", "subject_ids", "user_id", "workflow_id", "workflow_version")
EXPORT_JSON = ("metadata", "annotations")
_ID_AT_THE_START = re.compile(rb'\s*\{\s*"id"\s*:\s*"?([0-9]{1,18})\b')


# The first of equal keys counts. All keys keep their order, because rows are stored as the API gave them.
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: dict(reversed(dict(reversed(pairs)).items())))


class Unreadable(dict[str, Any]):
    """An incomplete row: what could be read of it, and the ``reason``."""

    def __init__(self, reason: str, fields: Json | None = None) -> None:
        super().__init__(fields or {})
        self.reason = reason


def read_api_dump(path: str | Path) -> Iterator[Json]:
    """The rows of a file with one JSON object of the Zooniverse API per line. InputError: the file does not exist.

    A line that cannot be read becomes a row that ``reduce`` rejects, naming the line's number. Like ``read_export``, it
    raises only when its first row is requested.
    """
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield api_row(line, f"line {number} of {Path(path).name}")


def api_row(line: bytes, where: str) -> Json:
    """The row in one line of JSON; ``Unreadable`` if it is not an object."""
    try:
        row = loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        known = _ID_AT_THE_START.match(line)
        return Unreadable(f"broken JSON in {where}", {"id": known[1].decode()} if known else None)
    return row if isinstance(row, dict) else Unreadable(f"{where} is not an object")


def loads(text: str) -> Any:
    """JSON as DuckDB reads it: the first of equal keys counts. ValueError, RecursionError: the JSON is broken."""
    return _DECODER.decode(text)


def read_export(path: str | Path) -> Iterator[Json]:
    """The rows of a Zooniverse classification export (CSV) in the shape of the API's; answers are labels, not indices.

    Ids and versions stay text. A row with broken JSON becomes one that ``reduce`` rejects. InputError: the file does
    not exist, lacks a column, or is not CSV.
    """
    csv.field_size_limit(2**31 - 1)  # a drawing in another task exceeds the default of 128 kB
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, restval="")
        try:
            _require_columns(path, reader.fieldnames or ())
            for cells in reader:
                yield export_row(cells)
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error


def read_workflow_versions(path: str | Path) -> list[Json]:
    """The versions in a JSON file as the API gives it, ``{"workflow_versions": [...]}``. InputError: it is not."""
    try:
        content = json.loads(existing(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    versions = content.get("workflow_versions") if isinstance(content, dict) else None
    if not isinstance(versions, list) or not versions or not all(isinstance(version, dict) for version in versions):
        raise InputError(f'{path}: expected {{"workflow_versions": [...]}} with at least one, as Zooniverse gives it')
    return versions


def workflow_of(questions: QuestionTree, version: str = "1.1") -> Json:
    """A workflow version, as the API gives it, with these questions; it names no workflow, so it matches any.

    An answer is shown by its first label; retired ones are not offered. ``next`` follows the path of the tree; if the
    path also depends on an earlier answer, all questions that may be on it are asked. InputError: ``version`` is not
    like 1.1.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)", version, re.ASCII):
        raise InputError(f"a workflow version is two whole numbers, such as 1.1, got {version!r}")
    asked = _in_asking_order(questions, None, frozenset())
    tasks, strings = {}, {}
    for position, (question, past) in enumerate(asked, start=1):
        answers = []
        for index, answer in enumerate(a for a in question.answers if not a.retired):
            label = f"{question.task}.answers.{index}.label"
            strings[label] = answer.labels[0]
            given = past | {question.column(answer.name)}
            following = [q.task for q, _ in asked[position:] if not q.after or given & set(q.after)]
            answers.append({"label": label, "next": following[0]} if following else {"label": label})
        text = f"{question.task}.question"
        strings[text] = question.name
        tasks[question.task] = {"type": "single", "question": text, "required": True, "answers": answers}
    major, minor = map(int, version.split("."))
    first = questions.root.task
    return {"major_number": major, "minor_number": minor, "first_task": first, "tasks": tasks, "strings": strings}


def _in_asking_order(
    questions: QuestionTree, parent: Question | None, past: frozenset[str]
) -> list[tuple[Question, frozenset[str]]]:
    """The questions below ``parent``, each before those below it, with all answers that may have led to it."""
    below = [q for q in questions if (set(q.after) & set(parent.all_columns) if parent else not q.after)]
    below.sort(key=lambda q: len(q.after))  # questions that several answers lead to come after those of only one
    pasts = [past | set(q.after) for q in below]
    return [p for q, to in zip(below, pasts, strict=True) for p in ((q, to), *_in_asking_order(questions, q, to))]


def export_columns(path: str | Path) -> list[str]:
    """The header of an export. InputError: the file does not exist, or lacks a column."""
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            header = next(csv.reader(file), [])
        except csv.Error as error:
            raise InputError(f"{path}, line 1: not valid CSV: {error}") from error
    _require_columns(path, header)
    return header


def _require_columns(path: str | Path, header: Sequence[str]) -> None:
    missing = [c for c in (*EXPORT_IDS, *EXPORT_JSON) if c not in header]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}. Is it an export of classifications?")


def open_bytes(path: str | Path) -> BinaryIO:
    """The bytes of a file, decompressed if its name ends in .gz. InputError: the file does not exist."""
    return cast(BinaryIO, (gzip.open if Path(path).suffix == ".gz" else open)(existing(path), "rb"))


def existing(path: str | Path) -> Path:
    """The path. InputError: the file does not exist."""
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    return Path(path)


def export_row(cells: Mapping[str, str]) -> Json:
    """A row of an export in the shape of the API's; ``Unreadable`` if it contains broken JSON."""
    id_text, subjects, user, workflow, version = (cells[column] for column in EXPORT_IDS)
    links = {"user": user or None, "workflow": workflow, "subjects": [x for x in subjects.split(";") if x.strip()]}
    row: Json = {"id": id_text, "links": links}
    broken = ""
    for column in EXPORT_JSON:
        try:
            row[column] = loads(cells[column]) if cells[column] else None
        except (ValueError, RecursionError):
            broken = f"broken JSON in {column}"
    metadata = row.get("metadata")
    row |= {"metadata": {**(metadata if isinstance(metadata, dict) else {}), "workflow_version": version}}
    return Unreadable(broken, row) if broken else row
