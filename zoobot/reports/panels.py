"""The panels of the dashboard: which logged keys are drawn together, over what. W&B's workspace and our own page of
them are both made from these.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from zoobot.reports.history import DIFFERENCE_LABELS, EPOCH, LABELS, VOTES

Kind = Literal["line", "band", "bars", "table"]  # a band: the mean of a group of runs, and its standard deviation


@dataclass(frozen=True)
class Panel:
    """Keys that are drawn together."""

    title: str
    keys: tuple[str, ...]
    unit: str
    kind: Kind = "line"
    x: str = LABELS


@dataclass(frozen=True)
class Section:
    """Panels for one purpose."""

    name: str
    panels: tuple[Panel, ...]


# The panels of each section, with patterns of keys. With {} in a title, there is a panel for everything that the * of
# the pattern can stand for, and {} is its name.
_TEMPLATES = {
    "Label efficiency": (
        Panel("Test loss", ("test/all/loss",), "nats per galaxy", "band"),
        Panel("Test loss by votes", ("test/all/loss",), "nats per galaxy", "band", VOTES),
        Panel("Test loss minus random's", ("difference/loss",), "nats per galaxy", "band", DIFFERENCE_LABELS),
        Panel("Error: {}", ("test/*/rmse",), "RMSE of vote fraction", "band"),
        Panel("Error minus random's: {}", ("difference/*/rmse",), "RMSE of vote fraction", "band", DIFFERENCE_LABELS),
        Panel("Log score: {}", ("test/*/log_score",), "nats per galaxy", "band"),
    ),
    "One experiment, day by day": (
        Panel("Chosen galaxies", ("tables/chosen",), "", "table"),
        Panel("Answered galaxies, as they were predicted", ("tables/answered",), "", "table"),
        Panel("Worst errors on eval", ("tables/worst_of_eval",), "", "table"),
        Panel("Answers so far", ("choice/share/*",), "share"),
        Panel("Rank correlation of score and error", ("choice/score_error_correlation",), "Spearman"),
        Panel("Scores of the pool", ("choice/scores",), "galaxies", "bars"),
        Panel("Training", ("training/*_loss",), "nats per galaxy", "line", EPOCH),
        Panel("Eval loss", ("eval/all/loss", "model/worse_than_previous_by"), "nats per galaxy"),
        Panel("Seconds of each step", ("timings_s/*",), "s"),
    ),
    "Live operations": (
        Panel("Classifications", ("counts/classifications_*",), ""),
        Panel("Labels received", ("counts/labels_*", "counts/control_labels_*"), "galaxies"),
        Panel("Asked about", ("counts/requested*", "counts/predicted_galaxies"), "galaxies"),
        Panel("Waiting for votes", ("counts/still_waiting",), "galaxies"),
        Panel("Longest wait", ("waiting/oldest",), "iterations"),
        Panel("Waiting, by iterations", ("waiting/ages",), "galaxies", "bars"),
        Panel("Not labelled", ("counts/dropped", "counts/returned_to_pool", "counts/retired_confident"), "galaxies"),
        Panel("Votes spent", (VOTES,), "votes"),
        Panel("Volunteers' time", ("cost/volunteer_minutes",), "minutes"),
        Panel("Size of an iteration", ("cost/bytes",), "bytes"),
        Panel("Expected gain from the next 100 labels", ("cost/next_100_labels_buy",), "nats per galaxy"),
        Panel("Control sample", ("control/all/loss",), "nats per galaxy"),
    ),
    "Calibration": (
        Panel("Coverage error: {}", ("test/*/coverage_error",), "within 5 of 40 votes", "band"),
        Panel("Dispersion: {}", ("test/*/dispersion",), "1 is right", "band"),
        Panel("Distance of PIT from flat: {}", ("test/*/pit_error",), "share of galaxies", "band"),
        Panel("PIT: {}", ("test/*/pit_histogram",), "share of galaxies", "bars"),
        Panel("Coverage by width: {}", ("test/*/coverage_*d",), "share of galaxies", "bars"),
        Panel("What corrects the samples", ("model/*slope", "model/temperature", "model/spread"), ""),
    ),
}  # fmt: skip
# Keys without a panel, and why. They are logged, so anyone can add one.
WITHOUT = {
    LABELS: "the axis", EPOCH: "the axis", DIFFERENCE_LABELS: "the axis",
    "counts/number": "the row's own name", "difference/number": "the row's own name",
    "training/iteration": "the row's own name", "difference/votes_spent": "as cost/votes_spent",
    "counts/epochs": "as the axis of Training", "model/kept_previous_model": "yes or no: in the table of runs",
    "eval/*": "eval decides; what is shown is measured on test", "control/*": "few galaxies: its loss is shown",
    "*/galaxies": "constant", "*/confident_*": "of few galaxies", "*/mae": "as rmse", "*/accuracy": "as rmse",
    "*/ranked_probability_score": "as log_score", "*/pit_p_value": "as pit_error",
}  # fmt: skip


def sections(keys: Collection[str]) -> list[Section]:
    """The sections and panels for which there is a key, in order."""
    found = []
    for name, templates in _TEMPLATES.items():
        panels = tuple(panel for template in templates for panel in _panels(template, keys))
        found += [Section(name, panels)] if panels else []
    return found


def _panels(template: Panel, keys: Collection[str]) -> list[Panel]:
    matching = sorted(key for key in keys if any(fnmatchcase(key, pattern) for pattern in template.keys))
    if not matching or template.x not in keys:
        return []
    if "{}" not in template.title:
        return [replace(template, keys=tuple(matching))]
    start = template.keys[0].split("*")[0]
    of_name: dict[str, list[str]] = {}
    for key in matching:
        of_name.setdefault(key.removeprefix(start).rpartition("/")[0], []).append(key)
    return [replace(template, title=template.title.format(name), keys=tuple(own)) for name, own in of_name.items()]


def unshown(keys: Collection[str]) -> list[str]:
    """The keys that have neither a panel nor a reason to have none."""
    shown = {key for section in sections(keys) for panel in section.panels for key in panel.keys}
    return sorted(key for key in keys if key not in shown and not any(fnmatchcase(key, pattern) for pattern in WITHOUT))
