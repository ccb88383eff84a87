"""The HTML page of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from zoobot import folders
from zoobot.iterations.files import RawFiles
from zoobot.reports import charts, details, galleries, looks, vega, verdicts
from zoobot.reports.experiments import CEILING, Experiment, Section
from zoobot.settings import Settings


def template() -> jinja2.Template:
    """The template of the page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "template")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = lambda name: str(name).replace("_", " ")
    environment.filters["line"] = looks.name_of
    environment.filters["begin"] = looks.begin
    environment.filters["sentence"] = verdicts.sentence
    environment.filters["number"] = lambda x, digits=3: "–" if x is None else f"{x:,.{digits}f}".replace("-", "−")
    environment.globals |= {"vega": vega.script(), "light": looks.LIGHT, "dark": looks.DARK, "grey": looks.GREY}
    return environment.get_template("page.html.j2")


def describe_section(section: Section, key: str, numbers: Mapping[str, object], most: int) -> dict[str, object]:
    """What the template shows of a section: ``numbers`` as in summary.json, charts, ``most`` galaxies in each row.
    ``key`` names it on the page.
    """
    counted = [e for line in section.lines.values() for e in line]
    differ, same = details.settings(counted)
    return {
        **numbers,
        "key": key,
        "lines": list(section.lines),
        "looks": looks.looks(section),
        "charts": charts.draw(section, key),
        "tree": details.questions(section),
        "costs": {name: details.costs(of) for name, of in section.lines.items()},
        "first_answer": galleries.first_answer(counted[0]),
        "galleries": {name: _gallery(of[0], most) for name, of in section.lines.items()} if most else {},
        "experiments": counted,
        "differ": differ,
        "same": same,
        "repeats": [e.name for e in section.repeats],
        "eval_uses": _eval_uses(counted),
    }


def _gallery(e: Experiment, most: int) -> dict[str, Any]:
    rows = [*galleries.chosen(e, most), *galleries.others(e, most)]
    return {"seed": e.pair[0], "unit": looks.unit_of(e.acquisition), "rows": rows}


def _eval_uses(experiments: Sequence[Experiment]) -> list[str]:
    """What the labels of the eval galaxies were used for."""
    models = [e.instructions.model for e in experiments]
    uses = {
        "early stopping": any(model.train == "all" for model in models),
        "recalibration": any(model.recalibrate for model in models),
        "the choice of oracle batch": any(e.acquisition == CEILING for e in experiments),
    }
    return [name for name, used in uses.items() if used]


def left_out(survey: str, settings: Settings, experiments: Sequence[Experiment]) -> dict[str, object]:
    """What was left out: rows of the survey's tables, galaxies whose picture could not be used, and answers."""
    of = [e for e in experiments if e.instructions.survey == survey]
    catalog = Path(settings.data_dir) / survey / f"{survey}_master_catalog.json"
    return {
        "survey": survey,
        "catalog": folders.read_json(catalog) if catalog.is_file() else None,
        "dropped": list(dict.fromkeys(entry for e in of for entry in e.dropped or ())),
        "no_shards": [e.name for e in of if e.dropped is None],
        "rejected": RawFiles(catalog.parent / "classifications").rejected(),
    }
