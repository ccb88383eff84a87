"""The HTML page of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from zoobot import folders
from zoobot.galaxies import database
from zoobot.reports import charts
from zoobot.reports.experiments import CEILING, Experiment, Section
from zoobot.reports.galaxy_tables import describe_votes, picture_of
from zoobot.settings import Settings


def template() -> jinja2.Template:
    """The template of the page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    environment.filters["number"] = lambda x, digits=3: "–" if x is None else f"{x:,.{digits}f}".replace("-", "−")
    return environment.get_template("page.html.j2")


def describe_section(section: Section, numbers: Mapping[str, object], most: int) -> dict[str, object]:
    """What the template shows of a section: ``numbers`` as in summary.json, charts, ``most`` galaxies per iteration."""
    counted = [e for line in section.lines.values() for e in line]
    keys = sorted(
        key for key in {k for e in counted for k in e.settings} if not key.startswith(("experiment", "questions."))
    )
    return {
        **numbers,
        "colours": charts.colours(section),
        "charts": charts.draw(section),
        "asked": {name: [(e, _asked(e, most)) for e in of] for name, of in section.lines.items()} if most else {},
        "experiments": counted,
        "settings": {key: [e.settings.get(key, "not known") for e in counted] for key in keys},
        "repeats": [e.name for e in section.repeats],
        "eval_uses": _eval_uses(counted),
    }


def _eval_uses(experiments: Sequence[Experiment]) -> list[str]:
    """What the labels of the eval galaxies were used for."""
    models = [e.instructions.model for e in experiments]
    uses = {
        "early stopping": any(model.train == "all" for model in models),
        "recalibration": any(model.recalibrate for model in models),
        "the choice of oracle batch": any(e.acquisition == CEILING for e in experiments),
    }
    return [name for name, used in uses.items() if used]


def _asked(e: Experiment, most: int) -> list[list[dict[str, object]]]:
    """The first galaxies asked about in each iteration, in order of rank."""
    task = e.instructions.build_task()
    newest = database.read_new_votes(e.iterations[-1].folder.database)  # holds the votes of all iterations
    votes = {id_str: describe_votes(task, counts) for id_str, counts in newest.items()}
    iterations = []
    for folder in (i.folder for i in e.iterations):
        n = min(most, len(folder.requests().ids))
        galaxies = folder.predictions(["id_str", "acquisition", "rank"], best=n).to_dict("records")
        for galaxy in galaxies:
            galaxy["votes"] = votes.get(str(galaxy["id_str"]))
            galaxy["picture"] = picture_of(folder.picture(galaxy["rank"]))
        iterations.append([{str(key): value for key, value in galaxy.items()} for galaxy in galaxies])
    return iterations


def left_out(survey: str, settings: Settings, experiments: Sequence[Experiment]) -> dict[str, object]:
    """What was left out: rows of the survey's tables, and galaxies whose picture could not be used."""
    of = [e for e in experiments if e.instructions.survey == survey]
    catalog = Path(settings.data_dir) / survey / f"{survey}_master_catalog.json"
    return {
        "survey": survey,
        "catalog": folders.read_json(catalog) if catalog.is_file() else None,
        "dropped": list(dict.fromkeys(entry for e in of for entry in e.dropped or ())),
        "no_shards": [e.name for e in of if e.dropped is None],
    }
