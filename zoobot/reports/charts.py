"""The charts of a section: the difference from random, learning curves, calibration, one galaxy's votes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median_low
from typing import Any

from zoobot.metrics import COVERAGE_WIDTHS
from zoobot.metrics.calibration import PIT_BINS
from zoobot.reports import posterior, vega
from zoobot.reports.efficiency import mean_sd, questions_of
from zoobot.reports.experiments import BASELINE, CurvePoint, Experiment, Points, Section
from zoobot.reports.intervals import student
from zoobot.reports.looks import looks, name_of
from zoobot.reports.vega import Axes, Chart, Row

_LABELS, _LOSS, _VOTES = "labelled galaxies trained on", "nats per galaxy", "votes spent since the start"
_CURVE = (("line", "function"), ("x", "at"), ("y", "mean"), ("low", "from"), ("high", "to"), ("seeds", "seeds"))


def draw(section: Section, key: str) -> list[Chart]:
    """The charts of a section; those of which there is nothing to show are left out. ``key`` names it on the page."""
    charts: list[Callable[[Section, str], Chart | None]] = [
        _difference, _loss, _loss_by_votes, _errors, _coverage, _pit, _one_galaxy,
    ]  # fmt: skip
    return [found for make in charts if (found := make(section, key))]


def _difference(section: Section, key: str) -> Chart | None:
    baseline = section.lines.get(BASELINE, [])
    apart = {
        name: [_differences(a, b) for a in of for b in baseline if a.pair == b.pair]
        for name, of in section.lines.items()
        if name != BASELINE
    }
    means, seeds = _means(apart, interval=True), _seeds(apart)
    if not means:
        return None
    labels = sorted(row["x"] for row in means)
    zero = vega.straight([{"x": x, "y": 0} for x in (labels[0], labels[-1])], "var(--line-random)")
    layers = [zero, *vega.curves(means, seeds, _CURVE)]
    axes = Axes(_LABELS, _LOSS)
    return vega.chart(f"{key}-difference", "Test loss minus random’s (below 0: better)", axes, layers, looks(section))


def _loss(section: Section, key: str) -> Chart:
    curves = {name: [[(i.labels, i.loss) for i in e.iterations] for e in of] for name, of in section.lines.items()}
    layers = vega.curves(_means(curves), _seeds(curves), _CURVE)
    return vega.chart(f"{key}-loss", "Test loss", Axes(_LABELS, _LOSS, can_log=True), layers, looks(section))


def _loss_by_votes(section: Section, key: str) -> Chart | None:
    lines = section.lines.items()
    if not any(e.iterations[-1].summary.votes_spent for _, of in lines for e in of):
        return None
    spent = {name: [[(i.summary.votes_spent, i.loss) for i in e.iterations] for e in of] for name, of in lines}
    layers = vega.curves(_means(spent), _seeds(spent), _CURVE)
    return vega.chart(f"{key}-votes", "Test loss by votes", Axes(_VOTES, _LOSS), layers, looks(section))


def _errors(section: Section, key: str) -> Chart:
    """The error of each question over labels; one question is shown."""
    rows = []
    for question in questions_of([e for of in section.lines.values() for e in of]):
        errors = {
            name: [[(i.labels, i.rmse[question]) for i in e.iterations if question in i.rmse] for e in of]
            for name, of in section.lines.items()
        }
        rows += [{**row, "of": question} for row in _means(errors)]
    axes = Axes(_LABELS, "RMSE of vote fraction", "Question", can_log=True)
    return vega.chart(
        f"{key}-error", "Error of the vote fractions", axes, vega.curves(rows, (), _CURVE), looks(section)
    )


def _coverage(section: Section, key: str) -> Chart | None:
    """How often votes fell within ±1 to ±10 of 40 of their expected number, against what the model expected."""

    def points(predicted: Sequence[float], observed: Sequence[float]) -> list[Row]:
        widths = [f"±{40 * width:.0f} of 40 votes" for width in COVERAGE_WIDTHS]
        return [{"x": p, "y": o, "width": w} for p, o, w in zip(predicted, observed, widths, strict=True)]

    rows = _of_metrics(section, ("coverage_predicted", "coverage_observed"), points)
    if not rows:
        return None
    ideal = vega.straight([{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    said = (("line", "function"), ("width", "within"), ("x", "expected"), ("y", "observed"))
    axes = Axes("share of galaxies expected within", "share observed", "Question")
    title = "Coverage after the last iteration"
    return vega.chart(f"{key}-coverage", title, axes, [ideal, *vega.curves(rows, (), said)], looks(section))


def _pit(section: Section, key: str) -> Chart | None:
    """The histogram of the probability integral transform as a line."""

    def points(shares: Sequence[float]) -> list[Row]:
        return [{"x": (n + 0.5) / PIT_BINS, "y": share} for n, share in enumerate(shares)]

    rows = _of_metrics(section, ("pit_histogram",), points)
    if not rows:
        return None
    flat = vega.straight([{"x": x, "y": 1 / PIT_BINS} for x in (0, 1)])
    axes = Axes("where the votes fell in their predicted distribution", "share of galaxies", "Question", from_zero=True)
    said = (("line", "function"), ("x", "at"), ("y", "share"))
    title = "PIT after the last iteration"
    return vega.chart(f"{key}-pit", title, axes, [flat, *vega.curves(rows, (), said)], looks(section))


def _one_galaxy(section: Section, key: str) -> Chart | None:
    """What a model expected of the votes on some galaxies before they came, and the votes that came."""
    found = posterior.of_section(section)
    if not found:
        return None
    said = (("x", "votes"), ("y", "probability"))
    expected = [{"of": g.name, "x": k, "y": p} for g in found for k, p in enumerate(g.probability_V)]
    tall = {g.name: max(g.probability_V) for g in found}
    came = [{"of": g.name, "line": None, "x": g.votes, "y": y} for g in found for y in (0, tall[g.name])]
    axes = Axes("votes for the answer", "probability", "Galaxy")
    layers = [vega.bars(expected, said, max(len(g.probability_V) for g in found)), vega.straight(came, "var(--line-1)")]
    return vega.chart(f"{key}-galaxy", "One galaxy: votes expected, and received", axes, layers, {})


# --------------------------------------------------------------- rows


def _differences(a: Experiment, b: Experiment) -> Points:
    return [(i.labels, i.loss - j.loss) for i, j in zip(a.iterations, b.iterations, strict=False)]


def _seeds(lines: Mapping[str, Sequence[Points]]) -> list[Row]:
    """The points of each seed, where a line has several."""
    return [
        {"line": name_of(name), "seed": seed, "step": step, "x": x, "y": y}
        for name, of in lines.items()
        for seed, points in enumerate(of)
        for step, (x, y) in enumerate(points)
        if len(of) > 1
    ]


def _means(lines: Mapping[str, Sequence[Points]], *, interval: bool = False) -> list[Row]:
    """The mean over seeds at each iteration, with one standard deviation on each side, or the mean's 95 % interval. It
    ends where more than half of the seeds do; with fewer it would jump.
    """
    rows = []
    for name, of in lines.items():
        seeds = [points for points in of if points]
        for step in range(median_low(map(len, seeds)) if seeds else 0):
            at = [points[step] for points in seeds if len(points) > step]
            mean, sd = mean_sd([y for _, y in at])
            row: Row = {"line": name_of(name), "step": step, "x": fmean(x for x, _ in at), "y": mean, "seeds": len(at)}
            if sd is not None:
                width = sd * student(len(at)) / len(at) ** 0.5 if interval else sd
                row |= {"low": mean - width, "high": mean + width}
            rows.append(row)
    return rows


def _of_metrics(section: Section, metrics: Sequence[str], points: Callable[..., list[Row]]) -> list[Row]:
    """Rows from lists in metrics.json, the mean over the last iterations of a line's seeds, for each question."""
    rows: list[Row] = []
    for name, of in section.lines.items():
        tested = [_test_metrics(e.iterations[-1]) for e in of]
        for question in questions_of(of):
            values = [test[question] for test in tested if metrics[0] in test.get(question, {})]
            if values:
                lists = [[fmean(at) for at in zip(*(v[metric] for v in values), strict=True)] for metric in metrics]
                rows += [{"line": name_of(name), "of": question, "step": n, **row}
                         for n, row in enumerate(points(*lists))]  # fmt: skip
    return rows


def _test_metrics(point: CurvePoint) -> dict[str, Any]:
    return dict(point.folder.metrics()["test"])
