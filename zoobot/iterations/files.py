"""The files in an experiment's folders: their names, their format versions, and a typed record for each.

No other module contains these names, but model_files.py for those of any model, final_files.py for the final one's, and
status.py for what lies beside the iterations of a live experiment.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoobot import folders
from zoobot.galaxies.questions import QuestionTree, parse_questions
from zoobot.galaxies.tasks import Task, build_task
from zoobot.iterations.model_files import ModelFolder
from zoobot.metrics.temperature import Calibration
from zoobot.oracles.protocol import Asked, Receipt
from zoobot.settings import AcquisitionSettings, ModelSettings, TaskSettings
from zoobot.votes.rows import Row

Waiting = dict[str, dict[int, dict[str, int]]]  # {stream: {iteration in which it was asked: {id_str: votes so far}}}
CHOSEN, CONTROL = "chosen", "control"  # the streams of galaxies asked about
ACQUIRED = "acquired"  # the folder of the chosen galaxies' TFRecords; that of the others is CONTROL
ITERATION = "iteration"  # with a number: the name of an iteration's folder
SUMMARY = "iteration.json"


# --------------------------------------------------------------- instructions


@dataclass(frozen=True)
class Source:
    """A folder that an experiment was started from: its path relative to the instructions, and its digest."""

    path: str
    digest: str


@dataclass(frozen=True)
class Instructions:
    """instructions.json: everything that never changes in an experiment."""

    FORMAT: ClassVar = ("format_version", 1)
    experiment: str
    survey: str
    catalogs: Source
    shards: Source
    questions: dict[str, object]
    retirement_votes: int
    task: TaskSettings
    answers: list[str]  # of the task, in the order of predictions
    model: ModelSettings
    acquisition: AcquisitionSettings
    oracle: dict[str, object]
    iterations: int
    subjects_per_iteration: int
    shards_per_iteration: int
    initial_size_px: int
    final_size_px: int
    warm_start: bool
    seed: int
    catalog_seed: int
    last_classification_id: int
    encoder: Source | None = None
    extensions: dict[str, str] = field(default_factory=dict)  # file names of extensions, and their digests

    def build_questions(self) -> QuestionTree:
        """The survey's questions."""
        return parse_questions(self.questions, self.experiment)

    def build_task(self) -> Task:
        """The task over these questions."""
        return build_task(self.task, self.build_questions())


@dataclass(frozen=True)
class InstructionsFolder:
    """The folder ``instructions`` of an experiment."""

    path: Path

    @property
    def database(self) -> Path:
        """The index that iteration 0 starts from."""
        return self.path / "iteration.db"

    def may_be(self, acquisition: str, seed: int) -> bool:
        """Whether they are there, with this acquisition function and seed. Quick, because it checks nothing else."""
        path = self.path / "instructions.json"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return f'"name": "{acquisition}"' in text and f'"seed": {seed},' in text

    def read(self) -> Instructions:
        """Read instructions.json."""
        return folders.read_record(self.path / "instructions.json", Instructions)

    def write(self, content: Instructions) -> None:
        """Write instructions.json."""
        folders.write_record(self.path / "instructions.json", content)

    def source(self, source: Source) -> Path:
        """The current path of a source."""
        return (self.path / source.path).resolve()


# --------------------------------------------------------------- an iteration


@dataclass(frozen=True)
class Summary:
    """iteration.json: what the iteration read and did, and how long it took."""

    FORMAT: ClassVar = ("format_version", 1)
    number: int
    previous: str | None
    train_files: list[str]
    train_galaxies: int
    labels_received: int
    control_labels_received: int
    classifications_received: int
    last_classification_id: int
    still_waiting: int
    predicted_shards: list[str]
    predicted_galaxies: int
    requested: int
    epochs: int
    weights_sha256: str
    worse_than_previous_by: float | None
    kept_previous_model: bool
    temperature: float
    test_loss: float
    requested_control: int
    timings_s: dict[str, float]
    votes_spent: int
    volunteer_minutes: float
    next_100_labels_buy: float | None
    # Newer than format version 1: a folder without them had none.
    slope: float = 1.0  # this and the next two, with the temperature, are what corrects the model's samples
    spread: float = 1.0
    precision_slope: float = 1.0
    labels_below_threshold: int = 0  # of the labels received: galaxies that were retired with fewer votes
    control_labels_below_threshold: int = 0
    returned_to_pool: list[str] = field(default_factory=list)  # retired without a vote: they may be asked about again
    retired_confident: int = 0  # taken out of the workflow, because the model is sure of them
    waiting: Waiting = field(default_factory=dict)  # asked about earlier, and not labelled yet

    @property
    def calibration(self) -> Calibration:
        """What corrects the model's samples."""
        return Calibration(self.slope, self.temperature, self.spread, self.precision_slope)


@dataclass(frozen=True)
class Request:
    """The galaxies of one stream that were asked about, in order; the number of votes for each; and the receipt."""

    ids: list[str]
    votes: int
    receipt: Receipt

    def asked(self, iteration: int) -> dict[str, Asked]:
        """What was asked about each galaxy in this iteration."""
        return {id_: Asked(self.receipt.subjects.get(id_, ""), self.votes, iteration) for id_ in self.ids}


@dataclass(frozen=True)
class Requests(Request):
    """requests.json: the chosen galaxies, and the control sample."""

    control: Request


@dataclass(frozen=True)
class IterationFolder(ModelFolder):
    """The folder of one iteration, finished or still being written."""

    @property
    def name(self) -> str:
        """The folder's name, such as iteration_3."""
        return self.path.name

    @property
    def number(self) -> int:
        """The number in its name."""
        return int(self.path.name.removeprefix(f"{ITERATION}_"))

    # ----------------------------------------------------------- JSON

    def summary(self) -> Summary:
        """Read iteration.json."""
        return folders.read_record(self.path / SUMMARY, Summary)

    def write_summary(self, summary: Summary) -> None:
        """Write iteration.json."""
        folders.write_record(self.path / SUMMARY, summary)

    def requests(self) -> Requests:
        """Read requests.json."""
        path = self.path / "requests.json"
        return folders.parse(folders.read_json(path), Requests, str(path))

    def write_requests(self, requests: Requests) -> None:
        """Write requests.json."""
        folders.write_json(self.path / "requests.json", asdict(requests))

    # ----------------------------------------------------------- tables

    @property
    def database(self) -> Path:
        """The shards' index, with all labels so far."""
        return self.path / "iteration.db"

    def write_predictions(self, parts: Iterable[pa.Table]) -> None:
        """Write predictions.parquet, part by part. Of each number all first bytes are put together, then all second
        ones, …: the last two of a rounded sample are zero.
        """
        parts = iter(parts)
        first = next(parts)
        numbers = [f.name if f.type.num_fields == 0 else f"{f.name}.list.element" for f in first.schema
                   if f.type not in (pa.string(), pa.bool_())]  # fmt: skip
        with (
            (self.path / "predictions.parquet").open("wb") as file,
            pq.ParquetWriter(
                file, first.schema, compression="zstd", use_dictionary=["shard"], use_byte_stream_split=numbers
            ) as writer,
        ):
            for part in itertools.chain([first], parts):
                writer.write_table(part)

    def predictions(
        self, columns: Sequence[str], best: int | None = None, ids: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Columns of predictions.parquet; if ``best`` is given, only that many of the first ranks, in order; if ``ids``
        are given, only these galaxies.
        """
        filters: list[tuple[str, str, object]] | None = None if best is None else [("rank", "<", best)]
        if ids is not None:
            filters = [*(filters or []), ("id_str", "in", list(ids))]
        table = pd.read_parquet(self.path / "predictions.parquet", columns=list(columns), filters=filters)
        return table if best is None else table.sort_values("rank")

    def samples(self, answers: Sequence[str]) -> npt.NDArray[np.float32]:
        """The posterior samples N × K × A of these answers, of all galaxies in the order of ``predictions``."""
        table = pq.read_table(self.path / "predictions.parquet", columns=list(answers))
        of_answers = [table[name].combine_chunks().flatten().to_numpy() for name in answers]
        return np.stack(of_answers, axis=1).reshape(len(table), -1, len(answers))

    def drawn_at_random(self) -> set[str]:
        """The galaxies that were drawn at random, whatever their score."""
        path = self.path / "predictions.parquet"
        return set(pd.read_parquet(path, columns=["id_str"], filters=[("at_random", "==", True)])["id_str"])

    # ----------------------------------------------------------- other files

    def picture(self, rank: int) -> Path:
        """The picture of a galaxy that was asked about; kept for the first ones only."""
        return self.path / "pictures" / f"{rank:05d}.png"

    def labelled_files(self, kind: str) -> list[Path]:
        """The TFRecord files of galaxies labelled in this iteration: ``acquired`` or ``control``."""
        return sorted((self.path / kind).glob("*.tfrecord"))

    def labelled_file(self, kind: str, number: int) -> Path:
        """One of these files."""
        return self.path / kind / f"{kind}_{number:05d}.tfrecord"

    @property
    def raw(self) -> RawFiles:
        """The raw classifications received in this iteration."""
        return RawFiles(self.path / "classifications")


@dataclass(frozen=True)
class RawFiles:
    """The folder ``classifications`` of an iteration."""

    path: Path

    def rows(self) -> Iterator[Row]:
        """The classifications, exactly as the API gave them."""
        with (self.path / "classifications.jsonl").open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def rejected(self) -> dict[str, int]:
        """How many answers were rejected, by reason."""
        path = self.path / "rejected.csv"
        if not path.is_file():
            return {}
        return {str(reason): int(n) for reason, n in pd.read_csv(path)["reason"].value_counts().items()}

    def write(self, rows: Sequence[Row], rejected: pd.DataFrame | None, versions: Sequence[Row] | None) -> None:
        """Write the classifications, the rejected answers, and the versions of the workflow."""
        self.path.mkdir()
        with (self.path / "classifications.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        if versions is not None:
            folders.write_json(self.path / "workflow_versions.json", {"workflow_versions": list(versions)})
        if rejected is not None:
            rejected.to_csv(self.path / "rejected.csv", index=False)


# --------------------------------------------------------------- an experiment


@dataclass(frozen=True)
class ExperimentFolder:
    """The folder of an experiment: its instructions, and its iterations."""

    path: Path

    @property
    def instructions(self) -> InstructionsFolder:
        """Its instructions."""
        return InstructionsFolder(self.path / "instructions")

    def iteration(self, number: int) -> IterationFolder:
        """The folder of an iteration, whether it exists or not."""
        return IterationFolder(self.path / f"{ITERATION}_{number}")

    @property
    def all_labels(self) -> IterationFolder:
        """A model fitted to all labels of a simulation: metrics.json, test.parquet and model/. It asked nothing."""
        return IterationFolder(self.path / "all_labels")

    def iterations(self) -> list[IterationFolder]:
        """Its finished iterations, in order. Raises FolderError if one is missing in between."""
        return [IterationFolder(path) for path in folders.list_numbered(self.path, ITERATION)]
