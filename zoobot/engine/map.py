"""Apply a function to many items in worker processes, here or on a cluster. Results come in the order of the items.

The function is one of a module's own, its items and results can be pickled, and it may be called again for an item
whose process was killed: so it publishes what it writes only when that is complete.
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
from typing import TYPE_CHECKING, Any, TypeVar

from zoobot.engine import process
from zoobot.engine.tasks import Task
from zoobot.errors import ZoobotError

if TYPE_CHECKING:
    from zoobot.engine.cluster import Cluster

A = TypeVar("A")
R = TypeVar("R")
_READY = "ready"
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ),
    "1",
)  # of what numpy, TensorFlow and others compute with, per process


def cores(cluster: str | None = None) -> int:
    """How many processors this process may use: by its affinity, and by the limit of its container (cgroup 2). Of a
    cluster: how many it has.
    """
    if cluster:
        return _cluster(cluster).cores()
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or "max" instead of a number
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        n = min(n, max(1, math.ceil(int(quota) / int(period))))
    return n


def in_order(
    function: Callable[[A], R],
    items: Iterable[A],
    workers: int,
    name_of: Callable[[A], str] = str,
    cluster: str | None = None,
) -> Generator[R]:
    """``function`` of each item. With one worker, and no address, it is called in this process. ``items`` are taken as
    they are needed: at most two a worker are in work or wait to be yielded. Close the iterator, and all workers end.

    ``cluster``: the address of a Ray cluster, HOST:PORT, whose processes do the work; empty: a Ray that is started on
    this machine; None: processes of this program.

    Raises:
        ZoobotError: the function raised it; the message begins with the item's name. ProcessError: the process that
        worked on an item was killed, three times. RuntimeError: the function raised another exception, in a worker.
        SettingsError: the cluster cannot be used.
    """
    tasks: Iterator[Task[A]] = (Task(number, item, name_of(item)) for number, item in enumerate(items))
    if workers == 1 and not cluster:
        for task in tasks:
            try:
                yield function(task.item)
            except ZoobotError as error:
                task.failed(error)
                raise
        return
    team = _Team(function, workers) if cluster is None else _cluster(cluster).team(function, workers)
    results: dict[int, R] = {}
    first = given = 0
    try:
        while True:
            while given < first + 2 * workers and (new := next(tasks, None)):
                team.queue.append(new)
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
class _Worker:
    process: BaseProcess
    task: Task[Any] | None


def _cluster(address: str) -> Cluster:
    from zoobot.engine import cluster  # late: it needs the extra ray

    return cluster.connect(address, tuple(ONE_THREAD.items()))


class _Team:
    """The worker processes, by the pipe to each, and the tasks that wait for one."""

    def __init__(self, function: Callable[[Any], Any], size: int) -> None:
        self._function, self._size = function, size
        self._workers: dict[Connection, _Worker] = {}
        self.queue: deque[Task[Any]] = deque()

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
                raise worker.task.failed(message)
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

    def _hire(self, task: Task[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        level = logging.getLogger().level
        new = context.Process(target=_work, args=(theirs, level, self._function), name="worker")
        with process.without_interrupts(), _one_thread():
            new.start()
            self._workers[ours] = _Worker(new, task)  # before an interrupt, which ends all that are known
        theirs.close()  # so that recv() sees the end of the pipe when the process dies

    def _give(self, pipe: Connection, worker: _Worker, task: Task[Any]) -> None:
        worker.task = task
        with suppress(OSError):  # it was killed: recv() will see that
            pipe.send(task.item)

    def _lose(self, pipe: Connection) -> None:
        """Have the task of a worker that died done again."""
        worker = self._workers.pop(pipe)
        pipe.close()
        worker.process.join()
        if task := worker.task:
            task.lost(process.describe(worker.process.exitcode or 0))
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


@contextmanager
def _one_thread() -> Iterator[None]:
    """A process that starts here computes in one thread."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
