"""Texts for a terminal of any width: names and what they mean, in two columns, or one above the other if it is narrow.

A command and a path stay in one piece, so that they can be copied; a pipe gets lines of 100 characters.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping

_NARROW = 60  # with fewer columns, what a name means is below it


def width() -> int:
    """The columns of the terminal (COLUMNS, if set); 100 of a pipe."""
    return shutil.get_terminal_size((100, 24)).columns


def is_narrow() -> bool:
    """Whether there is no room for two columns."""
    return width() < _NARROW


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines that fit, each with an indent. A word that is too long stays whole."""
    return textwrap.fill(
        text, width(), initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def in_columns(rows: Mapping[str, str], *, wrap: bool = True) -> str:
    """Names and what they mean. With ``wrap=False`` each text is one line, whatever its length."""
    narrow = is_narrow()
    left = 4 if narrow else max(map(len, rows), default=0) + 4
    lines = []
    for name, text in rows.items():
        below = wrapped(text, " " * left) if wrap else " " * left + text
        lines.append(f"  {name}\n{below}" if narrow else f"  {name:<{left - 2}}{below[left:]}")
    return "\n".join(lines)
