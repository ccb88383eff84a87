"""Requests for labels, sent to the oracle. After a crash a request is not sent twice with other galaxies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from zoobot.folders import once
from zoobot.iterations.files import CHOSEN, CONTROL, Request, Requests
from zoobot.iterations.iteration import Iteration
from zoobot.metrics import PredictedVotes
from zoobot.oracles.protocol import LiveOracle, Metadata, Oracle, Receipt


def ask(it: Iteration, oracle: Oracle, chosen: Sequence[str], control: Sequence[str]) -> None:
    """Ask about both streams and write requests.json.

    The choice is kept until the iteration is finished. If the iteration is repeated after a crash, it asks about the
    galaxies that are already on Zooniverse, even if other hardware now ranks galaxies slightly differently.
    """
    name = f"{it.settings.experiment_name}_iteration_{it.number}"
    request = _ask(it, oracle, CHOSEN, chosen, name, it.settings.oracle.votes_per_galaxy)
    of_control = _ask(it, oracle, CONTROL, control, f"{name}_{CONTROL}", it.settings.oracle.control_votes)
    it.folder.write_requests(Requests(request.ids, request.votes, request.receipt, of_control))


def _ask(it: Iteration, oracle: Oracle, stream: str, ids: Sequence[str], name: str, votes: int) -> Request:
    def send(intent: list[str]) -> dict[str, Any]:
        if it.settings.oracle.write_predictions and stream == CHOSEN:
            assert isinstance(oracle, LiveOracle)  # build_oracle saw to it
            return asdict(oracle.request(intent, name=name, n_votes=votes, metadata=predicted_fractions(it, intent)))
        return asdict(oracle.request(intent, name=name, n_votes=votes))

    if not ids and stream == CONTROL:
        return Request([], votes, Receipt())
    asked, receipt = once.send(it.unfinished / f"request_{stream}.json", list(ids), send)
    return Request(asked, votes, Receipt(**receipt))


def predicted_fractions(it: Iteration, ids: Sequence[str]) -> Metadata:
    """The mean predicted fraction of each answer, given that its question is asked: of those ``ids`` that this
    iteration predicted. The names begin with #, so that volunteers do not see them.
    """
    answers = list(it.task.answers)
    table = it.folder.predictions(["id_str", *answers], ids=ids)
    if table.empty:
        return {}
    samples_N_K_A = np.stack([np.stack(list(table[answer])) for answer in answers], axis=2)
    found: dict[str, dict[str, float]] = {id_str: {} for id_str in table["id_str"]}
    predicted = PredictedVotes(samples_N_K_A, it.task.groups, it.settings.model.likelihood)
    for question in predicted.normalised().questions():
        name = question.group.question
        mean_A_N = question.probabilities_N_K_A.mean(axis=1, dtype=np.float64).T
        for answer, mean_N in zip(question.group.answers, mean_A_N, strict=True):
            key = f"#zoobot_{name}_{answer.removeprefix(f'{name}_')}"
            for id_str, mean in zip(table["id_str"], mean_N, strict=True):
                found[id_str][key] = round(float(mean), 3)
    return found
