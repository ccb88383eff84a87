"""AWS's cron expressions, cron(minute hour day-of-month month day-of-week year): what is wrong with one.

AWS refuses a bad one only when the schedule is made; see the user guide of EventBridge Scheduler, "Schedule types".
"""

from __future__ import annotations

import re
from calendar import day_abbr, month_abbr

_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day-of-month", 1, 31, ()),
    ("month", 1, 12, tuple(name.upper() for name in month_abbr)),
    ("day-of-week", 1, 7, ("", *(day_abbr[(n - 1) % 7].upper() for n in range(7)))),
    ("year", 1970, 2199, ()),
)


def fields_of(expression: str) -> list[str]:
    """The six fields, or an empty list if it is no cron(...)."""
    match = re.fullmatch(r"cron\((.*)\)", expression)
    return match[1].split() if match else []


def problems_of(expression: str) -> list[str]:
    """What is wrong with ``expression``; empty if AWS would take it, and it fires once a day at most."""
    parts = fields_of(expression)
    if len(parts) != 6:
        return [f"should be cron(minute hour day-of-month month day-of-week year), is {expression[:80]!r}"]
    problems = [
        f"{field[0]} cannot be {part[:40]!r}"
        for field, part in zip(_FIELDS, parts, strict=True)
        if not _fits(part, *field)
    ]
    if (parts[2] == "?") == (parts[4] == "?"):
        problems.append("exactly one of day-of-month and day-of-week must be ?")
    if not (parts[0].isdigit() and parts[1].isdigit()):
        problems.append("minute and hour must be single numbers: there is one iteration a day")
    return problems


def _fits(part: str, name: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    if part == "?":
        return name.startswith("day")
    if name == "day-of-month" and re.fullmatch(r"L|LW|([1-9]|[12]\d|3[01])W", part):
        return True
    if name == "day-of-week" and re.fullmatch(r"L|[1-7](L|#[1-5])", part):
        return True
    return all(_item_fits(item, low, high, names) for item in part.split(","))


def _item_fits(item: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    whole, slash, step = item.partition("/")
    if slash and not re.fullmatch(r"0*[1-9]\d{0,3}", step, re.ASCII):
        return False
    if whole == "*":
        return True
    ends = [names.index(end) if end in names and end else _whole(end) for end in whole.split("-")]
    return len(ends) <= 2 and all(low <= end <= high for end in ends) and ends == sorted(ends)


def _whole(text: str) -> int:
    """A number of at most four digits, else -1, which fits nowhere."""
    return int(text) if re.fullmatch(r"\d{1,4}", text, re.ASCII) else -1
