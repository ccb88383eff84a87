"""Weights & Biases: one run per experiment, which goes on with each iteration. Only this module imports wandb.

What is logged are the rows of the history (history.py). Offline, each new row is written into a folder of its own,
tracking/wandb/offline-run-N, where N is its first row; they have one id, and `wandb sync` appends one to the other. All
files that a run shows lie in its folder, so the folders may be moved. Online, the server says how many rows it has, and
gets the others. No secret is logged: the key stays in the environment.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zoobot import folders
from zoobot.engine import process, quiet
from zoobot.folders import disk
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.reports import history
from zoobot.reports.history import AXES, LABELS, History, Row, Run, TrackingFolder
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
NAME_LENGTH, TAG_LENGTH = 128, 64  # W&B refuses longer ones
CONNECT_S = 30  # an iteration waits no longer for a server that does not answer
_REFERENCED = ("instructions.json", "iteration.json", "metrics.json", "requests.json")
_SENT = "sent.json"


@dataclass(frozen=True)
class Sent:
    """How many rows were sent at last, in which mode, and with which report."""

    mode: str
    rows: int
    report_sha256: str = ""


def log_iterations(settings: Settings, iterations: Sequence[IterationFolder]) -> None:
    """Log what is new of ``iterations`` (all of the experiment, in order). A failure only gives a warning: the
    iterations are already published, and the next call logs what this one missed.
    """
    if settings.tracking.mode == "disabled":
        return
    folder = history.tracking_of(settings.experiment_dir)
    try:
        with disk.lock(folder.path, wait=True):  # stage=dashboard may log the same experiment
            found = history.update(settings, describe_run(settings), iterations)
            now = Sent(settings.tracking.mode, len(found.rows), _report_digest(settings))
            before = _sent(folder)
            if now != (replace(before, mode=now.mode) if now.mode == "offline" else before):
                _send(settings, found, before.rows)
                folders.publish_file(folder.path / _SENT, folders.to_text(asdict(now)).encode())
    except Exception as error:  # the client can raise anything; the iterations are already published
        log.warning("%s was not logged to Weights & Biases: %s: %s", iterations[-1].name, type(error).__name__, error)


def describe_run(settings: Settings) -> Run:
    """The run of an experiment. Its id is of the instructions' digest, so no other experiment has it."""
    experiment = ExperimentFolder(settings.experiment_dir)
    instructions, manifest = experiment.instructions.read(), folders.read_manifest(experiment.instructions.path)
    names = (instructions.survey, instructions.task.name, instructions.model.name, instructions.acquisition.name)
    git, sweep = manifest.provenance.git, os.environ.get(process.SWEEP)
    tags = [*names, *(["quick"] if settings.quick else []), *([f"sweep:{sweep}"] if sweep else [])]
    tags += [f"commit:{git.commit[:12]}"] if git else []
    return Run(
        id=manifest.digest[:16],
        name=instructions.experiment[:NAME_LENGTH],
        group=_group(settings, "_".join(names))[:NAME_LENGTH],
        job_type="live" if settings.oracle.live else "simulation",
        tags=list(dict.fromkeys(tag[:TAG_LENGTH] for tag in tags)),
        config={**asdict(instructions), "quick": settings.quick, "instructions_digest": manifest.digest},
    )


def _group(settings: Settings, name: str) -> str:
    return f"quick_{name}" if settings.quick else name


def _sent(folder: TrackingFolder) -> Sent:
    path = folder.path / _SENT
    return folders.parse(folders.read_json(path), Sent, str(path)) if path.is_file() else Sent("", 0)


def _report_digest(settings: Settings) -> str:
    report = settings.report_dir / "report.html"
    return folders.digest_file(report) if report.is_file() else ""


# --------------------------------------------------------------- wandb


def _send(settings: Settings, found: History, sent: int) -> None:
    """Write a folder of an offline run with the rows after those ``sent``, or send the server those it has not got."""
    folder = history.tracking_of(settings.experiment_dir)
    writing = folder.path / ".writing"
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    offline = settings.tracking.mode == "offline"
    with _run(settings, found.run, writing) as run:
        written = Path(run.dir).parent
        _define_axes(run)
        first = sent if offline else run.starting_step
        run.summary.update(_newest(found.rows[:first]))  # a sync replaces the summary that the server has
        for row in found.rows[first:]:
            run.log({key: _to_wandb(value, folder) for key, value in row.items()})
        run.log_artifact(_references(settings, found.run))
    runs = folder.path / "wandb"
    if offline:
        runs.mkdir(exist_ok=True)
        disk.remove(runs / f"offline-run-{first:05d}")  # its rows were not noted as sent: it was interrupted then
        disk.rename_folder(written, runs / f"offline-run-{first:05d}")
    else:
        disk.remove(runs)  # the server has it all; what was written offline would be there twice
    shutil.rmtree(writing)


@contextmanager
def _run(settings: Settings, run: Run, folder: Path) -> Iterator[Any]:
    wandb = _client(settings.tracking.mode)
    options = wandb.Settings(
        silent=True, console="off", x_disable_stats=True, x_disable_machine_info=True, x_save_requirements=False,
        init_timeout=CONNECT_S,
    )  # fmt: skip
    try:
        with wandb.init(
            mode=settings.tracking.mode,
            project=settings.tracking.project,
            entity=settings.tracking.entity or None,
            dir=folder,
            resume="allow",
            settings=options,
            **asdict(run),
        ) as started:
            yield started
    except Exception:
        wandb.teardown()  # otherwise its service would hold the id, and refuse it to the next iteration
        raise


def _client(mode: str) -> Any:
    """The client. Offline it opens no socket to anywhere: what it would report of itself is switched off."""
    quiet.imports()
    if mode == "offline":
        os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_DISABLE_GIT": "true"}
    import wandb

    return wandb


def _newest(rows: Sequence[Row]) -> Row:
    """The newest number of each key."""
    return {key: value for row in rows for key, value in row.items() if not isinstance(value, dict)}


def _define_axes(run: Any) -> None:
    """What each key is drawn over, instead of the number of the row."""
    for axis in (LABELS, *AXES.values()):
        run.define_metric(axis)
    for prefix in ("counts", "cost", "timings_s", "model", "waiting", "choice", "tables", "eval", "test", "control"):
        run.define_metric(f"{prefix}/*", step_metric=LABELS)
    for start, axis in AXES.items():
        run.define_metric(f"{start}*", step_metric=axis)


def _to_wandb(value: Any, folder: TrackingFolder) -> Any:
    """A value of a row as wandb takes it. No wandb.Table: its files are staged elsewhere, by their absolute paths."""
    import wandb

    if not isinstance(value, dict):
        return value
    if "html" in value:
        return wandb.Html(str(folder.media(value["html"])), inject=False)
    return wandb.Histogram(np_histogram=(value["histogram"], value["edges"]))


def _references(settings: Settings, run: Run) -> Any:
    """Which files the experiment has, by their names and digests. The files themselves stay here."""
    import wandb
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
    from wandb.sdk.lib.paths import LogicalPath

    def refer(name: str, sha256: str, size: int) -> None:
        entry = ArtifactManifestEntry(path=LogicalPath(name), ref=f"zoobot://{name}", digest=sha256, size=size)
        artifact.manifest.add_entry(entry)  # add_reference would take the digest of a file for its address

    experiment = ExperimentFolder(settings.experiment_dir)
    artifact = wandb.Artifact(f"experiment-{run.id}", "experiment")
    for path in (experiment.instructions.path, *(iteration.path for iteration in experiment.iterations())):
        listed = folders.read_manifest(path).files
        for name in (name for name in _REFERENCED if name in listed):
            refer(f"{path.name}/{name}", listed[name].sha256, listed[name].bytes)
    if digest := _report_digest(settings):
        refer("report.html", digest, (settings.report_dir / "report.html").stat().st_size)
    return artifact
