"""Apply a function to many items in worker processes. Results come in the order of the items.

The function is one of a module's own, its items and results can be pickled, and it may be called again for an item
whose process was killed: so it publishes what it writes only when that is complete. A cluster would need no more.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from zoobot.engine import process
from zoobot.errors import ProcessError, ZoobotError

A = TypeVar("A")
R = TypeVar("R")
_TRIES = 3  # of an item whose process is killed
_READY = "ready"
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)  # of what numpy and others compute with, per process
log = logging.getLogger("zoobot")


def cores() -> int:
    """How many processors this process may use: by its affinity, and by the limit of its container (cgroup 2)."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or "max" instead of a number
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        n = min(n, max(1, math.ceil(int(quota) / int(period))))
    return n


def in_order(
    function: Callable[[A], R], items: Iterable[A], workers: int, name_of: Callable[[A], str] = str
) -> Generator[R]:
    """``function`` of each item. With one worker it is called in this process. ``items`` are taken as they are needed:
    at most two a worker are in work or wait to be yielded. Close the iterator, and all workers end at once.

    Raises:
        ZoobotError: the function raised it; the message begins with the item's name. ProcessError: the process that
        worked on an item was killed, three times. RuntimeError: the function raised another exception, in a worker.
    """
    if workers == 1:
        for item in items:
            try:
                yield function(item)
            except ZoobotError as error:
                _named(error, name_of(item))
                raise
        return
    team = _Team(function, workers)
    tasks = (_Task(number, item, name_of(item)) for number, item in enumerate(items))
    results: dict[int, R] = {}
    first = given = 0
    try:
        while True:
            while given < first + 2 * workers and (task := next(tasks, None)):
                team.queue.append(task)
                given += 1
            if first == given:
                return
            results |= team.work()
            while first in results:
                yield results.pop(first)
                first += 1
    finally:
        team.end()


@dataclass
class _Task(Generic[A]):
    number: int
    item: A
    name: str
    kills: int = 0


@dataclass
class _Worker:
    process: BaseProcess
    task: _Task[Any] | None


class _Team:
    """The worker processes, by the pipe to each, and the tasks that wait for one."""

    def __init__(self, function: Callable[[Any], Any], size: int) -> None:
        self._function, self._size = function, size
        self._workers: dict[Connection, _Worker] = {}
        self.queue: deque[_Task[Any]] = deque()

    def work(self) -> dict[int, Any]:
        """Give tasks to workers and wait until some worker says something. Results, by the number of their task."""
        for pipe, worker in self._workers.items():
            if worker.task is None and self.queue:
                self._give(pipe, worker, self.queue.popleft())
        while self.queue and len(self._workers) < self._size:
            self._hire(self.queue.popleft())
        results = {}
        heard = set(wait(list(self._workers)))
        for pipe in [pipe for pipe in self._workers if pipe in heard]:
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                self._lose(pipe)
                continue
            worker = self._workers[pipe]
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            elif message == _READY and worker.task:
                self._give(pipe, worker, worker.task)
            elif isinstance(message, Exception):
                assert worker.task
                raise _named(message, worker.task.name)
            elif worker.task:
                results[worker.task.number] = message[0]
                worker.task = None
        return results

    def end(self) -> None:
        """Kill all workers: what they publish is complete or absent."""
        for worker in self._workers.values():
            worker.process.kill()
        for pipe, worker in self._workers.items():
            worker.process.join()
            pipe.close()
        self._workers.clear()

    def _hire(self, task: _Task[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        level = logging.getLogger().level
        new = context.Process(target=_work, args=(theirs, level, self._function), name="worker")
        with process.without_interrupts(), _one_thread():
            new.start()
            self._workers[ours] = _Worker(new, task)  # before an interrupt, which ends all that are known
        theirs.close()  # so that recv() sees the end of the pipe when the process dies

    def _give(self, pipe: Connection, worker: _Worker, task: _Task[Any]) -> None:
        worker.task = task
        with suppress(OSError):  # it was killed: recv() will see that
            pipe.send(task.item)

    def _lose(self, pipe: Connection) -> None:
        """Have the task of a worker that died done again."""
        worker = self._workers.pop(pipe)
        pipe.close()
        worker.process.join()
        if (task := worker.task) is None:
            return
        task.kills += 1
        how = process.describe(worker.process.exitcode or 0)
        if task.kills == _TRIES:
            raise ProcessError(
                f"The process working on {task.name} was killed {_TRIES} times ({how}), by hand or because memory ran"
                " out. Finished parts are kept. Set workers to a lower number, and run the same command again."
            )
        log.warning("the process working on %s was killed (%s): it is done again", task.name, how)
        self.queue.appendleft(task)


def _work(pipe: Connection, level: int, function: Callable[[Any], Any]) -> None:
    """What a worker does, until its parent ends it or ends."""
    process.begin(pipe, level)
    pipe.send(_READY)
    while True:
        item = pipe.recv()
        try:
            pipe.send((function(item),))
        except Exception as error:
            pipe.send(process.to_send(error))


def _named(error: Exception, name: str) -> Exception:
    """The error, with the item that it is about at the beginning of its message."""
    if error.args and name not in str(error):
        error.args = (f"{name}: {error.args[0]}", *error.args[1:])
    return error


@contextmanager
def _one_thread() -> Iterator[None]:
    """A process that starts here computes in one thread."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
