"""JSON as DuckDB reads it, so that a row means the same whoever reads it.

Of equal keys the first counts. Before a closing bracket a comma may stand; nan and inf are numbers, in any case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from zoobot.errors import InputError

_CHUNK, _LONGEST_VALUE = 1 << 20, 1 << 28  # characters
_SEPARATORS = re.compile(r"[\s,\[\]]*")
# A text, which stays as it is, or one of the two things that only DuckDB reads.
_LENIENT = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[\]}])|(-?)\b(nan|inf(?:inity)?)\b', re.IGNORECASE | re.DOTALL)
# All keys keep their order, because rows are stored as the API gave them.
_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: dict(reversed(dict(reversed(pairs)).items())))


def loads(text: str) -> Any:
    """The value in a text. ValueError, RecursionError: the JSON is broken."""
    try:
        return _DECODER.decode(text)
    except ValueError:
        strict = _LENIENT.sub(_strictly, text)
        if strict == text:
            raise
        return _DECODER.decode(strict)


def loads_all(text: str) -> list[Any]:
    """The values that stand one after the other, with or without commas. ValueError, RecursionError: one is broken."""
    found, position = [], _start_of_value(text, 0)
    while position < len(text):
        value, end = _DECODER.raw_decode(text, position)
        found.append(value)
        position = _start_of_value(text, end)
    return found


def values(file: TextIO, name: str) -> Iterator[Any]:
    """The values of a file, however its lines are broken; of an array, its elements. InputError: one is broken."""
    text, position, n_read = "", 0, 0
    while True:
        position = _start_of_value(text, position)
        try:
            value, end = _DECODER.raw_decode(text, position)
            if end == len(text) and (more := file.read(_CHUNK)):  # a number may go on
                text, position = text[position:] + more, 0
                continue
        except (ValueError, RecursionError) as error:
            more = file.read(max(_CHUNK, len(text) - position)) if len(text) - position < _LONGEST_VALUE else ""
            if not more and position >= len(text):
                return
            if not more:
                raise InputError(
                    f"{name} is broken or was cut off after {n_read} rows or pages: {error}. Fetch it again."
                ) from error
            text, position = text[position:] + more, 0
            continue
        yield value
        position, n_read = end, n_read + 1


def _start_of_value(text: str, position: int) -> int:
    found = _SEPARATORS.match(text, position)
    assert found is not None  # the pattern matches the empty text too
    return found.end()


def _strictly(found: re.Match[str]) -> str:
    if found[1] is not None:
        return found[1]
    if not found[3]:
        return ""  # the comma
    return "NaN" if found[3].casefold() == "nan" else f"{found[2]}Infinity"
