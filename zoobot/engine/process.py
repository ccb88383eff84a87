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
from contextlib import closing, contextmanager, suppress
from logging.handlers import QueueHandler
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from zoobot.errors import ProcessError, ZoobotError

SWEEP = "ZOOBOT_SWEEP"  # the environment variable that says which sweep a process belongs to


def call(function: Callable[[Any], object], argument: Any, what: str) -> None:
    """Call ``function(argument)`` in a new process and wait. This process handles its log records.

    Raises:
        ZoobotError: the function raised it. ProcessError: the process was killed.
        RuntimeError: the function raised another exception; its traceback is added as a note.
    """
    with closing(Kept(function)) as process:
        process.call(argument, what)


class Kept:
    """A process that calls a function again and again. So what it has imported and loaded serves the next call too."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.environment = dict(os.environ), Path.cwd(), logging.getLogger().level
        # multiprocessing waits for children at the end of a process, also where no atexit runs: in those of a launcher
        self._at_exit = util.Finalize(None, self.close, exitpriority=1)
        self._process = context.Process(target=_work, args=(theirs, self.environment[2], function))
        try:
            with without_interrupts():
                self._process.start()
        except BaseException:  # an interrupt that came meanwhile
            self.close(wait_s=0)
            raise
        theirs.close()  # so that recv() sees the end of the pipe when the process dies

    def serves(self) -> bool:
        """Whether a process that starts now would be like this one."""
        now = dict(os.environ), Path.cwd(), logging.getLogger().level
        return self._process.is_alive() and now == self.environment

    def call(self, argument: Any, what: str) -> None:
        """Call the function and wait. Raises as ``call`` does; the process ends if the wait is interrupted."""
        try:
            with suppress(OSError):  # it was killed: recv() will see that
                self._pipe.send(argument)
            while isinstance(message := self._pipe.recv(), logging.LogRecord):
                logging.getLogger(message.name).handle(message)
        except (EOFError, OSError):
            self._process.join()
            raise ProcessError(
                f"The process working on {what} was killed ({describe(self._process.exitcode or 0)}), by hand or"
                " because memory ran out. Nothing incomplete was published. Run the same command again to continue."
            ) from None
        except BaseException:
            self.close(wait_s=0)
            raise
        if message:
            if not isinstance(message, ZoobotError):
                self.close()  # what it keeps may be half made
            raise message

    def close(self, wait_s: float = 10) -> None:
        """Let the process end, and kill it if it has not after ``wait_s`` seconds."""
        self._at_exit.cancel()
        self._pipe.close()
        if self._process.pid:  # it was started
            self._process.join(wait_s)
            self._process.kill()
            self._process.join()


@contextmanager
def without_interrupts() -> Iterator[None]:
    """A process that starts here never sees Ctrl-C: its parent does, says so once, and ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, level: int, function: Callable[[Any], object]) -> None:
    """What the new process does: it sends its log and any error through the pipe, and ends when its parent does."""
    begin(pipe, level)
    with suppress(EOFError):  # when it is no longer needed
        while True:
            argument = pipe.recv()
            try:
                function(argument)
                pipe.send(None)
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
