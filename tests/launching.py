"""What the tests of launch/ share: commands with the clock of a test, a process that is killed, and what must hold."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch import __main__ as launch
from launch.aws import Cloud
from launch.config import Config
from launch.errors import LaunchError
from launch.words import Made
from tests.aws import World

ALL = "EC2_ALL" in os.environ  # make test-ec2
READS = ("Describe", "Get", "List")


class Killed(BaseException):
    """The process is gone: nothing after this is sent, whatever `finally` says."""


@dataclass
class Doomed(Cloud):
    """AWS for a process that is killed at its call number ``at``: before it is sent, or before its answer is read.

    With ``lent``, it takes over the clients of the command before it: making them is slow.
    """

    at: int = 10**9
    answered: bool = False
    operations: list[str] = field(default_factory=list)
    connect: Callable[[Any], None] = lambda client: None  # else over HTTP
    lent: dict[str, Lent] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self._clients:
            if service not in self.lent:
                self.lent[service] = Lent(super().client(service), self)
                self.connect(self._clients[service])
            self.lent[service].to = self
            self._clients[service] = self.lent[service].client
        return self._clients[service]

    def before(self, operation: str) -> None:
        if len(self.operations) >= self.at:
            raise Killed
        self.operations.append(operation)
        if len(self.operations) == self.at and not self.answered:
            raise Killed

    def after(self) -> None:
        if len(self.operations) == self.at:
            raise Killed


class Lent:
    """A client that one command after another has."""

    def __init__(self, client: Any, to: Doomed) -> None:
        self.client, self.to = client, to
        client.meta.events.register("before-send", self._before)
        client.meta.events.register("after-call", self._after)

    def _before(self, event_name: str, **_: Any) -> None:
        self.to.before(event_name.rpartition(".")[2])

    def _after(self, **_: Any) -> None:
        self.to.after()


def cloud_of(world: World, config: Config, kind: type[Doomed] = Doomed, **more: Any) -> Doomed:
    """AWS for a command, with the clock of the test, answered without a connection."""
    more = {"connect": world.connect, "lent": world.lent, **more}
    return kind(config, "test", now=world.now, sleep=world.sleep, say=lambda _: None, **more)


@functools.cache
def outline(words: tuple[str, ...]) -> tuple[Made, ...]:
    """What launch.words asks another process, which takes two seconds: once in this one."""
    from zoobot import sweep

    try:
        with tempfile.TemporaryDirectory() as nowhere:
            jobs = sweep.outline([*words, f"data_dir={nowhere}"])
    except sweep.Refused as refused:
        raise LaunchError(f"run.py would refuse this: {refused}") from refused
    kinds = ["live" if job.oracle.live else "simulations" for job in jobs]
    iterations = [job.simulate.iterations * (job.stage == "simulate") for job in jobs]
    return tuple(Made(j.stage, kind, n) for j, kind, n in zip(jobs, kinds, iterations, strict=True))


def settled(world: World, iterations: int = 1, started: int = 1) -> None:
    """No machine left, no second iteration, volume or format, and the state is whole."""
    world.sleep(600)
    assert world.running() == []
    assert len(world.machines) == started
    assert len(world.volumes("working_volume")) == 1
    (volume,) = world.volumes("working_volume")
    assert volume.attachment is None
    assert len(world.disk.iterations) == len(set(world.disk.iterations)) == iterations
    assert world.disk.formatted == 1


def calls(operations: list[str]) -> list[int]:
    """At which calls to kill: at all, or (``make test``) at the first of each kind that changes something. A kill at
    a call that only reads leaves what a kill after the change before it leaves.
    """
    numbered = list(enumerate(operations, 1))
    return [n for n, name in numbered if ALL or not (name.startswith(READS) or name in operations[: n - 1])]


def points(operations: list[str]) -> list[tuple[int, bool]]:
    """Where to kill: at which call, and whether it was answered. A call that only reads is the same either way, and
    the tenth and later of a kind are polling. ``make test`` kills only where a change was made and nobody knows of it.
    """
    found = []
    for n in calls(operations):
        name = operations[n - 1]
        if operations[:n].count(name) <= 9:
            found += [(n, False)] if name.startswith(READS) else [(n, False), (n, True)] if ALL else [(n, True)]
    return found


def command(world: World, config: Config, *words: str) -> int:
    """The exit status of a command line, with the clock of the test."""
    path = Path(config.record).parent / "ec2.yaml"
    found = dataclasses.asdict(config)
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    path.write_text(json.dumps(settings))  # JSON is YAML
    make: Callable[..., Cloud] = lambda config, command: cloud_of(world, config)  # noqa: E731
    return launch.main([words[0], "--config", str(path), *words[1:]], make)
