"""What Weights & Biases is told of an experiment: rows of numbers, kept beside it in tracking/history.json.

A row is added for each epoch of training, for each iteration, and for each iteration that random's experiment of the
same pair has finished too. Rows are only added, never changed, so what was sent stays true. They come from the folders
of the experiment alone: votes that have not been asked for are not in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.iterations import waiting
from zoobot.iterations.files import ExperimentFolder, IterationFolder, Summary
from zoobot.metrics import COVERAGE_WIDTHS
from zoobot.reports import choices
from zoobot.reports.experiments import BASELINE
from zoobot.settings import Settings

LABELS, VOTES, EPOCH = "counts/train_galaxies", "cost/votes_spent", "training/epoch"
DIFFERENCE_LABELS = "difference/train_galaxies"
NUMBER, DIFFERENCE_NUMBER = "counts/number", "difference/number"
# What the keys of a row are drawn over, by how they begin. All else is drawn over the number of labels.
AXES = {"training/": EPOCH, "difference/": DIFFERENCE_LABELS}
SCORE_BINS = 32
Row = dict[str, Any]  # by key: a number; {"histogram": counts, "edges": …}; or {"html": name of a file in media/}
_COUNTS = (
    "number", "train_galaxies", "labels_received", "labels_below_threshold", "control_labels_received",
    "control_labels_below_threshold", "classifications_received", "retired_confident", "still_waiting", "requested",
    "requested_control", "predicted_galaxies", "epochs",
)  # fmt: skip
_COSTS = ("votes_spent", "volunteer_minutes", "next_100_labels_buy")
_MODEL = ("temperature", "slope", "spread", "precision_slope", "worse_than_previous_by", "kept_previous_model")


@dataclass(frozen=True)
class Run:
    """The run of an experiment: what never changes about it."""

    id: str  # of the instructions' digest
    name: str
    group: str  # the experiments that differ only in their seed
    job_type: str  # simulation or live
    tags: list[str]
    config: dict[str, object]


@dataclass(frozen=True)
class History:
    """history.json."""

    FORMAT: ClassVar = ("format_version", 1)
    run: Run
    rows: list[Row] = field(default_factory=list)

    def numbers(self, key: str) -> set[int]:
        """The iterations that have a row with this key."""
        return {row[key] for row in self.rows if key in row}


@dataclass(frozen=True)
class TrackingFolder:
    """The folder ``tracking`` of an experiment. It may be moved, and removed: it is made again from the others."""

    path: Path

    def read(self) -> History:
        """Read history.json."""
        return folders.read_record(self.path / "history.json", History)

    def exists(self) -> bool:
        """Whether there is a history."""
        return (self.path / "history.json").is_file()

    def write(self, history: History) -> None:
        """Write history.json, at once."""
        key, version = history.FORMAT
        content = folders.to_text({key: version, **asdict(history)})
        folders.publish_file(self.path / "history.json", content.encode())

    def media(self, name: str) -> Path:
        """A table of galaxies, in HTML."""
        return self.path / "media" / name


def update(settings: Settings, run: Run, iterations: Sequence[IterationFolder]) -> History:
    """The history with the rows of all ``iterations`` (of the experiment, in order), and of random's that are there."""
    experiment, folder = ExperimentFolder(settings.experiment_dir), tracking_of(settings.experiment_dir)
    before = folder.read() if folder.exists() else History(run)
    history = before
    for number, iteration in enumerate(iterations):
        if number not in history.numbers(NUMBER):
            tables = choices.tables(experiment, iterations[: number + 1], settings.tracking.table_galaxies)
            for name, text in tables.items():
                folders.publish_file(folder.media(f"{name}_{number}.html"), text.encode())
            shown = {f"tables/{name}": {"html": f"{name}_{number}.html"} for name in tables}
            row = row_of(iteration) | choices.numbers(experiment, iterations[: number + 1]) | shown
            history = History(history.run, [*history.rows, *_epochs(history, iteration), row])
    history = History(history.run, [*history.rows, *_differences(experiment, iterations, history)])
    if history.rows != before.rows:
        folder.write(history)
    return history


def tracking_of(experiment_dir: Path) -> TrackingFolder:
    """Where the history of an experiment is."""
    return TrackingFolder(experiment_dir / "tracking")


# --------------------------------------------------------------- an iteration


def row_of(iteration: IterationFolder) -> Row:
    """Counts, costs, and all metrics of an iteration."""
    summary = iteration.summary()
    values = asdict(summary)
    row: Row = {f"counts/{name}": values[name] for name in _COUNTS}
    row |= {"counts/classifications_rejected": sum(iteration.raw.rejected().values())}
    row |= {"counts/returned_to_pool": len(summary.returned_to_pool)}
    row |= {f"cost/{name}": values[name] for name in _COSTS}
    row |= {"cost/bytes": sum(f.bytes for f in folders.read_manifest(iteration.path).files.values())}
    row |= {f"timings_s/{step}": seconds for step, seconds in summary.timings_s.items()}
    row |= {f"model/{name}": values[name] for name in _MODEL} | _waiting(summary)
    for split, questions in iteration.metrics().items():
        for question, measured in questions.items():
            row |= {f"{split}/{question}/{name}": _value(name, v) for name, v in measured.items()}
    scores_N = iteration.predictions(["acquisition"])["acquisition"].to_numpy()
    if len(scores_N := scores_N[np.isfinite(scores_N)]):
        row["choice/scores"] = histogram(*np.histogram(scores_N, SCORE_BINS))
    return {key: int(v) if isinstance(v, bool) else v for key, v in row.items() if v is not None}


def _waiting(summary: Summary) -> Row:
    """How many galaxies wait, by the iterations since they were asked about; the oldest."""
    groups = waiting.groups(summary.waiting, summary.number)
    if not groups:
        return {"waiting/oldest": 0}
    counts = np.bincount([group.age for group in groups], [len(group.votes) for group in groups])
    return {"waiting/oldest": groups[0].age, "waiting/ages": histogram(counts, np.arange(len(counts) + 1) - 0.5)}


def histogram(counts: npt.ArrayLike, edges: npt.ArrayLike) -> Row:
    """Bars between edges."""
    return {"histogram": np.asarray(counts).tolist(), "edges": np.asarray(edges).tolist()}


def _value(name: str, value: float | list[float]) -> float | Row:
    """A metric: its lists are bars over the shares of votes (coverage), or over the bins from 0 to 1."""
    if not isinstance(value, list):
        return value
    if not name.startswith("coverage"):
        return histogram(value, np.linspace(0, 1, len(value) + 1))
    half = COVERAGE_WIDTHS[0] / 2
    return histogram(value, [COVERAGE_WIDTHS[0] - half, *(width + half for width in COVERAGE_WIDTHS)])


def _epochs(history: History, iteration: IterationFolder) -> list[Row]:
    """The losses of each epoch, of one network after the other; epochs are counted through the experiment."""
    rows: list[Row] = []
    first = max(history.numbers(EPOCH), default=0) + 1
    for member in iteration.losses():
        for train, on_eval in zip(member.train_loss, member.eval_loss, strict=True):
            losses = {"training/train_loss": train, "training/eval_loss": on_eval}
            rows.append({EPOCH: first + len(rows), "training/iteration": iteration.number, **losses})
    return rows


# --------------------------------------------------------------- random, of the same pair


def _differences(experiment: ExperimentFolder, iterations: Sequence[IterationFolder], history: History) -> list[Row]:
    """The test loss and the errors minus random's, for iterations that both have finished and that have no row yet."""
    missing = [number for number in range(len(iterations)) if number not in history.numbers(DIFFERENCE_NUMBER)]
    random = _random_of(experiment) if missing else None
    theirs = random.iterations() if random else []
    return [_difference(iterations[number], theirs[number]) for number in missing if number < len(theirs)]


def _difference(own: IterationFolder, random: IterationFolder) -> Row:
    summary = own.summary()
    row: Row = {DIFFERENCE_NUMBER: summary.number, DIFFERENCE_LABELS: summary.train_galaxies}
    row |= {"difference/votes_spent": summary.votes_spent, "difference/loss": own.loss("test") - random.loss("test")}
    theirs: Mapping[str, Mapping[str, Any]] = random.metrics()["test"]
    for question, values in own.metrics()["test"].items():
        if "rmse" in values and "rmse" in theirs.get(question, {}):
            row[f"difference/{question}/rmse"] = values["rmse"] - theirs[question]["rmse"]
    return row


def _random_of(experiment: ExperimentFolder) -> ExperimentFolder | None:
    """The experiment beside this one that differs from it only in choosing at random."""
    own = _same(experiment)
    if own["acquisition"] == BASELINE:
        return None
    for path in sorted(experiment.path.parent.glob("[!.]*")):
        other = ExperimentFolder(path)
        if path != experiment.path and other.instructions.may_be(BASELINE, own["seed"]):
            with suppress(FolderError):  # of another version, or damaged: whoever uses it will hear of it
                if _same(other) == {**own, "acquisition": BASELINE}:
                    return other
    return None


def _same(experiment: ExperimentFolder) -> dict[str, Any]:
    """What two experiments of a pair share, and the name of the acquisition function."""
    content = asdict(experiment.instructions.read())
    for key in ("experiment", "iterations", "last_classification_id"):
        del content[key]
    for source in ("shards", "catalogs", "encoder"):
        content[source] = content[source] and content[source]["digest"]
    return {**content, "acquisition": content["acquisition"]["name"]}
