"""The rows of the stand-in's exports: of classifications and of subjects."""

from __future__ import annotations

import json
from collections.abc import Sequence

from zoobot.oracles.rehearsal.world import PROJECT, WORKFLOW, World
from zoobot.oracles.simulated import WORKFLOW_VERSION

EXPORT_HEADER = ["classification_id", "user_name", "user_id", "user_ip", "workflow_id", "workflow_name",
                 "workflow_version", "created_at", "gold_standard", "expert", "metadata", "annotations",
                 "subject_data", "subject_ids"]  # fmt: skip


def rows(world: World, what: str) -> Sequence[Sequence[object]]:
    """The header and the rows of an export of ``classifications`` or ``subjects``."""
    return _classifications(world) if what == "classifications" else _subjects(world)


def _classifications(world: World) -> Sequence[Sequence[object]]:
    strings, lines = world.versions[0]["strings"], [EXPORT_HEADER]
    for row in world.rows:
        answers = [
            {
                "task": a["task"],
                "task_label": a["task"],
                "value": strings[f"{a['task']}.answers.{a['value']}.label"],
            }
            for a in row["annotations"]
        ]
        user, subject = row["links"]["user"], row["links"]["subjects"][0]
        about = [json.dumps(part) for part in (row["metadata"], answers, {subject: {"retired": None}})]
        who = [f"user-{user}" if user else "not-logged-in-1", user or "", ""]
        what = [WORKFLOW, "Galaxies", WORKFLOW_VERSION, row["created_at"], "", ""]
        lines.append([row["id"], *who, *what, *about, subject])
    return lines


def _subjects(world: World) -> Sequence[Sequence[object]]:
    return [["subject_id", "project_id", "workflow_id", "subject_set_id", "metadata", "locations"]] + [
        [subject, PROJECT, WORKFLOW, set_id, json.dumps(world.subjects[subject]["metadata"]), "{}"]
        for set_id, one in world.sets.items()
        for subject in one["members"]
    ]
