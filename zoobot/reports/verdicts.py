"""The result of a comparison in one sentence of plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoobot.reports.looks import begin, name_of

CEILING_VERDICT = "a ceiling"  # how the verdict about the ceiling begins
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def sentence(c: Mapping[str, Any]) -> str:
    """Such as: BADGE needed 66 % of random’s labels (54 to 77), ten seeds: better than random."""
    name = begin(name_of(c["acquisition"]))
    if not c["seeds"]:
        return f"{name} has no seed in common with random, so it cannot be compared."
    seeds = _many(len(c["seeds"]), "seed")
    if "mean_difference" not in c:
        return f"{name}: too early to tell; only the first iteration is finished, {seeds}."
    if c["verdict"].startswith(CEILING_VERDICT):
        return f"{name} {_needed(c)}, {seeds}; it is {c['verdict']}."
    closed = (c["gain"] or {}).get("gap_closed")
    gap = f" It closed {_percent(closed)} of the gap to oracle batch." if closed and closed["value"] is not None else ""
    return f"{name} {_needed(c)}, {seeds}: {c['verdict']}.{gap}"


def _needed(c: Mapping[str, Any]) -> str:
    ratio = (c["gain"] or {}).get("labels_ratio")
    if ratio and ratio["value"] is not None:
        return f"needed {_percent(ratio, ' of random’s labels')}"
    if c["labels_at_equal_loss"] is not None:
        return f"needed {100 * c['labels_at_equal_loss'] / c['baseline_labels']:.0f}\u00a0% of random’s labels"
    if not c["baseline_improved"]:
        return "cannot be measured in labels, because random’s own loss did not fall"
    return f"did not come down to random’s final loss with {c['labels']:,.0f} labels"


def _percent(x: Mapping[str, float | None], of: str = "") -> str:
    """A share with its interval, if it has one."""
    assert x["value"] is not None
    value, low, high = (
        None if v is None else f"{100 * v:.0f}".replace("-", "−") for v in (x["value"], x["low"], x["high"])
    )
    interval = f" ({low} to {high})" if low and high else f" ({low} or more)" if low else ""
    return f"{value}\u00a0%{of}{interval}"


def _many(n: int, word: str) -> str:
    return f"{_WORDS[n] if n < len(_WORDS) else n} {word}{'' if n == 1 else 's'}"
