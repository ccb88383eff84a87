"""Read classifications, from rows or files, into one DuckDB table with a judgement for each.

DuckDB reads files in parallel and out of core; they do not pass through Python row by row. The judgement on a
classification depends only on its workflow, version and annotations, so Python judges each such key once. Rows with
anything unusual in their other fields (two subjects, an id that is not a number, ...) are set aside and judged one by
one in Python, by the same ``judge.Judge``. So are lines and files that DuckDB cannot read.
"""

from __future__ import annotations

import glob
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from zoobot.errors import InputError
from zoobot.votes import classifications, json_text, raw_files
from zoobot.votes.classifications import EXPORT_COLUMNS, ExportLayout, api_rows
from zoobot.votes.judge import Counted, Judge, Judgement, Outcome
from zoobot.votes.rows import Unreadable

log = logging.getLogger("zoobot")

_BATCH = 1_000
_LEARN_FROM_BYTES, _N_LEARNED_FROM = 100_000_000, 100_000
_MAX_JUDGED = 100_000  # keys remembered from file to file

# ``judgement`` is below 0 if the classification takes nobody's turn; 0 means that the key is broken JSON. If a row is
# not yet judged, ``unjudged`` has its key or, if more than that must be judged, ``odd`` has the complete row as JSON.
_TABLES = """
CREATE TABLE classification (id BIGINT, id_text VARCHAR, subject VARCHAR, volunteer VARCHAR, session VARCHAR,
                             updated_at VARCHAR, judgement INTEGER, odd VARCHAR, unjudged VARCHAR);
CREATE TABLE judged (key VARCHAR, code INTEGER);
"""
_TEXTS = [(name, pa.string()) for name in ("id_text", "subject", "volunteer", "session", "updated_at")]
_SCHEMA = pa.schema(
    [("id", pa.int64()), *_TEXTS, ("judgement", pa.int32()), ("odd", pa.string()), ("unjudged", pa.string())]
)

# All that a judgement depends on, as JSON in one text; the workflow and the version contain no line breaks.
_KEY = "concat_ws(chr(10), coalesce(workflow, 'null'), coalesce(version, 'null'), annotations) AS key"
_FIND_JUDGEMENTS = """
UPDATE classification SET judgement = code, unjudged = NULL FROM judged WHERE unjudged = judged.key AND code <> 0
"""
# Broken JSON, a list of rows, or a page of the API: Python looks at the line again.
_NOTHING = """(classifications IS NOT NULL OR
    (id IS NULL AND updated_at IS NULL AND annotations IS NULL AND links IS NULL AND metadata IS NULL))"""
_ID = "[1-9][0-9]{0,17}"


def _dump(counted: Counted) -> str:
    # Values stay JSON here, where 28.30 and "28.30" differ.
    metadata = "workflow_version JSON, live_project JSON" + (", session JSON" if _per_session(counted) else "")
    return f"""
        SELECT *, links.workflow AS workflow, metadata.workflow_version AS version, {_KEY}
        FROM read_json($path, format = 'newline_delimited', ignore_errors = true, compression = $compression,
            columns = {{id: 'JSON', updated_at: 'VARCHAR', annotations: 'JSON', gold_standard: 'JSON',
            classifications: 'JSON', links: 'STRUCT("user" JSON, workflow JSON, subjects JSON)',
            metadata: 'STRUCT({metadata})'}})
    """


def _read_dump(counted: Counted) -> str:
    # The patterns match only what certainly means the same in Python.
    session = "metadata.session" if _per_session(counted) else "NULL::VARCHAR"
    return _insert(
        f"SELECT *, {session} AS session FROM ({_dump(counted)})",
        f"""coalesce(regexp_full_match(id, '"?{_ID}"?')
                AND regexp_full_match(links.subjects, '\\["?{_ID}"?\\]'), false)
            AND coalesce(regexp_full_match(links."user", '"?{_ID}"?'), true)
            AND {"true" if counted.before_launch else "coalesce(metadata.live_project = 'true', true)"}
            AND {"true" if counted.gold_standard else "coalesce(gold_standard = 'false', true)"}
            AND coalesce(regexp_full_match(session, '"[0-9A-Za-z-]+"'), true)""",
        """TRY_CAST(id AS BIGINT), NULL, links.subjects->>0, coalesce(links."user"->>'$', ''),
            coalesce(session->>'$', ''), coalesce(updated_at, '')""",
        f"""CASE WHEN {_NOTHING} THEN '' ELSE to_json({{id: id, updated_at: updated_at, annotations: annotations,
            links: links, metadata: metadata, gold_standard: gold_standard}})::VARCHAR END""",
    )


def _export(layout: ExportLayout) -> str:
    """The cells that are read, under our names: whatever else the file's columns are called stays outside of SQL."""
    cells = (
        f"coalesce(c{layout.at[name]}, '') AS {name}" if name in layout.at else f"'' AS {name}"
        for name in EXPORT_COLUMNS
    )
    return f"""
        SELECT *, to_json(workflow_id)::VARCHAR AS workflow, to_json(workflow_version)::VARCHAR AS version, {_KEY}
        FROM (SELECT {", ".join(cells)} FROM read_csv($path, header = true, auto_detect = false, delim = $delimiter,
            quote = '"', escape = '"', compression = $compression, columns = $columns))
    """


def _read_export(layout: ExportLayout, counted: Counted) -> str:
    session = "CASE WHEN readable AND metadata <> '' THEN json_extract(metadata, '$.session')::VARCHAR END"
    # Whatever may say that the project was not live is left to Python, escaped letters included.
    known = """replace(replace(metadata, '"live_project": true', ''), '"live_project":true', '')"""
    live = f"NOT contains(metadata, '\\u00') AND NOT contains({known}, 'live_project')"
    return _insert(
        f"""SELECT *, metadata = '' OR json_valid(metadata) AS readable,
            {session if _per_session(counted) else "NULL::VARCHAR"} AS session FROM ({_export(layout)})""",
        f"""readable AND regexp_full_match(classification_id, '{_ID}') AND regexp_full_match(subject_ids, '{_ID}')
            AND regexp_full_match(user_id, '({_ID})?')
            AND {"true" if counted.before_launch else live}
            AND {"true" if counted.gold_standard else "gold_standard IN ('', 'false')"}
            AND (session IS NULL OR regexp_full_match(session, '"[0-9A-Za-z-]+"'))""",
        """TRY_CAST(classification_id AS BIGINT), NULL, subject_ids, user_id, coalesce(trim(session, '"'), ''), ''""",
        f"to_json({{{', '.join(f'{cell}: {cell}' for cell in EXPORT_COLUMNS)}}})::VARCHAR",
    )


def _statements(path: Path, is_export: bool, counted: Counted) -> tuple[str, str, dict[str, Any]]:
    """What reads the cells of a file, what fills the table with them, and the values of both."""
    compression = "gzip" if raw_files.is_gzip(path) else "none"
    values: dict[str, Any] = {"path": glob.escape(str(path)), "compression": compression}
    if not is_export:
        return _dump(counted), _read_dump(counted), values
    layout = classifications.export_layout(path)
    values |= {"delimiter": layout.delimiter, "columns": {f"c{i}": "VARCHAR" for i in range(layout.n_columns)}}
    return _export(layout), _read_export(layout, counted), values


def _per_session(counted: Counted) -> bool:
    return counted.anonymous_repeats == "first_per_session"


def _insert(file: str, plain: str, columns: str, row: str) -> str:
    """Fill the table: ``columns`` up to ``updated_at``; ``row`` is the complete row as JSON, if it is not ``plain``."""
    return f"""
        WITH file AS ({file}), matched AS (SELECT file.*, code, {plain} AS plain FROM file LEFT JOIN judged USING (key))
        INSERT INTO classification
        SELECT {columns}, code, CASE WHEN NOT plain OR code = 0 THEN {row} END,
            CASE WHEN plain AND code IS NULL THEN key END
        FROM matched
    """


_FIND_NOTHING = f"""
WITH parsed AS (SELECT n, TRY(from_json(line, '{{"id": "JSON", "updated_at": "VARCHAR", "annotations": "JSON",
    "classifications": "JSON", "links": {{"user": "JSON"}}, "metadata": {{"session": "JSON"}}}}')) AS row FROM lines)
SELECT n FROM (SELECT n, unnest(row) FROM parsed) WHERE {_NOTHING}
UNION SELECT n FROM parsed WHERE row IS NULL
"""


class Intake:
    """Fills the table ``classification`` of a connection; ``codes`` gives each judgement's number."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, judge: Judge) -> None:
        self._connection, self._judge = connection, judge
        self._judgements = _Judgements(judge)
        self.codes = self._judgements.codes
        connection.execute(_TABLES)

    def add(self, items: Iterable[object]) -> None:
        """Take in rows; a ``Path`` among them stands for all rows of its file. InputError: a file cannot be read."""
        judged = map(self._judge.classification, self._rows(items))
        while batch := list(islice(judged, _BATCH)):
            columns = list(zip(*((*c[:6], self._judgements.code(c.judgement), None, None) for c in batch), strict=True))
            rows = pa.table([pa.array(c, t) for c, t in zip(columns, _SCHEMA.types, strict=True)], schema=_SCHEMA)
            self._connection.from_arrow(rows).insert_into("classification")

    def _rows(self, items: Iterable[object]) -> Iterator[object]:
        """The rows that Python has to judge."""
        for item in items:
            if not isinstance(item, Path):
                yield item
                continue
            try:
                yield from self._read(item)
            except (duckdb.IOException, OSError, EOFError, zlib.error) as error:
                raise InputError(f"{item} cannot be read completely: {error}") from error

    def _read(self, path: Path) -> Iterator[object]:
        """Read a file into the table, and yield the rows that Python has to judge."""
        is_export = _is_export(path)
        if raw_files.encoding(path) != "utf-8-sig" or (
            not raw_files.ends_with_a_line(path) if is_export else classifications.spans_lines(path)
        ):
            yield from _row_by_row(path, is_export)
            return
        file, statement, values = _statements(path, is_export, self._judge.counted)
        self._connection.execute(f"DELETE FROM judged WHERE (SELECT count(*) FROM judged) > {_MAX_JUDGED}")
        try:
            if path.stat().st_size > _LEARN_FROM_BYTES:
                self._judge_keys(f"SELECT key FROM ({file}) LIMIT {_N_LEARNED_FROM}", values)
            self._connection.execute(statement, values)
        except duckdb.InvalidInputException:
            yield from _row_by_row(path, is_export)
            return
        self._judge_keys("SELECT unjudged AS key FROM classification WHERE unjudged IS NOT NULL", {})
        self._connection.execute(_FIND_JUDGEMENTS)
        if self._connection.execute("DELETE FROM classification WHERE unjudged IS NOT NULL").fetchall() != [(0,)]:
            self._connection.execute(f"{statement} WHERE plain AND code = 0", values)  # these turned out to be odd
        yield from self._set_aside(path, is_export)

    def _judge_keys(self, keys: str, values: dict[str, Any]) -> None:
        """Judge the new ``keys`` and add them to ``judged``, where DuckDB finds them from then on."""
        new = f"SELECT DISTINCT key FROM ({keys}) ANTI JOIN judged USING (key)"
        cursor = self._connection.cursor().execute(new, values)  # a new cursor: rows are added while these are read
        while batch := cursor.fetchmany(_BATCH):
            texts = [text for (text,) in batch]
            columns = {
                "key": pa.array(texts, pa.string()),
                "code": pa.array(map(self._judgements.of, texts), pa.int32()),
            }
            self._connection.from_arrow(pa.table(columns)).insert_into("judged")

    def _set_aside(self, path: Path, is_export: bool) -> Iterator[object]:
        """Yield the odd rows, and remove them from the table."""
        n_nothing = 0
        # A separate cursor: rows are added while these are read.
        cursor = self._connection.cursor().execute("SELECT odd FROM classification WHERE odd IS NOT NULL")
        while batch := cursor.fetchmany(_BATCH):
            n_nothing += batch.count(("",))
            for text in (text for (text,) in batch if text):
                yield from (
                    [classifications.export_row(json.loads(text))] if is_export else api_rows(text.encode(), path.name)
                )
        self._connection.execute("DELETE FROM classification WHERE odd IS NOT NULL")
        if n_nothing:
            yield from self._lines_of_nothing(path, n_nothing)

    def _lines_of_nothing(self, path: Path, n_expected: int) -> Iterator[object]:
        """The lines in which DuckDB found nothing. Lines that do not look like an object are tried first, then all."""
        for only_suspects in (True, False):
            lines = list(self._numbered_nothing(path, only_suspects))
            if len(lines) >= n_expected:
                break
        for number, line in lines:
            yield from api_rows(line, f"line {number} of {path.name}")
        yield from [Unreadable(f"broken JSON in {path.name}")] * (n_expected - len(lines))

    def _numbered_nothing(self, path: Path, only_suspects: bool) -> Iterator[tuple[int, bytes]]:
        lines = (
            (number, line)
            for number, line in classifications.numbered_lines(path)
            if not (only_suspects and line[:1] == b"{" and line.rstrip()[-2:] in (b"}}", b'"}'))
        )
        while batch := list(islice(lines, _BATCH)):
            texts = [_decoded(line) for _, line in batch]
            numbered = {"line": pa.array(texts, pa.string()), "n": pa.array(range(len(texts)), pa.int64())}
            self._connection.register("lines", pa.table(numbered))
            yield from (batch[n] for (n,) in sorted(self._connection.execute(_FIND_NOTHING).fetchall()))


def _is_export(path: Path) -> bool:
    """Whether a file is an export or rows of the API: by its name, or by its content if the name does not say."""
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix
    if suffix in (".csv", ".jsonl", ".ndjson", ".json"):
        return suffix == ".csv"
    with raw_files.open_text(path) as file:
        return file.read(1000).lstrip()[:1] not in ("{", "[")


def _row_by_row(path: Path, is_export: bool) -> Iterator[object]:
    log.info("%s is read row by row, which takes longer: DuckDB cannot read it safely", path)
    yield from (classifications.read_export if is_export else classifications.read_api_dump)(path)


class _Judgements:
    """The number of each judgement, and the judgement on a key."""

    def __init__(self, judge: Judge) -> None:
        self.codes: dict[Judgement, int] = {}
        self._judge = judge
        # There are few different parts: most new annotations only combine known parts in a new way.
        self._alone = lru_cache(maxsize=10_000)(self._judge_alone)
        self._together = lru_cache(maxsize=10_000)(self._judge_together)

    def code(self, judgement: Judgement) -> int:
        number = len(self.codes) + 1
        return self.codes.setdefault(judgement, number if judgement.takes_turn else -number)

    def of(self, key: str) -> int:
        """The code for the JSON texts of a key; 0 if one is broken."""
        workflow, version, annotations = (*key.split("\n", 2), None)[:3]
        with suppress(ValueError, RecursionError):
            # If every part is a JSON object, the complete list is valid JSON.
            if (
                annotations
                and annotations.startswith("[{")
                and annotations.endswith("}]")
                and len(annotations) < 10_000
            ):
                with suppress(ValueError, RecursionError):
                    parts = annotations[2:-2].split("},{")
                    outcomes = [o for part in parts for o in self._alone(workflow, version, part)]
                    return self._together(workflow, version, tuple(outcomes))
            return self.code(self._judge.judgement(_json(workflow), _json(version), _json(annotations)))
        return 0

    def _judge_alone(self, workflow: str, version: str, part: str) -> list[Outcome]:
        return self._judge.alone(self._judge.version(_json(workflow), _json(version)), _json("{" + part + "}"))

    def _judge_together(self, workflow: str, version: str, outcomes: tuple[Outcome, ...]) -> int:
        return self.code(self._judge.together(self._judge.version(_json(workflow), _json(version)), outcomes))


def _json(text: str | None) -> object:
    return json_text.loads(text) if text else None  # an empty cell of an export means no annotations


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except ValueError:
        return None
