"""Files through DuckDB give what the plain Python reference gives: real shapes, hostile bytes, pieces in any order."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import classifications as generated
from tests import reference_votes
from tests.test_votes import HEADER, ROWS, TREE, VERSIONS, plausible_rows, row, spoilt_rows
from zoobot import votes
from zoobot.errors import InputError
from zoobot.galaxies.questions import load_questions
from zoobot.votes import classifications, duckdb_reader, judge

N_FUZZ_LINES = int(os.environ.get("FUZZ_LINES", "2000"))  # `make fuzz`: 100,000
REPEATS = st.sampled_from(["all", "first_per_session"])
FILES = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_dump(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_export(path: Path, rows: list[Any]) -> Path:
    """The same classifications as an export; whatever has no place in one is left out."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        for each in rows:
            metadata = {k: v for k, v in each["metadata"].items() if k != "workflow_version"}
            writer.writerow(
                {
                    "classification_id": each["id"], "user_id": each["links"]["user"] or "", "workflow_id": "5",
                    "workflow_version": each["metadata"]["workflow_version"], "metadata": json.dumps(metadata),
                    "annotations": json.dumps(each["annotations"]), "gold_standard": each.get("gold_standard"),
                    "subject_ids": ";".join(each["links"]["subjects"]),
                }
            )  # fmt: skip
    return path


SAME_AS = {  # what the reduction says of an answer: the reference's word for it
    "not an object": "unreadable",
    ".* is not an object": "unreadable",
    "broken JSON in .*": "unreadable",
    "no usable classification id": "no id",
    "no subject": "not one subject",
    "[0-9]+ subjects, expected one": "not one subject",
    "the user is neither an id nor empty": "no such user",
    "the subject is not an id": "not one subject",
    "a row with [0-9]+ cells, .*": "unreadable",
    "the last line has no end, .*": "unreadable",
    "the workflow is not an id": "unknown version",
    judge.BEFORE_LAUNCH: "before launch",
    judge.GOLD_STANDARD: "gold standard",
    "the annotations are not a list": "no list of answers",
    "the workflow version is missing or not text": "unknown version",
    "unknown workflow .*": "unknown version",
    "not an answer to a task": "no task",
    "this workflow version has no such task": "not asked",
    "unknown answer .*": "unknown answer",
    "answered twice in one classification": "answered twice",
    "off the path: .*": "off the path",
    judge.VOTE: "vote",
    judge.REJECTED: "rejected",
    judge.NO_ANSWER: "no answer",
    judge.NO_QUESTION: "no question",
    judge.NOT_SINGLE: "not single",
    votes.DUPLICATE: "duplicate",
    votes.REPEAT: "repeat",
    votes.SESSION_REPEAT: "session repeat",
}


def in_words_of_the_reference(said: str) -> str:
    return next((word for pattern, word in SAME_AS.items() if re.fullmatch(pattern, said, re.DOTALL)), said)


def assert_as_reference(reduction: votes.Reduction, path: Path, repeats: Any = "all") -> None:
    expected = reference_votes.count(reference_votes.read(path), TREE.as_dict(), VERSIONS, repeats)
    found = reduction.votes.to_dict("index")
    assert {subject: {c: n for c, n in of.items() if n} for subject, of in found.items()} == expected.votes
    rejected = [(*row[:3], in_words_of_the_reference(row[3])) for row in reduction.rejected.itertuples(index=False)]
    assert sorted(map(shown, rejected)) == sorted(map(shown, expected.rejected))
    tally = Counter({in_words_of_the_reference(reason): n for reason, n in reduction.tally.items()})
    assert (tally, reduction.answers_read) == (expected.tally, expected.answers_read)  # a Counter's zeros are absent


def shown(rejected: tuple[str, ...]) -> tuple[str, ...]:
    """Without the id and the subject of a row that cannot be read, about which the rules say nothing."""
    return ("", "", *rejected[2:]) if rejected[3] == "unreadable" else rejected


def reduced(items: Any, repeats: Any = "all") -> votes.Reduction:
    return votes.reduce_all(items, TREE, VERSIONS, anonymous_repeats=repeats)


@st.composite
def distinct_copies(draw: st.DrawFn, rows: st.SearchStrategy[Any]) -> list[Any]:
    """Rows of which no two copies claim the same time: which of them counts is then a rule, not a matter of ties."""
    made = draw(st.lists(rows, min_size=4, max_size=16))
    for second, each in zip(draw(st.permutations(range(len(made)))), made, strict=True):
        if isinstance(each, dict) and "updated_at" in each:
            each["updated_at"] = f"2020-01-01T00:00:{second:02d}Z"
    return made


def test_the_reference_imports_nothing_of_zoobot() -> None:
    source = Path(reference_votes.__file__).read_text(encoding="utf-8")
    assert re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)[1:3] == ["csv", "gzip"]  # the pattern works
    assert not re.findall(r"^\s*(?:from|import) (?:zoobot|benchmarks|tests)\b", source, re.MULTILINE)


# None: as it is; a number: as if all files were large, so that this many of their rows are looked at beforehand.
LEARNED_FROM = st.one_of(st.none(), st.integers(0, 9))


def assert_reads_as_reference(path: Path, repeats: Any, n_learned_from: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if n_learned_from is not None:
            patch.setattr(duckdb_reader, "_LEARN_FROM_BYTES", -1)
            patch.setattr(duckdb_reader, "_N_LEARNED_FROM", n_learned_from)
        assert_as_reference(reduced(path, repeats), path, repeats)


@FILES
@given(rows=distinct_copies(plausible_rows()), repeats=REPEATS, learned=LEARNED_FROM)
def test_a_dump_and_an_export_give_what_the_reference_gives(
    tmp_path: Path, rows: list[Any], repeats: Any, learned: int | None
) -> None:
    assert_reads_as_reference(write_dump(tmp_path / "a.jsonl", rows), repeats, learned)
    # An export does not say which of two copies is newer.
    one_of_each = list({each["id"]: each for each in rows}.values())
    assert_reads_as_reference(write_export(tmp_path / "a.csv", one_of_each), repeats, learned)


@FILES
@given(rows=distinct_copies(spoilt_rows()), repeats=REPEATS, learned=LEARNED_FROM)
def test_spoilt_rows_give_what_the_reference_gives(
    tmp_path: Path, rows: list[Any], repeats: Any, learned: int | None
) -> None:
    assert_reads_as_reference(write_dump(tmp_path / "a.jsonl", rows), repeats, learned)


def test_volunteers_and_sessions_are_read_from_both_kinds_of_file(tmp_path: Path) -> None:
    rows = [row(i, user=user, T0=0) for i, user in enumerate([None, None, "7", "7"], 1)]
    for path in (write_dump(tmp_path / "a.jsonl", rows), write_export(tmp_path / "a.csv", rows)):
        reduction = reduced(path, "first_per_session")
        assert reduction.votes["shape_smooth"].tolist() == [2]
        assert reduction.tally[votes.REPEAT] == reduction.tally[votes.SESSION_REPEAT] == 1


@settings(FILES, max_examples=15)
@given(data=st.data(), rows=ROWS, repeats=REPEATS)
def test_pieces_in_any_order_with_overlaps_give_the_same(
    tmp_path: Path, data: st.DataObject, rows: list[Any], repeats: Any
) -> None:
    complete = reduced(write_dump(tmp_path / "complete.jsonl", rows), repeats)
    order = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    pieces = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    overlaps = [data.draw(st.lists(st.sampled_from(rows), max_size=3)) for _ in pieces]
    paths = [write_dump(tmp_path / f"{i}.jsonl", p + o) for i, (p, o) in enumerate(zip(pieces, overlaps, strict=True))]
    parts = reduced([*data.draw(st.permutations(paths)), *order[:2]], repeats)  # rows beside files too
    pd.testing.assert_frame_equal(complete.votes, parts.votes)
    pd.testing.assert_frame_equal(complete.rejected, parts.rejected)
    unlike = {votes.DUPLICATE}
    assert {k: n for k, n in complete.tally.items() if k not in unlike} == {
        k: n for k, n in parts.tally.items() if k not in unlike
    }


GOOD, LAST = json.dumps(row(1, T0=0)).encode(), json.dumps(row(9, "11", T0=1)).encode()
HOSTILE: dict[str, tuple[bytes, list[str]]] = {  # lines between two good ones -> reasons
    "invalid UTF-8": (b'{"id": "2", "x": "\xff\xfe"}', ["broken JSON in line 2 of a.jsonl"]),
    "NUL bytes": (b'\x00\x00\n{"id": "2\x00"}', [f"broken JSON in line {n} of a.jsonl" for n in (2, 3)]),
    "cut off": (GOOD[:60], ["broken JSON in line 2 of a.jsonl"]),
    "not objects": (b'3\n[1]\nnull\n"x"', [f"line {n} of a.jsonl is not an object" for n in (2, 3, 4, 5)]),
    "an array of numbers": (b"[1, 2]", ["line 2 of a.jsonl is not an object"]),
    "a comment": (GOOD[:-1] + b"} /* two */", ["broken JSON in line 2 of a.jsonl"]),
    "unclosed nesting": (b"[" * 1_000_000, ["broken JSON in line 2 of a.jsonl"]),
    "nothing of use": (b'{"a": 1}\n{}', ["no usable classification id"] * 2),
    "huge number": (b'{"id": ' + b"9" * 6000 + b"}", ["broken JSON in a.jsonl"]),
    "blank lines": (b"\n  \n\r\n", []),
    "carriage returns": (b"\r", []),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lines_are_rejected_alone(tmp_path: Path, name: str) -> None:
    between, expected = HOSTILE[name]
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"\n" + between + b"\n" + LAST)  # and no newline at the end
    reduction = reduced(tmp_path / "a.jsonl")
    assert sorted(reduction.rejected["reason"]) == sorted(expected)
    assert list(reduction.votes.index) == ["10", "11"]
    assert sum(reduction.tally.values()) == reduction.answers_read == 2 + len(expected)


@pytest.mark.parametrize(
    "content",
    {
        "a byte order mark": b"\xef\xbb\xbf" + GOOD + b"\n" + LAST,
        "two on a line": GOOD + LAST,
        "commas at the end": GOOD + b",\n" + LAST + b",",
        "commas inside": GOOD[:-1] + b",}\n" + LAST[:-1].replace(b"}]", b"},]") + b"}",
        "an array": b"[" + GOOD + b"," + LAST + b"]",
        "an array after blank lines": b"\n\n[" + GOOD + b"," + LAST + b"]\n",
        "an array over lines": b"[\n" + GOOD + b",\n" + LAST + b"\n]\n",
        "an array later": GOOD + b"\n[" + LAST + b"]\n",
        "a page of the API": b'{"classifications": [' + GOOD + b"," + LAST + b'], "links": {}, "meta": {}}',
        "two pages": b'{"classifications": ['
        + GOOD
        + b'], "links": {}}\n{"meta": 1, "classifications": ['
        + LAST
        + b"]}",
        "a list of pages": b'[{"classifications": [' + GOOD + b']},{"classifications": [' + LAST + b"]}]",
        "pretty": json.dumps([json.loads(GOOD), json.loads(LAST)], indent=1).encode(),
        "a pretty page": json.dumps({"classifications": [json.loads(GOOD), json.loads(LAST)]}, indent=1).encode(),
        "UTF-16": (GOOD + b"\n" + LAST).decode().encode("utf-16"),
        "UTF-16 with a pretty array": json.dumps([json.loads(GOOD), json.loads(LAST)], indent=1).encode("utf-16"),
        "compressed": gzip.compress(GOOD + b"\n" + LAST),
        "nan and inf": GOOD[:-1] + b', "x": [nan, -Inf, NaN, "nan, ]"]}\n' + LAST,
        "marks on every line": b"\xef\xbb\xbf" + GOOD + b"\n\xef\xbb\xbf" + LAST,
        "Windows line ends": GOOD + b"\r\n" + LAST + b"\r\n",
        "a lone surrogate": GOOD[:-1] + b', "x": "\\ud800"}\n' + LAST,
        "deep nesting": GOOD[:-1] + b', "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n" + LAST,
        "20 MB on a line": GOOD[:-1] + b', "x": "' + b"x" * 20_000_000 + b'"}\n' + LAST,
        "a key twice": GOOD[:-1] + b', "id": "77"}\n' + LAST,
    }.items(),
    ids=lambda item: item[0],
)
def test_odd_files_are_read(tmp_path: Path, content: tuple[str, bytes]) -> None:
    (tmp_path / "a [1]*.jsonl").write_bytes(content[1])
    reduction = reduced(tmp_path / "a [1]*.jsonl")
    assert reduction.rejected.empty
    if content[0] == "deep nesting":
        return  # the one thing that Python's JSON cannot read and DuckDB's can
    in_python = reduced(list(classifications.read_api_dump(tmp_path / "a [1]*.jsonl")))
    pd.testing.assert_frame_equal(in_python.votes, reduction.votes)
    assert list(reduction.votes["shape_total-votes"]) == [1, 1]


def test_a_cut_off_line_is_rejected_with_its_id(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"\n" + LAST[:100])
    rejected = reduced(tmp_path / "a.jsonl").rejected
    assert rejected.iloc[0].tolist() == ["9", "", "", "broken JSON in line 2 of a.jsonl"]


EXPORT = [row(1, T0="Smooth"), row(2, "11", "8", T0="Disc", T1="No")]
SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda content: content,
    "a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "Unix line ends": lambda content: content.replace(b"\r\n", b"\n"),
    "no newline at the end": lambda content: content.rstrip(),
    "newlines in quotes": lambda content: content.replace(b"{", b"\n{").replace(b"\r\n\n", b"\r\n"),
    "invalid UTF-8": lambda content: content.replace(b"Smooth", b"Smoo\xffth"),
    "NUL bytes": lambda content: content.replace(b"Smooth", b"Smoo\x00th"),
    "a short row": lambda content: content + b"12,somebody\r\n",
    "a long row": lambda content: content + b"x," * 30 + b"\r\n",
    "an open quote": lambda content: content + b'13,"',
    "a cut-off row": lambda content: content[:-40],
    "a blank line": lambda content: content + b"\r\n",
    "broken JSON": lambda content: content.replace(b"}]", b"}"),
    "a trailing comma": lambda content: content.replace(b"}]", b"},]"),
    "broken metadata": lambda content: content.replace(b'{""session', b"{session"),
    "a 3 MB cell": lambda content: content.replace(b'""s""', b'""' + b"s" * 3_000_000 + b'""'),
}


@pytest.mark.parametrize("name", SPOILS)
def test_odd_exports_give_what_the_reference_gives(tmp_path: Path, name: str) -> None:
    path = write_export(tmp_path / "a.csv", EXPORT)
    path.write_bytes(SPOILS[name](path.read_bytes()))
    assert_as_reference(reduced(path), path)


def test_a_key_is_judged_once_whether_met_at_first_or_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    of = duckdb_reader._Judgements.of

    def recorded(self: Any, key: str) -> int:
        judged.append(key)
        return of(self, key)

    monkeypatch.setattr(duckdb_reader._Judgements, "of", recorded)
    for rows, write in (([row(i, str(i), T0=i % 2) for i in range(1, 10)], write_dump), (EXPORT, write_export)):
        path = write(tmp_path / ("a.jsonl" if write is write_dump else "a.csv"), rows)
        for learn_from_bytes in (-1, 1_000_000):
            monkeypatch.setattr(duckdb_reader, "_LEARN_FROM_BYTES", learn_from_bytes)
            judged.clear()
            assert sum(reduced([path, path]).votes["shape_total-votes"]) == len(rows)
            assert sorted(judged) == sorted(set(judged)) and 1 <= len(judged) <= len(rows)
            assert_as_reference(reduced(path), path)


def test_compressed_files_are_read(tmp_path: Path) -> None:
    dump, export = write_dump(tmp_path / "a.jsonl", EXPORT), write_export(tmp_path / "a.csv", EXPORT)
    for path in (dump, export):
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes() + (b'{"id"\n' if path == dump else b"")))
        assert len(reduced(packed).votes) == 2
        packed.write_bytes(gzip.compress(path.read_bytes())[:-30])
        with pytest.raises(InputError, match=r"a\.(jsonl|csv)\.gz"):
            reduced(packed)


def test_files_that_cannot_be_are_input_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", [tmp_path / "absent.csv"], str(tmp_path / "absent.jsonl")):
        with pytest.raises(InputError, match="there is no file"):
            reduced(path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"a\.txt has no column classification_id"):
        reduced(tmp_path / "a.txt")
    for cut in (b'[{"id": "1"}, {"id"', b"[\n" + GOOD + b",\n" + LAST[:50], b'{\n"id": "1"\n'):
        (tmp_path / "a.json").write_bytes(cut)
        with pytest.raises(InputError, match=r"a\.json is broken or was cut off after [01] rows"):
            reduced(tmp_path / "a.json")
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(InputError, match=r"a\.csv is a ZIP archive or an Excel workbook"):
        reduced(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"a\.csv has no column classification_id"):
        reduced(tmp_path / "a.csv")
    (tmp_path / "empty.jsonl").write_text("")
    assert reduced(tmp_path / "empty.jsonl").answers_read == 0


def test_panoptes_aggregation_agrees_on_clean_rows() -> None:
    """The fixtures are from panoptes_aggregation 5.3.1; tests/fixtures/make_clean_export.py says how to make them."""
    questions, fixtures = load_questions("decals"), Path(__file__).parent / "fixtures"
    workflow = classifications.workflow_of(questions)
    table, rejected = votes.reduce(fixtures / "clean_export.csv", questions, [workflow])
    theirs = pd.read_csv(fixtures / "question_reducer_reductions.csv", dtype={"subject_id": "string"})
    column_of = {
        (question.task, "data." + re.sub(r"[^a-z0-9]+", "-", answer.labels[0].lower())): question.column(answer.name)
        for question in questions
        for answer in question.answers
    }
    counted = 0
    for reduced_task in theirs.to_dict("records"):
        for name, count in reduced_task.items():
            if str(name).startswith("data.") and name != "data.aggregation_version" and count == count:  # not NaN
                column = column_of[reduced_task["task"], name]
                assert table.loc[reduced_task["subject_id"], column] == count, (reduced_task["subject_id"], column)
                counted += int(count)
    assert rejected.empty
    assert counted == table[[question.total for question in questions]].to_numpy().sum() == 241


def test_annotations_that_share_a_hash_in_duckdb_are_judged_apart(tmp_path: Path) -> None:
    """DuckDB 2.0's hash() of these texts is the same, since what differs is in the last bytes of blocks of eight."""
    questions = load_questions("decals")
    answers_of = ([1, 1, 0, 0, 2, 2, 3, 3], [1, 1, 0, 1, 0, 0, 2, 1])
    tasks = ("T0", "T2", "T5", "T6", "T7", "T4", "T8", "T11")
    given = [dict(zip(tasks, values, strict=True)) for values in answers_of]
    rows = [row(i, str(i), T10=[5]) for i in range(1, 3)]
    for each, chosen in zip(rows, given, strict=True):
        each["annotations"] = [{"task": t, "value": v} for t, v in chosen.items()] + each["annotations"]
    versions = [classifications.workflow_of(questions, rows[0]["metadata"]["workflow_version"])]
    table, _ = votes.reduce(write_dump(tmp_path / "a.jsonl", rows), questions, versions)
    for subject, chosen in enumerate(given, 1):
        for question in (q for q in questions if q.task in chosen):
            shown = [answer for answer in question.answers if not answer.retired]
            assert table.loc[str(subject), question.column(shown[chosen[question.task]].name)] == 1
    assert not table.loc["1"].equals(table.loc["2"])


def mangled(rng: random.Random, line: bytes) -> bytes:
    """One line, with a few bytes of it changed, cut out, doubled or moved."""
    spoilt = bytearray(line)
    for _ in range(rng.randint(1, 4)):
        at, n = rng.randrange(len(spoilt) + 1), rng.randint(0, 8)
        kind = rng.randrange(5)
        if kind == 0:
            spoilt[at : at + n] = rng.randbytes(n)
        elif kind == 1:
            del spoilt[at : at + n]
        elif kind == 2:
            spoilt[at:at] = spoilt[at : at + n]
        elif kind == 3:
            spoilt[at:at] = rng.choice(
                [b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"null", b"1e9", b"\n", b"\r", b"\x00"]
            )
        else:
            del spoilt[at:]
    return bytes(spoilt)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_mangled_bytes_never_crash(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(0)
    rows = [row(i, str(1 + i % 7), str(i % 5), T0=i % 3, T1=i % 2, T2=0) for i in range(1, 51)]
    complete = write_dump(tmp_path / "a.jsonl", rows) if suffix == ".jsonl" else write_export(tmp_path / "a.csv", rows)
    header, *lines = complete.read_bytes().splitlines(keepends=True)
    batch = 1_000 if suffix == ".jsonl" else 100  # fewer, since what follows an open quote is one cell
    for _ in range(N_FUZZ_LINES // batch):
        spoilt = b"".join(mangled(rng, rng.choice(lines)) for _ in range(batch))
        complete.write_bytes((header if suffix == ".csv" else b"") + spoilt)
        reduction = reduced(complete)
        assert sum(reduction.tally.values()) == reduction.answers_read
        assert reduction.tally[judge.REJECTED] == len(reduction.rejected)
        read = classifications.read_export if suffix == ".csv" else classifications.read_api_dump
        in_python = reduced(list(read(complete)))
        pd.testing.assert_frame_equal(in_python.votes, reduction.votes)
        assert in_python.tally == reduction.tally


def test_many_processors_do_not_take_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    path = tmp_path / "a.jsonl"
    generated.write(path, 100_000, "jsonl")
    votes_of, _ = votes.reduce(path, generated.QUESTIONS, generated.VERSIONS)
    assert len(votes_of) > 10_000
