"""stage=dashboard: log what is new of experiments, and make or update the workspace that shows them.

Offline it writes the workspace's definition, and a page with the same panels, drawn here.

Reads: the experiments in report.experiments.
Writes: report/: dashboard.html; with tracking=online also a workspace on Weights & Biases.
Needs: a finished iteration, and for tracking=online tracking.entity.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from zoobot import folders
from zoobot.errors import InputError, SettingsError
from zoobot.iterations.files import ExperimentFolder
from zoobot.reports import dashboard, experiments, history, panels, screens, workspace
from zoobot.reports.history import History
from zoobot.settings import Settings

log = logging.getLogger("zoobot")


def run(settings: Settings) -> Path:
    """Write wandb_workspace.json and dashboard.html, and return the path of the page."""
    if settings.tracking.mode == "disabled":
        raise SettingsError("stage=dashboard shows what is logged: choose tracking=offline or tracking=online.")
    if settings.tracking.mode == "online" and not settings.tracking.entity:
        raise SettingsError("tracking.entity: name the user or the team on Weights & Biases who gets the workspace.")
    found = list(_histories(settings))
    if not found:
        raise InputError(
            f"Cannot show: no experiment in {settings.experiments_dir} has a finished iteration. First run"
            " `python run.py stage=simulate …`, or stage=iterate, with their settings."
        )
    sections = panels.sections({key for each in found for row in each.rows for key in row})
    made = workspace.build(settings, sections)
    definition, page = (settings.report_dir / name for name in ("wandb_workspace.json", "dashboard.html"))
    if settings.tracking.mode == "online":
        made.save()
    folders.publish_file(definition, folders.to_text(workspace.definition(made)).encode())
    folders.publish_file(page, screens.draw(sections, found).encode())
    log.info("%s: written, %d experiments", page, len(found))
    return page


def _histories(settings: Settings) -> Iterator[History]:
    """The history of each selected experiment, after what is new was logged."""
    for path in experiments.find(settings):
        live = path.parent.name == "live"
        own = replace(settings, experiment_name=path.name, oracle=replace(settings.oracle, live=live))
        if iterations := ExperimentFolder(path).iterations():
            dashboard.log_iterations(own, iterations)
        if (tracking := history.tracking_of(path)).exists():
            yield tracking.read()
