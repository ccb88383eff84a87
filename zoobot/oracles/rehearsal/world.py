"""The state of the stand-in for Zooniverse: its subjects, sets and classifications, and its volunteers."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoobot.engine.seeds import stream
from zoobot.galaxies.questions import QuestionTree
from zoobot.oracles.simulated import WORKFLOW_VERSION, classification, shares, walk_down_the_tree
from zoobot.votes import classifications
from zoobot.votes.rows import Json

PROJECT, WORKFLOW = "1", "1"
SCALE = 10_000  # vote fractions as whole numbers


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
        workflow = {"project": PROJECT, "subject_sets": [], "retired": {}, "prioritized": False}
        self.workflows: dict[str, Json] = {WORKFLOW: workflow}
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
        """The subjects that the workflow shows, without repeats, in the order in which it shows them."""
        sets = [self.sets[set_id] for set_id in self.workflows[WORKFLOW]["subject_sets"]]
        members = {subject for one in sets for subject in one["members"]}
        if not self.workflows[WORKFLOW]["prioritized"]:
            return sorted(members, key=int)

        def first(subject: str) -> float:  # without a priority it comes last
            return min(float(one["priorities"].get(subject, math.inf)) for one in sets if subject in one["members"])

        return sorted(members, key=lambda subject: (first(subject), int(subject)))

    def link(self, set_id: str, subjects: Sequence[str]) -> None:
        """Put subjects into a set. The priority of those that are new there is copied from their metadata."""
        one = self.sets[set_id]
        for subject in (subject for subject in subjects if subject not in one["members"]):
            one["members"].append(subject)
            if "#priority" in self.subjects[subject]["metadata"]:
                one["priorities"][subject] = float(self.subjects[subject]["metadata"]["#priority"])

    def retire(self, workflow: str, subjects: Sequence[str], reason: str) -> None:
        """Show these subjects to nobody any more. The reason of one that is already retired stays."""
        for subject in subjects:
            self.workflows[workflow]["retired"].setdefault(subject, reason)

    def statuses(self, workflow: str) -> list[Json]:
        """The state of each subject that was classified or retired: what ``subject_workflow_statuses`` lists."""
        counts = Counter(str(row["links"]["subjects"][0]) for row in self.rows if row["links"]["workflow"] == workflow)
        retired = self.workflows[workflow]["retired"]
        return [
            {"id": f"9{subject}", "classifications_count": counts[subject],
             "retired_at": "2020-01-01T00:00:00.000Z" if subject in retired else None,
             "retirement_reason": retired.get(subject), "href": f"/subject_workflow_statuses/9{subject}",
             "links": {"workflow": workflow, "subject": subject}}
            for subject in sorted({*counts, *retired}, key=int)
        ]  # fmt: skip

    def has_image(self, subject_id: str) -> bool:
        """Whether the subject has a picture that volunteers can see."""
        return self.subjects[subject_id]["media"] in self.media

    def classify(self, most: int | None = None) -> int:
        """Volunteers classify every linked subject: up to half its retirement limit the first time, then the rest.

        With ``most`` they stop after so many subjects. The votes depend only on the seed and the galaxy, so two runs
        with different ids get the same votes.
        """
        before = len(self.rows)
        seen = Counter(row["links"]["subjects"][0] for row in self.rows)
        retired = self.workflows[WORKFLOW]["retired"]
        shown = [subject for subject in self.linked() if self.has_image(subject) and subject not in retired]
        for subject in shown[:most]:
            limit, n_seen = int(self.subjects[subject]["metadata"].get("#retirement_limit", 40)), seen[subject]
            until = limit if n_seen else (limit + 1) // 2
            for volunteer, answers in self._volunteers(subject, limit)[n_seen:until]:
                self.last_row += 3  # other projects' classifications lie in between
                row = classification(self.last_row, subject, volunteer, answers, PROJECT, WORKFLOW)
                self.rows.append(row)
            if until >= limit:
                self.retire(WORKFLOW, [subject], "classification_count")
        self.save()
        return len(self.rows) - before

    def _volunteers(self, subject: str, limit: int) -> list[tuple[int | None, list[Json]]]:
        id_str = self.subjects[subject]["metadata"].get("id_str", "")
        random = stream(self.seed, "volunteers", id_str)
        everybody = random.choice(5000, size=limit, replace=False)
        of = shares(self.questions, self.fractions.get(id_str) or {c: 1 for q in self.questions for c in q.columns})
        return [(None if random.random() < 0.2 else int(v), walk_down_the_tree(of, random)) for v in everybody]
