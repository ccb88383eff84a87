"""stage=report: did active learning help? One HTML page that opens offline, and the same numbers as JSON.

A report is a view, not a record: it changes no experiment, and the next report overwrites it.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import cycle
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

import jinja2
import matplotlib as mpl
import pyarrow.parquet as pq
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from zoobot import folders
from zoobot.galaxies import database
from zoobot.reports.efficiency import MIN_ERRORS, describe, mean_sd, questions_of
from zoobot.reports.experiments import BASELINE, Experiment, Points, Section, group, read_experiments, title_of
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1
PICTURE_PX = 96
GREY, OKABE_ITO = "#6e6e6e", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def run(settings: Settings) -> Path:
    """Write report.html and summary.json, and return the path of the page."""
    experiments, unfinished = read_experiments(settings)
    sections = group(experiments)
    numbers = [describe(section) for section in sections]
    summary = {
        "format_version": FORMAT_VERSION,
        "sections": numbers,
        "experiments": [_entry(e) for e in experiments] + [{"path": name, "iterations": 0} for name in unfinished],
    }
    page = _template().render(
        now=datetime.now().astimezone(),
        sections=[_page_section(of, n, settings.report.galaxies) for of, n in zip(sections, numbers, strict=True)],
        experiments=summary["experiments"],
        left_out=[_left_out(survey, settings, experiments) for survey in sorted({title_of(e)[0] for e in experiments})],
    )
    path = settings.report_dir / "report.html"
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    folders.publish_file(path.with_name("summary.json"), text.encode())
    folders.publish_file(path, page.encode())
    log.info("%s: written, %d experiments", path, len(experiments))
    return path


def _entry(e: Experiment) -> dict[str, Any]:
    last = e.iterations[-1]
    return {
        "path": e.name,
        "name": e.folder.name,
        "iterations": len(e.iterations),
        "acquisition": e.instructions["acquisition"]["name"],
        "seed": e.instructions["seed"],
        "labels": last.labels,
        "test_loss": last.loss,
        **{
            key: last.summary[key]
            for key in (
                "requested",
                "still_waiting",
                "weights_sha256",
                "votes_spent",
                "volunteer_minutes",
                "next_100_labels_buy",
            )
        },
    }


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parents[1] / "reports")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = lambda x, digits=3: "–" if x is None else f"{x:,.{digits}f}".replace("-", "−")
    return environment.get_template("page.html.j2")


def _colours(section: Section) -> dict[str, str]:
    others = (name for name in section.lines if name != BASELINE)
    return dict(zip(others, cycle(OKABE_ITO), strict=False)) | {BASELINE: GREY}


def _charts(section: Section) -> list[Markup]:
    """The test loss, its difference from random's where there are pairs, and the error for each question, in order."""
    lines, baseline = section.lines.items(), section.lines.get(BASELINE, [])
    losses = {name: [[(i.labels, i.loss) for i in e.iterations] for e in of] for name, of in lines}
    charts = [_chart(section, "Test loss", "nats per galaxy", losses)]
    pairs = {name: [(a, b) for a in of for b in baseline if a.pair == b.pair] for name, of in lines if name != BASELINE}
    if any(pairs.values()):
        apart = {name: [_differences(a, b) for a, b in of] for name, of in pairs.items()}
        charts.append(_chart(section, "Test loss minus random’s", "nats per galaxy", apart, differences=True))
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
    section: Section, title: str, unit: str, lines: Mapping[str, Sequence[Points]], differences: bool = False
) -> Markup:
    """Curves over the number of labels as inline SVG; the seeds of a line are averaged by position."""
    salt = f"{section.title}{section.apart}{title}"  # of the ids in the SVG, which belong to the whole page
    with mpl.rc_context({"font.size": 12, "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": salt}):
        figure = Figure(figsize=(5.2, 3.8), layout="constrained", facecolor="none")
        axes = figure.subplots(
            subplot_kw={"xlabel": "labelled galaxies trained on", "ylabel": unit, "facecolor": "none"}
        )
        axes.set_title(title, loc="left", fontweight="bold", fontsize=13)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        ends, colours = {}, _colours(section)
        if differences:
            axes.axhline(0, color=GREY, linewidth=2.2)
            ends[BASELINE] = 0.0
        for marker, name in zip(cycle("os^Dv"), reversed(section.lines), strict=False):
            seeds = [seed for seed in lines.get(name, []) if seed]
            if seeds:
                ends[name] = _draw(axes, seeds, colours[name], marker, rule=differences)
        _write_names(axes, ends, colours)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    view_box = "0 0 {:g} {:g}".format(*figure.get_size_inches() * 72)
    svg = re.sub(r"(?s)^.*?<svg [^>]*>|<metadata>.*?</metadata>|(?<=<g) id=\"[^\"]*\"", "", buffer.getvalue())
    return Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(view_box, title) + Markup(svg)


def _draw(axes: Axes, seeds: Sequence[Points], color: str, marker: str, *, rule: bool) -> float:
    """Draw one line: seeds thin, their mean thick, shaded one standard deviation, or the standard errors of the rule.

    Returns where the mean ends.
    """
    for seed in seeds:
        axes.plot(*zip(*seed, strict=True), color=color, linewidth=0.8, alpha=0.35)
    reached = median_low(map(len, seeds))  # by more than half of the seeds: with fewer the mean would jump
    at = [[seed[n] for seed in seeds if len(seed) > n] for n in range(reached)]
    labels = [fmean(labels for labels, _ in points) for points in at]
    means, sds = zip(*(mean_sd([y for _, y in points]) for points in at), strict=True)
    axes.plot(labels, means, color=color, linewidth=2.2, marker=marker, markersize=6)
    if len(seeds) > 1:
        widths = [sd * MIN_ERRORS / len(points) ** 0.5 if rule else sd for sd, points in zip(sds, at, strict=True)]
        low, high = ([m + sign * w for m, w in zip(means, widths, strict=True)] for sign in (-1, 1))
        axes.fill_between(labels, low, high, color=color, alpha=0.13, linewidth=0)
    return float(means[-1])


def _write_names(axes: Axes, ends: dict[str, float], colours: dict[str, str]) -> None:
    """Name each line beside its end, or just above the name below."""
    low, high = axes.get_ylim()
    at = -1.0
    for name, y in sorted(ends.items(), key=lambda end: end[1]):
        at = max((y - low) / (high - low), at + 0.13)
        axes.annotate(name.replace("_", "\n"), (1.02, at), xycoords="axes fraction", va="center", color=colours[name])


def _page_section(section: Section, numbers: dict[str, Any], most: int) -> dict[str, Any]:
    counted = [e for line in section.lines.values() for e in line]
    keys = sorted(
        key for key in {k for e in counted for k in e.settings} if not key.startswith(("experiment", "questions."))
    )
    return {
        **numbers,
        "colours": _colours(section),
        "charts": _charts(section),
        "chosen": {name: [(e, _asked(e, most)) for e in of] for name, of in section.lines.items()} if most else {},
        "experiments": counted,
        "settings": {key: [e.settings.get(key, "not known") for e in counted] for key in keys},
        "repeats": [e.name for e in section.repeats],
    }


def _asked(e: Experiment, most: int) -> list[list[dict[str, Any]]]:
    """The first galaxies asked about in each iteration, in order of rank."""
    newest = (e.iterations[-1].folder / "iteration.db").absolute().as_uri()  # it holds the votes of all iterations
    with closing(sqlite3.connect(f"{newest}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT id_str, votes FROM labels WHERE iteration > ?", (database.INITIAL,))
        votes = {id_str: votes_text(e.instructions, json.loads(counts)) for id_str, counts in found}
    iterations = []
    for folder in (i.folder for i in e.iterations):
        ids = folders.read_json(folder / "requests.json")["ids"][:most]
        columns = ["id_str", "acquisition", "rank"]  # without the many posterior samples
        table = pq.read_table(folder / "predictions.parquet", columns=columns, filters=[("rank", "<", len(ids))])
        galaxies = sorted(table.to_pylist(), key=lambda galaxy: ids.index(galaxy["id_str"]))
        for galaxy in galaxies:
            galaxy["votes"] = votes.get(galaxy["id_str"])
            galaxy["picture"] = _picture(folder / "pictures" / f"{galaxy['rank']:05d}.png")
        iterations.append(galaxies)
    return iterations


def votes_text(instructions: dict[str, Any], votes: dict[str, int]) -> str:
    """The votes for the task's first question, such as "smooth 31 of 40": for its label, or for the leading answer."""
    task = instructions["task"]
    question = next(q for q in instructions["questions"] if q in task["questions"])
    answers = list(instructions["questions"][question]["answers"])
    if task["label"]:
        counted = " or ".join(answer for answer in answers if answer in task["label"])
        return f"{counted} {votes['label']}\u00a0of\u00a0{votes['total_votes']}"
    counts = {answer: votes[f"{question}_{answer}"] for answer in answers}
    leading = max(answers, key=lambda answer: counts[answer])
    return f"{leading} {counts[leading]}\u00a0of\u00a0{sum(counts.values())}"


def _picture(path: Path) -> str | None:
    if not path.is_file():
        return None
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((PICTURE_PX, PICTURE_PX))
        image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _left_out(survey: str, settings: Settings, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """What never reached the network: rows of the survey's tables, and galaxies whose picture could not be used."""
    of = [e for e in experiments if e.instructions["survey"] == survey]
    catalog = Path(settings.data_dir) / survey / f"{survey}_master_catalog.json"
    return {
        "survey": survey,
        "catalog": folders.read_json(catalog) if catalog.is_file() else None,
        "dropped": list({tuple(row.items()): row for e in of for row in e.dropped or ()}.values()),
        "no_shards": [e.name for e in of if e.dropped is None],
    }
