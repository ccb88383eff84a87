"""Exports, API rows and versions as people really meet them: each kind of damage, made by the test, and real cases."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.test_votes import SHARED, TREE, VERSIONS, row, version_record
from zoobot import votes
from zoobot.errors import InputError
from zoobot.galaxies.questions import load_questions, parse_questions
from zoobot.settings import Settings
from zoobot.stages import reduce
from zoobot.votes import classifications, judge

Build = Callable[..., Settings]
Cells = list[dict[str, str]]
CASES = SHARED / "cases" / "votes"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"the cases are not at {CASES}")
N_FUZZ_FILES = int(os.environ.get("FUZZ_LINES", "2000")) // 100  # `make fuzz`: 1,000

USERS = ["7", "8", "", "7", ""]  # the second classification of 7 is a repeat
SMOOTH_OF_BASE = 4


def base() -> Cells:
    """An export of five classifications of one subject."""
    answers = json.dumps([{"task": "T0", "task_label": "?", "value": "Smooth"}])
    metadata = json.dumps({"session": "s", "live_project": True})
    return [
        {
            "classification_id": str(100 + i), "user_name": f"u{i}", "user_id": user, "user_ip": "x",
            "workflow_id": "5", "workflow_name": "G", "workflow_version": "28.30",
            "created_at": "2020-01-01 00:00:00 UTC", "gold_standard": "", "expert": "",
            "metadata": metadata, "annotations": answers, "subject_data": "{}",
            "subject_ids": "10",
        }
        for i, user in enumerate(USERS)
    ]  # fmt: skip


def to_csv(rows: Cells, **format_: Any) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list((rows or base())[0]), lineterminator="\n", **format_)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def counted(path: Path, versions: list[Any] | None = None, **settings_: Any) -> votes.Reduction:
    """The reduction of a file: DuckDB and Python must agree on it."""
    reduction = votes.reduce_all(path, TREE, versions or VERSIONS, **settings_)
    read = classifications.read_export if path.suffix == ".csv" else classifications.read_api_dump
    in_python = votes.reduce_all(list(read(path)), TREE, versions or VERSIONS, **settings_)
    pd.testing.assert_frame_equal(reduction.votes, in_python.votes)
    pd.testing.assert_frame_equal(reduction.rejected, in_python.rejected)
    assert reduction.tally == in_python.tally and sum(reduction.tally.values()) == reduction.answers_read
    return reduction


def smooth(reduction: votes.Reduction) -> int:
    assert list(reduction.votes.index) in (["10"], [])
    return int(reduction.votes["shape_smooth"].sum())


def written(tmp_path: Path, rows: Cells) -> Path:
    (tmp_path / "a.csv").write_bytes(to_csv(rows))
    return tmp_path / "a.csv"


def with_column(rows: Cells, column: str, values: str | list[str]) -> Cells:
    values = [values] * len(rows) if isinstance(values, str) else values
    return [{**each, column: value} for each, value in zip(rows, values, strict=True)]


# --------------------------------------------------------------- ids


@pytest.mark.parametrize("nobody", ["NA", "nan", "NULL", "None", "<NA>", "0", "0.0", "not-logged-in-5c4b", "\\N", " "])
def test_an_export_written_again_by_another_program_keeps_its_anonymous_votes(tmp_path: Path, nobody: str) -> None:
    rows = with_column(base(), "user_id", [user or nobody for user in USERS])
    assert smooth(counted(written(tmp_path, rows))) == SMOOTH_OF_BASE


@pytest.mark.parametrize("column", ["classification_id", "subject_ids", "user_id", "workflow_id"])
def test_an_id_written_as_a_float_is_the_same_id(tmp_path: Path, column: str) -> None:
    versions = [{**version, "links": {"workflow": "5.0"}} for version in VERSIONS]
    rows = base()
    floats = with_column(rows, column, [each[column] and each[column] + ".0" for each in rows])
    assert smooth(counted(written(tmp_path, rows + floats[:2]), versions)) == SMOOTH_OF_BASE


@pytest.mark.parametrize("damaged", ["1.5E+08", "=11", "'11", "11,5", "abc", "-4", "٤", "1" * 19])
@pytest.mark.parametrize(
    "column, reason",
    {
        "classification_id": "no usable classification id",
        "subject_ids": "the subject is not an id",
        "user_id": "the user is neither an id nor empty",
        "workflow_id": "the workflow is not an id",
    }.items(),
)
def test_a_damaged_id_is_rejected_with_its_reason(tmp_path: Path, column: str, reason: str, damaged: str) -> None:
    another = {**base()[0], "classification_id": "99"}
    reduction = counted(written(tmp_path, [*base(), {**another, column: damaged}]))
    assert smooth(reduction) == SMOOTH_OF_BASE
    assert reduction.rejected["reason"].tolist() == [reason]


def test_rows_of_the_api_with_numbers_and_nan_for_ids(tmp_path: Path) -> None:
    rows = [row(i, T0=0) for i in range(1, 5)]
    rows[0]["links"] |= {"user": 7.0, "subjects": [10], "workflow": 5}
    rows[1]["links"] |= {"user": 7, "subjects": [10.0]}
    rows[2]["links"]["user"], rows[3]["links"]["user"] = float("nan"), "nan"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    reduction = counted(tmp_path / "a.jsonl")
    assert smooth(reduction) == 3 and reduction.tally[votes.REPEAT] == 1


# --------------------------------------------------------------- columns


@pytest.mark.parametrize(
    "name", ["version", "workflow", "Metadata", "key", "c0", "METADATA", "select", 'a"b', "", "code"]
)
def test_a_column_of_the_users_own_changes_nothing(tmp_path: Path, name: str) -> None:
    for rows in (with_column(base(), name, "1"), [{name: "1", **each} for each in base()]):
        assert smooth(counted(written(tmp_path, rows))) == SMOOTH_OF_BASE


@pytest.mark.parametrize("column", classifications.EXPORT_COLUMNS)
def test_a_needed_column_that_is_there_twice_is_named(tmp_path: Path, column: str) -> None:
    path = written(tmp_path, base())
    path.write_bytes(b"\n".join(line + b"," + column.encode() for line in path.read_bytes().splitlines()) + b"\n")
    with pytest.raises(InputError, match=rf"a\.csv has two columns called {column}\. Remove or rename"):
        counted(path)


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_export_that_a_spreadsheet_wrote_is_read(tmp_path: Path, delimiter: str, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes(to_csv(base(), delimiter=delimiter).decode().encode(encoding))
    assert smooth(counted(tmp_path / "a.csv")) == SMOOTH_OF_BASE


def test_an_export_may_lack_the_column_of_gold_standards(tmp_path: Path) -> None:
    rows = [{k: v for k, v in each.items() if k != "gold_standard"} for each in base()]
    assert smooth(counted(written(tmp_path, rows))) == SMOOTH_OF_BASE


# --------------------------------------------------------------- cut-off files


@pytest.mark.parametrize("compressed", [False, True])
def test_an_export_cut_at_any_byte_gives_no_vote_to_another_subject(tmp_path: Path, compressed: bool) -> None:
    rows = with_column(base()[:2], "subject_ids", ["123", "123404"])
    content, path = to_csv(rows), tmp_path / "a.csv"
    for end in range(content.index(b"\n") + 1, len(content), 61 if compressed else 17):
        path.write_bytes(gzip.compress(content[:end]) if compressed else content[:end])
        found = votes.reduce_all(path, TREE, VERSIONS)
        assert set(found.votes.index) <= {"123"}
        if content[end - 1 : end] != b"\n":
            assert found.tally[judge.REJECTED] == 1
    reason = "the last line has no end, so it may have been cut off"
    path.write_bytes(content[:-2])
    assert counted(path).rejected["reason"].tolist() == [reason]


def test_a_row_that_was_cut_off_does_not_displace_its_copy(tmp_path: Path) -> None:
    content = to_csv(base())
    for name, cut in {
        "whole line": content[:-30],
        "with an end": content[:-30] + b"\n",
        "short": content[:-4] + b"\n",
    }.items():
        (tmp_path / "cut.csv").write_bytes(cut)
        (tmp_path / "whole.csv").write_bytes(content)
        both = votes.reduce_all([tmp_path / "cut.csv", tmp_path / "whole.csv"], TREE, VERSIONS)
        assert smooth(both) == SMOOTH_OF_BASE, name


# --------------------------------------------------------------- versions

ODD_TASKS: dict[str, Any] = {
    "answers are null": {"type": "single", "answers": None},
    "answers are missing": {"type": "single"},
    "answers are none": {"type": "single", "answers": []},
    "answers are numbers": {"type": "single", "answers": [1, 2]},
    "a label is null": {"type": "single", "answers": [{"label": None}, {"label": "T0.answers.1.label"}]},
    "a label is missing": {"type": "single", "answers": [{}, {"label": "T0.answers.1.label"}]},
    "no type": {"answers": [{"label": "T0.answers.0.label"}]},
    "a type that is null": {"type": None},
    "null": None,
    "text": "T0",
}


@pytest.mark.parametrize("what", ODD_TASKS)
def test_an_odd_task_rejects_its_own_answers_only(what: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    odd = version_record("30.1", {"T0": ["Smooth", "A Disk"]}, "5")
    for task, n_rejected in (("T0", 1), ("T7", 0)):  # T7 has no question
        spoilt = {**odd, "tasks": {**odd["tasks"], task: ODD_TASKS[what]}}
        rows = [row(1, T0=0), row(2, user="8", version="30.1", T0=0)]
        reduction = votes.reduce_all(rows, TREE, [*VERSIONS, spoilt])
        assert smooth(reduction) == 2 - n_rejected
        assert all("workflow 5, version 30.1" in reason for reason in reduction.rejected["reason"])
        (tmp_path / "v.json").write_text(json.dumps([spoilt]))
        classifications.read_workflow_versions(tmp_path / "v.json")
        assert f"v.json: task {task}" in caplog.text or f"v.json: answer 0 of task {task}" in caplog.text


ODD_VERSIONS: dict[str, dict[str, Any]] = {
    "tasks are null": {"tasks": None},
    "tasks are a list": {"tasks": []},
    "strings are null": {"strings": None},
    "strings are missing": {"strings": {}},
    "strings are a list": {"strings": []},
    "a string is null": {"strings": {"T0.answers.0.label": None}},
    "no number": {"major_number": None},
    "a number with a fraction": {"minor_number": 1.5},
    "a workflow that is none": {"links": {"workflow": "x"}},
}


@pytest.mark.parametrize("what", ODD_VERSIONS)
def test_an_odd_version_rejects_its_own_classifications_only(what: str) -> None:
    odd = version_record("30.1", {"T0": ["Smooth", "A Disk"]}, "5") | ODD_VERSIONS[what]
    rows = [row(1, T0=0), row(2, user="8", version="30.1", T0=0)]
    for versions in ([*VERSIONS, odd], [odd, *VERSIONS], [*VERSIONS, odd, None, 3]):
        reduction = votes.reduce_all(rows, TREE, versions)
        assert smooth(reduction) == 1 and reduction.rejected["classification_id"].tolist() == ["2"]


def test_numbers_of_versions_may_be_text() -> None:
    as_text = {**VERSIONS[1], "major_number": "28", "minor_number": "30"}
    assert smooth(votes.reduce_all([row(T0=0)], TREE, [as_text])) == 1


def test_the_same_version_twice_with_other_answers_rejects_its_own_classifications_only() -> None:
    one, other = (version_record("30.1", {"T0": labels}, "5") for labels in (["Smooth"], ["Disc"]))
    rows = [row(1, T0=0), row(2, user="8", version="30.1", T0=0)]
    reduction = votes.reduce_all(rows, TREE, [*VERSIONS, one, one, other])
    assert smooth(reduction) == 1
    assert reduction.rejected["reason"].tolist() == ["workflow 5, version 30.1 is there twice, with different answers"]


def test_versions_are_read_in_every_form_in_which_they_are_to_be_had(tmp_path: Path) -> None:
    record = version_record("28.30", {"T0": ["Smooth", "A Disk"]}, "5")
    workflow = {"id": "5", "version": "28.30", "tasks": record["tasks"], "strings": record["strings"]}
    columns = {"workflow_id": "5", "version": "28", "minor_version": "30", "active": "true"}
    builder = [columns | {name: json.dumps(record[name]) for name in ("tasks", "strings")}]
    for content in (
        json.dumps({"workflow_versions": [record]}).encode(),
        json.dumps([record], indent=1).encode("utf-16"),
        json.dumps({"workflows": [workflow]}).encode(),
        gzip.compress(to_csv(builder)),
    ):
        (tmp_path / "versions").write_bytes(content)
        found = classifications.read_workflow_versions(tmp_path / "versions")
        assert smooth(votes.reduce_all([row(T0=0)], TREE, found)) == 1
    (tmp_path / "versions").write_bytes(to_csv(with_column(builder, "tasks", "{broken")))
    reduction = votes.reduce_all([row(T0=0)], TREE, classifications.read_workflow_versions(tmp_path / "versions"))
    assert reduction.rejected["reason"].tolist() == ["workflow 5, version 28.30 has no tasks"]


# --------------------------------------------------------------- labels


def test_a_label_may_be_longer_than_its_picture() -> None:
    address = "data:image/png;base64," + "A" * 200_000
    long = version_record("30.1", {"T0": [f"![x]({address}) Smooth", "A Disk"]})
    for value in (0, f"![y]({address} =60x60) SMOOTH"):
        assert smooth(votes.reduce_all([row(version="30.1", T0=value)], TREE, [long])) == 1


def test_an_answer_that_is_only_a_picture_and_a_translated_one_can_be_named() -> None:
    tree = parse_questions(
        {"shape": {"answers": {"smooth": ["![](https://x/Smooth.png)", "Lisse"], "disk": ["![](https://x/d.png)"]}}},
        "a test",
    )
    shown = version_record("30.1", {"T0": ["![]( https://x/Smooth.png =60x60)", "![](https://x/d.png)"]})
    values = [0, 1, "![](https://x/smooth.png =9x)", " lisse", "![](https://x/e.png)"]
    rows = [row(i, user=str(i), version="30.1", T0=value) for i, value in enumerate(values, 1)]
    reduction = votes.reduce_all(rows, tree, [shown])
    assert reduction.votes.loc["10", ["shape_smooth", "shape_disk"]].tolist() == [2, 1]
    assert sorted(reduction.rejected["reason"]) == [
        "unknown answer '![]( https://x/smooth.png)'",
        "unknown answer '![](https://x/e.png)'",
    ]


def test_an_answer_of_megabytes_is_rejected_in_no_time() -> None:
    for hostile in ("![" * 1_000_000, "![](" * 1_000_000, "![a](" + "(x)" * 1_000_000, "![" + "](" * 1_000_000):
        assert votes.reduce_all([row(T0=hostile)], TREE, VERSIONS).tally[judge.REJECTED] == 1


# --------------------------------------------------------------- tests before launch, gold standards


def test_tests_and_gold_standards_are_no_votes_and_nobodys_turn(tmp_path: Path) -> None:
    rows = base()
    test, live = (with_column(rows[:1], "metadata", json.dumps({"live_project": live}))[0] for live in (False, True))
    gold = {**rows[1], "gold_standard": "true"}
    again = [{**each, "classification_id": str(i)} for i, each in enumerate([test, gold, live, rows[1]], 1)]
    reduction = counted(written(tmp_path, again))
    assert smooth(reduction) == 2
    assert (reduction.tally[judge.BEFORE_LAUNCH], reduction.tally[judge.GOLD_STANDARD]) == (1, 1)
    both = counted(written(tmp_path, again), before_launch=True, gold_standard=True)
    assert smooth(both) == 2 and both.tally[votes.REPEAT] == 2


@pytest.mark.parametrize(
    "metadata",
    [
        '{"live_project":false}', '{"live_project" : false}', '{"live_project": "false"}', '{"live_project": 0,}',
        '{"live\\u005fproject": false}', '{"x": {"live_project": true}, "live_project": false}',
        '{"x": "\\"live_project\\":true", "live_project":false}',
    ],
)  # fmt: skip
def test_a_test_is_recognised_however_it_is_written(tmp_path: Path, metadata: str) -> None:
    reduction = counted(written(tmp_path, with_column(base(), "metadata", metadata)))
    assert reduction.tally[judge.BEFORE_LAUNCH] == 5
    row_text = json.dumps(row(1, T0=0)).replace('"metadata": {', '"metadata": ' + metadata[:-1].rstrip(",") + ", ")
    (tmp_path / "a.jsonl").write_text(row_text + "\n")
    assert counted(tmp_path / "a.jsonl").tally[judge.BEFORE_LAUNCH] == 1


@pytest.mark.parametrize(
    "metadata", ['{"live_project":true}', "{}", "", '{"x": {"live_project": false}}', '{"live_project":null}']
)
def test_all_others_count(tmp_path: Path, metadata: str) -> None:
    assert smooth(counted(written(tmp_path, with_column(base(), "metadata", metadata)))) == SMOOTH_OF_BASE


# --------------------------------------------------------------- the stage


@pytest.fixture
def stage(settings: Build, tmp_path: Path) -> Callable[..., Path]:
    """Runs stage=reduce on exports with these rows, with further settings."""
    labels = [answer.labels[0] for answer in load_questions("demo").root.answers]
    version = version_record("28.30", {load_questions("demo").root.task: labels})
    (tmp_path / "versions.json").write_text(json.dumps([version]))

    def run(exports: dict[str, Cells], *more: str) -> Path:
        for name, rows in exports.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(to_csv(rows))
        paths = ",".join(str(tmp_path / name) for name in exports)
        versions = f"reduce.workflow_versions={tmp_path / 'versions.json'}"
        return reduce.run(settings("stage=reduce", f"reduce.export=[{paths}]", versions, *more))

    return run


def test_several_exports_at_once(stage: Callable[..., Path]) -> None:
    rows = base()
    folder = stage({"monday/export.csv": rows[:3], "tuesday/export.csv": rows[2:]})
    table = pd.read_csv(folder / "classifications.csv")
    assert table["smooth-or-featured_smooth"].tolist() == [SMOOTH_OF_BASE]
    assert stage({"monday/export.csv": rows[:3], "tuesday/export.csv": rows[2:]}) == folder  # nothing to do


def test_the_loss_of_all_votes_is_an_error_with_the_commonest_reason(stage: Callable[..., Path]) -> None:
    another = {**base()[0], "classification_id": "99", "user_id": "x"}
    lost = {"a.csv": [*with_column(base(), "workflow_version", "9.9"), another]}
    with pytest.raises(
        InputError, match=r"none of 6 answers is a vote; .* \(5 answers\): unknown workflow version 9\.9"
    ):
        stage(lost)
    with pytest.raises(InputError, match=r"none of 5 answers is a vote; .* \(5 answers\): no usable classification id"):
        stage({"a.csv": with_column(base(), "classification_id", "1.5E+08")})
    with pytest.raises(InputError, match="no classification was read"):
        stage({"a.csv": []})
    folder = stage(lost, "reduce.allow_no_votes=true")
    assert len(pd.read_csv(folder / "rejected.csv")) == 6


# --------------------------------------------------------------- real cases

BASE = {"100": {"smooth": 2, "artifact": 1}, "101": {"featured-or-disk": 1}}
FIVE = {"100": {"smooth": 3, "artifact": 2}}
CUT = {str(subject): {"smooth": 1} for subject in range(123400, 123404)}
TWO = {"100": {"smooth": 1, "artifact": 1}}
EXPECTED: dict[str, Any] = {  # file or folder -> votes, or what the error says
    "02-merged-version": BASE, "03-dup-columns/dup_case.csv": BASE, "03-dup-columns": "has two columns called",
    "04-pandas-floats": BASE, "05-na-user": FIVE, "10-truncated/whole.csv": CUT | {"123404": {"smooth": 1}},
    "10-truncated": CUT, "15-versions-csv/other_workflow.json": {}, "15-versions-csv": BASE, "16-odd-versions": BASE,
    "21-not-live": {"100": {"smooth": 2}}, "25-long-label": TWO, "30-api-files/nouser.jsonl": {"100": {"smooth": 1}},
    "30-api-files": TWO, "41-pieces-float/monday.csv": {"100": {"smooth": 1}},
    "41-pieces-float/tuesday.csv": {"100": {"artifact": 1}},
}  # fmt: skip


def case_files() -> list[str]:
    folders = [path for path in sorted(CASES.glob("*")) if path.name[:2] not in ("00", "70", "73", "74")]
    files = [
        file for folder in folders for file in sorted(folder.iterdir()) if file.name not in ("CASE.md", "versions.json")
    ]
    return [str(file.relative_to(CASES)) for file in files]


@needs_cases
@pytest.mark.parametrize("name", case_files() or ["none"])
def test_a_real_case(name: str) -> None:
    expected = EXPECTED.get(name, EXPECTED.get(name.split("/")[0]))
    file, versions = CASES / name, CASES / "00-base/versions.json"
    if name.startswith(("15-", "16-")):
        file, versions = CASES / "00-base/export.csv", file
    elif (file.parent / "versions.json").is_file():
        versions = file.parent / "versions.json"
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            votes.reduce(file, load_questions("demo"), classifications.read_workflow_versions(versions))
        return
    table, _ = votes.reduce(file, load_questions("demo"), classifications.read_workflow_versions(versions))
    columns = {f"smooth-or-featured_{answer}": answer for answer in ("smooth", "featured-or-disk", "artifact")}
    found = {
        s: {columns[c]: n for c, n in of.items() if n and c in columns} for s, of in table.to_dict("index").items()
    }
    assert found == expected


@needs_cases
def test_the_same_volunteer_in_two_files_is_one_and_gold_standards_can_be_counted() -> None:
    questions, versions = (
        load_questions("demo"),
        classifications.read_workflow_versions(CASES / "00-base/versions.json"),
    )
    two = [CASES / "41-pieces-float" / name for name in ("monday.csv", "tuesday.csv")]
    assert votes.reduce_all(two, questions, versions).tally == {
        judge.VOTE: 1,
        votes.REPEAT: 1,
        judge.REJECTED: 0,
        votes.DUPLICATE: 0,
    }
    table, _ = votes.reduce(CASES / "21-not-live/export.csv", questions, versions, gold_standard=True)
    assert table[["smooth-or-featured_smooth", "smooth-or-featured_artifact"]].to_numpy().tolist() == [[2, 1]]


# --------------------------------------------------------------- damaged ids, columns and versions, at random


def spoilt_table(rng: random.Random, rows: Cells) -> tuple[Cells, int]:
    """An export with damaged cells and columns of the user's; and how many of its rows were left as they are."""
    damage = [
        "NA",
        "nan",
        "0",
        "",
        "11.0",
        "1e5",
        "x",
        "10;11",
        "-1",
        "9" * 20,
        "{",
        "[]",
        "null",
        "false",
        "\n",
        '"',
        "\x00",
    ]
    spoilt = [dict(each) for each in rows]
    hit = {rng.randrange(len(rows)) for _ in range(rng.randint(0, 3))}
    for number in hit:
        spoilt[number][rng.choice(list(rows[0]))] = rng.choice(damage)
    names = list(rows[0])
    for name in rng.sample(["version", "Workflow", "METADATA", "c1", "key", "plain", "Subject_IDs"], rng.randint(0, 3)):
        names.insert(rng.randrange(len(names) + 1), name)
    rng.shuffle(names) if rng.random() < 0.3 else None
    return [{name: each.get(name, rng.choice(damage)) for name in names} for each in spoilt], len(rows) - len(hit)


def test_damaged_cells_and_columns_at_random(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = with_column(base(), "user_id", ["1", "2", "3", "4", "5"])
    for _ in range(N_FUZZ_FILES):
        table, n_whole = spoilt_table(rng, rows)
        reduction = counted(written(tmp_path, table))
        assert n_whole <= int(reduction.votes["shape_smooth"].sum()) <= 5
        assert reduction.answers_read == 5


def spoil(rng: random.Random, value: Any) -> Any:
    """A JSON value with one place in it replaced, left out or doubled."""
    odd: list[Any] = [None, 3, 1.5, "", "x", [], {}, True, "T0.answers.0.label", [{"label": "Smooth"}]]
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return rng.choice(odd)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [*value[:at], spoil(rng, value[at]), *value[at + rng.randint(0, 1) :]]
    key = rng.choice(sorted(value))
    return {k: v for k, v in value.items() if k != key} | ({} if rng.random() < 0.3 else {key: spoil(rng, value[key])})


def test_versions_damaged_at_random_spoil_only_their_own(tmp_path: Path) -> None:
    rng = random.Random(2)
    odd = version_record("30.1", {"T0": ["Smooth", "A Disk"], "T1": ["Yes", "No"]}, "5")
    rows = [row(1, T0=0), row(2, user="8", version="30.1", T0=1, T1=0)]
    for _ in range(3 * N_FUZZ_FILES):
        (tmp_path / "v.json").write_text(json.dumps([*VERSIONS, spoil(rng, odd)]))
        reduction = votes.reduce_all(rows, TREE, classifications.read_workflow_versions(tmp_path / "v.json"))
        assert reduction.votes.loc["10", "shape_smooth"] >= 1
        assert sum(reduction.tally.values()) == reduction.answers_read == 3
