"""How the lines of a section are named, and told apart: by colour, dashes and markers."""

from __future__ import annotations

from dataclasses import dataclass

from zoobot.acquisition import ACQUISITIONS
from zoobot.reports.experiments import BASELINE, CEILING, Section

# Of text on the page's paper, at least 4.5 to 1 each: colours for a light page, and for a dark one.
LIGHT = ("#0060a8", "#b04000", "#00704e", "#8f3f8f", "#7a5200", "#00707a", "#b3193b", "#5b4bc4")
DARK = ("#6cb6ff", "#ff9e64", "#4fd1a1", "#e79ce0", "#e2c04b", "#5fd3e6", "#ff8f9c", "#b6a8ff")
GREY = ("#5c5c5c", "#a9adb3")  # of random, on a light page and a dark one
DASHES = ((), (7, 3), (2, 2), (8, 3, 2, 3))
MARKERS = ("circle", "square", "triangle-up", "diamond", "cross")  # 20 pairs with the dashes, so colour is not needed
_NAMES = {"badge": "BADGE", "lcmd": "LCMD", "uherding": "UHerding", "typiclust": "TypiClust"}
_CEILING_UNIT = "nats: how much lower the loss was with its batches"


@dataclass(frozen=True)
class Look:
    """How a line is drawn. ``colour`` is a variable of the page's style, which has one value for dark mode."""

    colour: str
    dash: tuple[int, ...]
    marker: str


def looks(section: Section) -> dict[str, Look]:
    """The look of each line of a section; random is grey, solid and round."""
    others = [name for name in section.lines if name != BASELINE]
    found = {
        name: Look(f"var(--line-{n % len(LIGHT)})", DASHES[n % len(DASHES)], MARKERS[n % len(MARKERS)])
        for n, name in enumerate(others)
    }
    return found | {BASELINE: Look("var(--line-random)", (), "circle")}


def name_of(line: str) -> str:
    """What people call an acquisition function, with the options that distinguish it."""
    first, _, options = line.partition(" (")
    return _NAMES.get(first, first.replace("_", " ")) + (f" ({options}" if options else "")


def begin(text: str) -> str:
    """A text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def unit_of(acquisition: str) -> str:
    """What the acquisition values of a function are; nothing if it is not known."""
    return (
        _CEILING_UNIT
        if acquisition == CEILING
        else ACQUISITIONS[acquisition].unit
        if acquisition in ACQUISITIONS
        else ""
    )
