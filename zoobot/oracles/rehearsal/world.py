"""The state of the stand-in for Zooniverse: its subjects, sets and classifications, and its volunteers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from zoobot.engine.seeds import stream
from zoobot.galaxies.questions import QuestionTree
from zoobot.oracles.simulated import WORKFLOW_VERSION, classification, walk_down_the_tree
from zoobot.votes import classifications
from zoobot.votes.classifications import Json

PROJECT, WORKFLOW = "1", "1"
SCALE = 10_000  # vote fractions as whole numbers
EXPORT_HEADER = ["classification_id", "user_name", "user_id", "user_ip", "workflow_id", "workflow_name",
                 "workflow_version", "created_at", "gold_standard", "expert", "metadata", "annotations",
                 "subject_data", "subject_ids"]  # fmt: skip


class World:
    """All the state of the server, kept in a file if ``state`` names one."""

    def __init__(
        self, questions: QuestionTree, fractions: Mapping[str, Mapping[str, float]], seed: int, state: Path | None
    ) -> None:
        self.questions, self.seed, self.state = questions, seed, state
        self.fractions = {
            id_str: {column: round(SCALE * share) for column, share in row.items()} for id_str, row in fractions.items()
        }
        version = classifications.workflow_of(questions, WORKFLOW_VERSION)
        self.versions = [{"id": "11", "href": "/workflow_versions/11", **version, "links": {"workflow": WORKFLOW}}]
        self.workflows: dict[str, Json] = {WORKFLOW: {"project": PROJECT, "subject_sets": [], "retired": []}}
        self.sets: dict[str, Json] = {}
        self.subjects: dict[str, Json] = {}
        self.media: dict[str, str] = {}  # key -> base64
        self.rows: list[Json] = []
        self.editable = [PROJECT]  # whose classifications are shown: projects whose collaborator is asking
        self.late: list[str] = []  # ids of rows that are not visible yet
        self.tokens: dict[str, float] = {}
        self.lifetime_s = 7200
        self.last_number = 1000
        self.last_row = 500_000_000
        if state and state.is_file():
            vars(self).update(json.loads(state.read_text(encoding="utf-8")))

    def save(self) -> None:
        """Write what must survive a restart."""
        if self.state:
            names = ("workflows", "sets", "subjects", "media", "rows", "late", "last_number", "last_row")
            self.state.write_text(json.dumps({name: getattr(self, name) for name in names}), encoding="utf-8")

    def number(self) -> str:
        """A new id."""
        self.last_number += 1
        return str(self.last_number)

    def reveal(self) -> None:
        """Make the late rows visible."""
        self.late = []

    def linked(self) -> list[str]:
        """The subjects that the workflow shows, without repeats."""
        sets = self.workflows[WORKFLOW]["subject_sets"]
        return sorted({subject for set_id in sets for subject in self.sets[set_id]["members"]}, key=int)

    def has_image(self, subject_id: str) -> bool:
        """Whether the subject has a picture that volunteers can see."""
        return self.subjects[subject_id]["media"] in self.media

    def classify(self) -> int:
        """Volunteers classify every linked subject: up to half its retirement limit the first time, then the rest.

        The votes depend only on the seed and the galaxy, so two runs with different ids get the same votes.
        """
        before = len(self.rows)
        seen: dict[str, int] = {}
        for row in self.rows:
            seen[row["links"]["subjects"][0]] = seen.get(row["links"]["subjects"][0], 0) + 1
        for subject in self.linked():
            limit, n_seen = int(self.subjects[subject]["metadata"].get("#retirement_limit", 40)), seen.get(subject, 0)
            if not self.has_image(subject) or subject in self.workflows[WORKFLOW]["retired"]:
                continue
            until = limit if n_seen else (limit + 1) // 2
            for volunteer, answers in self._volunteers(subject, limit)[n_seen:until]:
                self.last_row += 3  # other projects' classifications lie in between
                row = classification(self.last_row, subject, volunteer, answers, PROJECT, WORKFLOW)
                self.rows.append(row)
            if until >= limit:
                self.workflows[WORKFLOW]["retired"].append(subject)
        self.save()
        return len(self.rows) - before

    def _volunteers(self, subject: str, limit: int) -> list[tuple[int | None, list[Json]]]:
        id_str = self.subjects[subject]["metadata"].get("id_str", "")
        random = stream(self.seed, "volunteers", id_str)
        everybody = random.choice(5000, size=limit, replace=False)
        shares = self.fractions.get(id_str) or {c: 1 for q in self.questions for c in q.columns}
        return [
            (None if random.random() < 0.2 else int(v), walk_down_the_tree(self.questions, shares, random))
            for v in everybody
        ]
