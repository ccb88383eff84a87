"""The panels of the dashboard, drawn from the histories in the style of the report: what W&B shows, without W&B."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from statistics import fmean, pstdev

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zoobot.reports.charts import GREY, OKABE_ITO
from zoobot.reports.history import History
from zoobot.reports.panels import Panel, Section

MOST_NAMES = 6  # in a legend; more would hide the curves
_PAGE = Markup(
    "<!doctype html><meta charset=utf-8><title>Dashboard</title><style>body{{font:15px sans-serif;margin:2em}}"
    "figure{{display:inline-block;margin:0 1em 1em 0;vertical-align:top}}</style>{}"
)


def draw(sections: Sequence[Section], histories: Sequence[History]) -> str:
    """A page in HTML. Tables are named with the files that hold them; bars are those of the newest row."""
    parts = []
    for section in sections:
        parts.append(Markup("<h2>{}</h2>").format(section.name))
        parts += [_figure(panel, histories) for panel in section.panels]
    return str(_PAGE.format(Markup("").join(parts)))


def _figure(panel: Panel, histories: Sequence[History]) -> Markup:
    if panel.kind == "table":
        newest = {each.run.name: row[key]["html"] for each in histories for row in each.rows for key in panel.keys
                  if key in row}  # fmt: skip
        items = Markup("").join(map(Markup("<li>{0[0]}: tracking/media/{0[1]}</li>").format, newest.items()))
        return Markup("<figure><b>{}</b><ul>{}</ul></figure>").format(panel.title, items)
    with mpl.rc_context({"font.size": 10, "text.parse_math": False, "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        axes = figure.subplots(subplot_kw={"ylabel": panel.unit})
        axes.set_title(panel.title, loc="left", fontweight="bold", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        _bars(axes, panel, histories) if panel.kind == "bars" else _lines(axes, panel, histories)
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        if 1 < len(named) <= MOST_NAMES:
            axes.legend(named.values(), named.keys(), frameon=False, fontsize=7)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Markup("<figure>{}</figure>").format(Markup(buffer.getvalue().split("?>", 1)[1].split(">", 1)[1]))


def _bars(axes: Axes, panel: Panel, histories: Sequence[History]) -> None:
    for key, colour in zip(panel.keys, cycle(OKABE_ITO), strict=False):
        for shown in [row[key] for each in histories for row in each.rows if key in row][-1:]:
            axes.stairs(shown["histogram"], shown["edges"], color=colour, label=key.rsplit("/", 1)[-1])


def _lines(axes: Axes, panel: Panel, histories: Sequence[History]) -> None:
    """A line for each run and key, coloured by key if there are several; for a band, the mean of each group."""
    axes.set_xlabel(panel.x)
    if "minus" in panel.title:
        axes.axhline(0, color=GREY, linewidth=0.8)
    lines: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
    for each in histories:
        for key in panel.keys:
            points = [(row[panel.x], row[key]) for row in each.rows if key in row and panel.x in row]
            name = each.run.group if panel.kind == "band" else each.run.name
            lines.setdefault((key, name), []).extend([points] if points else [])
    at = 0 if len(panel.keys) > 1 else 1
    colours = dict(zip(dict.fromkeys(line[at] for line in lines), cycle(OKABE_ITO), strict=False))
    for line, runs in lines.items():
        _line(axes, line[at].rpartition("/")[2], runs, colours[line[at]])


def _line(axes: Axes, name: str, runs: Sequence[Sequence[tuple[float, float]]], colour: str) -> None:
    shortest = min(map(len, runs), default=0)
    if not shortest:
        return
    x = [fmean(run[n][0] for run in runs) for n in range(shortest)]
    y = [fmean(run[n][1] for run in runs) for n in range(shortest)]
    sd = [pstdev(run[n][1] for run in runs) for n in range(shortest)]
    axes.plot(x, y, color=colour, marker="o", markersize=3, label=name)
    if len(runs) > 1:
        low, high = ([m + sign * s for m, s in zip(y, sd, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
