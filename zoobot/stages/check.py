"""stage=check: what a survey's folder holds, what is wrong with it, and the command to run next with all its settings.

Reads: a survey's table, questions and a sample of its pictures, or its features.
Writes: nothing; or, with check.output, a file of settings.
Needs: survey.folder, and for a survey of your own survey=custom survey.name=NAME.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import yaml

from zoobot.engine.progress import track
from zoobot.engine.seeds import stream
from zoobot.errors import InputError
from zoobot.folders import publish_file
from zoobot.galaxies import feature_tables, picture_paths
from zoobot.galaxies.feature_tables import Gathered
from zoobot.galaxies.images import read_image
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.surveys import SurveyTable, read_survey
from zoobot.settings import Settings
from zoobot.stages.catalogs import sizes_that_fit
from zoobot.stages.master_catalog import clean

MIN_LABELLED = 30  # galaxies; a simulation with fewer says nothing
_OF_TABLES = ("name", "folder", "catalog", "questions", "id_str", "file_loc", "path_prefix", "pictures",
              "classifications", "features", "features_column")  # fmt: skip
_PLAIN = re.compile(r"[A-Za-z0-9_./\-]+")  # what neither the shell nor Hydra needs quoted


@dataclass(frozen=True)
class Survey:
    """What was found. ``problems`` are reasons why no simulation can run."""

    questions: QuestionTree
    catalog: pd.DataFrame
    n_rows: int
    dropped: pd.DataFrame
    sizes: Counter[tuple[int, int]]  # height and width of the pictures of the sample
    unreadable: Sequence[str]
    missing: Sequence[str]
    features: Gathered | None = None  # instead of pictures
    problems: list[str] = field(default_factory=list)

    @property
    def totals(self) -> pd.Series:
        """The votes for the first question of each galaxy that has any."""
        total = self.catalog[self.questions.root.total].fillna(0).astype(int)
        return total[total > 0]


def run(settings: Settings) -> Path:
    """Print what was found and the next command. InputError: no simulation can run, and why."""
    settings, questions, table = _tables(settings)
    survey = _read(settings, questions, table)
    _print(_described(survey, settings))
    if survey.problems:
        raise InputError("\n  ".join(["no simulation can run on this survey yet:", *survey.problems]))
    proposed = _proposed(survey, settings)
    options = {"stage": "simulate", "survey": settings.survey.kind}
    options |= {"oracle": "known"} if survey.totals.max() == 1 else {}
    options |= {"model": "features"} if survey.features else {}
    _print(["", "Next:", _command(options | proposed), _command({"stage": "report", "data_dir": settings.data_dir})])
    if settings.check.output:
        path = _write(settings, options, proposed)
        command = f"python run.py --config-dir={shlex.quote(settings.check.output)} experiment={path.stem}"
        _print([f"The same settings are in {path}:", command])
    return settings.source_dir


def _print(lines: Sequence[str]) -> None:
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:  # who reads it, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tables(settings: Settings) -> tuple[Settings, QuestionTree, SurveyTable]:
    """The survey's table and its questions: those in the file of the survey's folder, if there is one that fits.

    A file that ``survey.questions`` names by its path comes first. The settings name what was taken.
    """
    given = settings.survey.questions
    in_folder = [] if given.endswith((".yaml", ".yml")) else sorted(map(str, settings.source_dir.glob("*.y*ml")))
    for name in (*in_folder, given):
        questions = load_questions(name)
        table = read_survey(settings, questions)
        if name == given or set(questions.root.columns) <= set(table.rows.columns):
            break
    return replace(settings, survey=replace(settings.survey, questions=name)), questions, table


def _read(settings: Settings, questions: QuestionTree, table: SurveyTable) -> Survey:
    catalog, dropped, _ = clean(table.rows, questions, str(table.sources[0]), not settings.survey.features)
    if settings.survey.features:
        gathered = feature_tables.gather(feature_tables.find(settings), list(catalog["id_str"]))
        survey = Survey(questions, catalog, len(table.rows), dropped, Counter(), [], [], gathered)
    else:
        survey = _with_pictures(Survey(questions, catalog, len(table.rows), dropped, Counter(), [], []), settings)
    survey.problems.extend(_problems(survey, settings))
    return survey


def _with_pictures(survey: Survey, settings: Settings) -> Survey:
    catalog = survey.catalog
    missing = picture_paths.missing(catalog["file_loc"], settings)
    there = catalog["file_loc"][~catalog["file_loc"].isin(missing)]
    order = stream(settings.seed, "check").permutation(len(there))[: settings.check.pictures]
    sizes, unreadable = Counter[tuple[int, int]](), []
    for loc in track(list(there.iloc[order]), "reading pictures", len(order)):
        try:
            height, width, _ = read_image(picture_paths.source(settings, str(loc)), settings.survey).shape
            sizes[height, width] += 1
        except InputError as error:
            unreadable.append(f"{loc}: {error}")
    return replace(survey, sizes=sizes, unreadable=unreadable, missing=missing)


def _problems(survey: Survey, settings: Settings) -> list[str]:
    allowed, n = settings.max_dropped_fraction, len(survey.catalog)
    found = []
    if len(survey.dropped) > allowed * survey.n_rows:
        reasons = survey.dropped["reason"].value_counts()
        what = "; ".join(f"{count} x {reason}" for reason, count in reasons.head(5).items())
        found.append(f"{len(survey.dropped)} of {survey.n_rows} rows cannot be used: {what}")
    if survey.features and (problem := survey.features.problem(allowed)):
        found.append(problem)
    if len(survey.missing) > allowed * n:
        found.append(
            f"{len(survey.missing)} of {n} pictures are not in {settings.pictures_place}, for example"
            f" {survey.missing[0]}"
        )
    if len(survey.unreadable) > allowed * settings.check.pictures:
        found += [f"{len(survey.unreadable)} pictures cannot be used, for example:", *survey.unreadable[:5]]
    n_labelled = int((survey.totals > _retirement_votes(survey.totals)).sum())
    if n_labelled < MIN_LABELLED:
        found.append(
            f"{n_labelled} galaxies have enough votes for {survey.questions.root.name} to be hidden and found again: at"
            f" least {MIN_LABELLED} are needed. Without votes, ask volunteers: docs/live.md"
        )
    return found


def _described(survey: Survey, settings: Settings) -> list[str]:
    totals, answered = survey.totals, _answered(survey)
    of_all = f"{len(survey.catalog)} galaxies from {survey.n_rows} rows, {len(survey.dropped)} rows dropped"
    spread = f", {totals.min()} to {totals.max()} each, half of them {totals.median():g} or more" if len(totals) else ""
    sizes = ", ".join(f"{n} of {width} x {height} px" for (height, width), n in survey.sizes.most_common(3))
    shown = f"pictures: {len(survey.missing)} missing; in a sample: {sizes or 0}; unusable: {len(survey.unreadable)}"
    if survey.features:
        found, of = survey.features, survey.features.table
        shown = f"features: {of.n_features} ({of.shown}); {found.described()}; {found.n_other} rows of other galaxies"
    return [
        f"{settings.source_dir}: {of_all}",
        *(f"  dropped {row.id_str}: {row.reason}" for row in survey.dropped.head(3).itertuples()),
        f"votes: {len(totals)} galaxies have votes for {survey.questions.root.name}{spread}",
        f"questions with votes: {', '.join(answered)}; without: {len(survey.questions) - len(answered)}",
        shown,
        *(f"  {each}" for each in survey.unreadable[:3] if not survey.problems),
    ]


def _answered(survey: Survey) -> list[str]:
    totals = {q.name: q.total for q in survey.questions if q.total in survey.catalog}
    return [name for name, total in totals.items() if survey.catalog[total].fillna(0).sum() > 0]


def _retirement_votes(totals: pd.Series) -> int:
    """The default if it leaves half of the galaxies labelled, otherwise what leaves four fifths."""
    default = Settings().survey.retirement_votes
    if len(totals) and (totals > default).mean() < 0.5:
        return max(0, int(totals.quantile(0.2)) - 1)
    return default


def _proposed(survey: Survey, settings: Settings) -> dict[str, object]:
    """Every setting that this survey needs, by its key."""
    retirement = _retirement_votes(survey.totals)
    labelled = survey.totals[survey.totals > retirement]
    votes = int(labelled.median())
    side = min((min(size) for size in survey.sizes), default=0)
    picture = {"shards.image_size_px": min(64, max(8, side)), "model.final_size_px": min(32, max(8, side))}
    found: dict[str, object] = {
        **{f"survey.{key}": getattr(settings.survey, key) for key in _OF_TABLES},
        "survey.retirement_votes": retirement,
        **_task(survey, settings),
        "acquisition.expected_votes": votes,
        "oracle.votes_per_galaxy": max(retirement + 1, votes),
        **sizes_that_fit(len(labelled)),
        **({} if survey.features else picture),
        "data_dir": settings.data_dir,
    }
    return {key: value for key, value in found.items() if value != ""}


def _task(survey: Survey, settings: Settings) -> dict[str, object]:
    """One question with two answers is learnt as k of N, anything else as a tree."""
    names, root = _answered(survey), survey.questions.root
    answers = [answer.name for answer in root.answers if not answer.retired]
    if len(names) > 1 or len(answers) != 2:
        return {"task.name": f"{settings.survey.name}_tree", "task.questions": names, "task.label": []}
    return {"task.name": root.name, "task.questions": names, "task.label": answers[:1]}


def _command(values: Mapping[str, object]) -> str:
    return " ".join(["python run.py", *(_override(key, value) for key, value in values.items())])


def _override(key: str, value: object) -> str:
    """``key=value`` as a shell and Hydra read it."""
    text = f"[{','.join(map(_hydra, value))}]" if isinstance(value, list) else _hydra(value)
    return shlex.quote(f"{key}={text}") if '"' in text else f"{key}={text}"


def _hydra(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write(settings: Settings, options: Mapping[str, str], proposed: Mapping[str, object]) -> Path:
    """A named experiment for ``--config-dir``."""
    nested: dict[str, object] = {}
    for key, value in proposed.items():
        *groups, name = key.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})  # type: ignore[assignment]
        inner[name] = value
    defaults = [{f"override /{group}": option} for group, option in options.items()]
    text = yaml.safe_dump({"defaults": defaults, **nested}, sort_keys=False, allow_unicode=True)
    path = Path(settings.check.output) / "experiment" / f"{settings.survey.name}.yaml"
    publish_file(path, f"# @package _global_\n{text}".encode())
    return path
