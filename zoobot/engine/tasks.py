"""A unit of the work of an engine: what map.py and cluster.py know of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Generic, TypeVar

from zoobot.errors import ProcessError

A = TypeVar("A")
_TRIES = 3  # of an item whose process is killed
log = logging.getLogger("zoobot")


@dataclass
class Task(Generic[A]):
    """An item, its place in the order of the results, and what people call it."""

    number: int
    item: A
    name: str
    kills: int = 0

    def failed(self, error: Exception) -> Exception:
        """The error, with the item that it is about at the beginning of its message."""
        if error.args and self.name not in str(error):
            error.args = (f"{self.name}: {error.args[0]}", *error.args[1:])
        return error

    def lost(self, how: str) -> None:
        """Its process was killed: it is to be done again. ``how`` it ended, e.g. SIGKILL.

        Raises ProcessError the third time.
        """
        self.kills += 1
        if self.kills == _TRIES:
            raise ProcessError(
                f"The process working on {self.name} was killed {_TRIES} times ({how}), by hand or because memory ran"
                " out. Finished parts are kept. Set workers to a lower number, and run the same command again."
            )
        log.warning("the process working on %s was killed (%s): it is done again", self.name, how)
