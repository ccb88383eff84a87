"""stage=report: one HTML page that shows whether active learning helped, and the same numbers as JSON.

The page opens offline. It changes no experiment, and the next report overwrites it.

Reads: the experiments in report.experiments.
Writes: report/: report.html, and the same numbers in summary.json.
Needs: a finished iteration.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from zoobot import folders
from zoobot.iterations import waiting
from zoobot.iterations.final_files import final_of
from zoobot.reports import catalogues, details, galleries, page, pictures, verdicts
from zoobot.reports.efficiency import describe
from zoobot.reports.experiments import Experiment, Section, group, read_experiments, title_of
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1


def run(settings: Settings) -> Path:
    """Write report.html and summary.json, and return the path of the page."""
    experiments, unfinished = read_experiments(settings)
    sections = group(experiments)
    numbers = [describe(section) for section in sections]
    summary: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "sections": numbers,
        "experiments": [_entry(e) for e in experiments] + [{"path": name, "iterations": 0} for name in unfinished],
    }
    html = _render(settings, experiments, sections, summary)
    path = settings.report_dir / "report.html"
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    folders.publish_file(path.with_name("summary.json"), text.encode())
    folders.publish_file(path, html.encode())
    log.info("%s: written, %d experiments", path, len(experiments))
    for section in numbers:
        for comparison in section["comparisons"]:
            title = " ".join(str(section[key]) for key in ("survey", "task", "model"))
            log.info("%s: %s", title, verdicts.sentence(comparison))
    return path


def _render(settings: Settings, experiments: list[Experiment], sections: list[Section], summary: dict[str, Any]) -> str:
    data_dir, surveys = Path(settings.data_dir), sorted({title_of(e)[0] for e in experiments})
    found = catalogues.find(data_dir)
    most = pictures.per_row(galleries.count_rows(sections) + 2 * len(found), settings.report.galaxies)
    return page.template().render(
        now=datetime.now().astimezone(),
        quick=data_dir.name == "quick",
        sections=[
            page.describe_section(section, f"section-{n}", numbers, most)
            for n, (section, numbers) in enumerate(zip(sections, summary["sections"], strict=True), start=1)
        ],
        experiments=summary["experiments"],
        left_out=[page.left_out(survey, settings, experiments) for survey in surveys],
        rejected=details.rejected(experiments),
        provenance=[details.provenance(e) for e in experiments],
        catalogues=[catalogues.read(path, f"catalogue-{n}", most) for n, path in enumerate(found)],
    )


def _entry(e: Experiment) -> dict[str, object]:
    last = e.iterations[-1]
    return {
        "path": e.name,
        "name": e.folder.path.name,
        "iterations": len(e.iterations),
        "acquisition": e.acquisition,
        "seed": e.instructions.seed,
        "labels": last.labels,
        "test_loss": last.loss,
        "requested": last.summary.requested,
        "labels_below_threshold": sum(i.summary.labels_below_threshold for i in e.iterations),
        "retired_confident": sum(i.summary.retired_confident for i in e.iterations),
        "still_waiting": last.summary.still_waiting,
        "waiting": [
            {key: value for key, value in vars(group).items() if key != "votes"}
            | {"galaxies": len(group.votes), "examples": group.examples()}
            for group in waiting.groups(last.summary.waiting, last.summary.number)
        ],
        "weights_sha256": last.summary.weights_sha256,
        "votes_spent": last.summary.votes_spent,
        "volunteer_minutes": last.summary.volunteer_minutes,
        "next_100_labels_buy": last.summary.next_100_labels_buy,
        "final": _final(e),
    }


def _final(e: Experiment) -> dict[str, object] | None:
    """The final model; None if there is none yet."""
    folder = final_of(e.folder)
    if not folder.path.is_dir():
        return None
    folders.require(folder.path, "finish")
    found = folder.read()
    return {key: getattr(found, key) for key in ("fine_tuned", "better_by", "test_loss", "iteration_test_loss")}
