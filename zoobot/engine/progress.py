"""Progress of long work: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import track as rich_track

T = TypeVar("T")
LINE_EVERY_S = 60.0
log = logging.getLogger("zoobot")


def track(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the ``items`` and report how many of ``total`` are done. ``what`` names the work, e.g. "reading images"."""
    if sys.stderr.isatty() and sys.stdout.isatty():
        yield from rich_track(items, description=what, total=total, transient=True)
        return
    last_line_s = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last_line_s > LINE_EVERY_S:
            log.info("%s: %d of %d", what, done, total)
            last_line_s = time.monotonic()
        yield item
