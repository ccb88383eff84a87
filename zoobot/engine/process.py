"""Call a function in a separate process, to free its memory afterwards: Keras keeps a few MB of every network built."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from typing import Any

from zoobot.errors import ProcessError, ZoobotError

SWEEP = "ZOOBOT_SWEEP"  # the environment variable that says which sweep a process belongs to


def call(function: Callable[[Any], object], argument: Any, what: str) -> None:
    """Call ``function(argument)`` in a new process and wait. This process handles its log records.

    Raises:
        ZoobotError: the function raised it. ProcessError: the process was killed.
        RuntimeError: the function raised another exception; its traceback is added as a note.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    level = logging.getLogger().level
    process = context.Process(target=_work, args=(theirs, level, function, argument))
    failure: Exception | None = None
    try:
        with without_interrupts():
            process.start()
        theirs.close()  # so that recv() sees the end of the pipe when the process dies
        with suppress(EOFError):
            while True:
                message = ours.recv()
                if isinstance(message, logging.LogRecord):
                    logging.getLogger(message.name).handle(message)
                else:
                    failure = message
        process.join()
    finally:
        if process.pid:  # it was started
            process.kill()  # it still runs only after an interrupt
            process.join()
    if failure:
        raise failure
    if process.exitcode:
        raise ProcessError(
            f"The process working on {what} was killed ({describe(process.exitcode)}), by hand or because memory ran"
            " out. Nothing incomplete was published. Run the same command again to continue."
        )


@contextmanager
def without_interrupts() -> Iterator[None]:
    """A process that starts here never sees Ctrl-C: its parent does, says so once, and ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, level: int, function: Callable[[Any], object], argument: Any) -> None:
    """What the new process does: it sends its log and any error through the pipe, and ends when its parent does."""
    begin(pipe, level)
    try:
        function(argument)
    except Exception as error:
        pipe.send(to_send(error))


def begin(pipe: Connection, level: int) -> None:
    """What a new process does first: it sends its log through the pipe, and ends when its parent does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    root = logging.getLogger()
    root.handlers, root.level = [_ToPipe(pipe)], level


def to_send(error: Exception) -> Exception:
    """An exception as it can be sent to the parent: one of ours, or a RuntimeError that tells all of another."""
    if isinstance(error, ZoobotError):
        return error
    failure = RuntimeError(f"{type(error).__name__}: {error}")
    failure.add_note("".join(traceback.format_exception(error)))
    return failure


class _ToPipe(QueueHandler):
    """Sends log records to the parent as text. It is the only writer, so a killed process leaves no lock held."""

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


def describe(exit_code: int) -> str:
    """How a process ended, e.g. SIGKILL."""
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit status {exit_code}"
