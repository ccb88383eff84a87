"""Charts as Vega specifications, which are drawn twice: here as SVG, and in the browser, where they can be changed.

The page has the script of Vega (898 kB), which vl-convert bundles. A chart has two signals that the page's controls
set: ``hidden``, the lines not shown, and ``chosen``, the question (or galaxy) shown. Colours are variables of the
page's style.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert
from markupsafe import Markup

from zoobot.reports.looks import Look, name_of

Row = dict[str, Any]
Layer = dict[str, Any]
_WIDTH, _HEIGHT = 360, 220
_BELOW, _SIGNIFICANT = "bottom", 6
_SHOWN = "indexof(hidden, datum.line) < 0 && (!isValid(datum.of) || datum.of == chosen)"


@dataclass(frozen=True)
class Axes:
    """What the axes of a chart are; ``choice`` names what can be chosen, if anything; y may begin at zero."""

    x: str
    y: str
    choice: str = ""
    can_log: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart of the page. ``spec`` is its specification, ``svg`` what it shows at first."""

    key: str
    title: str
    axes: Axes
    spec: dict[str, Any]
    svg: Markup
    choices: list[str]


@functools.cache
def script() -> Markup:
    """The script of Vega, for a page without network."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def chart(key: str, title: str, axes: Axes, layers: Sequence[Layer], looks: Mapping[str, Look]) -> Chart:
    """Compile and draw a chart. Rows of its layers have ``line`` (a key of ``looks``), and ``of`` if one of several
    choices is shown.
    """
    rows = [row for layer in layers for row in layer["data"]["values"]]
    choices = list(dict.fromkeys(row["of"] for row in rows if "of" in row))
    names = [name_of(line) for line in looks if any(row.get("line") == name_of(line) for row in rows)]
    wanted = [look for line, look in looks.items() if name_of(line) in names]
    content = {
        "width": _WIDTH, "height": _HEIGHT, "background": None, "config": _config(),
        "params": [{"name": "hidden", "value": []}, {"name": "chosen", "value": choices[0] if choices else ""}],
        "layer": [{**layer, "transform": [{"filter": _SHOWN}]} for layer in layers],
        "encoding": {
            "x": _axis("x", axes.x), "y": _axis("y", axes.y, axes.from_zero),
            "color": _scale(names, [look.colour for look in wanted], legend=len(names) > 1),
        },
        "resolve": {"legend": {"color": "shared"}},
    }  # fmt: skip
    scales: dict[str, list[object]] = {
        "strokeDash": [list(look.dash) or [1, 0] for look in wanted],
        "shape": [look.marker for look in wanted],
    }
    for layer in layers:
        for channel in layer["encoding"].keys() & scales.keys():
            layer["encoding"][channel] = _scale(names, scales[channel], legend=len(names) > 1 and channel == "shape")
    spec = vl_convert.vegalite_to_vega(_rounded(content))
    spec.pop("$schema")
    return Chart(key, title, axes, spec, _svg(spec), choices if len(choices) > 1 else [])


def _axis(field: str, title: str, from_zero: bool = False) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": from_zero, "nice": True}}


def _scale(names: Sequence[str], values: Sequence[object], *, legend: bool) -> dict[str, Any]:
    shown = {
        "title": None,
        "orient": _BELOW,
        "columns": 2,
        "labelLimit": 170,
        "symbolOpacity": 1,
        "symbolStrokeWidth": 0,
        "columnPadding": 24,
    }
    return {
        "field": "line", "type": "nominal", "scale": {"domain": list(names), "range": list(values)},
        "legend": shown if legend else None,
    }  # fmt: skip


def _config() -> dict[str, Any]:
    text = {"labelColor": "var(--soft)", "titleColor": "var(--soft)", "labelFontSize": 12, "titleFontSize": 12}
    lines = {"gridColor": "var(--rule)", "domainColor": "var(--edge)", "tickColor": "var(--edge)"}
    return {
        "aria": False, "font": "sans-serif", "view": {"stroke": None}, "legend": text | {"labelColor": "var(--ink)"},
        "axis": {**text, **lines, "titleFontWeight": "normal"}, "axisX": {"grid": False, "tickCount": 5},
        "axisY": {"tickCount": 6},
    }  # fmt: skip


def _rounded(value: Any) -> Any:
    """All floats with six digits, which no chart shows more of."""
    if isinstance(value, float):
        return float(f"{value:.{_SIGNIFICANT}g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def draw(content: Mapping[str, Any]) -> Markup:
    """The SVG of a specification of Vega-Lite."""
    return Markup(vl_convert.vegalite_to_svg(json.dumps(content)))


def _svg(spec: dict[str, Any]) -> Markup:
    svg = vl_convert.vega_to_svg(json.dumps(spec))
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| role="[^"]*"| aria-\w+="[^"]*"| version="[^"]*"', "", svg)
    return Markup(svg)


# --------------------------------------------------------------- layers


def curves(rows: Sequence[Row], seeds: Sequence[Row] = (), tooltip: Sequence[tuple[str, str]] = ()) -> list[Layer]:
    """Thick lines with markers, a band from ``low`` to ``high`` around those that have it, and thin lines for seeds."""
    found = [_lines(seeds, 0.9, opacity=0.35, detail="seed")] if seeds else []
    banded = [row for row in rows if row.get("low") is not None]
    if banded:
        ends = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
        found.append(_layer({"type": "area", "opacity": 0.13}, banded, ends))
    found.append(_lines(rows, 2.2, dashed=True))
    said = [{"field": field, "title": title} for field, title in tooltip]
    point = {"type": "point", "filled": True, "size": 64, "opacity": 1}
    return [*found, _layer(point, rows, {"shape": {}, "tooltip": said})]


def _lines(rows: Sequence[Row], width: float, *, opacity: float = 1, detail: str = "", dashed: bool = False) -> Layer:
    encoding: dict[str, Any] = {"order": {"field": "step", "type": "quantitative"}}
    encoding |= {"detail": {"field": detail, "type": "nominal"}} if detail else {}
    encoding |= {"strokeDash": {}} if dashed else {}
    return _layer({"type": "line", "strokeWidth": width, "opacity": opacity}, rows, encoding)


def _layer(mark: dict[str, Any], rows: Sequence[Row], encoding: dict[str, Any]) -> Layer:
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}


def straight(rows: Sequence[Row], colour: str = "var(--edge)") -> Layer:
    """A line through these points that is no line of the section: zero, a diagonal, votes received."""
    mark = {"type": "line", "color": colour, "strokeWidth": 1.6, "strokeDash": [6, 4]}
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": {"color": {"value": colour}}}


def bars(rows: Sequence[Row], tooltip: Sequence[tuple[str, str]], n_bars: int) -> Layer:
    """Bars from zero to y; ``n_bars`` side by side fill the chart."""
    said = [{"field": field, "title": title} for field, title in tooltip]
    y = {"field": "y", "type": "quantitative", "scale": {"zero": True}}
    mark = {"type": "bar", "opacity": 0.75, "width": 0.85 * _WIDTH / n_bars}
    return {"data": {"values": list(rows)}, "mark": mark,
            "encoding": {"y": y, "tooltip": said, "color": {"value": "var(--line-0)"}}}  # fmt: skip
