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
from zoobot.votes import classifications
from zoobot.votes.classifications import EXPORT_IDS, EXPORT_JSON, Unreadable, api_row, open_bytes
from zoobot.votes.judge import Judge, Judgement, Outcome

log = logging.getLogger("zoobot")

DUMPS, EXPORTS = (".jsonl", ".ndjson"), (".csv",)  # each also with .gz
_BATCH = 1_000
_LEARN_FROM_BYTES, _N_LEARNED_FROM = 100_000_000, 100_000
_MAX_JUDGED = 100_000  # keys remembered from file to file

# ``judgement`` is below 0 if it rejects the complete classification; 0 means that the key is broken JSON. If a row is
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
_NOTHING = "id IS NULL AND updated_at IS NULL AND annotations IS NULL AND links IS NULL AND metadata IS NULL"


def _dump(sessions: bool) -> str:
    # Values stay JSON here, where 28.30 and "28.30" differ.
    return f"""
        SELECT *, links.workflow AS workflow, metadata.workflow_version AS version, {_KEY}
        FROM read_json($path, format = 'newline_delimited', ignore_errors = true, columns = {{
            id: 'JSON', updated_at: 'VARCHAR', annotations: 'JSON',
            links: 'STRUCT("user" JSON, workflow JSON, subjects JSON)',
            metadata: 'STRUCT({"session JSON, " if sessions else ""}workflow_version JSON)'}})
    """


def _read_dump(sessions: bool) -> str:
    # The patterns match only what certainly means the same in Python.
    session = "metadata.session" if sessions else "NULL::VARCHAR"
    return _insert(
        f"SELECT *, {session} AS session FROM ({_dump(sessions)})",
        """coalesce(regexp_full_match(id, '"?(0|[1-9][0-9]{0,17})"?')
                AND regexp_full_match(links.subjects, '\\["?[0-9]{1,18}"?\\]'), false)
            AND coalesce(regexp_full_match(links."user", '"?[0-9]{1,18}"?'), true)
            AND coalesce(regexp_full_match(session, '"[0-9A-Za-z-]+"'), true)""",
        """TRY_CAST(id AS BIGINT), NULL, links.subjects->>0, coalesce(links."user"->>'$', ''),
            coalesce(session->>'$', ''), coalesce(updated_at, '')""",
        f"""CASE WHEN {_NOTHING} THEN '' ELSE to_json({{id: id, updated_at: updated_at, annotations: annotations,
            links: links, metadata: metadata}})::VARCHAR END""",
    )


def _export() -> str:
    return f"""
        SELECT {", ".join(f"coalesce({cell}, '') AS {cell}" for cell in (*EXPORT_IDS, *EXPORT_JSON))},
            to_json(workflow_id)::VARCHAR AS workflow, to_json(workflow_version)::VARCHAR AS version, {_KEY}
        FROM read_csv($path, header = true, auto_detect = false, delim = ',', quote = '"', escape = '"',
                      columns = $columns)
    """


def _read_export(sessions: bool) -> str:
    session = "CASE WHEN readable AND metadata <> '' THEN json_extract(metadata, '$.session')::VARCHAR END"
    return _insert(
        f"""SELECT *, metadata = '' OR json_valid(metadata) AS readable,
            {session if sessions else "NULL::VARCHAR"} AS session FROM ({_export()})""",
        """readable AND regexp_full_match(classification_id, '0|[1-9][0-9]{0,17}')
            AND regexp_full_match(subject_ids, '[0-9]{1,18}') AND regexp_full_match(user_id, '[0-9]{0,18}')
            AND (session IS NULL OR regexp_full_match(session, '"[0-9A-Za-z-]+"'))""",
        """TRY_CAST(classification_id AS BIGINT), NULL, subject_ids, user_id, coalesce(trim(session, '"'), ''), ''""",
        f"to_json({{{', '.join(f'{cell}: {cell}' for cell in (*EXPORT_IDS, *EXPORT_JSON))}}})::VARCHAR",
    )


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
    "links": {{"user": "JSON"}}, "metadata": {{"session": "JSON"}}}}')) AS row FROM lines)
SELECT n FROM (SELECT n, unnest(row) FROM parsed) WHERE {_NOTHING}
UNION SELECT n FROM parsed WHERE row IS NULL
"""


class Intake:
    """Fills the table ``classification`` of a connection; ``codes`` gives each judgement's number."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, judge: Judge, sessions: bool) -> None:
        self._connection, self._judge, self._sessions = connection, judge, sessions
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
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        if suffix not in (*DUMPS, *EXPORTS):
            expected = f"{', '.join(DUMPS)} (rows of the API) or {', '.join(EXPORTS)} (an export), with or without .gz"
            raise InputError(f"{path}: the name must end in {expected}; it says how to read the file")
        is_export = suffix in EXPORTS
        slow = classifications.read_export if is_export else classifications.read_api_dump
        statement = (_read_export if is_export else _read_dump)(self._sessions)
        values: dict[str, Any] = {"path": glob.escape(str(classifications.existing(path)))}
        if is_export:
            values["columns"] = dict.fromkeys(classifications.export_columns(path), "VARCHAR")
        self._connection.execute(f"DELETE FROM judged WHERE (SELECT count(*) FROM judged) > {_MAX_JUDGED}")
        try:
            if path.stat().st_size > _LEARN_FROM_BYTES:
                file = _export() if is_export else _dump(self._sessions)
                self._judge_keys(f"SELECT key FROM ({file}) LIMIT {_N_LEARNED_FROM}", values)
            self._connection.execute(statement, values)
        except duckdb.InvalidInputException:
            log.info("%s: DuckDB cannot read this file. It is read row by row, which takes longer", path)
            yield from slow(path)
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
                yield classifications.export_row(json.loads(text)) if is_export else api_row(text.encode(), path.name)
        self._connection.execute("DELETE FROM classification WHERE odd IS NOT NULL")
        if n_nothing:
            yield from self._lines_of_nothing(path, n_nothing)

    def _lines_of_nothing(self, path: Path, n_expected: int) -> Iterator[object]:
        """The lines in which DuckDB found nothing. Lines that do not look like an object are tried first, then all."""
        for only_suspects in (True, False):
            rows: list[object] = []
            for number, line in self._numbered_nothing(path, only_suspects):
                rows.append(api_row(line, f"line {number} of {path.name}"))
            if len(rows) >= n_expected:
                break
        yield from rows
        yield from [Unreadable(f"broken JSON in {path.name}")] * (n_expected - len(rows))

    def _numbered_nothing(self, path: Path, only_suspects: bool) -> Iterator[tuple[int, bytes]]:
        with open_bytes(path) as file:
            lines = (
                (number, line)
                for number, line in enumerate(file, start=1)
                if line.strip() and not (only_suspects and line[:1] == b"{" and line.rstrip()[-2:] in (b"}}", b'"}'))
            )
            while batch := list(islice(lines, _BATCH)):
                texts = [_decoded(line) for _, line in batch]
                numbered = {"line": pa.array(texts, pa.string()), "n": pa.array(range(len(texts)), pa.int64())}
                self._connection.register("lines", pa.table(numbered))
                yield from (batch[n] for (n,) in sorted(self._connection.execute(_FIND_NOTHING).fetchall()))


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
        return self.codes.setdefault(judgement, -number if judgement.rejected_whole else number)

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
    return classifications.loads(text) if text else None  # an empty cell of an export means no annotations


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except ValueError:
        return None
