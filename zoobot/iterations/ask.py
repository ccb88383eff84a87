"""Requests for labels, sent to the oracle. After a crash a request is not sent twice with other galaxies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from zoobot.folders import once
from zoobot.iterations.files import CONTROL, Request, Requests
from zoobot.iterations.iteration import Iteration
from zoobot.oracles.protocol import Oracle, Receipt


def ask(it: Iteration, oracle: Oracle, chosen: Sequence[str], control: Sequence[str]) -> None:
    """Ask about both streams and write requests.json.

    The choice is kept until the iteration is finished. If the iteration is repeated after a crash, it asks about the
    galaxies that are already on Zooniverse, even if other hardware now ranks galaxies slightly differently.
    """
    name = f"{it.settings.experiment_name}_iteration_{it.number}"
    request = _ask(it, oracle, "chosen", chosen, name, it.settings.oracle.votes_per_galaxy)
    of_control = _ask(it, oracle, CONTROL, control, f"{name}_{CONTROL}", it.settings.oracle.control_votes)
    it.folder.write_requests(Requests(request.ids, request.votes, request.receipt, of_control))


def _ask(it: Iteration, oracle: Oracle, stream: str, ids: Sequence[str], name: str, votes: int) -> Request:
    def send(intent: list[str]) -> dict[str, Any]:
        return asdict(oracle.request(intent, name=name, n_votes=votes))

    if not ids and stream == CONTROL:
        return Request([], votes, Receipt())
    asked, receipt = once.send(it.unfinished / f"request_{stream}.json", list(ids), send)
    return Request(asked, votes, Receipt(**receipt))
