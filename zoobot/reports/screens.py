"""The panels of the dashboard, drawn from the histories in the style of the report: what W&B shows, without W&B."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from statistics import fmean, pstdev
from typing import Any

from markupsafe import Markup

from zoobot.reports import looks, vega
from zoobot.reports.history import History
from zoobot.reports.panels import Panel, Section

Row = dict[str, Any]

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
    rows = _bars(panel, histories) if panel.kind == "bars" else _lines(panel, histories)
    return Markup("<figure>{}</figure>").format(vega.draw(_spec(panel, rows)))


def _spec(panel: Panel, rows: Sequence[Row]) -> dict[str, Any]:
    """The specification of Vega-Lite: rows have ``line``, ``x`` and ``y``; bars end at ``to``, bands are ``low`` to
    ``high``.
    """
    names = list(dict.fromkeys(row["line"] for row in rows))
    legend = {"title": None, "orient": "bottom", "columns": 2} if 1 < len(names) <= MOST_NAMES else None
    colours = {"domain": names, "range": list(islice(cycle(looks.LIGHT), len(names)))}
    x = {
        "field": "x",
        "type": "quantitative",
        "title": panel.x if panel.kind != "bars" else "",
        "scale": {"zero": False},
    }
    y = {"field": "y", "type": "quantitative", "title": panel.unit, "scale": {"zero": panel.kind == "bars"}}
    layers: list[dict[str, Any]] = [{"mark": {"type": "line", "point": {"size": 20}}}]
    if panel.kind == "bars":
        layers = [
            {"mark": {"type": "bar", "opacity": 0.5}, "encoding": {"x2": {"field": "to"}, "y": y | {"stack": None}}}
        ]
    if any("low" in row for row in rows):
        ends = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
        layers.append({"mark": {"type": "area", "opacity": 0.15}, "encoding": ends})
    if "minus" in panel.title:
        layers.append({"mark": {"type": "rule", "color": looks.GREY[0]}, "encoding": {"y": {"datum": 0}, "x": None}})
    color = {"field": "line", "type": "nominal", "scale": colours, "legend": legend}
    return {
        "width": 330, "height": 210, "title": {"text": panel.title, "anchor": "start"}, "data": {"values": list(rows)},
        "encoding": {"x": x, "y": y, "color": color}, "layer": layers,
    }  # fmt: skip


def _bars(panel: Panel, histories: Sequence[History]) -> list[Row]:
    rows = []
    for key in panel.keys:
        for shown in [row[key] for each in histories for row in each.rows if key in row][-1:]:
            edges = shown["edges"]
            for low, high, n in zip(edges[:-1], edges[1:], shown["histogram"], strict=True):
                rows.append({"line": key.rsplit("/", 1)[-1], "x": low, "to": high, "y": n})
    return rows


def _lines(panel: Panel, histories: Sequence[History]) -> list[Row]:
    """A line for each run and key, named by key if there are several; for a band, the mean of each group."""
    lines: dict[tuple[str, str], list[list[tuple[float, float]]]] = {}
    for each in histories:
        for key in panel.keys:
            points = [(row[panel.x], row[key]) for row in each.rows if key in row and panel.x in row]
            name = each.run.group if panel.kind == "band" else each.run.name
            lines.setdefault((key, name), []).extend([points] if points else [])
    at = 0 if len(panel.keys) > 1 else 1
    return [row for line, runs in lines.items() for row in _line(line[at].rpartition("/")[2], runs)]


def _line(name: str, runs: Sequence[Sequence[tuple[float, float]]]) -> list[Row]:
    rows: list[Row] = []
    for n in range(min(map(len, runs), default=0)):
        x, y = fmean(run[n][0] for run in runs), [run[n][1] for run in runs]
        rows.append({"line": name, "x": x, "y": fmean(y)})
        if len(runs) > 1:
            rows[-1] |= {"low": fmean(y) - pstdev(y), "high": fmean(y) + pstdev(y)}
    return rows
