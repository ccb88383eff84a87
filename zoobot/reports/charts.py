"""The charts of the report, as SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import fmean, median_low

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zoobot.reports.efficiency import mean_sd, questions_of
from zoobot.reports.experiments import BASELINE, Experiment, Points, Section
from zoobot.reports.intervals import student

GREY, OKABE_ITO = "#6e6e6e", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def colours(section: Section) -> dict[str, str]:
    """A colour for each line of a section; random is grey."""
    others = (name for name in section.lines if name != BASELINE)
    return dict(zip(others, cycle(OKABE_ITO), strict=False)) | {BASELINE: GREY}


def draw(section: Section) -> list[Markup]:
    """Charts of the test loss, of its difference from random (if any pairs exist), of the test loss over votes (if any
    were counted), and of each question's error.
    """
    lines, baseline = section.lines.items(), section.lines.get(BASELINE, [])
    losses = {name: [[(i.labels, i.loss) for i in e.iterations] for e in of] for name, of in lines}
    charts = [_chart(section, "Test loss", "nats per galaxy", losses)]
    pairs = {name: [(a, b) for a in of for b in baseline if a.pair == b.pair] for name, of in lines if name != BASELINE}
    if any(pairs.values()):
        apart = {name: [_differences(a, b) for a, b in of] for name, of in pairs.items()}
        charts.append(_chart(section, "Test loss minus random’s", "nats per galaxy", apart, differences=True))
    if any(e.iterations[-1].summary.votes_spent for _, of in lines for e in of):
        spent = {name: [[(i.summary.votes_spent, i.loss) for i in e.iterations] for e in of] for name, of in lines}
        title = "Test loss by votes"
        charts.append(_chart(section, title, "nats per galaxy", spent, x="votes spent since the start"))
    for question in questions_of([e for _, of in lines for e in of]):
        errors = {
            name: [[(i.labels, i.rmse[question]) for i in e.iterations if question in i.rmse] for e in of]
            for name, of in lines
        }
        charts.append(_chart(section, f"Error: {question}", "RMSE of vote fraction", errors))
    return charts


def _differences(a: Experiment, b: Experiment) -> Points:
    return [(i.labels, i.loss - j.loss) for i, j in zip(a.iterations, b.iterations, strict=False)]


def _chart(
    section: Section,
    title: str,
    unit: str,
    lines: Mapping[str, Sequence[Points]],
    differences: bool = False,
    x: str = "labelled galaxies trained on",
) -> Markup:
    """Curves over the number of labels (or votes) as inline SVG; the seeds of a line are averaged by position."""
    salt = f"{section.title}{section.apart}{title}"  # ids in the SVG must be unique on the page
    with mpl.rc_context({"font.size": 12, "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": salt}):
        figure = Figure(figsize=(5.2, 3.8), layout="constrained", facecolor="none")
        axes = figure.subplots(subplot_kw={"xlabel": x, "ylabel": unit, "facecolor": "none"})
        axes.set_title(title, loc="left", fontweight="bold", fontsize=13)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        ends, colour_of = {}, colours(section)
        if differences:
            axes.axhline(0, color=GREY, linewidth=2.2)
            ends[BASELINE] = 0.0
        for marker, name in zip(cycle("os^Dv"), reversed(section.lines), strict=False):
            seeds = [seed for seed in lines.get(name, []) if seed]
            if seeds:
                ends[name] = _draw(axes, seeds, colour_of[name], marker, interval=differences)
        _write_names(axes, ends, colour_of)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    view_box = "0 0 {:g} {:g}".format(*figure.get_size_inches() * 72)
    svg = re.sub(r"(?s)^.*?<svg [^>]*>|<metadata>.*?</metadata>|(?<=<g) id=\"[^\"]*\"", "", buffer.getvalue())
    return Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(view_box, title) + Markup(svg)


def _draw(axes: Axes, seeds: Sequence[Points], color: str, marker: str, *, interval: bool) -> float:
    """Draw one line: thin for each seed, thick for their mean. The shading is one standard deviation, or the 95 %
    interval of the mean over seeds. Returns the last value of the mean.
    """
    for seed in seeds:
        axes.plot(*zip(*seed, strict=True), color=color, linewidth=0.8, alpha=0.35)
    reached = median_low(map(len, seeds))  # by more than half of the seeds; with fewer the mean would jump
    at = [[seed[n] for seed in seeds if len(seed) > n] for n in range(reached)]
    labels = [fmean(labels for labels, _ in points) for points in at]
    means, sds = zip(*(mean_sd([y for _, y in points]) for points in at), strict=True)
    axes.plot(labels, means, color=color, linewidth=2.2, marker=marker, markersize=6)
    if len(seeds) > 1:
        widths = [
            sd * student(len(points)) / len(points) ** 0.5 if interval and len(points) > 1 else sd or 0
            for sd, points in zip(sds, at, strict=True)
        ]
        low, high = ([m + sign * w for m, w in zip(means, widths, strict=True)] for sign in (-1, 1))
        axes.fill_between(labels, low, high, color=color, alpha=0.13, linewidth=0)
    return float(means[-1])


def _write_names(axes: Axes, ends: dict[str, float], colours: dict[str, str]) -> None:
    """Write each line's name beside its end, or just above the name below it."""
    low, high = axes.get_ylim()
    at = -1.0
    for name, y in sorted(ends.items(), key=lambda end: end[1]):
        at = max((y - low) / (high - low), at + 0.13)
        axes.annotate(name.replace("_", "\n"), (1.02, at), xycoords="axes fraction", va="center", color=colours[name])
