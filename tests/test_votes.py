"""Votes from classifications: by hand, then as properties, then on real rows and real workflow versions."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference_votes
from zoobot import votes
from zoobot.errors import InputError, SettingsError
from zoobot.galaxies import ids
from zoobot.galaxies.questions import QuestionTree, load_questions, parse_questions
from zoobot.votes import classifications, judge, versions

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")

TREE = parse_questions(
    {
        "shape": {"answers": {"smooth": ["Smooth"], "disk": ["A Disk", "Disc"]}, "retired": {"star": ["Star"]}},
        "edge": {"answers": {"yes": ["Yes"], "no": ["No"]}, "after": ["shape_disk"]},
        "bar": {"answers": {"yes": ["Yes"], "no": ["No"]}, "after": ["edge_no"]},
    },
    "the tests' tree",
)


def version_record(
    number: str, labels: dict[str, list[str]], workflow: str | None = None, **types: str
) -> dict[str, Any]:
    major, minor = map(int, number.split("."))
    strings = {f"{t}.answers.{i}.label": label for t, texts in labels.items() for i, label in enumerate(texts)}
    tasks = {
        t: {"type": types.get(t, "single"), "answers": [{"label": f"{t}.answers.{i}.label"} for i in range(len(texts))]}
        for t, texts in labels.items()
    }
    record = {"major_number": major, "minor_number": minor, "first_task": "T0", "tasks": tasks, "strings": strings}
    return record if workflow is None else {**record, "links": {"workflow": workflow}}


OLD = version_record("28.3", {"T0": ["Star", "![a](http://x/b.png =60x) Smooth", "Disc"], "T1": ["No", "Yes"]})
NEW = version_record("28.30", {"T0": ["Smooth", "A  Disk "], "T1": ["Yes", "No"], "T2": ["Yes", "No"]})
LISTS = version_record("29.1", {"T0": ["Smooth", "A Disk"], "T1": ["Yes", "No"]}, T1="multiple")
VERSIONS = [OLD, NEW, LISTS]


def row(id_: Any = 1, subject: Any = "10", user: Any = "7", version: Any = "28.30", **answers: Any) -> dict[str, Any]:
    return {
        "id": str(id_),
        "annotations": [{"task": task, "value": value} for task, value in answers.items()],
        "metadata": {"workflow_version": version, "session": "s"},
        "links": {"user": user, "workflow": "5", "subjects": [subject]},
    }


def counts(rows: list[Any], **settings_: Any) -> dict[str, dict[str, int]]:
    """Votes that are not zero, without totals."""
    table, _ = votes.reduce(rows, TREE, VERSIONS, **settings_)
    answers = [c for q in TREE for c in q.all_columns]
    return {s: {c: n for c in answers if (n := int(table[c][s]))} for s in table.index.tolist()}


def reasons(*rows: Any) -> list[tuple[str, ...]]:
    return list(votes.reduce(rows, TREE, VERSIONS)[1].itertuples(index=False, name=None))


def tally(rows: list[Any], **settings_: Any) -> dict[str, int]:
    reduction = votes.reduce_all(rows, TREE, VERSIONS, **settings_)
    assert sum(reduction.tally.values()) == reduction.answers_read
    return {reason: n for reason, n in reduction.tally.items() if n}


# By hand


def test_votes_and_their_sums() -> None:
    rows = [
        row(1, "10", "7", T0=1, T1=1, T2=0),
        row(2, "10", "8", T0=0),
        row(3, "9", "8", T0=1, T1=0),
        row(4, "9", T0=1),
    ]
    table, rejected = votes.reduce(rows, TREE, VERSIONS)
    assert list(table.columns) == list(TREE.columns)
    assert list(table.columns)[:4] == ["shape_smooth", "shape_disk", "shape_star", "shape_total-votes"]
    assert table.index.name == "subject_id" and table.index.dtype == "string"
    assert list(table.index) == ["10", "9"]  # sorted as text
    assert set(map(str, table.dtypes)) == {"int64"}
    assert list(table.loc["10"]) == [1, 1, 0, 2, 0, 1, 1, 1, 0, 1]
    assert list(table.loc["9"]) == [0, 2, 0, 2, 1, 0, 1, 0, 0, 0]
    assert rejected.empty and set(map(str, rejected.dtypes)) == {"string"}
    assert list(rejected.columns) == ["classification_id", "subject_id", "task", "reason"]


def test_nothing_to_read_gives_empty_tables() -> None:
    table, rejected = votes.reduce([], TREE, VERSIONS)
    assert table.shape == (0, 10) and set(map(str, table.dtypes)) == {"int64"} and table.index.name == "subject_id"
    assert rejected.shape == (0, 4)


def test_an_index_means_what_its_version_says() -> None:
    assert counts([row(T0=1, version="28.3")]) == {"10": {"shape_smooth": 1}}
    assert counts([row(T0=1, version="28.30")]) == {"10": {"shape_disk": 1}}
    assert counts([row(T0=0, version="28.3")]) == {"10": {"shape_star": 1}}
    assert counts([row(T0=2, T1=1, version="28.3")]) == {"10": {"shape_disk": 1, "edge_yes": 1}}


def test_a_text_is_a_label() -> None:
    assert counts([row(T0="![a](http://x/b.png =60x)  a DISK")]) == {"10": {"shape_disk": 1}}
    assert counts([row(T0="Disc", T1="No")]) == {"10": {"shape_disk": 1, "edge_no": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "Both (a & b)",
        "  both\n (A  &\tB) ",
        "![x.png](https://h/x.png) Both (a & b)",
        "![x.png](https://h/x.png =60x) Both (a & b)",
        "![x.png](https://h/x.png =120x60)Both (a & b)",
        "![x.png](https://h/x.png) =60x Both (a & b)",
        "![x (1).png](https://h/x (1).png =60x) Both (a & b)",
        "![x[1].png](https://h/x.png) Both (a & b)",
        "![x](https://h/x).png) Both (a & b)",
        "![x](https://h/x).png =60x) Both (a & b)",
        "![](https://h/x.png)![](https://h/y.png) Both (a & b)",
    ],
)
def test_labels_are_compared_without_images_case_and_spaces(text: str) -> None:
    assert versions.normalise_label(text) == reference_votes.plain_label(text) == "both (a & b)"


def test_an_image_in_the_middle_leaves_a_space() -> None:
    assert versions.normalise_label("Enter an answer![d](https://h/d.png =50x)Dominant") == "enter an answer dominant"
    assert versions.normalise_label("(new image, edge and inclined) Yes") == "(new image, edge and inclined) yes"


def test_an_unknown_version_is_rejected_and_takes_nobodys_turn() -> None:
    rows = [row(1, version="28.31", T0=0, T9=0), row(2, T0=1)]
    assert reasons(*rows) == [
        ("1", "10", "T0", "unknown workflow version 28.31"),
        ("1", "10", "T9", "unknown workflow version 28.31"),
    ]
    assert counts(rows) == {"10": {"shape_disk": 1}}


def test_a_version_that_is_not_text_is_rejected() -> None:
    rows = [row(i, version=version, T0=0) for i, version in enumerate([None, "", 28.3, 28, True, ["28.3"]], 1)]
    reason = "the workflow version is missing or not text"
    assert reasons(*rows) == [(str(i), "10", "T0", reason) for i in range(1, 7)]


def test_versions_belong_to_workflows() -> None:
    both = [
        version_record("1.1", {"T0": ["Smooth", "Disc"]}, "5"),
        version_record("1.1", {"T0": ["Disc", "Smooth"]}, "6"),
    ]
    mine, other = row(1, version="1.1", T0=0), row(2, user="8", version="1.1", T0=0)
    other["links"]["workflow"] = "6"
    table, _ = votes.reduce([mine, other, row(3, user="9", version="1.2", T0=0)], TREE, both)
    assert list(table.loc["10", ["shape_smooth", "shape_disk"]]) == [1, 1]
    _, rejected = votes.reduce([row(version="1.2", T0=0), row(2, version="1.1", T0=0)], TREE, both[:1])
    assert rejected["reason"].tolist() == ["unknown workflow version 1.2"]
    _, rejected = votes.reduce([row(version="1.1", T0=0)], TREE, both[1:])
    assert rejected["reason"].tolist() == ["unknown workflow 5"]
    unlike = [{**b, "links": {}} for b in both]
    _, rejected = votes.reduce([row(version="1.1", T0=0)], TREE, unlike)
    assert rejected["reason"].tolist() == ["workflow (none named), version 1.1 is there twice, with different answers"]
    assert votes.reduce([row(T0=0)], TREE, VERSIONS + VERSIONS)[0].loc["10", "shape_smooth"] == 1


def test_the_first_classification_of_a_volunteer_counts_completely() -> None:
    # 9 < 10 as numbers, not as text; the second one's answer to T1 is not added to the first one's.
    rows = [row(10, T0=1, T1=0), row(9, T0=1), row(11, "11", T0=0)]
    assert counts(rows) == {"10": {"shape_disk": 1}, "11": {"shape_smooth": 1}}
    assert tally(rows) == {judge.VOTE: 2, votes.REPEAT: 2}
    assert counts([row(1, user=7, T0=0), row(2, user="7", T0=1)]) == {"10": {"shape_smooth": 1}}


@pytest.mark.parametrize("nobody", [None, ""])
def test_anonymous_classifications_all_count_unless_set_otherwise(nobody: object) -> None:
    rows = [row(i, user=nobody, T0=0) for i in (1, 2, 3)]
    rows[2]["metadata"]["session"] = "t"
    assert counts(rows) == {"10": {"shape_smooth": 3}}
    assert counts(rows, anonymous_repeats="first_per_session") == {"10": {"shape_smooth": 2}}
    assert tally(rows, anonymous_repeats="first_per_session") == {judge.VOTE: 2, votes.SESSION_REPEAT: 1}
    elsewhere = row(4, "11", nobody, T0=0)
    counted = counts([*rows, elsewhere], anonymous_repeats="first_per_session")
    assert counted == {"10": {"shape_smooth": 2}, "11": {"shape_smooth": 1}}
    for nameless in rows:
        del nameless["metadata"]["session"]
    assert counts(rows, anonymous_repeats="first_per_session") == {"10": {"shape_smooth": 3}}
    with pytest.raises(SettingsError, match="anonymous_repeats"):
        votes.reduce(rows, TREE, VERSIONS, anonymous_repeats="none")


def test_copies_count_once_and_the_newest_copy_counts() -> None:
    rows = [row(1, T0=0), row(1, T0=0), row(1, T0=0)]
    assert counts(rows) == {"10": {"shape_smooth": 1}}
    assert tally(rows) == {judge.VOTE: 1, votes.DUPLICATE: 2}
    anonymous = [row(1, user=None, T0=0), row(1, user=None, T0=0)]
    assert counts(anonymous) == {"10": {"shape_smooth": 1}}
    finished = {**row(1, T0=1, T1=0), "updated_at": "2019-03-29T18:39"}
    started = {**row(1, T0=1), "updated_at": "2019-03-29T18:38"}
    for order in ([finished, started], [started, finished]):
        assert counts(order) == {"10": {"shape_disk": 1, "edge_yes": 1}}
        assert tally(order) == {judge.VOTE: 2, votes.DUPLICATE: 1}
    bad = row(1, version="9.9", T0=0)
    assert len(reasons(bad, bad)) == 1


def test_no_answer_is_no_vote() -> None:
    nothing: list[Any] = [None, "", "  ", [], {}]
    rows = [row(i, user=str(i), T0=0, T1=value) for i, value in enumerate(nothing, 1)]
    assert counts(rows) == {"10": {"shape_smooth": 5}} and not reasons(*rows)
    assert tally(rows) == {judge.VOTE: 5, judge.NO_ANSWER: 5}


def test_absent_answers_are_no_votes() -> None:
    without_value, without_annotations = row(1), row(2, "11")
    without_value["annotations"] = [{"task": "T0"}]
    without_annotations["annotations"] = None
    rows = [without_value, without_annotations, row(3, "12")]
    assert counts(rows) == {} and not reasons(*rows)
    assert tally(rows) == {judge.NO_ANSWER: 3}


def test_tasks_without_a_question_and_multiple_choice_give_no_vote() -> None:
    rows = [row(1, T0=1, init=0, T10=[6, 4]), row(2, "11", version="29.1", T0=1, T1=[0])]
    assert counts(rows) == {"10": {"shape_disk": 1}, "11": {"shape_disk": 1}} and not reasons(*rows)
    assert tally(rows) == {judge.VOTE: 2, judge.NO_QUESTION: 2, judge.NOT_SINGLE: 1}


UNKNOWN_ANSWERS = [
    (3, "unknown answer 3; this workflow version has 2"),
    (-1, "unknown answer -1; this workflow version has 2"),
    (10**5000, "unknown answer of many digits; this workflow version has 2"),
    ("Spiral", "unknown answer 'spiral'"),
    ("0", "unknown answer '0'"),
    ("\ud800", r"unknown answer '\\ud800'"),
    ([0], "unknown answer of type list, expected an index or a label"),
    (True, "unknown answer of type bool, expected an index or a label"),
    (1.0, "unknown answer of type float, expected an index or a label"),
    ({"x": 1}, "unknown answer of type dict, expected an index or a label"),
]


def test_unknown_answers_are_rejected() -> None:
    rows = [row(i, user=str(i), T0=value) for i, (value, _) in enumerate(UNKNOWN_ANSWERS, 1)]
    expected = [(str(i), "10", "T0", reason) for i, (_, reason) in enumerate(UNKNOWN_ANSWERS, 1)]
    assert sorted(reasons(*rows)) == sorted(expected)


def test_an_answer_that_the_question_set_lacks_is_rejected_by_its_label() -> None:
    odd = version_record("3.1", {"T0": ["Smooth", "![](u.png) Spiral"]})
    _, rejected = votes.reduce([row(version="3.1", T0=1, T1=0)], TREE, [odd])
    assert rejected["reason"].tolist() == ["unknown answer 'spiral'", "this workflow version has no such task"]


def test_subjects_must_be_one() -> None:
    two, none, broken = row(1, T0=0, T1=0), row(2, T0=0), row(3, T0=0)
    two["links"]["subjects"], none["links"]["subjects"], broken["links"] = ["10", "11"], [], None
    assert reasons(two, none, broken, row(4, {}, T0=0)) == [
        ("1", "10;11", "T0", "2 subjects, expected one"),
        ("1", "10;11", "T1", "2 subjects, expected one"),
        ("2", "", "T0", "no subject"),
        ("3", "", "T0", "no subject"),
        ("4", "", "T0", "the subject is not an id"),
    ]
    assert tally([two, row(4, T0=0)]) == {judge.VOTE: 1, judge.REJECTED: 2}  # and the volunteer may vote again


UNUSABLE_IDS: list[Any] = [None, "", "x7", "-3", "1.5", 1.5, 0, "0", "1e9", True, [], {}, "\u0661", "9" * 19, 10**30]


def test_rows_without_a_usable_id_are_rejected_one_by_one() -> None:
    broken = [{**row(T0=0), "id": bad} for bad in UNUSABLE_IDS]
    assert [r[3] for r in reasons(*broken, *broken)] == ["no usable classification id"] * 2 * len(UNUSABLE_IDS)


def test_rows_that_are_no_classifications_are_rejected() -> None:
    assert reasons(None, [], "x", 3) == [("", "", "", "not an object")] * 4
    assert reasons({}) == [("", "", "", "no usable classification id")]
    assert reasons({**row(), "annotations": {"T0": 0}}) == [("1", "10", "", "the annotations are not a list")]
    assert reasons(row(user={"id": 7}, T0=0)) == [("1", "10", "T0", "the user is neither an id nor empty")]
    odd = row()
    odd["annotations"] = ["T0", {"value": 0}, {"task": 3}]
    assert reasons(odd)[:2] == [("1", "10", "", "not an answer to a task")] * 2
    assert tally([odd]) == {judge.REJECTED: 2, judge.NO_QUESTION: 1}


def test_an_answer_off_the_path_is_rejected_with_all_below_it() -> None:
    assert counts([row(T0=0, T1=1, T2=0)]) == {"10": {"shape_smooth": 1}}
    assert reasons(row(T0=0, T1=1, T2=0)) == [
        ("1", "10", "T1", "off the path: edge is only for shape_disk"),
        ("1", "10", "T2", "off the path: bar is only for edge_no"),
    ]
    assert counts([row(T1=0, T0=1)]) == {"10": {"shape_disk": 1, "edge_yes": 1}}  # in whatever order they were given
    assert [r[2] for r in reasons(row(T0=9, T1=0))] == ["T0", "T1"]


def test_a_question_answered_twice_counts_once() -> None:
    twice = row(T0=9)
    twice["annotations"] += [{"task": "T0", "value": 1}, {"task": "T0", "value": 0}, {"task": "T1", "value": 0}]
    assert counts([twice]) == {"10": {"shape_disk": 1, "edge_yes": 1}}
    assert [r[3] for r in reasons(twice)] == [
        "unknown answer 9; this workflow version has 2",
        "answered twice in one classification",
    ]


def test_combo_tasks_are_read_like_others() -> None:
    parts = [
        {"task": "T0", "value": 1},
        {"task": "T5", "value": [{"task": "T1", "value": 1}, "?"]},
        {"task": "T2", "value": 0},
    ]
    combo = row(T6=parts)
    assert counts([combo]) == {"10": {"shape_disk": 1, "edge_no": 1, "bar_yes": 1}}
    assert tally([combo]) == {judge.VOTE: 3, judge.REJECTED: 1}
    deep: Any = 0
    for _ in range(10_000):
        deep = [{"task": "T0", "value": deep}]
    assert counts([row(T0=deep)]) == {"10": {"shape_smooth": 1}}


def test_answers_that_share_a_label_are_an_input_error() -> None:
    shared = parse_questions({"q": {"answers": {"a": ["Same"], "b": ["![](x.png) same"]}}}, "a test")
    with pytest.raises(InputError, match="question q: two answers have the label"):
        votes.reduce([], shared, [])


# Files


def test_a_broken_line_is_rejected_with_its_number(tmp_path: Path) -> None:
    good = json.dumps(row(T0=0)).encode()
    lines = [b"\xef\xbb\xbf" + good, b"", b'{"id": "2", "anno', b"[1, 2]", b"\xff\xfe", b"[" * 100_000, b"1" * 5_000]
    (tmp_path / "dump.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    rows = list(classifications.read_api_dump(tmp_path / "dump.jsonl"))
    assert len(rows) == 6 and rows[0] == row(T0=0)
    assert sorted(r[3] for r in reasons(*rows)) == [
        *(f"broken JSON in line {n} of dump.jsonl" for n in (3, 5, 6, 7)),
        "line 4 of dump.jsonl is not an object",
    ]
    assert counts(rows) == {"10": {"shape_smooth": 1}}


HEADER = [
    "classification_id", "user_name", "user_id", "user_ip", "workflow_id", "workflow_name", "workflow_version",
    "created_at", "gold_standard", "expert", "metadata", "annotations", "subject_data", "subject_ids",
]  # fmt: skip


def export_line(cells: dict[str, str]) -> list[str]:
    defaults = {"user_name": "é", "workflow_id": "5", "workflow_version": "28.30", "metadata": '{"session":"s"}'}
    return [({"subject_ids": "10", "user_id": "7"} | defaults | cells).get(column, "") for column in HEADER]


def write_export(path: Path, lines: list[dict[str, str]], header: list[str] = HEADER) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *map(export_line, lines)])
    return path


def test_an_export_is_read_in_the_shape_of_the_api(tmp_path: Path) -> None:
    annotations = (
        '[{"task":"T0","task_label":"Is it\\nsmooth?","value":"![a](http://x/b (1).png =60x) Disc"},'
        '{"task":"T1","value":"No"}]'
    )
    lines = [
        {"classification_id": "1", "annotations": annotations},
        {"classification_id": "2", "annotations": annotations},
        {"classification_id": "3", "annotations": annotations, "user_id": ""},
        {"classification_id": "4", "annotations": annotations, "user_id": "", "workflow_version": "28.3"},
        {"classification_id": "5", "annotations": annotations, "user_id": "8", "subject_ids": "10;11"},
        {"classification_id": "6", "annotations": annotations[:-5], "user_id": "9"},
        {"classification_id": "7", "annotations": "", "metadata": "", "user_id": "9"},
        {"classification_id": "8", "annotations": '[{"task":"T0","value":"unknown answer label"}]', "user_id": "11"},
    ]
    rows = list(classifications.read_export(write_export(tmp_path / "export.csv", lines)))
    assert rows[2] == {
        "id": "3",
        "gold_standard": "",
        "links": {"user": None, "workflow": "5", "subjects": ["10"]},
        "metadata": {"session": "s", "workflow_version": "28.30"},
        "annotations": json.loads(annotations),
    }
    assert counts(rows) == {"10": {"shape_disk": 3, "edge_no": 3}}
    assert reasons(*rows) == [
        ("6", "10", "", "broken JSON in annotations"),
        ("5", "10;11", "T0", "2 subjects, expected one"),
        ("5", "10;11", "T1", "2 subjects, expected one"),
        ("8", "10", "T0", "unknown answer 'unknown answer label'"),
    ]
    assert tally(rows) == {judge.VOTE: 6, votes.REPEAT: 2, judge.REJECTED: 4, judge.NO_ANSWER: 1}
    assert counts(rows, anonymous_repeats="first_per_session") == {"10": {"shape_disk": 2, "edge_no": 2}}


def test_a_short_row_of_an_export_is_rejected(tmp_path: Path) -> None:
    path = write_export(tmp_path / "export.csv", [])
    path.write_text(path.read_text() + "12,somebody\n")
    assert reasons(*classifications.read_export(path)) == [("12", "", "", "a row with 2 cells, but the header has 14")]


@pytest.mark.parametrize("column", [*classifications.EXPORT_IDS, *classifications.EXPORT_JSON])
def test_a_column_missing_in_an_export_is_named(tmp_path: Path, column: str) -> None:
    path = write_export(tmp_path / "export.csv", [], [c for c in HEADER if c != column])
    with pytest.raises(InputError, match=rf"export\.csv has no column {column}\."):
        list(classifications.read_export(path))


def test_missing_and_wrong_files_are_input_errors(tmp_path: Path) -> None:
    for read in (classifications.read_api_dump, classifications.read_export, classifications.read_workflow_versions):
        with pytest.raises(InputError, match="there is no file"):
            list(read(tmp_path / "absent"))
    path = tmp_path / "versions.json"
    for text in ("{", "3", "[]", '{"workflow_versions": []}', "[" * 100_000, "a,b"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"versions\.json"):
            classifications.read_workflow_versions(path)
    path.write_text(json.dumps({"workflow_versions": VERSIONS}))
    assert classifications.read_workflow_versions(path) == VERSIONS
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match=r"empty\.csv has no column classification_id"):
        list(classifications.read_export(tmp_path / "empty.csv"))


# Workflows


def paths_through(version: dict[str, Any], task: str | None) -> Iterator[dict[str, int]]:
    """All ways to answer a workflow that follow its links, as task -> index; multiple-choice tasks are passed over."""
    if task is None:
        yield {}
        return
    body = version["tasks"][task]
    if body["type"] != "single":
        yield from paths_through(version, body.get("next"))
        return
    for index, answer in enumerate(body["answers"]):
        for rest in paths_through(version, answer.get("next")):
            yield {task: index, **rest}


def rows_of_all_paths(version: dict[str, Any]) -> list[dict[str, Any]]:
    number = f"{version['major_number']}.{version['minor_number']}"
    ways = paths_through(version, version["first_task"])
    rows = [row(i, f"{i:05d}", None, number, **way) for i, way in enumerate(ways, 10_000)]
    for each in rows:
        each["links"]["workflow"] = version.get("links", {}).get("workflow")
    return rows


def test_a_workflow_is_made_of_first_labels_without_retired_answers() -> None:
    made = classifications.workflow_of(TREE, "3.20")
    assert (made["major_number"], made["minor_number"], made["first_task"]) == (3, 20, "T0")
    assert made["tasks"]["T0"] == {
        "type": "single",
        "question": "T0.question",
        "required": True,
        "answers": [{"label": "T0.answers.0.label"}, {"label": "T0.answers.1.label", "next": "T1"}],
    }
    assert made["tasks"]["T1"]["answers"] == [
        {"label": "T1.answers.0.label"},
        {"label": "T1.answers.1.label", "next": "T2"},
    ]
    assert made["strings"]["T0.answers.1.label"] == "A Disk" and made["strings"]["T0.question"] == "shape"
    for number in ("1", "1.", "01.1", "1.x", "1.1.1", "\u0663.1"):
        with pytest.raises(InputError, match="a workflow version is"):
            classifications.workflow_of(TREE, number)


@pytest.mark.parametrize("name, n_paths", [("demo", 13), ("gz2", 317), ("decals", 1165)])
def test_every_path_through_a_made_workflow_is_read_completely(name: str, n_paths: int) -> None:
    questions = load_questions(name)
    made = classifications.workflow_of(questions)
    rows = rows_of_all_paths(made)
    # Counted by hand; gz2: smooth 3*2, edge-on 3*2, face-on (3*6+1)*2*4*2, artifact 1.
    assert len(rows) == n_paths
    reduction = votes.reduce_all(rows, questions, [made])
    table = reduction.votes
    assert reduction.rejected.empty
    assert reduction.tally[judge.VOTE] == reduction.answers_read == sum(len(r["annotations"]) for r in rows)
    assert (table[[c for q in questions for c in q.columns]].sum() > 0).all()
    for question in questions:  # asked of those, and all those, who gave an answer that leads to it
        asked = table[list(question.after)].sum(axis=1) > 0 if question.after else table[questions.root.total] > 0
        assert ((table[question.total] == 1) == asked).all()


# Properties

# Half of the rows go down the tree as volunteers do: of answers drawn freely, hardly one in fifty is a vote.
PATHS: st.SearchStrategy[list[tuple[str, Any]]] = st.sampled_from([
    [("T0", 0)],
    [("T0", 1), ("T1", 0)],
    [("T0", 1), ("T1", 1), ("T2", 0)],
    [("T0", 2), ("T1", 0)],
    [("T0", "Smooth")],
    [("T0", "disc"), ("T1", "yes")],
    [("T2", "Yes"), ("T0", "![a](b.png) A  Disk"), ("T1", "No")],
    [("T0", "?"), ("T0", "Smooth"), ("T0", "Disc")],
    [("T6", [{"task": "T0", "value": 1}, {"task": "T1", "value": 0}])],
])  # fmt: skip
ANSWERS: st.SearchStrategy[list[tuple[str, Any]]] = st.lists(
    st.tuples(
        st.sampled_from(["T0", "T1", "T2", "T9"]),
        st.one_of(st.integers(-1, 3), st.sampled_from(["Smooth", "disc", "yes", "?", None, "", True])),
    ),
    max_size=5,
)


@st.composite
def plausible_rows(draw: st.DrawFn) -> dict[str, Any]:
    made = row(
        id_=draw(st.integers(1, 20)),
        user=draw(st.sampled_from([None, None, "7", "8", "7", "8", "7.0", "NA", "x"])),
        version=draw(st.sampled_from(["28.3", "28.30", "28.30", "29.1", "0.0"])),
    )
    # Of a file, DuckDB reads the rows about one number by itself.
    made["links"]["subjects"] = draw(st.sampled_from([["10"], ["10"], ["10"], ["11"], ["a"], ["11.0"], ["10", "11"]]))
    made["annotations"] = [{"task": task, "value": value} for task, value in draw(st.one_of(PATHS, ANSWERS))]
    made["metadata"]["session"] = draw(st.sampled_from(["s", "s", "t", None]))
    made["metadata"]["live_project"] = draw(st.sampled_from([True, True, None, "true", False]))
    made["gold_standard"] = draw(st.sampled_from([None, None, False, "false", True, "true"]))
    made["updated_at"] = draw(st.sampled_from([None, "2019", "2020"]))
    return made


ROWS = st.lists(plausible_rows(), min_size=4, max_size=16)
REPEATS = st.sampled_from(["all", "first_per_session"])


def assert_same(a: votes.Reduction, b: votes.Reduction) -> None:
    pd.testing.assert_frame_equal(a.votes, b.votes)
    pd.testing.assert_frame_equal(a.rejected, b.rejected)


def assert_adds_up(reduction: votes.Reduction, questions: QuestionTree) -> None:
    table = reduction.votes
    for question in questions:
        assert (table[question.total] == table[list(question.all_columns)].sum(axis=1)).all()
        if question.after:
            assert (table[question.total] <= table[list(question.after)].sum(axis=1)).all()
    n_votes = int(table[[q.total for q in questions]].to_numpy().sum())
    assert n_votes == reduction.tally[judge.VOTE]
    assert len(reduction.rejected) == reduction.tally[judge.REJECTED]
    assert sum(reduction.tally.values()) == reduction.answers_read


def n_answers(rows: list[Any]) -> int:
    numbers = (sum(len(a["value"]) if a["task"] == "T6" else 1 for a in r["annotations"]) for r in rows)
    return sum(max(1, n) for n in numbers)


def assert_one_vote_each(table: pd.DataFrame, rows: list[Any]) -> None:
    """No volunteer has two votes on a subject and question; an anonymous classification has one."""
    for subject, n_votes in table["shape_total-votes"].items():
        about = [r for r in rows if [ids.zooniverse_id(s) for s in r["links"]["subjects"]] == [subject]]
        assert n_votes <= len({ids.volunteer(r["links"]["user"]) or ("nobody", r["id"]) for r in about})


# One test for four properties: what costs time is the reduction, not the look at what it gave.
@settings(deadline=None, max_examples=20)
@given(data=st.data(), rows=ROWS, repeats=REPEATS)
def test_totals_add_up_and_rows_in_any_order_or_again_change_only_the_tally_of_duplicates(
    data: st.DataObject, rows: list[Any], repeats: Any
) -> None:
    one = votes.reduce_all(rows, TREE, VERSIONS, anonymous_repeats=repeats)
    assert_adds_up(one, TREE)
    assert one.answers_read == n_answers(rows)
    assert_one_vote_each(one.votes, rows)

    again = data.draw(st.lists(st.sampled_from(rows), max_size=6))
    shuffled = data.draw(st.permutations(rows + again))
    other = votes.reduce_all(shuffled, TREE, VERSIONS, anonymous_repeats=repeats)
    assert_same(one, other)
    assert other.answers_read == one.answers_read + n_answers(again)
    assert other.tally == {**one.tally, votes.DUPLICATE: one.tally[votes.DUPLICATE] + n_answers(again)}


TEXT = st.text(st.characters(), max_size=5)  # lone surrogates too: JSON can hold them
NAMES = ["id", "annotations", "task", "value", "metadata", "workflow_version", "session", "links", "user", "subjects"]
KEYS = st.one_of(st.sampled_from([*NAMES, "updated_at"]), TEXT)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**30), st.floats(), TEXT, st.sampled_from(["T0", "28.30", "1"])
)
JSON_VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=4), max_leaves=12
)


@st.composite
def spoilt_rows(draw: st.DrawFn) -> Any:
    """A plausible row with one place of it replaced by any JSON value."""
    made: Any = draw(plausible_rows())
    holder = made
    for _ in range(draw(st.integers(0, 3))):
        inner = holder[draw(st.sampled_from(sorted(holder)) if isinstance(holder, dict) else st.just(0))]
        if not inner or not isinstance(inner, dict | list):
            break
        holder = inner
    holder[draw(st.sampled_from(sorted(holder)) if isinstance(holder, dict) else st.just(0))] = draw(JSON_VALUES)
    return made


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.one_of(JSON_VALUES, spoilt_rows()), min_size=4, max_size=16), repeats=REPEATS)
def test_no_json_value_crashes_the_reduction(rows: list[Any], repeats: Any) -> None:
    reduction = votes.reduce_all(rows, TREE, VERSIONS, anonymous_repeats=repeats)
    assert_adds_up(reduction, TREE)
    assert_same(reduction, votes.reduce_all(rows[::-1], TREE, VERSIONS, anonymous_repeats=repeats))
    reduction.rejected.to_csv(index=False).encode("utf-8")
    reduction.votes.to_csv().encode("utf-8")


def test_time_grows_with_the_rows_not_their_square() -> None:
    def seconds(n: int) -> float:
        rows = [row(i, str(1 + i % 50), None, T0=1, T1=1, T2=0) for i in range(1, n + 1)]
        start = time.process_time()
        votes.reduce(rows, TREE, VERSIONS)
        return time.process_time() - start

    seconds(200)
    assert seconds(8_000) < 40 * max(seconds(800), 0.002)  # 10 times the rows; 100 times the time if it were quadratic


# Real data


@pytest.fixture(scope="module")
def real_versions() -> list[dict[str, Any]]:
    return classifications.read_workflow_versions(SHARED / "zooniverse" / "workflow_6122_versions.json")


@needs_real_data
def test_ten_real_classifications(real_versions: list[dict[str, Any]]) -> None:
    questions = load_questions("decals")
    rows = list(classifications.read_api_dump(SHARED / "zooniverse" / "api_classifications.jsonl"))
    reduction = votes.reduce_all(rows, questions, real_versions)
    sums = {str(column): int(n) for column, n in reduction.votes.sum().items() if n}
    assert sums == {
        "smooth-or-featured_smooth": 8, "smooth-or-featured_featured-or-disk": 2, "smooth-or-featured_total-votes": 10,
        "how-rounded_round": 2, "how-rounded_in-between": 4, "how-rounded_cigar-shaped": 2,
        "how-rounded_total-votes": 8,
        "disk-edge-on_yes": 1, "disk-edge-on_no": 1, "disk-edge-on_total-votes": 2,
        "edge-on-bulge_rounded": 1, "edge-on-bulge_total-votes": 1,
        "bar_no": 1, "bar_total-votes": 1,
        "has-spiral-arms_no": 1, "has-spiral-arms_total-votes": 1,
        "bulge-size_moderate": 1, "bulge-size_total-votes": 1,
        "merging_merger": 1, "merging_major-disturbance": 1, "merging_minor-disturbance": 1, "merging_none": 7,
        "merging_total-votes": 10,
    }  # fmt: skip
    assert len(reduction.votes) == 10 and reduction.rejected.empty
    assert {k: n for k, n in reduction.tally.items() if n} == {judge.VOTE: 34, judge.NO_QUESTION: 10}
    assert_adds_up(reduction, questions)
    assert_same(reduction, votes.reduce_all(rows[::-1] + rows, questions, real_versions))


@needs_real_data
def test_every_label_of_every_real_version_is_known(real_versions: list[dict[str, Any]]) -> None:
    n_read = 0
    for question in (questions := load_questions("decals")):
        rows: list[dict[str, Any]] = []
        for version in real_versions:
            number = f"{version['major_number']}.{version['minor_number']}"
            body = version["tasks"][question.task]
            for index, answer in enumerate(body["answers"] if body["type"] == "single" else []):
                subject = str(len(rows) + 1)
                for value in (index, version["strings"][answer["label"]]):
                    rows.append(row(len(rows) + 1, subject, None, number, **{question.task: value}))
                    rows[-1]["links"]["workflow"] = "6122"
        alone = questions.subset([question.name])
        table, rejected = votes.reduce(rows, alone, real_versions)
        assert rejected.empty, (question.name, rejected["reason"].unique())
        assert len(table) == len(rows) // 2
        assert ((table[list(question.all_columns)] == 2).sum(axis=1) == 1).all()  # index and label: the same answer
        n_read += len(table)
    assert len(real_versions) == 24 and n_read > 800


@needs_real_data
def test_every_path_through_every_real_version_is_read_completely(real_versions: list[dict[str, Any]]) -> None:
    questions = load_questions("decals")
    for version in real_versions:
        reduction = votes.reduce_all(rows_of_all_paths(version), questions, [version])
        assert reduction.answers_read > 1_000
        if version["major_number"] == 60:
            # These versions asked about the edge-on bulge of smooth galaxies too, against the tree of the catalogs.
            assert set(reduction.rejected["reason"]) == {"off the path: edge-on-bulge is only for disk-edge-on_yes"}
        else:
            assert reduction.rejected.empty
