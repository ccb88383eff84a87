"""Oracles for simulations: volunteers drawn from the hidden votes, or the hidden votes themselves."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from zoobot import votes
from zoobot.engine.seeds import stream
from zoobot.errors import InputError
from zoobot.galaxies.questions import Question, QuestionTree
from zoobot.oracles.protocol import Asked, Receipt, Received
from zoobot.settings import OracleSettings
from zoobot.votes import classifications
from zoobot.votes.rows import Json, Row

Shares = list[tuple[Question, list[float]]]
WORKFLOW_ID, PROJECT_ID, WORKFLOW_VERSION = "1", "1", "1.1"
_FIRST_SUBJECT_ID = 10_000_000
_FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)  # simulated time: one classification a second, the same in every run
_VOLUNTEERS = 5_000


class KnownVotes:
    """Gives the historical votes exactly and all at once, without raw classifications."""

    def __init__(self, hidden: pd.DataFrame) -> None:
        self._hidden = hidden

    def request(self, ids: Sequence[str], name: str, n_votes: int) -> Receipt:
        """Nothing to do: the votes already exist."""
        require_hidden(self._hidden, ids)
        return Receipt(name)

    def receive(self, waiting: Mapping[str, Asked], earlier: Iterable[Row], last_classification_id: int) -> Received:
        """The hidden votes of these galaxies."""
        return Received([], self._hidden.loc[list(waiting)], last_classification_id)


class SimulatedVolunteers:
    """Volunteers who answer in proportion to the hidden votes, in the same JSON as the Zooniverse API.

    Each classification goes down the question tree and leaves out questions without hidden votes. A galaxy gets as many
    classifications as were requested; ``late_fraction`` of the galaxies get only some of them at first and the rest the
    next time. The votes depend only on the seed and the galaxy, so two acquisition functions that choose the same
    galaxy get the same votes.
    """

    def __init__(self, hidden: pd.DataFrame, questions: QuestionTree, oracle: OracleSettings, seed: int) -> None:
        self._hidden, self._questions, self._oracle, self._seed = hidden, questions, oracle, seed
        self._workflow = classifications.workflow_of(questions, WORKFLOW_VERSION)
        self._subject_ids = {id_str: str(_FIRST_SUBJECT_ID + row) for row, id_str in enumerate(hidden.index)}

    def request(self, ids: Sequence[str], name: str, n_votes: int) -> Receipt:
        """The receipt names the subject of each galaxy, as on Zooniverse."""
        require_hidden(self._hidden, ids)
        return Receipt(name, subjects={id_str: self._subject_ids[id_str] for id_str in ids})

    def receive(self, waiting: Mapping[str, Asked], earlier: Iterable[Row], last_classification_id: int) -> Received:
        """The new classifications, and the votes of these and the earlier ones."""
        subjects = {self._subject_ids[id_str]: id_str for id_str in waiting}
        earlier = [row for row in earlier if row["links"]["subjects"][0] in subjects]
        seen: dict[str, int] = {}
        for row in earlier:
            subject_id = row["links"]["subjects"][0]
            seen[subject_id] = seen.get(subject_id, 0) + 1
        new: list[Json] = []
        for subject_id, id_str in subjects.items():
            for volunteer, answers in self._delivery(id_str, waiting[id_str].votes, seen.get(subject_id, 0)):
                new.append(classification(last_classification_id + len(new) + 1, subject_id, volunteer, answers))
        reduction = votes.reduce_all([*earlier, *new], self._questions, [self._workflow])
        if len(reduction.rejected):
            raise AssertionError(
                f"simulated volunteers gave answers that are rejected: {reduction.rejected.iloc[0].to_dict()}"
            )
        by_galaxy = reduction.votes.rename(index=subjects)
        return Received(new, by_galaxy.reindex(list(waiting), fill_value=0), last_classification_id + len(new))

    def _delivery(self, id_str: str, n: int, n_seen: int) -> list[tuple[int | None, list[Json]]]:
        """Who classifies a galaxy now, and their answers: ``(volunteer, annotations)``. The volunteer is None if not
        logged in.
        """
        random = stream(self._seed, "volunteers", id_str)
        late = random.random() < self._oracle.late_fraction
        at_first = int(random.integers(n)) if late else n
        volunteers = random.choice(_VOLUNTEERS, size=n, replace=n > _VOLUNTEERS)
        anonymous = random.random(n) < self._oracle.anonymous_fraction
        of = shares(self._questions, self._hidden.loc[id_str].to_dict())
        everything = [(None if anonymous[i] else int(volunteers[i]), walk_down_the_tree(of, random)) for i in range(n)]
        return everything[:at_first] if n_seen == 0 and at_first > 0 else everything[n_seen:]


def shares(questions: QuestionTree, hidden: Mapping[Any, int]) -> Shares:
    """Each question that has ``hidden`` votes, and its answers' cumulated shares of them."""
    found = []
    for question in questions:
        counts = np.array([int(hidden.get(column, 0)) for column in question.columns], dtype=np.float64)
        if counts.sum():
            cumulated = np.cumsum(counts / counts.sum())
            found.append((question, (cumulated / cumulated[-1]).tolist()))
    return found


def walk_down_the_tree(of: Shares, random: np.random.Generator) -> list[Json]:
    """One volunteer's answers, drawn in proportion to the shares of a galaxy's votes."""
    given: set[str] = set()
    annotations = []
    for question, cumulated in of:
        if question.after and not given & set(question.after):
            continue
        answer = bisect.bisect_right(cumulated, random.random())
        given.add(question.columns[answer])
        annotations.append({"task": question.task, "value": answer})
    return annotations


def classification(
    id_: int,
    subject_id: str,
    volunteer: int | None,
    annotations: list[Json],
    project_id: str = PROJECT_ID,
    workflow_id: str = WORKFLOW_ID,
) -> Json:
    """One row as GET /classifications/project gives it; ``volunteer`` is None if not logged in."""
    finished = (_FIRST_DAY + timedelta(seconds=id_)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "id": str(id_),
        "annotations": annotations,
        "created_at": finished,
        "updated_at": finished,
        "metadata": {
            "source": "simulated",
            "session": f"{id_ if volunteer is None else volunteer:064x}",
            "started_at": finished,
            "finished_at": finished,
            "live_project": True,
            "user_language": "en",
            "subject_selection_state": {"retired": False, "already_seen": False, "selection_state": "normal"},
            "workflow_version": WORKFLOW_VERSION,
        },
        "href": f"/classifications/{id_}",
        "links": {
            "project": project_id,
            "user": None if volunteer is None else str(volunteer + 1),
            "user_group": None,
            "workflow": workflow_id,
            "subjects": [subject_id],
        },
    }


def require_hidden(hidden: pd.DataFrame, ids: Sequence[str]) -> None:
    """Refuse galaxies without hidden votes."""
    unknown = [id_str for id_str in ids if id_str not in hidden.index]
    if unknown:
        raise InputError(
            f"The oracle has no votes for {len(unknown)} of the requested galaxies, for example {unknown[0]}."
            " Were the shards made from other catalogs?"
        )
