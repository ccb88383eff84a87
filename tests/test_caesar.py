"""Votes that Caesar or panoptes_aggregation has counted already."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.test_votes import TREE, version_record
from zoobot.errors import InputError, SettingsError
from zoobot.settings import Settings
from zoobot.stages import reduce
from zoobot.votes import judge
from zoobot.votes.caesar import OTHER_REDUCER, read_caesar

SHOWN = [
    version_record("1.1", {"T0": ["Smooth", "A Disk"], "T1": ["Yes", "No"]}, "5"),
    version_record("1.2", {"T0": ["Smooth", "Disc"], "T1": ["No", "Yes"]}, "5"),
    version_record("1.1", {"T0": ["Disc", "Smooth"]}, "6"),
]
CAESAR = """\
id,reducer_key,workflow_id,subject_id,created_at,updated_at,subgroup,data.0,data.1,data.2,data.,data.aggregation_version
1,t0-stats,5,900,2024-03-01 10:00:00 UTC,2024-03-02 11:00:00 UTC,_default,7,4,,2,5.3.1
2,T0,6,901.0,2024-03-01 10:00:00 UTC,2024-03-02 11:00:00 UTC,_default,7.0,4.0,,,
3,count,5,900,2024-03-01 10:00:00 UTC,2024-03-02 11:00:00 UTC,_default,12,,,,
"""
OFFLINE = """\
subject_id,workflow_id,task,reducer,data.smooth,data.aggregation_version,data.x-png-https-a-b-a-disk,data.yes,data.None
900,5,T0,question_reducer,7.0,5.3.1,4.0,,1.0
900,5,T0,question_consensus_reducer,7.0,5.3.1,,,
900,5,T1,question_reducer,,5.3.1,,3.0,
901,5,T9,question_reducer,,5.3.1,,3.0,
"""


def read(tmp_path: Path, text: str, versions: list[Any] | None = None, **reducers: str) -> Any:
    (tmp_path / "reductions.csv").write_text(text)
    found = read_caesar(tmp_path / "reductions.csv", TREE, SHOWN if versions is None else versions, reducers)
    assert sum(found.tally.values()) == found.answers_read
    return found


def counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    return {str(s): {str(c): n for c, n in row.items() if n} for s, row in table.to_dict("index").items()}


def test_caesar_names_answers_by_their_index(tmp_path: Path) -> None:
    found = read(tmp_path, CAESAR)
    assert counts(found.votes) == {
        "900": {"shape_smooth": 7, "shape_disk": 4, "shape_total-votes": 11},
        "901": {"shape_disk": 7, "shape_smooth": 4, "shape_total-votes": 11},
    }
    assert found.votes.index.name == "subject_id" and set(map(str, found.votes.dtypes)) == {"int64"}
    assert found.tally == {judge.VOTE: 22, judge.REJECTED: 0, judge.NO_ANSWER: 2, OTHER_REDUCER: 1}


def test_panoptes_aggregation_names_answers_by_their_label(tmp_path: Path) -> None:
    found = read(tmp_path, OFFLINE, [])
    assert counts(found.votes) == {
        "900": {"shape_smooth": 7, "shape_disk": 4, "shape_total-votes": 11, "edge_yes": 3, "edge_total-votes": 3}
    }
    assert found.tally == {judge.VOTE: 14, judge.REJECTED: 0, judge.NO_ANSWER: 1, OTHER_REDUCER: 2}


@pytest.mark.parametrize(
    "row, reason",
    {
        "1,T1,5,900,,,,3,4,,,": "answer 0 of task T1 means several: edge_no, edge_yes",
        "1,T0,5,900,,,,3,4,5,,": "no version of workflow 5 has answer 2 of task T0",
        "1,T0,5,9e2,,,,3,4,,,": "the subject is not an id",
        "1,T0,5,900,,,,3,-4,,,": "data.1 is not a count: -4",
        "1,T0,5,900,,,,3,1.5,,,": "data.1 is not a count: 1.5",
        "1,T0,7,900,,,,3,4,,,": "no version of workflow 7 has answer 0 of task T0",
    }.items(),
)
def test_a_row_is_rejected_as_a_whole(tmp_path: Path, row: str, reason: str) -> None:
    found = read(tmp_path, CAESAR.splitlines()[0] + "\n" + row + "\n2,T0,5,899,,,,1,,,,\n")
    assert counts(found.votes) == {"899": {"shape_smooth": 1, "shape_total-votes": 1}}
    assert found.rejected["reason"].tolist() == [reason]


def test_a_subject_and_task_that_are_there_twice_count_once(tmp_path: Path) -> None:
    found = read(tmp_path, CAESAR + "4,t0-other,5,900,,,,1,1,,,\n")
    assert found.votes.loc["900", "shape_total-votes"] == 11
    assert found.rejected["reason"].tolist() == ["there twice; the first row counts"]


def test_a_key_that_does_not_begin_with_its_task_is_given_one(tmp_path: Path) -> None:
    named = CAESAR.replace("t0-stats", "shapes").replace(",T0,", ",t01,")
    with pytest.raises(InputError, match=r"none of its reducers .*: shapes, t01, count\. .* reduce\.caesar_reducers"):
        read(tmp_path, named)
    assert read(tmp_path, named, shapes="T0").tally[judge.VOTE] == 11
    with pytest.raises(InputError, match="has no column subject_id and reducer_key"):
        read(tmp_path, "a,b\n1,2\n")


def test_the_stage_reads_reductions(settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("subject_id,task,reducer,data.smooth\n9,T0,question_reducer,7.0\n")
    given = settings("stage=reduce", f"reduce.caesar={tmp_path / 'r.csv'}")
    folder = reduce.run(given)
    assert pd.read_csv(folder / "classifications.csv")["smooth-or-featured_smooth"].tolist() == [7]
    assert reduce.run(given) == folder
    (tmp_path / "r.csv").write_text("subject_id,reducer_key,data.0\n9,a:b,7\n")
    (tmp_path / "v.json").write_text(json.dumps([version_record("1.1", {"T0": ["smooth"]})]))
    named = f"reduce.workflow_versions={tmp_path / 'v.json'}", "reduce.caesar_reducers=[a:b:T0]", "survey.name=named"
    folder = reduce.run(settings("stage=reduce", f"reduce.caesar={tmp_path / 'r.csv'}", *named))
    assert pd.read_csv(folder / "classifications.csv")["smooth-or-featured_smooth"].tolist() == [7]
    with pytest.raises(SettingsError, match="give the key and its task"):
        settings("stage=reduce", "reduce.caesar=a", "reduce.caesar_reducers=[T0]")
    with pytest.raises(SettingsError, match="give one of"):
        settings("stage=reduce", "reduce.caesar=a", "reduce.export=b", "reduce.workflow_versions=c")
    (tmp_path / "r.csv").write_text("subject_id,task,reducer,data.smooth\n9,T0,question_reducer,\n")
    with pytest.raises(InputError, match="no classification was read"):
        reduce.run(settings("stage=reduce", f"reduce.caesar={tmp_path / 'r.csv'}", "survey.name=other"))
