"""What an iteration chose and what volunteers answered, for the history of an experiment: numbers, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.tasks import Task
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.reports import galaxy_tables, hindsight, pictures
from zoobot.reports.galaxy_tables import Galaxy, describe_fractions, describe_votes

Votes = Mapping[str, Mapping[str, int]]


def numbers(experiment: ExperimentFolder, iterations: Sequence[IterationFolder]) -> dict[str, float]:
    """Numbers about the newest of ``iterations``: the share of each answer of the first question among the galaxies
    labelled since the start (by most votes), and Spearman's correlation of score and error, both when it was asked
    about, over the galaxies that were answered in this iteration; and how many galaxies the shards dropped.
    """
    task = experiment.instructions.read().build_task()
    answers = task.groups[0].answers
    votes = database.read_new_votes(iterations[-1].database)
    found = _dropped(experiment)
    if votes:
        counts_N_A = hindsight.first_question(task, pd.DataFrame(list(votes.values())))
        leading_N = counts_N_A.argmax(axis=1)
        found |= {f"choice/share/{answer}": float((leading_N == at).mean()) for at, answer in enumerate(answers)}
    answered = _answered(iterations)
    when_asked = _when_asked(task, iterations, list(answered))
    if len(when_asked):
        counts_N_A = hindsight.first_question(task, pd.DataFrame([answered[id_] for id_ in when_asked["id_str"]]))
        correlation = hindsight.rank_correlation(
            when_asked["acquisition"].to_numpy(), hindsight.expected_fractions(when_asked, answers), counts_N_A
        )
        found |= {} if correlation is None else {"choice/score_error_correlation": correlation}
    return found


def _dropped(experiment: ExperimentFolder) -> dict[str, float]:
    """How many galaxies the shards dropped; nothing if the shards are gone."""
    shards = experiment.instructions.source(experiment.instructions.read().shards)
    return {"counts/dropped": len(tfrecords.load_config(shards).dropped)} if shards.is_dir() else {}


def tables(experiment: ExperimentFolder, iterations: Sequence[IterationFolder], most: int) -> dict[str, str]:
    """Tables in HTML about the newest of ``iterations``, each of ``most`` galaxies: the ``chosen`` ones; the
    ``answered`` ones, with their prediction when they were asked about; and the ``worst_of_eval``. No empty ones.
    """
    newest, task = iterations[-1], experiment.instructions.read().build_task()
    lists = {
        "chosen": (_chosen(task, newest, most), "acquisition"),
        "answered": (_answered_galaxies(experiment, task, iterations, most), "acquisition"),
        "worst_of_eval": (_worst(experiment, task, newest, most), "loss, nats"),
    }
    return {name: galaxy_tables.to_html(galaxies, score) for name, (galaxies, score) in lists.items() if galaxies}


def _answered(iterations: Sequence[IterationFolder]) -> Votes:
    """The votes that came in with the newest iteration."""
    known: Votes = database.read_new_votes(iterations[-2].database) if len(iterations) > 1 else {}
    votes = database.read_new_votes(iterations[-1].database)
    return {id_str: counts for id_str, counts in votes.items() if id_str not in known}


def _when_asked(task: Task, iterations: Sequence[IterationFolder], ids: Sequence[str]) -> pd.DataFrame:
    """The predictions of galaxies in the iteration that asked about them last, by rank within it."""
    columns, left, parts = ["id_str", "rank", "acquisition", *task.groups[0].answers], set(ids), []
    for folder in reversed(iterations[:-1]):
        asked = [id_str for id_str in folder.requests().ids if id_str in left]
        left -= set(asked)
        if asked:
            parts.append(folder.predictions(columns, ids=asked).sort_values("rank"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _chosen(task: Task, newest: IterationFolder, most: int) -> list[Galaxy]:
    answers = task.groups[0].answers
    best = newest.predictions(["id_str", "rank", "acquisition", *answers], best=min(most, len(newest.requests().ids)))
    found = {id_: pictures.of_file(newest.picture(rank)) for rank, id_ in enumerate(best["id_str"])}
    return _galaxies(task, best, {}, found)


def _answered_galaxies(
    experiment: ExperimentFolder, task: Task, iterations: Sequence[IterationFolder], most: int
) -> list[Galaxy]:
    votes = _answered(iterations)
    shown = _when_asked(task, iterations, list(votes))[:most]
    ids = list(shown["id_str"]) if len(shown) else []
    return _galaxies(task, shown, votes, pictures.of_shards(_shards(experiment), ids))


def _shards(experiment: ExperimentFolder) -> Path:
    return experiment.instructions.source(experiment.instructions.read().shards)


def _galaxies(task: Task, predictions: pd.DataFrame, votes: Votes, found: Mapping[str, str | None]) -> list[Galaxy]:
    if not len(predictions):
        return []
    expected_N_A = hindsight.expected_fractions(predictions, task.groups[0].answers)
    columns = (predictions["id_str"], predictions["acquisition"], expected_N_A)
    return [
        Galaxy(
            id_str, float(score), describe_fractions(task, expected_A.tolist()),
            describe_votes(task, votes[id_str]) if id_str in votes else "–", found.get(id_str),
        )
        for id_str, score, expected_A in zip(*columns, strict=True)
    ]  # fmt: skip


def _worst(experiment: ExperimentFolder, task: Task, newest: IterationFolder, most: int) -> list[Galaxy]:
    worst = newest.worst_of_eval(most)
    with database.read_only(newest.database) as connection:
        votes = dict(zip(*database.read_votes(connection, "eval"), strict=True))
    found = pictures.of_shards(_shards(experiment), list(worst["id_str"])) if len(worst) else {}
    return [
        Galaxy(id_, loss, describe_fractions(task, fractions), describe_votes(task, votes[id_]), found.get(id_))
        for id_, loss, *fractions in worst.itertuples(index=False, name=None)
    ]
