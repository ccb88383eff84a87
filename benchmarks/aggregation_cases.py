"""The rules of docs/votes.md as changes to an export, and rows that they are about.

After a rule the export has only what the rule counts, in the form in which any program counts it. The rules are written
anew here, from docs/votes.md, so that they can be wrong only on their own account.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from zoobot.votes.classifications import read_workflow_versions

Row: TypeAlias = dict[str, str]  # of a CSV
Json: TypeAlias = dict[str, Any]
Rule: TypeAlias = Callable[[Sequence[Row], "Workflow"], list[Row]]


@dataclass(frozen=True)
class Workflow:
    """The versions of a workflow in the shape of the API's, and the question set of the newest one."""

    versions: list[Json]
    questions: Json

    @classmethod
    def read(cls, path: Path) -> Workflow:
        """From the workflow export of the project builder."""
        versions = read_workflow_versions(path)
        newest = max(versions, key=lambda v: (int(v["major_number"]), int(v["minor_number"])))
        return cls(versions, question_set(newest))

    def label(self, task: str, text: str) -> str:
        """The label of the question set that is shown as this text; "" if there is none."""
        labels = [label for of_answer in self.questions[task]["answers"].values() for label in of_answer]
        return next((label for label in labels if _plain(label) == _plain(text)), "")


def question_set(version: Json) -> Json:
    """The single-choice tasks of a workflow version: a question has its task's key, an answer its label's words."""
    single = {task: body["answers"] for task, body in version["tasks"].items() if body["type"] == "single"}
    names = {task: [_name(version["strings"][a["label"]]) for a in answers] for task, answers in single.items()}
    return {
        task: {
            "task": task,
            "after": [
                f"{other}_{name}"
                for other in single
                for name, a in zip(names[other], single[other], strict=True)
                if a.get("next") == task
            ],
            "answers": {name: [version["strings"][a["label"]]] for name, a in zip(names[task], answers, strict=True)},
        }
        for task, answers in single.items()
    }


def _name(label: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", _plain(label)))


def _plain(label: str) -> str:
    return " ".join(re.sub(r"!\[.*?\]\(.*?\)", " ", label).split()).casefold()


def one_of_each_id(rows: Sequence[Row], workflow: Workflow) -> list[Row]:
    """Rule 1."""
    return list({row["classification_id"]: row for row in rows}.values())


def of_one_subject_and_a_known_version(rows: Sequence[Row], workflow: Workflow) -> list[Row]:
    """Rule 2."""
    known = {f"{version['major_number']}.{version['minor_number']}" for version in workflow.versions}
    return [row for row in rows if row["subject_ids"].isdigit() and row["workflow_version"] in known]


def of_the_live_project(rows: Sequence[Row], workflow: Workflow) -> list[Row]:
    """Rule 3."""
    live = [row for row in rows if json.loads(row["metadata"]).get("live_project") is not False]
    return [row for row in live if row.get("gold_standard") != "true"]


def one_per_volunteer(rows: Sequence[Row], workflow: Workflow) -> list[Row]:
    """Rule 4."""
    first: dict[tuple[str, ...], Row] = {}
    for row in sorted(rows, key=lambda row: int(row["classification_id"])):
        turn = (row["user_id"], row["subject_ids"]) if row["user_id"] else (row["classification_id"],)
        first.setdefault(turn, row)
    return list(first.values())


def _in_each_row(change: Callable[[list[Json], Workflow], list[Json]]) -> Rule:
    def rule(rows: Sequence[Row], workflow: Workflow) -> list[Row]:
        changed = [change(json.loads(row["annotations"]), workflow) for row in rows]
        return [row | {"annotations": json.dumps(answers)} for row, answers in zip(rows, changed, strict=True)]

    return rule


def without_combos(answers: list[Json], workflow: Workflow) -> list[Json]:
    """Rule 5, for combos that are not in a combo."""
    parts = [a["value"] if a["task"] not in workflow.questions and _is_combo(a["value"]) else [a] for a in answers]
    return [answer for part in parts for answer in part]


def _is_combo(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


def of_questions(answers: list[Json], workflow: Workflow) -> list[Json]:
    """Rule 6, for versions that have the same tasks."""
    return [a for a in answers if a["task"] in workflow.questions and a["value"] not in (None, "", [])]


def of_known_labels(answers: list[Json], workflow: Workflow) -> list[Json]:
    """Rule 7."""
    labels = [workflow.label(a["task"], a["value"]) for a in answers]
    return [a | {"value": label} for a, label in zip(answers, labels, strict=True) if label]


def first_of_each_task(answers: list[Json], workflow: Workflow) -> list[Json]:
    """Rule 8."""
    return list({a["task"]: a for a in reversed(answers)}.values())[::-1]


def on_the_path(answers: list[Json], workflow: Workflow) -> list[Json]:
    """Rule 9. The question set has parents before children."""
    value_of, given = {a["task"]: a["value"] for a in answers}, set[str]()
    for task, question in workflow.questions.items():
        if task in value_of and (not question["after"] or given & set(question["after"])):
            given |= {f"{task}_{name}" for name, labels in question["answers"].items() if value_of[task] in labels}
    return [a for a in answers if any(column.startswith(f"{a['task']}_") for column in given)]


RULES: dict[int, Rule] = {
    1: one_of_each_id,
    2: of_one_subject_and_a_known_version,
    3: of_the_live_project,
    4: one_per_volunteer,
    5: _in_each_row(without_combos),
    6: _in_each_row(of_questions),
    7: _in_each_row(of_known_labels),
    8: _in_each_row(first_of_each_task),
    9: _in_each_row(on_the_path),
}


def with_tasks(rows: Sequence[Row]) -> list[Row]:
    """The workflows with three more tasks: T91 of several choices; T92, a combo of T93, which is of one choice."""
    answers = [{"label": f"T91.answers.{i}.label"} for i in range(2)]
    tasks = {
        "T91": {"type": "multiple", "question": "T91.question", "answers": answers},
        "T92": {"type": "combo", "tasks": ["T93"]},
        "T93": {"type": "single", "question": "T93.question", "answers": answers},
    }
    strings = {
        "T91.question": "What?",
        "T93.question": "Is it?",
        "T91.answers.0.label": "Yes",
        "T91.answers.1.label": "No",
    }
    return [
        row | {"tasks": json.dumps(json.loads(row["tasks"]) | tasks), "strings": _more(row["strings"], strings)}
        for row in rows
    ]


def _more(content: str, values: Json) -> str:
    return json.dumps(json.loads(content) | values)


def rows_for_each_rule(copy: Row) -> list[Row]:
    """Rows like this one, of a workflow whose T0 has the answers Yes, which leads to T1, and No.

    The first digit of a subject is the rule's number: subject 32 belongs to rule 3.
    """
    yes, perhaps, seven = {"T0": "Yes"}, {"T0": "Perhaps"}, {"user_id": "7", "user_name": "seven"}
    image = "![a](https://example.org/a.png) Yes"
    return [
        _row(copy, 1, "11", yes),
        _row(copy, 1, "11", yes),
        _row(copy, 2, "21;22", yes),
        _row(copy, 3, "23", yes, workflow_version=_later(copy["workflow_version"])),
        _row(copy, 4, "31", yes, metadata=_more(copy["metadata"], {"live_project": False})),
        _row(copy, 5, "32", yes, gold_standard="true"),
        _row(copy, 6, "41", yes, **seven),
        _row(copy, 7, "41", {"T0": "No"}, **seven),
        _row(copy, 8, "42", yes),
        _row(copy, 9, "42", yes),
        _row(copy, 10, "51", {"T92": [{"task": "T93", "value": "Yes"}]}),
        _row(copy, 11, "61", {"T0": None}),
        _row(copy, 12, "62", {"T0": ""}),
        _row(copy, 13, "63", {"T91": ["Yes", "No"]}),
        _row(copy, 14, "71", perhaps),
        _row(copy, 15, "72", {"T0": image}),
        _row(copy, 16, "73", {"T0": "  YES "}),
        _row(copy, 17, "81", yes, {"T0": "No"}),
        _row(copy, 18, "82", perhaps, yes),
        _row(copy, 19, "91", {"T0": "No"}, {"T1": "Yes"}),
    ]


def _later(version: str) -> str:
    major, minor = version.split(".")
    return f"{major}.{int(minor) + 1}"


def _row(copy: Row, number: int, subject: str, *answers: Json, **cells: str) -> Row:
    annotations = [{"task": task, "value": value} for answer in answers for task, value in answer.items()]
    fields = {"classification_id": str(10**12 + number), "subject_ids": subject, "annotations": json.dumps(annotations)}
    return copy | fields | cells
