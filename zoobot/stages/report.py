"""stage=report: did active learning help? One HTML page that opens offline, and the same numbers as JSON.

A report is a view, not a record: it changes no experiment, and the next report overwrites it. A *line* is one way of
choosing galaxies, over its seeds; two experiments are a *pair* when they share seed and shards, so start and test set.
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
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import count, cycle, pairwise, takewhile
from pathlib import Path
from statistics import fmean, median_low, stdev
from typing import Any

import jinja2
import matplotlib as mpl
import pyarrow.parquet as pq
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from zoobot import database, folders
from zoobot.errors import FolderError, InputError
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1
BASELINE = "random"
PICTURE_PX = 96
# The rule, which the page states: a difference counts from so many pairs on, and beyond so many standard errors.
MIN_SEEDS, MIN_ERRORS = 3, 2.0
GREY, OKABE_ITO = "#6e6e6e", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# What may differ between experiments that are compared; shards and catalogs may differ by their seed only.
_FREE = ("acquisition.", "experiment", "seed", "iterations", "last_classification_id", "program.", "catalog_seed")
_FREE_SOURCE = re.compile(r"(catalogs|shards)\.(path|digest|name|seed)")


Points = Sequence[tuple[float, float]]  # (labels, value) at each iteration


@dataclass(frozen=True)
class Iteration:
    """A finished iteration, measured on the test galaxies."""

    folder: Path
    summary: dict[str, Any]  # iteration.json
    labels: int  # galaxies it was trained on
    test_galaxies: int
    loss: float  # nats per galaxy
    rmse: dict[str, float]  # of the vote fractions, per question that has votes


@dataclass(frozen=True)
class Experiment:
    """An experiment with at least one finished iteration."""

    folder: Path
    instructions: dict[str, Any]
    settings: dict[str, Any]  # flat: its own, and those of its shards and catalogs where these are still there
    dropped: list[dict[str, str]] | None  # by its shards; None: they are gone
    iterations: list[Iteration]

    @property
    def name(self) -> str:
        """Its folder below the experiments."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def pair(self) -> tuple[int, str]:
        """What the experiments of a pair share."""
        return self.instructions["seed"], self.instructions["shards"]["digest"]


@dataclass(frozen=True)
class Section:
    """Experiments that may be compared."""

    title: tuple[str, str, str]  # survey, task, model
    apart: dict[str, Any]  # the settings that tell it from other sections with this title
    lines: dict[str, list[Experiment]]  # random last
    repeats: list[Experiment]  # of a line and pair that is there already: not counted twice


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
        left_out=[_left_out(survey, settings, experiments) for survey in sorted({_title(e)[0] for e in experiments})],
    )
    path = Path(settings.report.output) / "report.html"
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    folders.publish_file(path.with_name("summary.json"), text.encode())
    folders.publish_file(path, page.encode())
    log.info("%s: written, %d experiments", path, len(experiments))
    return path


# ---------------------------------------------------------------------------------------------------------------- read


def read_experiments(settings: Settings) -> tuple[list[Experiment], list[str]]:
    """The chosen experiments that have a finished iteration, and the names of those that have none."""
    experiments, unfinished = [], []
    for folder in _find(settings):
        numbered = (folder / f"iteration_{number}" for number in count())
        iterations = list(takewhile(lambda path: (path / folders.MANIFEST).is_file(), numbered))
        if iterations:
            experiments.append(_read_experiment(folder, iterations))
        else:
            unfinished.append(f"{folder.parent.name}/{folder.name}")
    if not experiments:
        raise InputError(
            f"Cannot report: none of {', '.join(unfinished)} in {settings.experiments_dir} has a finished iteration."
            " Run `python run.py stage=simulate …` or stage=iterate with their settings first."
        )
    return experiments, unfinished


def _find(settings: Settings) -> list[Path]:
    here, patterns = settings.experiments_dir, settings.report.experiments
    found = [path for kind in ("simulations", "live") for path in sorted((here / kind).glob("[!.]*")) if path.is_dir()]

    def fits(path: Path, pattern: str) -> bool:
        return fnmatchcase(path.name, pattern) or fnmatchcase(f"{path.parent.name}/{path.name}", pattern)

    useless = [pattern for pattern in patterns if not any(fits(path, pattern) for path in found)]
    if useless or not patterns:
        known = ", ".join(path.name for path in found) or "nothing yet: run `python run.py stage=simulate …` first"
        wanted = ", ".join(useless) or "an empty list"
        raise InputError(f"report.experiments: {wanted} fits no experiment in {here}. There is {known}.")
    return [path for path in found if any(fits(path, pattern) for pattern in patterns)]


def _read_experiment(folder: Path, iterations: Sequence[Path]) -> Experiment:
    folders.require(folder / "instructions", "instructions")
    instructions = _read(folder / "instructions" / "instructions.json")
    flat: dict[str, Any] = {}
    for source in (folder / "instructions" / instructions[name]["path"] for name in ("catalogs", "shards")):
        flat |= folders.read_manifest(source)["settings"] if source.is_dir() else {}
    for key, value in instructions.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    flat["program.commit"] = (folders.read_manifest(folder / "instructions")["provenance"]["git"] or {}).get("commit")
    config = folder / "instructions" / instructions["shards"]["path"] / "shard_config.json"
    dropped = folders.read_json(config)["dropped"] if config.is_file() else None
    return Experiment(folder, instructions, flat, dropped, [_read_iteration(path) for path in iterations])


def _read_iteration(folder: Path) -> Iteration:
    folders.require(folder, "iterate")
    summary, test = _read(folder / "iteration.json"), folders.read_json(folder / "metrics.json")["test"]
    rmse = {question: values["rmse"] for question, values in test.items() if "rmse" in values}
    return Iteration(folder, summary, summary["train_galaxies"], test["all"]["galaxies"], test["all"]["loss"], rmse)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = folders.read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise FolderError(f"{path} has a format this version does not read; it reads version {FORMAT_VERSION}.")
    return content


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
        **{key: last.summary[key] for key in ("requested", "still_waiting", "weights_sha256")},
    }


# --------------------------------------------------------------------------------------------------- group and compare


def group(experiments: Sequence[Experiment]) -> list[Section]:
    """Sections of experiments that differ in nothing but seeds and in how galaxies were chosen."""
    alike: dict[str, list[Experiment]] = {}
    for e in experiments:
        alike.setdefault(json.dumps(_fixed(e), sort_keys=True), []).append(e)
    sections = []
    for members in alike.values():
        title = _title(members[0])
        others = [_fixed(m[0]) for m in alike.values() if _title(m[0]) == title]
        apart = {key: v for key, v in _fixed(members[0]).items() if any(other.get(key) != v for other in others)}
        sections.append(Section(title, apart, *_lines(members)))
    return sorted(sections, key=lambda section: (BASELINE not in section.lines, section.title))


def _fixed(e: Experiment) -> dict[str, Any]:
    return {key: value for key, value in e.settings.items() if not (key.startswith(_FREE) or _FREE_SOURCE.match(key))}


def _title(e: Experiment) -> tuple[str, str, str]:
    return e.instructions["survey"], e.instructions["task"]["name"], e.instructions["model"]["name"]


def _lines(members: Sequence[Experiment]) -> tuple[dict[str, list[Experiment]], list[Experiment]]:
    """The experiments of each line, and those that repeat the line and pair of a longer one."""
    variants = {tuple(e.instructions["acquisition"].items()) for e in members}
    lines: dict[str, dict[tuple[int, str], Experiment]] = {}
    repeats = []
    for e in sorted(members, key=lambda e: (-len(e.iterations), e.name)):
        label, *options = e.instructions["acquisition"].values()
        if label != BASELINE and sum(variant[0][1] == label for variant in variants) > 1:
            label += f" ({', '.join(map(str, options))})"
        if lines.setdefault(label, {}).setdefault(e.pair, e) is not e:
            repeats.append(e)
    order = sorted(lines, key=lambda label: (label == BASELINE, label))
    return {label: [lines[label][pair] for pair in sorted(lines[label])] for label in order}, repeats


def describe(section: Section) -> dict[str, Any]:
    """A section in numbers, as in summary.json."""
    lines = section.lines
    return {
        **dict(zip(("survey", "task", "model"), section.title, strict=True)),
        "apart": section.apart,
        "acquisitions": {name: {"seeds": [e.pair[0] for e in of], "curve": curve(of)} for name, of in lines.items()},
        "comparisons": [
            compare(n, of, lines[BASELINE]) for n, of in lines.items() if BASELINE in lines and n != BASELINE
        ],
    }


def curve(line: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Mean and standard deviation at each iteration, over the seeds that have finished it."""
    points = []
    for number in range(max(len(e.iterations) for e in line)):
        at = [e.iterations[number] for e in line if len(e.iterations) > number]
        errors = {q: [i.rmse[q] for i in at if q in i.rmse] for q in _questions(line)}
        loss = mean_sd([i.loss for i in at])
        point = {
            "iteration": number,
            "seeds": len(at),
            "labels_mean": fmean(i.labels for i in at),
            "test_loss_mean": loss[0],
            "test_loss_sd": loss[1],
            "rmse_mean": {question: mean_sd(values)[0] for question, values in errors.items() if values},
            "rmse_sd": {question: mean_sd(values)[1] for question, values in errors.items() if values},
            "seconds_mean": {s: fmean(i.summary["timings_s"][s] for i in at) for s in at[0].summary["timings_s"]},
        }
        points.append(point)
    return points


def _questions(experiments: Sequence[Experiment]) -> list[str]:
    """Those that have votes, in the order of the tree."""
    return list(dict.fromkeys(question for e in experiments for i in e.iterations for question in i.rmse))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; a single value has none."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def compare(name: str, line: Sequence[Experiment], baseline: Sequence[Experiment]) -> dict[str, Any]:
    """The test loss against random's, in pairs, at the last iteration that more than half of the pairs finished."""
    pairs = [(a, b, min(len(a.iterations), len(b.iterations))) for a in line for b in baseline if a.pair == b.pair]
    last = median_low(n for _, _, n in pairs) - 1 if pairs else 0
    used = [(a, b) for a, b, n in pairs if n > last]
    result = {"acquisition": name, "baseline": BASELINE, "seeds": [a.pair[0] for a, _ in used], "iterations": last + 1}
    if last == 0:  # nothing, or no choice has had an effect yet
        return result | {"verdict": "too early to tell" if pairs else "no seed in common with random"}
    differences = [a.iterations[last].loss - b.iterations[last].loss for a, b in used]
    mean, sd = mean_sd(differences)
    points, random = (
        [(p["labels_mean"], p["test_loss_mean"]) for p in curve(side)[: last + 1]] for side in zip(*used, strict=True)
    )
    reached = labels_to_reach(points, random[-1][1])
    return result | {
        "seeds_unfinished": [a.pair[0] for a, _, n in pairs if n <= last],
        "test_galaxies": used[0][0].iterations[last].test_galaxies,
        "mean_difference": mean,
        "standard_error": None if sd is None else sd / len(used) ** 0.5,
        "lower_in": sum(difference < 0 for difference in differences),
        "verdict": verdict(differences),
        "labels": points[-1][0],
        "baseline_labels": random[-1][0],
        "baseline_new_labels": random[-1][0] - random[0][0],
        "baseline_improved": random[-1][1] < points[0][1],
        "labels_at_equal_loss": reached,
        "labels_saved": None if reached is None else random[-1][0] - reached,
    }


def verdict(differences: Sequence[float]) -> str:
    """What paired differences of the loss show, by the rule that the page states."""
    mean, sd = mean_sd(differences)
    if sd is None or len(differences) < MIN_SEEDS:
        return "too few seeds to tell"
    if abs(mean) <= MIN_ERRORS * sd / len(differences) ** 0.5:
        return "no difference that these seeds can show"
    return "better than random" if mean < 0 else "worse than random"


def labels_to_reach(points: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Labels at which a curve of (labels, loss), linear between its points, first falls to ``loss``.

    None if it never does, or starts there: then there is nothing to save.
    """
    for (labels_0, loss_0), (labels_1, loss_1) in pairwise(points):
        if points[0][1] > loss >= loss_1:
            return labels_0 + (labels_1 - labels_0) * (loss_0 - loss) / (loss_0 - loss_1)
    return None


# ------------------------------------------------------------------------------------------------------------ the page


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent.parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = lambda x, digits=3: "–" if x is None else f"{x:,.{digits}f}".replace("-", "−")
    return environment.get_template("report.html.j2")


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
    for question in _questions([e for _, of in lines for e in of]):
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
    keys = sorted({key for e in counted for key in e.settings} - {"experiment", "questions"})
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
