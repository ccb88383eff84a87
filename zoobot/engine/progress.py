"""Progress of long work: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

T = TypeVar("T")
LINE_EVERY_S = 60.0
log = logging.getLogger("zoobot")


def track(items: Iterable[T], what: str, total: int, size_of: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Yield the ``items``, and report how many of ``total`` are done, the rate and the time left. ``what`` names the
    work, e.g. "reading images". ``size_of`` says how many an item counts.
    """
    if sys.stderr.isatty() and sys.stdout.isatty():
        yield from _bar(items, what, total, size_of)
        return
    start_s = last_line_s = time.monotonic()
    done = 0
    for item in items:
        now_s = time.monotonic()
        if done and now_s - last_line_s > LINE_EVERY_S:
            rate = done / (now_s - start_s)
            log.info("%s: %d of %d, %s, %s left", what, done, total, _per_time(rate), _time((total - done) / rate))
            last_line_s = now_s
        yield item
        done += size_of(item)


def _bar(items: Iterable[T], what: str, total: int, size_of: Callable[[T], int]) -> Iterator[T]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(what, total=total)
        for item in items:
            yield item
            progress.advance(task, size_of(item))


class _Rate(ProgressColumn):
    """How many are done a second."""

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        return Text(_per_time(task.speed) if task.speed else "")


def _per_time(rate: float) -> str:
    return f"{rate:,.0f} a second" if rate >= 10 else f"{60 * rate:,.1f} a minute"


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.0f} min"
        if seconds > 90
        else f"{seconds:.0f} s"
    )
