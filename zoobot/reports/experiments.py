"""Read finished experiments, and group those that may be compared.

A *line* is one acquisition function, over its seeds. Two experiments are a *pair* if they share seed and shards, and so
the start and the test galaxies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from zoobot import folders
from zoobot.errors import InputError
from zoobot.galaxies import tfrecords
from zoobot.galaxies.tfrecords import Dropped
from zoobot.iterations import oracle_batch
from zoobot.iterations.files import ExperimentFolder, Instructions, IterationFolder, Summary
from zoobot.settings import DEFAULTS, ORACLE_FIXED, Settings

BASELINE, CEILING = "random", oracle_batch.NAME
# What may differ between experiments that are compared. Shards and catalogs may differ only in their seed.
_FREE = ("acquisition.", "experiment", "seed", "iterations", "last_classification_id", "program.", "catalog_seed")
FREE_SOURCE = re.compile(r"(catalogs|shards)\.(path|digest|name|seed)")


Points = Sequence[tuple[float, float]]  # (labels, value) at each iteration


@dataclass(frozen=True)
class CurvePoint:
    """The results of a finished iteration on the test galaxies."""

    folder: IterationFolder
    summary: Summary
    labels: int  # galaxies it was trained on
    test_galaxies: int
    loss: float  # nats per galaxy
    rmse: dict[str, float]  # of the vote fractions, per question that has votes
    coverage_error: dict[str, float]  # within 5 of 40 votes, per question that has votes
    eval_galaxies: int = 0  # labelled too, though not trained on


@dataclass(frozen=True)
class Experiment:
    """An experiment with at least one finished iteration."""

    folder: ExperimentFolder
    instructions: Instructions
    settings: dict[str, object]  # flat: its own, and those of its shards and catalogs if they still exist
    dropped: list[Dropped] | None  # galaxies that its shards dropped; None if the shards are gone
    iterations: list[CurvePoint]

    @property
    def name(self) -> str:
        """Its folder, relative to the experiments."""
        return f"{self.folder.path.parent.name}/{self.folder.path.name}"

    @property
    def pair(self) -> tuple[int, str]:
        """What both experiments of a pair share: seed and shards."""
        return self.instructions.seed, self.instructions.shards.digest

    @property
    def acquisition(self) -> str:
        """The name of its acquisition function."""
        return self.instructions.acquisition.name


@dataclass(frozen=True)
class Section:
    """Experiments that may be compared."""

    title: tuple[str, str, str]  # survey, task, model
    apart: dict[str, object]  # the settings that distinguish it from other sections with this title
    lines: dict[str, list[Experiment]]  # random last
    repeats: list[Experiment]  # same line and pair as another experiment: not counted


def read_experiments(settings: Settings) -> tuple[list[Experiment], list[str]]:
    """The selected experiments that have a finished iteration, and the names of those without one."""
    experiments, unfinished = [], []
    for path in find(settings):
        folder = ExperimentFolder(path)
        iterations = folder.iterations()
        if iterations:
            experiments.append(_read_experiment(folder, iterations))
        else:
            unfinished.append(f"{path.parent.name}/{path.name}")
    if not experiments:
        raise InputError(
            f"Cannot report: none of {', '.join(unfinished)} in {settings.experiments_dir} has a finished iteration."
            " First run `python run.py stage=simulate …`, or stage=iterate, with their settings."
        )
    return experiments, unfinished


def find(settings: Settings) -> list[Path]:
    """The folders of the experiments that ``report.experiments`` selects. InputError: a pattern matches none."""
    here, patterns = settings.experiments_dir, settings.report.experiments
    found = [path for kind in ("simulations", "live") for path in sorted((here / kind).glob("[!.]*")) if path.is_dir()]

    def fits(path: Path, pattern: str) -> bool:
        return fnmatchcase(path.name, pattern) or fnmatchcase(f"{path.parent.name}/{path.name}", pattern)

    useless = [pattern for pattern in patterns if not any(fits(path, pattern) for path in found)]
    if useless or not patterns:
        known = ", ".join(path.name for path in found) or "nothing yet: run `python run.py stage=simulate …` first"
        wanted = ", ".join(useless) or "an empty list"
        raise InputError(f"report.experiments: no experiment in {here} matches {wanted}. Available: {known}.")
    return [path for path in found if any(fits(path, pattern) for pattern in patterns)]


def _read_experiment(folder: ExperimentFolder, iterations: Sequence[IterationFolder]) -> Experiment:
    folders.require(folder.instructions.path, "instructions")
    if folder.all_labels.path.is_dir():
        folders.require(folder.all_labels.path, "simulate")
    instructions = folder.instructions.read()
    catalogs, shards = (folder.instructions.source(source) for source in (instructions.catalogs, instructions.shards))
    flat: dict[str, object] = {}
    for source in (catalogs, shards):
        flat |= folders.read_manifest(source).settings if source.is_dir() else {}
    for key, value in asdict(instructions).items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    git = folders.read_manifest(folder.instructions.path).provenance.git
    flat["program.commit"] = git.commit if git else None
    dropped = tfrecords.load_config(shards).dropped if shards.is_dir() else None
    return Experiment(folder, instructions, flat, dropped, [_read_iteration(iteration) for iteration in iterations])


def _read_iteration(folder: IterationFolder) -> CurvePoint:
    folders.require(folder.path, "iterate")
    summary, metrics = folder.summary(), folder.metrics()
    test = metrics["test"]

    def of_questions(metric: str) -> dict[str, float]:
        return {question: _number(values[metric]) for question, values in test.items() if "rmse" in values}

    return CurvePoint(
        folder, summary, summary.train_galaxies, int(_number(test["all"]["galaxies"])), _number(test["all"]["loss"]),
        of_questions("rmse"), of_questions("coverage_error"), int(_number(metrics["eval"]["all"]["galaxies"])),
    )  # fmt: skip


def _number(value: float | list[float]) -> float:
    assert not isinstance(value, list)
    return value


def group(experiments: Sequence[Experiment]) -> list[Section]:
    """Sections of experiments that differ only in their seeds and in how galaxies were chosen."""
    alike: dict[str, list[Experiment]] = {}
    for e in experiments:
        alike.setdefault(json.dumps(_fixed(e), sort_keys=True), []).append(e)
    sections = []
    for members in alike.values():
        title = title_of(members[0])
        others = [_fixed(m[0]) for m in alike.values() if title_of(m[0]) == title]
        apart = {key: v for key, v in _fixed(members[0]).items() if any(other.get(key) != v for other in others)}
        sections.append(Section(title, apart, *_lines(members)))
    return sorted(sections, key=lambda section: (BASELINE not in section.lines, section.title))


def _fixed(e: Experiment) -> dict[str, object]:
    newer = {f"oracle.{key}": DEFAULTS[f"oracle.{key}"] for key in ORACLE_FIXED}  # than the experiment: at its default
    return {
        key: value
        for key, value in {**newer, **e.settings}.items()
        if not (key.startswith(_FREE) or FREE_SOURCE.match(key))
    }


def title_of(e: Experiment) -> tuple[str, str, str]:
    """Survey, task and model."""
    return e.instructions.survey, e.instructions.task.name, e.instructions.model.name


def _lines(members: Sequence[Experiment]) -> tuple[dict[str, list[Experiment]], list[Experiment]]:
    """The experiments of each line, and those with the same line and pair as a longer experiment."""
    lines: dict[str, dict[tuple[int, str], Experiment]] = {}
    repeats = []
    for e in sorted(members, key=lambda e: (-len(e.iterations), e.name)):
        label = _label(e, members)
        if lines.setdefault(label, {}).setdefault(e.pair, e) is not e:
            repeats.append(e)
    order = sorted(lines, key=lambda label: (label == BASELINE, label))
    return {label: [lines[label][pair] for pair in sorted(lines[label])] for label in order}, repeats


def _label(e: Experiment, members: Sequence[Experiment]) -> str:
    """The name of its acquisition function, with the options that distinguish it; random has no options."""
    namesakes = [asdict(m.instructions.acquisition) for m in members if m.acquisition == e.acquisition]
    own = asdict(e.instructions.acquisition)
    apart = [f"{key}={value}" for key, value in own.items() if any(other[key] != value for other in namesakes)]
    return f"{e.acquisition} ({', '.join(apart)})" if apart and e.acquisition != BASELINE else e.acquisition
