"""Call a function in a process of its own, which gives its memory back: Keras keeps a few MB of every network built."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from typing import Any

from zoobot.errors import ProcessError, ZoobotError


def call(function: Callable[[Any], object], argument: Any, what: str) -> None:
    """Call ``function(argument)`` in a new process and wait; what it logs comes to the handlers of this one.

    Raises:
        ZoobotError: what the function raised; ProcessError: the process was killed.
        RuntimeError: anything else that the function raised, with its traceback as a note.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    level = logging.getLogger().level
    process = context.Process(target=_work, args=(theirs, level, function, argument))
    process.start()
    theirs.close()  # ours is at its end then when the process is at its own, however that comes
    failure: Exception | None = None
    try:
        with suppress(EOFError):
            while True:
                message = ours.recv()
                if isinstance(message, logging.LogRecord):
                    logging.getLogger(message.name).handle(message)
                else:
                    failure = message
        process.join()
    finally:
        process.kill()  # only what an interrupt left behind
        process.join()
    if failure:
        raise failure
    if process.exitcode:
        raise ProcessError(
            f"The process that made {what} ended at once ({_describe(process.exitcode)}): stopped by hand, or for want"
            " of memory. Nothing half-made was published; give the same command again, and it goes on."
        )


def _work(pipe: Connection, level: int, function: Callable[[Any], object], argument: Any) -> None:
    """What the new process does: it logs into the pipe, sends what went wrong, and ends when its parent does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    root = logging.getLogger()
    root.handlers, root.level = [_ToPipe(pipe)], level
    try:
        function(argument)
    except ZoobotError as error:
        pipe.send(error)
    except Exception as error:
        failure = RuntimeError(f"{type(error).__name__}: {error}")  # any exception can be sent as one of these
        failure.add_note(traceback.format_exc())
        pipe.send(failure)


class _ToPipe(QueueHandler):
    """Sends log records to the parent, as text: one writer, so that a killed process leaves no lock held."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(queue.SimpleQueue())  # not used
        self._pipe = pipe

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._pipe.send(record)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _describe(exit_code: int) -> str:
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"
