"""Classifications, from rows or files, into one table of DuckDB with a verdict for each.

DuckDB reads files in parallel and out of core; they do not pass through Python row by row. What the answers of a
classification are worth depends only on its workflow, version and annotations, so Python judges each such triple once.
Rows with anything unusual in their other fields (two subjects, an id that is no number, ...) are set aside and judged
in Python one by one, by the same ``answers.Judge``; so are the lines, and the files, that DuckDB cannot read.
"""

from __future__ import annotations

import glob
import json
import logging
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from zoobot import classifications
from zoobot.answers import Judge, Outcome, Verdict
from zoobot.classifications import EXPORT_IDS, EXPORT_JSON, Unreadable, api_row, open_bytes
from zoobot.errors import InputError

log = logging.getLogger("zoobot")

DUMPS, EXPORTS = (".jsonl", ".ndjson"), (".csv",)  # each also with .gz
_BATCH = 1_000
_LEARN_FROM_BYTES, _N_LEARNED_FROM = 100_000_000, 100_000
_MAX_KNOWN = 1_000_000  # verdicts remembered by key, about 100 MB

# ``verdict`` is below 0 if it rejects the classification whole. ``odd`` is the row as JSON if it is yet to be judged.
_TABLE = """
CREATE TABLE classification (id BIGINT, id_text VARCHAR, subject VARCHAR, volunteer VARCHAR, session VARCHAR,
                             updated_at VARCHAR, verdict INTEGER, odd VARCHAR)
"""
_TEXTS = [(name, pa.string()) for name in ("id_text", "subject", "volunteer", "session", "updated_at")]
_SCHEMA = pa.schema([("id", pa.int64()), *_TEXTS, ("verdict", pa.int32()), ("odd", pa.string())])

_LEARNED = pa.schema([*((name, pa.string()) for name in ("workflow", "version", "annotations")), ("code", pa.int32())])
_ASKED = ", ".join(_LEARNED.names[:-1])  # columns of JSON texts

_NOTHING = "id IS NULL AND updated_at IS NULL AND annotations IS NULL AND links IS NULL AND metadata IS NULL"


# Most rows find their verdict in ``learned``. Others are looked up by SHA-1, since annotations that differ in two
# answers often share DuckDB's own hash. The JSON texts of a workflow and a version have no line breaks. With CASE, not
# coalesce, as the optimiser would work out the key of every row beforehand.
_KEY = "hash(sha1(concat_ws(chr(10), coalesce(workflow, 'null'), coalesce(version, 'null'), annotations)))"
_VERDICT = f"CASE WHEN code IS NULL THEN coalesce(known({_KEY}), judge({_KEY}, {_ASKED})) ELSE code END"


def _dump(sessions: bool) -> str:
    # Values stay JSON here, where 28.30 and "28.30" differ.
    return f"""
        SELECT *, links.workflow AS workflow, metadata.workflow_version AS version
        FROM read_json($path, format = 'newline_delimited', ignore_errors = true, columns = {{
            id: 'JSON', updated_at: 'VARCHAR', annotations: 'JSON',
            links: 'STRUCT("user" JSON, workflow JSON, subjects JSON)',
            metadata: 'STRUCT({"session JSON, " if sessions else ""}workflow_version JSON)'}})
    """


def _read_dump(sessions: bool) -> str:
    # The patterns admit what surely means the same to Python, and extract "" from all else.
    session = "metadata.session" if sessions else "NULL::VARCHAR"
    return f"""
        WITH file AS ({_dump(sessions)}), extracted AS (
            SELECT file.*, {_VERDICT} AS verdict,
                regexp_extract(id, '^"?(0|[1-9][0-9]{{0,17}})"?$', 1) AS number,
                regexp_extract(links.subjects, '^\\["?([0-9]{{1,18}})"?\\]$', 1) AS subject,
                coalesce(regexp_extract(links."user", '^"?([0-9]{{1,18}})"?$', 1), '') AS volunteer,
                coalesce(regexp_extract({session}, '^"([0-9A-Za-z-]+)"$', 1), '') AS session
            FROM file LEFT JOIN learned USING ({_ASKED})
        ), checked AS (
            SELECT *, coalesce(verdict <> 0 AND number <> '' AND subject <> '', false)
                AND (volunteer <> '' OR links."user" IS NULL) AND (session <> '' OR {session} IS NULL) AS plain
            FROM extracted
        )
        INSERT INTO classification
        SELECT TRY_CAST(number AS BIGINT), NULL, subject, volunteer, session, coalesce(updated_at, ''), verdict,
            CASE WHEN plain THEN NULL WHEN {_NOTHING} THEN '' ELSE to_json({{
                id: id, updated_at: updated_at, annotations: annotations, links: links, metadata: metadata}})::VARCHAR
            END
        FROM checked
    """


_FIND_NOTHING = f"""
WITH parsed AS (SELECT n, TRY(from_json(line, '{{"id": "JSON", "updated_at": "VARCHAR", "annotations": "JSON",
    "links": {{"user": "JSON"}}, "metadata": {{"session": "JSON"}}}}')) AS row FROM lines)
SELECT n FROM (SELECT n, unnest(row) FROM parsed) WHERE {_NOTHING}
UNION SELECT n FROM parsed WHERE row IS NULL
"""


def _export(cells: Iterable[str] = (*EXPORT_IDS, *EXPORT_JSON)) -> str:
    return f"""
        SELECT {", ".join(f"coalesce({cell}, '') AS {cell}" for cell in cells)},
            to_json(workflow_id)::VARCHAR AS workflow, to_json(workflow_version)::VARCHAR AS version
        FROM read_csv($path, header = true, auto_detect = false, delim = ',', quote = '"', escape = '"',
                      columns = $columns)
    """


def _read_export(sessions: bool) -> str:
    cells = ", ".join(f"{cell}: {cell}" for cell in (*EXPORT_IDS, *EXPORT_JSON))
    session = "CASE WHEN readable AND metadata <> '' THEN json_extract(metadata, '$.session')::VARCHAR END"
    return f"""
        WITH file AS ({_export()}), judged AS (
            SELECT file.*, {_VERDICT} AS verdict, metadata = '' OR json_valid(metadata) AS readable,
                {session if sessions else "NULL::VARCHAR"} AS session
            FROM file LEFT JOIN learned USING ({_ASKED})
        ), checked AS (
            SELECT *, verdict <> 0 AND readable
                AND regexp_full_match(classification_id, '0|[1-9][0-9]{{0,17}}')
                AND regexp_full_match(subject_ids, '[0-9]{{1,18}}')
                AND regexp_full_match(user_id, '[0-9]{{0,18}}')
                AND (session IS NULL OR regexp_full_match(session, '"[0-9A-Za-z-]+"')) AS plain
            FROM judged
        )
        INSERT INTO classification
        SELECT TRY_CAST(classification_id AS BIGINT), NULL, subject_ids, user_id,
            coalesce(trim(session, '"'), ''), '', verdict,
            CASE WHEN NOT plain THEN to_json({{{cells}}})::VARCHAR END
        FROM checked
    """


class Intake:
    """Fills the table ``classification`` of a connection; ``codes`` says which verdict a number in it stands for."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, judge: Judge, sessions: bool) -> None:
        self._connection, self._judge, self._sessions = connection, judge, sessions
        self._verdicts = _Verdicts(judge)
        self.codes = self._verdicts.codes
        connection.execute(_TABLE)
        connection.from_arrow(_LEARNED.empty_table()).create("learned")
        texts = ["VARCHAR"] * 3
        for function, types in ((self._verdicts.known, ["UBIGINT"]), (self._verdicts.judge, ["UBIGINT", *texts])):
            connection.create_function(  # type: ignore[call-overload]  # the enums' module is not the same in all versions
                function.__name__, function, types, "INTEGER", type="arrow", null_handling="special", side_effects=True
            )

    def add(self, items: Iterable[object]) -> None:
        """Take in rows, and all rows of a file where an item is a ``Path``. InputError: a file cannot be read."""
        judged = map(self._judge.classification, self._rows(items))
        while batch := list(islice(judged, _BATCH)):
            columns = list(zip(*((*c[:6], self._verdicts.code(c.verdict), None) for c in batch), strict=True))
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
                raise InputError(f"{item} cannot be read to its end: {error}") from error

    def _read(self, path: Path) -> Iterator[object]:
        """Read a file into the table, and give those of its rows that Python has to judge."""
        suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
        if suffix not in (*DUMPS, *EXPORTS):
            expected = f"{', '.join(DUMPS)} (rows of the API) or {', '.join(EXPORTS)} (an export), with or without .gz"
            raise InputError(f"{path}: the name must end in {expected}, so that it is known how to read it")
        is_export = suffix in EXPORTS
        slow = classifications.read_export if is_export else classifications.read_api_dump
        statement = (_read_export if is_export else _read_dump)(self._sessions)
        values: dict[str, Any] = {"path": glob.escape(str(classifications.existing(path)))}
        if is_export:
            values["columns"] = dict.fromkeys(classifications.export_columns(path), "VARCHAR")
        try:
            if path.stat().st_size > _LEARN_FROM_BYTES:
                self._learn(_export() if is_export else _dump(self._sessions), values)
            self._connection.execute(statement, values)
        except duckdb.InvalidInputException as error:
            if "Python exception" in str(error):
                raise
            log.info("%s: DuckDB cannot read it, so it is read row by row, which takes longer", path)
            yield from slow(path)
            return
        yield from self._set_aside(path, is_export)

    def _learn(self, file: str, values: dict[str, Any]) -> None:
        """Judge what the first rows of a file have answered, so that DuckDB finds the verdicts of most by itself."""
        first = f"SELECT DISTINCT {_ASKED} FROM (SELECT {_ASKED} FROM ({file}) LIMIT {_N_LEARNED_FROM})"
        asked = self._connection.execute(first, values).fetchall()
        rows = [dict(zip(_LEARNED.names, (*texts, self._verdicts.of(*texts)), strict=True)) for texts in asked]
        self._connection.execute("DELETE FROM learned")
        self._connection.from_arrow(pa.Table.from_pylist(rows, _LEARNED)).insert_into("learned")

    def _set_aside(self, path: Path, is_export: bool) -> Iterator[object]:
        """Take the odd rows out of the table."""
        n_nothing = 0
        # A cursor of its own: rows are put in while these are taken out.
        cursor = self._connection.cursor().execute("SELECT odd FROM classification WHERE odd IS NOT NULL")
        while batch := cursor.fetchmany(_BATCH):
            n_nothing += batch.count(("",))
            for text in (text for (text,) in batch if text):
                yield classifications.export_row(json.loads(text)) if is_export else api_row(text.encode(), path.name)
        self._connection.execute("DELETE FROM classification WHERE odd IS NOT NULL")
        if n_nothing:
            yield from self._lines_of_nothing(path, n_nothing)

    def _lines_of_nothing(self, path: Path, n_expected: int) -> Iterator[object]:
        """The lines in which DuckDB found nothing: mostly such as do not look like an object; else all are tried."""
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


class _Verdicts:
    """Verdicts by number, and what was judged before; DuckDB calls ``known`` and ``judge`` in threads."""

    def __init__(self, judge: Judge) -> None:
        self.codes: dict[Verdict, int] = {}
        self._judge = judge
        self._known: dict[int, int] = {}
        self._lock = threading.Lock()
        # Few parts, few ways to combine them: what is new about most annotations is only the combination.
        self._alone = lru_cache(maxsize=10_000)(self._judge_alone)
        self._together = lru_cache(maxsize=10_000)(self._judge_together)

    def code(self, verdict: Verdict) -> int:
        number = len(self.codes) + 1
        return self.codes.setdefault(verdict, -number if verdict.rejected_whole else number)

    def known(self, keys: Any) -> Any:
        """Arrow array of hashes of workflow, version and annotations -> codes, null where none is known."""
        return pa.array(map(self._known.get, keys.to_numpy().tolist()), pa.int32())

    def judge(self, keys: Any, workflows: Any, versions: Any, annotations: Any) -> Any:
        """Arrow arrays of hashes and of the JSON texts that they are of -> codes; 0 where a text is broken."""
        texts = zip(workflows.to_pylist(), versions.to_pylist(), annotations.to_pylist(), strict=True)
        with self._lock:
            return pa.array(map(self._remember, keys.to_pylist(), texts), pa.int32())

    def _remember(self, key: int, texts: tuple[str | None, ...]) -> int:
        if key not in self._known:
            if len(self._known) > _MAX_KNOWN:
                self._known.clear()
            self._known[key] = self.of(*texts)
        return self._known[key]

    def of(self, workflow: str | None, version: str | None, annotations: str | None) -> int:
        """The code for what JSON texts hold; 0 where one is broken."""
        with suppress(ValueError, RecursionError):
            # If all parts are objects, then so is the list of them JSON.
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
            return self.code(self._judge.verdict(_json(workflow), _json(version), _json(annotations)))
        return 0

    def _judge_alone(self, workflow: str | None, version: str | None, part: str) -> list[Outcome]:
        return self._judge.alone(self._judge.version(_json(workflow), _json(version)), _json("{" + part + "}"))

    def _judge_together(self, workflow: str | None, version: str | None, outcomes: tuple[Outcome, ...]) -> int:
        return self.code(self._judge.together(self._judge.version(_json(workflow), _json(version)), outcomes))


def _json(text: str | None) -> object:
    return classifications.loads(text) if text else None  # an empty cell of an export is no annotations


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except ValueError:
        return None
