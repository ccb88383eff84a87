"""Check a run's settings and name each problem with its full key; and ``quick``, the settings of the test mode."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoobot.errors import InputError
from zoobot.settings import values
from zoobot.settings.depends import flatten
from zoobot.settings.schema import Settings

# Allowed values that no other package defines; all others are passed to ``problems`` as ``choices``.
ANONYMOUS_REPEATS = ("all", "first_per_session")
TRACKING_MODES = ("online", "offline", "disabled")
TRAINED = ("all", "head")
SHARD_SOURCES = ("mock", "real")
INPUT_CHECKS = ("sizes", "digests")
IF_SAME = ("warn", "error")
ENGINES = ("local", "ray")
STRETCHES = ("nanomaggies", "noise")
# The least that a setting may be, and between which values it may be.
_AT_LEAST = {
    "workers": 0,
    "seed": 0, "survey.retirement_votes": 0, "survey.draw_size_px": 16, "survey.draw_seed": 0, "catalogs.seed": 0,
    "survey.max_pixels": 64,
    "catalogs.mock_labelled": 3, "catalogs.max_galaxies": 0,
    "shards.image_size_px": 8, "shards.shard_size": 1, "shards.eval_size": 1,
    "shards.test_size": 1, "model.hidden": 1, "model.final_size_px": 8, "model.batch_size": 1,
    "model.max_epochs": 1, "model.ensemble": 1, "pretrain.epochs": 1, "pretrain.batch_size": 2,
    "pretrain.max_galaxies": 0, "pretrain.seed": 0, "model.steps_per_epoch": 1,
    "model.patience": 1, "model.n_samples": 1, "model.predict_batch_size": 1, "acquisition.expected_votes": 1,
    "oracle.votes_per_galaxy": 1, "oracle.control_per_iteration": 0, "oracle.control_votes": 1,
    "oracle.last_classification_id": 0, "oracle.overlap_ids": 0, "oracle.tries": 1,
    "stop.votes": 0, "stop.labels": 0, "iterate.subjects_per_iteration": 1, "iterate.shards_per_iteration": 1,
    "iterate.waiting_iterations": 0,
    "simulate.iterations": 1, "finish.networks": 2, "finish.epochs": 1,
    "check.pictures": 1, "tracking.table_galaxies": 0, "report.galaxies": 0,
}  # fmt: skip
_RANGES = {
    "max_dropped_fraction": (0, 1), "survey.same_within_arcsec": (0, 60), "model.dropout_rate": (0, 0.95),
    "model.zoom": (0, 0.9),
    "model.learning_rate": (1e-9, 10), "shards.crop": (0.05, 1), "pretrain.learning_rate": (1e-9, 10),
    "pretrain.temperature": (0.01, 10), "iterate.gate_margin": (0, values.MOST), "stop.minutes_per_vote": (0, 60),
    "stop.next_100_labels_buy": (0, values.MOST),
    "acquisition.coldness": (1e-6, 1e6), "acquisition.skip_confident": (0, 1), "acquisition.random_share": (0, 1),
    "acquisition.candidate_batches": (1, 100),
    "oracle.late_fraction": (0, 1), "oracle.anonymous_fraction": (0, 1), "oracle.retire_confident": (0, 1),
    "reduce.max_age_days": (0, values.MOST), "survey.zero_point": (-20, 60), "stop.eval_loss": (0, values.MOST),
    "finish.learning_rate": (1e-9, 10), "finish.dropout_rate": (0, 0.95),
    "oracle.timeout_s": (0.01, 3600), "oracle.retry_wait_s": (0, 600),
}  # fmt: skip
_FOLDER_NAMES = (
    "task.name", "model.name", "survey.name", "catalogs.name", "shards.name", "pretrain.name", "experiment_name",
)  # fmt: skip


def quick(s: Settings) -> Settings:
    """The settings of the test mode: every stage runs the same code, but in seconds and in a separate data folder."""
    return replace(
        s,
        data_dir=str(Path(s.data_dir) / "quick"),
        survey=replace(
            s.survey, n_galaxies=min(s.survey.n_galaxies, 160), draw_size_px=min(s.survey.draw_size_px, 32),
            folder=s.survey.folder if s.survey.kind == "demo" else str(s.source_dir),  # its own files stay in place
        ),
        catalogs=replace(
            s.catalogs, mock_labelled=min(s.catalogs.mock_labelled, 72),
            max_galaxies=min(s.catalogs.max_galaxies or 160, 160),
        ),
        shards=replace(
            s.shards, image_size_px=min(s.shards.image_size_px, 32), shard_size=min(s.shards.shard_size, 32),
            eval_size=min(s.shards.eval_size, 24), test_size=min(s.shards.test_size, 24),
        ),
        pretrain=replace(s.pretrain, epochs=min(s.pretrain.epochs, 1), batch_size=min(s.pretrain.batch_size, 16)),
        model=replace(
            s.model, blocks=[[4], [8]] if s.model.blocks else [], hidden=8,
            final_size_px=min(s.model.final_size_px, 32),
            max_epochs=min(s.model.max_epochs, 2), steps_per_epoch=1, n_samples=min(s.model.n_samples, 5),
        ),
        iterate=replace(s.iterate, subjects_per_iteration=min(s.iterate.subjects_per_iteration, 8)),
        simulate=replace(s.simulate, iterations=min(s.simulate.iterations, 3)),
        finish=replace(s.finish, networks=min(s.finish.networks, 2), epochs=min(s.finish.epochs, 1)),
    )  # fmt: skip


def problems(s: Settings, choices: Mapping[str, Collection[str]]) -> list[str]:
    """All problems, each with its full key. ``choices`` has the values that a setting may take, by its key."""
    flat: dict[str, Any] = flatten(dataclasses.asdict(s))
    own = {
        "model.train": TRAINED, "model.orientations": (1, 8), "reduce.anonymous_repeats": ANONYMOUS_REPEATS,
        "tracking.mode": TRACKING_MODES, "verify_inputs": INPUT_CHECKS, "shards.source": SHARD_SOURCES,
        "shards.channels": (1, 3), "survey.same_galaxy": IF_SAME, "survey.stretch": STRETCHES,
        "engine.name": ENGINES,
    }  # fmt: skip
    problems = values.problems(flat)
    problems += [
        f"{key}={flat[key]}: choose one of {', '.join(map(str, allowed))}"
        for key, allowed in {**choices, **own}.items()
        if flat[key] not in allowed
    ]
    problems += [f"{key}={flat[key]}: must be at least {low}" for key, low in _AT_LEAST.items() if flat[key] < low]
    problems += [
        f"{key}={flat[key]}: must be between {low} and {high}"
        for key, (low, high) in _RANGES.items()
        if not low <= flat[key] <= high
    ]
    own_name = ("predict.name",) if s.predict.name != s.experiment_name else ()
    for key in (*_FOLDER_NAMES, *own_name):
        if not flat[key] or "/" in flat[key] or flat[key].startswith("."):
            problems.append(f"{key}={flat[key]}: must be a folder name, without / and not starting with a dot")
        elif len(flat[key].encode(errors="replace")) > values.NAME_BYTES:
            problems.append(f"{key}={flat[key][:77]}…: must be at most {values.NAME_BYTES} bytes long")
    first = {problem.split("=")[0]: problem for problem in reversed(problems)}  # one problem of each setting
    return [*(problem for problem in problems if first[problem.split("=")[0]] == problem), *_misfits(s)]


def _misfits(s: Settings) -> list[str]:
    """Settings that are valid alone but not together."""
    problems = _survey_misfits(s)
    if s.shards.source == "mock" and s.catalogs.mock_labelled <= s.shards.eval_size + s.shards.test_size:
        problems.append(
            f"catalogs.mock_labelled={s.catalogs.mock_labelled}: must exceed shards.eval_size + shards.test_size"
            f" = {s.shards.eval_size + s.shards.test_size}, otherwise no galaxy is left to train on"
        )
    if s.model.final_size_px > s.shards.image_size_px:
        problems.append(
            f"model.final_size_px={s.model.final_size_px}: larger than the stored images"
            f" (shards.image_size_px={s.shards.image_size_px})"
        )
    if s.model.xla and s.model.final_size_px < s.shards.image_size_px:
        problems.append(
            "model.xla: XLA cannot make pictures smaller; store them as the network sees them, with"
            f" shards.image_size_px={s.model.final_size_px}, or set model.xla=false"
        )
    if s.oracle.kind != "known" and s.stage != "reduce" and s.oracle.votes_per_galaxy <= s.survey.retirement_votes:
        problems.append(
            f"oracle.votes_per_galaxy={s.oracle.votes_per_galaxy}: must exceed survey.retirement_votes"
            f"={s.survey.retirement_votes}, otherwise no galaxy is ever labelled"
        )
    if s.engine.address and s.engine.name == "local":
        problems.append(f"engine.address={s.engine.address}: only with engine=ray")
    elif s.engine.address and not re.fullmatch(r"[^\s/]+:[0-9]{1,5}", s.engine.address):
        problems.append(f"engine.address={s.engine.address}: must be HOST:PORT, as ray start --head says it")
    if s.stage == "verify" and not s.verify.path:
        problems.append("verify.path: name the folder to verify, e.g. verify.path=data/demo/shards/smooth")
    return problems + (_reduce_misfits(s) if s.stage == "reduce" else [])


def _survey_misfits(s: Settings) -> list[str]:
    problems = []
    for key in ("catalog", "classifications", "features"):
        name = getattr(s.survey, key)
        try:
            _ = name and not Path(name).is_absolute() and s.inside(name)  # an absolute path was meant
        except InputError as error:
            problems.append(f"survey.{key}={name}: {error}")
    if s.survey.pictures and "://" not in s.survey.pictures:
        problems.append(
            f"survey.pictures={s.survey.pictures}: give an address such as s3://bucket/prefix; pictures on a disk lie"
            " in survey.folder"
        )
    if _holds_secret(s.survey.pictures):  # the message does not show it
        problems.append(
            "survey.pictures: the address holds credentials, which would be written into records; leave them out, and"
            " set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    if s.survey.kind == "demo" and s.survey.n_galaxies < 1:
        problems.append(f"survey.n_galaxies={s.survey.n_galaxies}: the demo survey needs at least 1")
    if (
        s.survey.kind in ("gz2", "decals", "custom")
        and not s.survey.catalog
        and s.stage in ("check", "master_catalog", "simulate")
    ):
        problems.append(
            f"survey.catalog: survey {s.survey.name} needs its source table, e.g. survey.catalog=catalog.csv"
        )
    shown = [str(band).strip().lower() for band in s.survey.bands if band != "skip"]
    if len(shown) not in (1, 3) or len(set(shown)) < len(shown):
        problems.append(
            f"survey.bands={s.survey.bands}: list three bands for a colour picture, or one for a grey one, each once;"
            " skip stands for a plane that is not shown"
        )
    return problems


def _holds_secret(url: str) -> bool:
    place, _, query = url.partition("://")[2].partition("?")
    user, at, _ = place.partition("/")[0].rpartition("@")
    return bool(at and user != "anonymous") or any(word in query.lower() for word in ("key", "token", "secret", "sig"))


def _reduce_misfits(s: Settings) -> list[str]:
    problems = [
        f"reduce.caesar_reducers={each}: give the key and its task, e.g. [smooth-votes:T0]"
        for each in s.reduce.caesar_reducers
        if ":" not in each
    ]
    sources = (s.reduce.pull, s.reduce.export, s.reduce.api_dump, s.reduce.caesar)
    if sum(map(bool, sources)) != 1:
        problems.append(
            "reduce: give one of reduce.pull=true, reduce.export=FILE.csv, reduce.api_dump=FILE.jsonl or"
            " reduce.caesar=FILE.csv"
        )
    if s.reduce.pull and s.oracle.kind != "panoptes":
        problems.append(
            "reduce.pull=true also needs the project: oracle=panoptes oracle.project_id=… oracle.workflow_ids=[…]"
        )
    if not (s.reduce.pull or s.reduce.caesar or s.reduce.workflow_versions):
        problems.append("reduce.workflow_versions: name the file with the workflow's versions (docs/votes.md)")
    return problems
