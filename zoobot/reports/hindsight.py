"""What an experiment asked about, and whether high scores went with large errors of the model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoobot import metrics
from zoobot.galaxies import database
from zoobot.galaxies.tables import read_votes
from zoobot.galaxies.tasks import Task
from zoobot.iterations.files import IterationFolder
from zoobot.reports.experiments import Experiment

Floats = npt.NDArray[np.float64]


def of(e: Experiment) -> dict[str, float | None]:
    """Two numbers about one experiment's choices; None if the votes are still unknown.

    ``positive_share``: among the galaxies labelled since the start, the share with most votes for the first answer of
    the first question (for ``label`` in a task of one question). ``score_error_correlation``: Spearman's correlation of
    the acquisition value with the error of that question's expected vote fractions, over the pool galaxies that an
    iteration predicted; the mean over iterations.
    """
    task, hidden = e.instructions.build_task(), _hidden_votes(e)
    votes = list(database.read_new_votes(e.iterations[-1].folder.database).values())
    counts_N_A = first_question(task, pd.DataFrame(votes, columns=list(task.stored_columns)))
    positive_N = counts_N_A[:, 0] > counts_N_A.sum(axis=1) / 2
    found = [] if hidden is None else [_correlation(task, hidden, point.folder) for point in e.iterations]
    correlations = [correlation for correlation in found if correlation is not None]
    return {
        "positive_share": float(np.mean(positive_N)) if len(votes) else None,
        "score_error_correlation": float(np.mean(correlations)) if correlations else None,
    }


def first_question(task: Task, votes: pd.DataFrame) -> Floats:
    """The votes N × A for the answers of the first question."""
    return task.counts({name: votes[name].to_numpy() for name in task.stored_columns})[
        :, : len(task.groups[0].answers)
    ].astype(np.float64)


def _hidden_votes(e: Experiment) -> pd.DataFrame | None:
    path = e.folder.instructions.source(e.instructions.catalogs) / "oracle.csv"
    if e.folder.path.parent.name != "simulations" or not path.is_file():
        return None
    return _read_hidden(path, e.instructions.catalogs.digest, e.instructions.build_task())


@functools.lru_cache(maxsize=4)
def _read_hidden(path: Path, digest: str, task: Task) -> pd.DataFrame:
    """The hidden votes in some catalogs, which many experiments share; ``digest`` says what their folder holds."""
    return task.add_label(read_votes(path))


def _correlation(task: Task, hidden: pd.DataFrame, folder: IterationFolder) -> float | None:
    answers = list(task.groups[0].answers)
    predictions = folder.predictions(["id_str", "acquisition"])
    counts_N_A = first_question(task, hidden.loc[list(predictions["id_str"])])
    expected_N_A = metrics.fractions(folder.samples(answers)).mean(axis=1)
    return rank_correlation(predictions["acquisition"].to_numpy(), expected_N_A, counts_N_A)


def expected_fractions(predictions: pd.DataFrame, answers: Sequence[str]) -> Floats:
    """The expected fractions N × A of the answers, from their posterior samples in predictions.parquet."""
    samples_N_K_A = np.stack([np.stack(list(predictions[answer])) for answer in answers], axis=2)
    expected_N_A: Floats = metrics.fractions(samples_N_K_A).mean(axis=1)
    return expected_N_A


def rank_correlation(scores_N: Floats, expected_N_A: Floats, counts_N_A: Floats) -> float | None:
    """Spearman's correlation of the acquisition value with the error of the expected fractions, over the galaxies with
    votes; None with fewer than three of them, or if all have the same score or the same error.
    """
    asked_N = counts_N_A.sum(axis=1) > 0
    if asked_N.sum() < 3:
        return None
    scores_N, expected_N_A, counts_N_A = scores_N[asked_N], expected_N_A[asked_N], counts_N_A[asked_N]
    error_N = np.abs(expected_N_A - counts_N_A / counts_N_A.sum(axis=1, keepdims=True)).sum(axis=1) / 2
    if len(np.unique(scores_N)) == 1 or len(np.unique(error_N)) == 1:
        return None
    return float(np.corrcoef(pd.Series(scores_N).rank(), pd.Series(error_N).rank())[0, 1])
