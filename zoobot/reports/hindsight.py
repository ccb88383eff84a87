"""What an experiment asked about, and whether its scores knew where the model was wrong."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from scipy.stats import rankdata

from zoobot.galaxies import database
from zoobot.reports.experiments import Experiment


def of(e: Experiment) -> dict[str, float | None]:
    """Of one experiment:

    ``positive_share``: of the galaxies labelled since the start, those with most votes for the first answer of the
    first question (for ``label`` in a task of one question). ``score_error_correlation``: Spearman's, over the pool
    galaxies that an iteration predicted, of the acquisition value with the error of the expected vote fractions of
    that question; the mean over iterations. None where votes are still hidden from the program.
    """
    newest = (e.iterations[-1].folder / "iteration.db").absolute().as_uri()
    with closing(sqlite3.connect(f"{newest}?mode=ro", uri=True)) as connection:
        query = "SELECT votes FROM labels WHERE iteration > ?"
        votes = [json.loads(text) for (text,) in connection.execute(query, (database.INITIAL,))]
    columns = _first_question(e)
    positive = [row[columns[0]] > sum(row[c] for c in columns) / 2 for row in _with_rest(votes, columns)]
    correlations = [c for i in e.iterations if (c := _correlation(e, i.folder, columns)) is not None]
    return {
        "positive_share": float(np.mean(positive)) if positive else None,
        "score_error_correlation": float(np.mean(correlations)) if correlations else None,
    }


def _first_question(e: Experiment) -> list[str]:
    """The columns of the first question's votes, as predictions name its answers."""
    if e.instructions["task"]["label"]:
        return ["label", "not_label"]
    name = next(q for q in e.instructions["questions"] if q in e.instructions["task"]["questions"])
    return [f"{name}_{answer}" for answer in e.instructions["questions"][name]["answers"]]


def _with_rest(votes: Sequence[dict[str, int]], columns: Sequence[str]) -> list[dict[str, int]]:
    """Votes with ``not_label``, which the database leaves to be told from the total."""
    if columns[-1] != "not_label":
        return list(votes)
    return [row | {"not_label": row["total_votes"] - row["label"]} for row in votes]


def _correlation(e: Experiment, folder: Path, columns: Sequence[str]) -> float | None:
    hidden = e.folder / "instructions" / e.instructions["catalogs"]["path"] / "oracle.csv"
    if e.folder.parent.name != "simulations" or not hidden.is_file():
        return None
    table = pq.read_table(folder / "predictions.parquet", columns=["id_str", "acquisition", *columns])
    votes = pa.csv.read_csv(hidden, convert_options=pa.csv.ConvertOptions(column_types={"id_str": pa.string()}))
    row_of = {id_str: row for row, id_str in enumerate(votes["id_str"].to_pylist())}
    rows = np.array([row_of[id_str] for id_str in table["id_str"].to_pylist()], dtype=np.int64)
    parts = [sum(votes[column].to_numpy()[rows] for column in part) for part in _hidden_columns(e, columns)]
    counts = np.stack(parts, axis=1).astype(np.float64)
    asked, scores = counts.sum(axis=1) > 0, table["acquisition"].to_numpy()
    if asked.sum() < 3 or len(np.unique(scores)) == 1:
        return None
    samples = np.stack([np.stack(table[c].to_numpy()) for c in columns], axis=2)[asked]
    expected = (samples / samples.sum(axis=2, keepdims=True)).mean(axis=1)
    error = np.abs(expected - counts[asked] / counts[asked].sum(axis=1, keepdims=True)).sum(axis=1) / 2
    return float(np.corrcoef(rankdata(scores[asked]), rankdata(error))[0, 1])


def _hidden_columns(e: Experiment, columns: Sequence[str]) -> list[list[str]]:
    """For each of ``columns`` those of the hidden votes that it sums."""
    if columns[-1] != "not_label":
        return [[column] for column in columns]
    task = e.instructions["task"]
    (name,) = task["questions"]
    answers = e.instructions["questions"][name]["answers"]
    return [[f"{name}_{a}" for a in answers if (a in task["label"]) == wanted] for wanted in (True, False)]
