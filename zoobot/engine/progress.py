"""Progress of long work: a bar on a terminal, and a line a minute in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from zoobot.engine import terminal

T = TypeVar("T")
LINE_EVERY_S = 60.0
_NUMBERS = 26  # characters, in a narrow line: how many of how many, the rate, the time left
log = logging.getLogger("zoobot")


def track(items: Iterable[T], what: str, total: int, size_of: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Yield the ``items``, and report how many of ``total`` are done, the rate and the time left. ``what`` names the
    work, e.g. "reading images". ``size_of`` says how many an item counts.
    """
    if sys.stderr.isatty() and sys.stdout.isatty():
        yield from _bar(_lines(items, what, total, size_of, _to_files), what, total, size_of)
    else:
        yield from _lines(items, what, total, size_of, log.info)


def _lines(
    items: Iterable[T], what: str, total: int, size_of: Callable[[T], int], say: Callable[[str], None]
) -> Iterator[T]:
    """Say a line a minute."""
    start_s = last_line_s = time.monotonic()
    done = 0
    for item in items:
        now_s = time.monotonic()
        if done and now_s - last_line_s > LINE_EVERY_S:
            rate = done / (now_s - start_s)
            say(f"{what}: {done} of {total}, {_per_time(rate)}, {_time((total - done) / rate)} left")
            last_line_s = now_s
        yield item
        done += size_of(item)


def _to_files(text: str) -> None:
    """Log to files only: on the terminal is the bar."""
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _bar(items: Iterable[T], what: str, total: int, size_of: Callable[[T], int]) -> Iterator[T]:
    """A bar with the numbers beside it; on a narrow terminal the numbers alone, in one line."""
    numbers = (MofNCompleteColumn(), _Rate(terminal.is_narrow()), TimeRemainingColumn(compact=terminal.is_narrow()))
    bar = () if terminal.is_narrow() else (BarColumn(),)
    room = terminal.width() - _NUMBERS if terminal.is_narrow() else len(what)
    shown = what if len(what) <= room else what[: room - 1] + "…"
    with Progress(TextColumn("{task.description}", markup=False), *bar, *numbers, transient=True) as progress:
        task = progress.add_task(shown, total=total)
        for item in items:
            yield item
            progress.advance(task, size_of(item))


class _Rate(ProgressColumn):
    """How many are done a second; ``short``, in a few characters."""

    def __init__(self, short: bool) -> None:
        super().__init__()
        self._short = short

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        text = _per_time(task.speed) if task.speed else ""
        return Text(text.replace(" a second", "/s").replace(" a minute", "/min") if self._short else text)


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
