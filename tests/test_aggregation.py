"""The comparison with panoptes_aggregation, without that program: the rules alone lead to the reduction's counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import aggregation, aggregation_cases
from benchmarks.aggregation import Counts, Difference
from benchmarks.aggregation_cases import Row, Workflow
from zoobot.galaxies.questions import parse_questions

LABELS = {
    "T0.answers.0.label": "Yes",
    "T0.answers.1.label": "No",
    "T1.answers.0.label": "Yes",
    "T1.answers.1.label": "No",
}
TASKS = {
    "T0": {
        "type": "single",
        "answers": [{"label": "T0.answers.0.label", "next": "T1"}, {"label": "T0.answers.1.label"}],
    },
    "T1": {"type": "single", "answers": [{"label": "T1.answers.0.label"}, {"label": "T1.answers.1.label"}]},
}
VERSION = {"workflow_id": "5", "version": "16", "minor_version": "55"}
WORKFLOWS = [VERSION | {"tasks": json.dumps(TASKS), "strings": json.dumps(LABELS)}]
FIRST = {
    "classification_id": "1", "user_name": "", "user_id": "", "workflow_id": "5", "workflow_version": "16.55",
    "gold_standard": "", "metadata": "{}", "annotations": "[]", "subject_ids": "9",
}  # fmt: skip


def plain_counts(name: str, rows: Sequence[Row]) -> Counts:
    """The first answer to each task of each row, by the words of its label: no rule is applied."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        first = {a["task"]: a["value"] for a in reversed(json.loads(row["annotations"]))}
        counts.update((row["subject_ids"], task, str(value).strip().lower()) for task, value in first.items())
    return dict(counts)


def workflow_of(tmp_path: Path, rows: Sequence[Row]) -> Workflow:
    aggregation.write_csv(tmp_path / "workflows.csv", rows)
    return Workflow.read(tmp_path / "workflows.csv")


def test_questions_come_from_the_newest_version(tmp_path: Path) -> None:
    older = VERSION | {"minor_version": "9", "tasks": "{}", "strings": "{}"}
    questions = workflow_of(tmp_path, [older, *WORKFLOWS, older | {"version": "15"}]).questions
    answers = {"yes": ["Yes"], "no": ["No"]}
    assert questions == {
        "T0": {"task": "T0", "after": [], "answers": answers},
        "T1": {"task": "T1", "after": ["T0_yes"], "answers": answers},
    }
    assert parse_questions(questions, "here").root.task == "T0"


def test_the_rules_lead_from_plain_counts_to_those_of_the_reduction(tmp_path: Path) -> None:
    workflow, export = workflow_of(tmp_path, aggregation_cases.with_tasks(WORKFLOWS)), tmp_path / "export.csv"
    rows = aggregation_cases.rows_for_each_rule(FIRST)
    aggregation.write_csv(export, rows)
    ours, plain = (
        aggregation.count_ours(tmp_path / "ours", export, tmp_path / "workflows.csv", workflow),
        plain_counts("", rows),
    )
    found = aggregation.explain(plain, ours, rows, workflow, plain_counts)
    assert all(difference.explained for difference in found.values())
    for (subject, *_), difference in found.items():
        assert difference.rules == (int(subject[0]),) or subject == "82", (subject, difference)
    assert {rule for difference in found.values() for rule in difference.rules} == {1, 2, 3, 4, 5, 6, 7, 9}


def test_a_difference_that_no_rule_explains_is_found(tmp_path: Path) -> None:
    rows = [FIRST | {"annotations": json.dumps([{"task": "T0", "value": "Yes"}])}]
    workflow, theirs = workflow_of(tmp_path, WORKFLOWS), plain_counts("", rows)
    assert theirs == {("9", "T0", "yes"): 1}
    ours = {("9", "T0", "no"): 1}
    unexplained = Difference((), explained=False)
    found = aggregation.explain(theirs, ours, rows, workflow, plain_counts)
    assert found == {("9", "T0", "yes"): unexplained, ("9", "T0", "no"): unexplained}
    assert aggregation.explain(theirs, theirs, rows, workflow, plain_counts) == {}
