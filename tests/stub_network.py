"""What the crash tests put in the place of the slow and the far away: the network, the volunteers, the dashboard."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import Faults
from zoobot import folders
from zoobot.galaxies import tfrecords
from zoobot.iterations import learning
from zoobot.iterations.iteration import Iteration
from zoobot.models import saved
from zoobot.models.features import FeatureCache
from zoobot.models.saved import Training
from zoobot.oracles.protocol import Receipt
from zoobot.oracles.simulated import SimulatedVolunteers
from zoobot.reports import dashboard
from zoobot.reports.history import History
from zoobot.settings import Settings


class World:
    """What is outside and survives everything: a file of JSON lines, one for each thing that was done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: Faults | None = None

    def do(self, what: str, content: Any) -> None:
        """Do something outside; it counts as an operation that can fail on the way there or back."""
        self.note(what, content) if self.faults is None else self.faults.point(
            "call", f"{self.faults.root}/{what}", lambda: self.note(what, content)
        )

    def note(self, what: str, content: Any) -> None:
        """Remember that something was done."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (json.dumps([what, content]) + "\n").encode())
        os.close(descriptor)

    def done(self) -> list[tuple[str, Any]]:
        """All that was done, in order."""
        return [tuple(json.loads(line)) for line in self.path.read_text().splitlines()] if self.path.exists() else []


def install_stubs(world: World) -> None:
    """A network of numpy that trains for three epochs, each a durable step; an oracle and a dashboard that are asked in
    ``world``. All else is the program's own.
    """

    def learn(it: Iteration) -> Training:
        files = it.labelled("train").files.values()
        key = hashlib.sha256("".join(map(folders.digest_file, files)).encode()).hexdigest()[:16]
        kept, weights, first = it.unfinished / f"training_{key}.npz", np.zeros(4), 0
        if kept.is_file():
            with np.load(kept) as stored:
                weights, first = stored["weights"], int(stored["epoch"])
        for epoch in range(first, 3):
            world.note("epoch", epoch)
            weights = weights * 0.5 + np.arange(4) * len(list(files))
            content = kept.with_name("content.npz")
            np.savez(content, weights=weights, epoch=epoch + 1)
            folders.publish_file(kept, content.read_bytes())
        it.folder.model.mkdir()
        np.savez(it.folder.model / "weights.npz", weights=weights)
        history = {"epochs": 3, "weights_sha256": hashlib.sha256(weights.tobytes()).hexdigest()}
        return saved.write_training(it.folder.model, history)

    def load(it: Iteration, folder: Path) -> learning.Predictor:
        digest = saved.read_training(folder).weights_sha256

        def encode(path: Path) -> Any:
            world.note("encoded", path.name)
            return np.array(
                [list(hashlib.sha256(i.encode()).digest()[:4]) for i in tfrecords.read_ids(path)], np.float32
            )

        def sample(features_N_H: Any, n_samples: int, generator: np.random.Generator) -> Any:
            logits = features_N_H / 64 @ generator.normal(size=(n_samples, 4, 1))
            share = 1 / (1 + np.exp(-logits[..., 0].T))
            return np.stack([share, 1 - share], axis=-1)

        return learning.Predictor(FeatureCache(it.unfinished / "features", digest, 1, encode).of, sample)

    def request(self: SimulatedVolunteers, ids: Sequence[str], name: str, n_votes: int) -> Receipt:
        world.do("request", [name, list(ids), n_votes])
        return real_request(self, ids, name, n_votes)

    def receive(self: SimulatedVolunteers, *args: Any) -> Any:
        world.note("received", "")
        return real_receive(self, *args)

    def write(path: Path, records: Sequence[bytes]) -> None:
        if path.parent.name in ("train", "eval", "test", "pool"):
            world.note("shard", path.name)
        real_write(path, records)

    def send(settings: Settings, found: History, sent: int) -> None:
        for row in found.rows[sent:]:
            world.do("tracked", row["counts/number"])

    real_request, real_receive = SimulatedVolunteers.request, SimulatedVolunteers.receive
    real_write, tfrecords.write = tfrecords.write, write
    SimulatedVolunteers.request = request  # type: ignore[method-assign]
    SimulatedVolunteers.receive = receive  # type: ignore[method-assign,assignment]
    learning.learn, learning.load = learn, load
    dashboard._send = send
