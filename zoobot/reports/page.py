"""The HTML page of the report."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq
from PIL import Image

from zoobot import folders
from zoobot.galaxies import database
from zoobot.reports import charts
from zoobot.reports.experiments import Experiment, Section
from zoobot.settings import Settings

PICTURE_PX = 96


def template() -> jinja2.Template:
    """The template of the page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = lambda x, digits=3: "–" if x is None else f"{x:,.{digits}f}".replace("-", "−")
    return environment.get_template("page.html.j2")


def describe_section(section: Section, numbers: dict[str, Any], most: int) -> dict[str, Any]:
    """What the template shows of a section: ``numbers`` of summary.json, charts, and ``most`` galaxies an iteration."""
    counted = [e for line in section.lines.values() for e in line]
    keys = sorted(
        key for key in {k for e in counted for k in e.settings} if not key.startswith(("experiment", "questions."))
    )
    return {
        **numbers,
        "colours": charts.colours(section),
        "charts": charts.draw(section),
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


def left_out(survey: str, settings: Settings, experiments: Sequence[Experiment]) -> dict[str, Any]:
    """What never reached the network: rows of the survey's tables, and galaxies whose picture could not be used."""
    of = [e for e in experiments if e.instructions["survey"] == survey]
    catalog = Path(settings.data_dir) / survey / f"{survey}_master_catalog.json"
    return {
        "survey": survey,
        "catalog": folders.read_json(catalog) if catalog.is_file() else None,
        "dropped": list({tuple(row.items()): row for e in of for row in e.dropped or ()}.values()),
        "no_shards": [e.name for e in of if e.dropped is None],
    }
