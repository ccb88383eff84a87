"""What a model expected of the votes on single galaxies, and the votes that came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoobot.galaxies import database
from zoobot.metrics import mixture_pmf
from zoobot.reports.experiments import CurvePoint, Experiment, Section
from zoobot.reports.galaxy_tables import describe_votes

MOST = 6  # galaxies of a section


@dataclass(frozen=True)
class Expected:
    """The predicted probability of 0, 1, … votes for one answer about a galaxy, and how many there were."""

    name: str
    probability_V: list[float]
    votes: int


def of_section(section: Section) -> list[Expected]:
    """The first galaxies that the first experiment of a section asked about and that have votes since."""
    for line in section.lines.values():
        if found := of_experiment(line[0]):
            return found
    return []


def of_experiment(e: Experiment) -> list[Expected]:
    """The first galaxies of the newest iteration whose galaxies have votes: as it predicted them, before it asked."""
    votes = database.read_new_votes(e.iterations[-1].folder.database)
    for point in reversed(e.iterations):
        ids = [id_ for id_ in point.folder.requests().ids if id_ in votes][:MOST]
        if ids:
            return _expected(e, point, ids, votes)
    return []


def _expected(e: Experiment, point: CurvePoint, ids: list[str], votes: dict[str, dict[str, int]]) -> list[Expected]:
    task, likelihood = e.instructions.build_task(), e.instructions.model.likelihood
    answers = list(task.groups[0].answers)
    predictions = point.folder.predictions(["id_str", *answers], ids=ids).set_index("id_str")
    found = []
    for id_ in ids:
        counts_A = task.counts({name: [votes[id_][name]] for name in task.stored_columns})[0, : len(answers)]
        at, total = (0 if task.label_columns else int(counts_A.argmax())), int(counts_A.sum())
        if total:
            samples_K_A = np.stack([np.asarray(predictions.loc[id_, a], np.float64) for a in answers], axis=1)
            for_1_K, all_1_K = samples_K_A[None, :, at], samples_K_A.sum(axis=1)[None]
            (pmf_V,) = mixture_pmf(likelihood, for_1_K, all_1_K - for_1_K, np.array([total]))
            found.append(Expected(f"{id_}: {describe_votes(task, votes[id_])}", pmf_V.tolist(), int(counts_A[at])))
    return found
