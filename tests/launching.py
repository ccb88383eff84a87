"""What the tests of launch/ share: commands with the clock of a test, a process that is killed, and what must hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch import __main__ as launch
from launch.aws import Cloud
from launch.config import Config
from tests.aws import World


class Killed(BaseException):
    """The process is gone: nothing after this is sent, whatever `finally` says."""


@dataclass
class Doomed(Cloud):
    """AWS for a process that is killed at its call number ``at``: before it is sent, or before its answer is read."""

    at: int = 10**9
    answered: bool = False
    operations: list[str] = field(default_factory=list)
    connect: Callable[[Any], None] = lambda client: None  # else by HTTP

    def client(self, service: str) -> Any:
        new = service not in self._clients
        client = super().client(service)
        if new:
            client.meta.events.register("before-send", self._before)
            self.connect(client)
            client.meta.events.register("after-call", self._after)
        return client

    def _before(self, request: Any, event_name: str, **_: Any) -> None:
        if len(self.operations) >= self.at:
            raise Killed
        self.operations.append(event_name.rpartition(".")[2])
        if len(self.operations) == self.at and not self.answered:
            raise Killed

    def _after(self, **_: Any) -> None:
        if len(self.operations) == self.at:
            raise Killed


def cloud_of(world: World, config: Config, kind: type[Doomed] = Doomed, **more: Any) -> Doomed:
    """AWS for a command, with the clock of the test, answered without a connection."""
    more = {"connect": world.connect, **more}
    return kind(config, "test", now=world.now, sleep=world.sleep, say=lambda _: None, **more)


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


def points(operations: list[str]) -> list[tuple[int, bool]]:
    """Where to kill: at which call, and whether it was answered. A call that only reads is the same either way, and
    the tenth and later of a kind are polling.
    """
    found = []
    for n, name in enumerate(operations, 1):
        if operations[:n].count(name) <= 9:
            found += [(n, False)] if name.startswith(("Describe", "Get", "List")) else [(n, False), (n, True)]
    return found


def command(world: World, config: Config, *words: str) -> int:
    """The exit status of a command line, with the clock of the test."""
    path = Path(config.record).parent / "ec2.yaml"
    lists = {"instance_types": list(config.instance_types), "arguments": list(config.arguments)}
    settings = {**dataclasses.asdict(config), **lists}
    path.write_text(json.dumps(settings))  # JSON is YAML
    make: Callable[..., Cloud] = lambda config, command: cloud_of(world, config)  # noqa: E731
    return launch.main([words[0], "--config", str(path), *words[1:]], make)
