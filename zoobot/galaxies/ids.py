"""What an id on Zooniverse looks like: of a classification, subject, volunteer, workflow or project.

An id is a whole number above 0 with at most 18 digits. Other programs write the same number in other ways (pandas turns
a column with gaps into 11.0, Excel adds spaces), so every reader of ids comes here.
"""

from __future__ import annotations

import re

_WHOLE = re.compile(r"0*([0-9]{1,18})(?:\.0*)?", re.ASCII)
_EXACT_FLOATS = 2**53  # above it a float no longer says which whole number it was
# How databases, R and pandas write that a cell is empty; and 0, which is nobody's number.
_NOBODY = frozenset(
    {"", "0", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "nan", "-nan", "1.#qnan", "-1.#qnan", "1.#ind", "-1.#ind",
     "nat", "null", "none", "nil", "\\n", "undefined"}
)  # fmt: skip


def whole_number(value: object) -> int | None:
    """The whole number from 0 to 10^18 that is written as 11, "11", " 11 ", "011", 11.0 or "11.0"; else None.

    ``"1.1E+9"`` is none: a program that writes so has dropped digits.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() and 0 <= value <= _EXACT_FLOATS else None
    if isinstance(value, int):
        return value if 0 <= value < 10**18 else None
    found = _WHOLE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(found[1]) if found else None


def zooniverse_id(value: object) -> str:
    """The id in its one form, such as ``"11"``; "" if it is none."""
    number = whole_number(value)
    return str(number) if number else ""


def volunteer(value: object) -> str | None:
    """The id of a logged-in volunteer; "" for one who was not logged in; None for anything else."""
    if value is None or value != value or value == 0:  # NaN is not equal to itself
        return "" if not isinstance(value, bool) else None
    if isinstance(value, str):
        text = value.strip().casefold()
        if text in _NOBODY or text.startswith("not-logged-in") or whole_number(text) == 0:
            return ""
    return zooniverse_id(value) or None
