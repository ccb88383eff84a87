"""Rows of JSON as they come: anything may be in them. How to look into them without an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]  # an object of the Zooniverse API, with any content
Row: TypeAlias = Mapping[str, Any]  # such an object that is only read


class Unreadable(dict[str, Any]):
    """An incomplete row: what could be read of it, and the ``reason``."""

    def __init__(self, reason: str, fields: Json | None = None) -> None:
        super().__init__(fields or {})
        self.reason = reason


def as_mapping(value: object) -> Row:
    """The object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """A name or an id as text that a file can hold; "" for neither text nor a whole number of at most 18 digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else ""
    return value.strip().encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else ""
