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
_SHORTEST_BAR, _LONGEST_BAR = 8, 40  # characters
log = logging.getLogger("zoobot")


def track(items: Iterable[T], what: str, total: int, size_of: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Yield the ``items``, and report how many of ``total`` are done, the rate and the time left. ``what`` names the
    work, e.g. "reading images". ``size_of`` says how many an item counts.
    """
    if sys.stderr.isatty() and sys.stdout.isatty():
        yield from _bar(_lines(items, what, total, size_of, to_files), what, total, size_of)
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


def to_files(text: str) -> None:
    """Log to files only: the terminal shows the same in another way."""
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _bar(items: Iterable[T], what: str, total: int, size_of: Callable[[T], int]) -> Iterator[T]:
    """A bar with the numbers beside it, in one line; on a narrow terminal the numbers alone."""
    short = terminal.is_narrow()
    room = terminal.width() - len(f"{total}/{total}") - (9 if short else 16) - 7 - 3  # rate, time left, spaces
    bar_width = min(_LONGEST_BAR, room - len(what) - 1)
    bar = () if short or bar_width < _SHORTEST_BAR else (BarColumn(bar_width),)
    shown = what if len(what) <= room else what[: max(room - 1, 0)] + "…"
    numbers = (MofNCompleteColumn(), _Rate(short), TimeRemainingColumn(compact=short))
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
