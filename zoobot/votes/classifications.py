"""Raw classifications and workflow versions, read from files; and the workflow that asks a set of questions.

Readers yield rows in the shape of the Zooniverse API, even from damaged input: ``votes.reduce`` judges them.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from zoobot.errors import InputError
from zoobot.galaxies.questions import Question, QuestionTree
from zoobot.votes import json_text
from zoobot.votes.raw_files import encoding, open_bytes, open_text
from zoobot.votes.rows import Json, Unreadable, as_list, as_mapping
from zoobot.votes.versions import read_versions

log = logging.getLogger("zoobot")
EXPORT_IDS = ("classification_id", "subject_ids", "user_id", "workflow_id", "workflow_version")
EXPORT_JSON = ("metadata", "annotations")
GOLD = "gold_standard"  # the only column that an export may lack
EXPORT_COLUMNS = (*EXPORT_IDS, *EXPORT_JSON, GOLD)
_DELIMITERS = ",;\t"  # spreadsheets write the last two
_WHERE_VERSIONS_ARE = (
    "Expected the JSON of https://www.zooniverse.org/api/workflow_versions?workflow_id=ID, or the CSV of workflows that"
    " the project builder exports (Data Exports, Request new workflow export)."
)
_ID_AT_THE_START = re.compile(rb'\s*\{\s*"id"\s*:\s*"?([0-9]{1,18})\b')


# --------------------------------------------------------------- rows of the API


def read_api_dump(path: str | Path) -> Iterator[Json]:
    """The rows of a file of JSON: one row per line, or arrays or saved pages of the API. InputError: it does not exist,
    or a JSON value that spans several lines is broken.

    A line that cannot be read becomes a row that ``reduce`` rejects, naming the line's number. Like ``read_export``, it
    raises only when its first row is requested.
    """
    if spans_lines(path):
        with open_text(path) as text:
            yield from (row for value in json_text.values(text, str(path)) for row in rows_in(value, Path(path).name))
        return
    for number, line in numbered_lines(path):
        yield from api_rows(line, f"line {number} of {Path(path).name}")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file in UTF-8 and their numbers, without blank ones."""
    if encoding(path) == "utf-8-sig":
        with open_bytes(path) as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    else:
        with open_text(path) as text:
            yield from ((number, line.encode()) for number, line in enumerate(text, start=1) if line.strip())


def spans_lines(path: str | Path) -> bool:
    """Whether the file begins with an array or object that spans several lines, instead of one row per line."""
    first = next((line for _, line in numbered_lines(path)), b"").strip().removeprefix(b"\xef\xbb\xbf").strip()
    return first == b"{" or first.startswith(b"[")


def api_rows(line: bytes, where: str) -> list[Json]:
    """The rows in one line of JSON: mostly one. ``Unreadable`` if it is none."""
    try:
        text = line.decode("utf-8-sig")
        try:
            values = [json_text.loads(text)]
        except ValueError:
            values = json_text.loads_all(text)
    except (ValueError, RecursionError):
        known = _ID_AT_THE_START.match(line)
        return [Unreadable(f"broken JSON in {where}", {"id": known[1].decode()} if known else None)]
    return [row for value in values for row in rows_in(value, where)]


def rows_in(value: object, where: str) -> list[Json]:
    """The rows in a JSON value: a row, a list of rows, or a page of the API."""
    if isinstance(value, dict):
        page = value.get("classifications")
        return [row for each in page for row in rows_in(each, where)] if isinstance(page, list) else [value]
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return [row for each in value for row in rows_in(each, where)]
    return [Unreadable(f"{where} is not an object")]


# --------------------------------------------------------------- exports


@dataclass(frozen=True)
class ExportLayout:
    """How an export is written: its delimiter, how many columns it has, and where those are that are read."""

    delimiter: str
    n_columns: int
    at: dict[str, int]


def export_layout(path: str | Path) -> ExportLayout:
    """InputError: the file does not exist, or a column that is needed is not there, or is there twice."""
    names_by_delimiter = {delimiter: header(path, delimiter) for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda each: len(set(EXPORT_COLUMNS) & set(names_by_delimiter[each])))
    names = names_by_delimiter[delimiter]
    missing = [name for name in (*EXPORT_IDS, *EXPORT_JSON) if name not in names]
    twice = [name for name in EXPORT_COLUMNS if names.count(name) > 1]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}. Is it an export of classifications? Its columns are"
            f" {', '.join(names)[:300] or '(none)'}"
        )
    if twice:
        raise InputError(f"{path} has two columns called {', '.join(twice)}. Remove or rename the one that was added.")
    return ExportLayout(delimiter, len(names), {name: names.index(name) for name in EXPORT_COLUMNS if name in names})


def header(path: str | Path, delimiter: str = ",") -> list[str]:
    """The names of a CSV's columns. InputError: the file does not exist, or is not CSV."""
    with open_text(path) as file:
        return next(_csv_rows(file, path, delimiter), [])


def records(path: str | Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV as cells by column; cells that a row lacks are empty. InputError: see ``header``."""
    with open_text(path) as file:
        rows = _csv_rows(file, path, ",")
        names = next(rows, [])
        for cells in rows:
            yield dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))


def _csv_rows(lines: Iterable[str], path: str | Path, delimiter: str) -> Iterator[list[str]]:
    """The rows of a CSV without blank ones. InputError: it is not CSV."""
    csv.field_size_limit(2**31 - 1)  # a drawing in another task exceeds the default of 128 kB
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        yield from filter(None, reader)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error


def read_export(path: str | Path) -> Iterator[Json]:
    """The rows of a Zooniverse classification export (CSV) in the shape of the API's; answers are labels, not indices.

    Ids and versions stay text. A row with broken JSON, with more or fewer cells than the header, or without an end of
    its line becomes one that ``reduce`` rejects. InputError: the file does not exist, lacks a column, or is not CSV.
    """
    layout, last_line = export_layout(path), ""

    def lines(file: TextIO) -> Iterator[str]:
        nonlocal last_line
        for line in file:
            last_line = line
            yield line

    with open_text(path) as file:
        rows = _csv_rows(lines(file), path, layout.delimiter)
        next(rows, None)  # the header
        for cells in rows:
            problem = ""
            if len(cells) != layout.n_columns:
                problem = f"a row with {len(cells)} cells, but the header has {layout.n_columns}"
            elif last_line[-1:] not in ("\n", "\r"):
                problem = "the last line has no end, so it may have been cut off"
            row = export_row({name: cells[at] for name, at in layout.at.items() if at < len(cells)})
            yield Unreadable(problem, row) if problem else row


def export_row(cells: Mapping[str, str]) -> Json:
    """A row of an export in the shape of the API's; ``Unreadable`` if it contains broken JSON."""
    id_text, subjects, user, workflow, version = (cells.get(column, "") for column in EXPORT_IDS)
    links = {"user": user or None, "workflow": workflow, "subjects": [x for x in subjects.split(";") if x.strip()]}
    row: Json = {"id": id_text, "links": links, GOLD: cells.get(GOLD)}
    broken = ""
    for column in EXPORT_JSON:
        try:
            row[column] = json_text.loads(cells[column]) if cells.get(column) else None
        except (ValueError, RecursionError):
            broken = f"broken JSON in {column}"
    metadata = row.get("metadata")
    row |= {"metadata": {**(metadata if isinstance(metadata, dict) else {}), "workflow_version": version}}
    return Unreadable(broken, row) if broken else row


# --------------------------------------------------------------- workflow versions


def read_workflow_versions(path: str | Path) -> list[Json]:
    """The versions of workflows in a file: JSON of the API, or the CSV of workflows that the project builder exports.

    What is odd about a version is logged. It spoils the answers that need it, and no others. InputError: no version is
    there.
    """
    with open_text(path) as file:
        start = file.read(1000).lstrip()
    records = _versions_in_json(path) if start[:1] in ("{", "[") else _versions_in_csv(path)
    if not records:
        raise InputError(f"{path} holds no workflow version. {_WHERE_VERSIONS_ARE}")
    _, odd = read_versions(records)
    for problem in odd[:5]:
        log.warning("%s: %s", path, problem)
    if odd:
        log.warning("%s: %d such problems in all. Answers that need what is missing are rejected", path, len(odd))
    return records


def _versions_in_json(path: str | Path) -> list[Json]:
    try:
        with open_text(path) as file:
            content = json_text.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}. {_WHERE_VERSIONS_ARE}") from error
    if isinstance(content, dict):
        versions = content.get("workflow_versions")
        workflows = [_version_of_workflow(each) for each in as_list(content.get("workflows"))]
        content = versions if versions is not None else workflows
    return as_list(content)


def _version_of_workflow(workflow: object) -> Json:
    """A workflow of the API as its newest version."""
    fields = as_mapping(workflow)
    major, _, minor = str(fields.get("version")).partition(".")
    return {**fields, "major_number": major, "minor_number": minor, "links": {"workflow": fields.get("id")}}


def _versions_in_csv(path: str | Path) -> list[Json]:
    missing = {"workflow_id", "version", "minor_version", "tasks", "strings"} - set(header(path))
    if missing:
        raise InputError(f"{path} has no column {', '.join(sorted(missing))}. {_WHERE_VERSIONS_ARE}")
    return [
        {
            "links": {"workflow": cells["workflow_id"]},
            "major_number": cells["version"],
            "minor_number": cells["minor_version"],
            **{name: _json_or_none(cells[name]) for name in ("tasks", "strings")},
        }
        for cells in records(path)
    ]


def _json_or_none(text: str) -> Any:
    try:
        return json_text.loads(text)
    except (ValueError, RecursionError):
        return None


def workflow_of(questions: QuestionTree, version: str = "1.1") -> Json:
    """A workflow version, as the API gives it, with these questions; it names no workflow, so it matches any.

    An answer is shown by its first label; retired ones are not offered. ``next`` follows the path of the tree; if the
    path also depends on an earlier answer, all questions that may be on it are asked. InputError: ``version`` is not
    like 1.1.
    """
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)", version, re.ASCII):
        raise InputError(f"a workflow version is two whole numbers, such as 1.1, got {version!r}")
    asked = _in_asking_order(questions)
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


def _in_asking_order(questions: QuestionTree) -> list[tuple[Question, frozenset[str]]]:
    """Each question before those below it, with all answers that may have led to it. Not recursive: chains are long."""
    parent_of = {column: q.name for q in questions for column in q.all_columns}
    below: dict[str, list[Question]] = {}
    for question in questions:
        below.setdefault(parent_of[question.after[0]] if question.after else "", []).append(question)
    for siblings in below.values():  # questions that several answers lead to come after those of only one
        siblings.sort(key=lambda q: len(q.after))
    order = []
    left = [(q, frozenset[str]()) for q in reversed(below[""])]
    while left:
        question, before = left.pop()
        past = before | set(question.after)
        order.append((question, past))
        left += [(q, past) for q in reversed(below.get(question.name, []))]
    return order
