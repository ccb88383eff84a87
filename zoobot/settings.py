"""Every setting of the program, as frozen dataclasses; with run.py the only importer of hydra and omegaconf.

The comments beside the fields are the reference; the YAML files in configs/ give the values. Below `main` no config
object exists: stages take a ``Settings``, whose values have been checked together once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from zoobot.errors import SettingsError

STAGES = ("reduce", "master_catalog", "catalogs", "shards", "instructions", "iterate", "simulate", "report", "verify")
SURVEY_KINDS = ("demo", "gz2", "decals", "custom")
ORACLE_KINDS = ("simulated", "known")
ACQUISITIONS = ("mutual_information", "random")
ANONYMOUS_REPEATS = ("all", "first_per_session")
TRACKING_MODES = ("online", "offline", "disabled")
ENCODINGS = ("raw", "png", "jpeg")
SHARD_SOURCES = ("mock", "real")


@dataclass(frozen=True)
class Survey:
    """Which galaxies there are, where their images and tables lie, and what volunteers are asked."""

    name: str = MISSING  # also the name of its folder below data_dir
    kind: str = MISSING  # how its tables are read: demo, gz2, decals or custom
    folder: str = ""  # holds the source table and the images; empty: {data_dir}/{survey.name}
    catalog: str = ""  # source table, CSV or FITS, relative to `folder`
    classifications: str = (
        ""  # reduced votes to join (decals), relative to `folder`; empty: those of stage=reduce, if any
    )
    questions: str = MISSING  # a question set of configs/questions, or the path of a YAML file
    retirement_votes: int = 36  # a galaxy is retired with MORE votes than this for the first question
    samples: list[str] = field(default_factory=list)  # gz2: keep rows with these values in `sample`; empty: all
    n_galaxies: int = 0  # demo: how many galaxies to draw
    draw_size_px: int = 64  # demo: side of a drawn image
    draw_seed: int = 0  # demo: which galaxies are drawn


@dataclass(frozen=True)
class Task:
    """What the model learns from the survey's questions."""

    name: str = MISSING
    questions: list[str] = MISSING
    label: list[str] = field(
        default_factory=list
    )  # single question: answers counted as k of N; empty: learn the whole tree
    filters: list[str] = field(default_factory=list)  # pandas expressions that a labelled galaxy must meet


@dataclass(frozen=True)
class Catalogs:
    """Who is labelled, and which labels a simulation hides."""

    name: str = MISSING
    seed: int = 0  # shuffles the galaxies: which are labelled at the start, which are hidden
    mock_labelled: int = 0  # labelled galaxies that a simulation starts from: train + eval + test


@dataclass(frozen=True)
class Shards:
    """How galaxies are stored for training and prediction."""

    name: str = MISSING
    source: str = "mock"  # mock: simulations; real: live work
    image_size_px: int = 64  # side of the stored images
    channels: int = 3  # 3 colour, 1 grey
    encoding: str = "raw"  # raw (uint8 pixels), png or jpeg
    shard_size: int = 512  # galaxies in a shard
    eval_size: int = 0  # labelled galaxies for early stopping
    test_size: int = 0  # labelled galaxies for the metrics that are reported


@dataclass(frozen=True)
class Model:
    """The network, its training and its posterior samples."""

    name: str = MISSING
    blocks: list[list[int]] = MISSING  # filters of the 3x3 convolutions; 2x2 max-pooling after each inner list
    hidden: int = 128  # units of the dense layer in front of the dropout
    dropout_rate: float = 0.5
    final_size_px: int = 64  # side of the images the network sees
    rotate: bool = True  # training images are rotated by any angle; flips are always on
    zoom: float = 0.2  # training images are magnified by up to this fraction
    learning_rate: float = 0.001
    batch_size: int = 64
    steps_per_epoch: int = 15  # at least so many batches are an epoch: a small training set is passed several times
    max_epochs: int = 30
    patience: int = 8  # epochs without a better eval loss before training stops
    warm_start: bool = False  # start from the weights of the iteration before
    n_samples: int = 20  # posterior samples (Monte-Carlo dropout) per galaxy
    predict_batch_size: int = 256


@dataclass(frozen=True)
class Acquisition:
    """How the galaxies to ask about are chosen."""

    name: str = MISSING
    expected_votes: int = 40  # votes a galaxy is expected to get for the first question


@dataclass(frozen=True)
class Iterate:
    """What one iteration does."""

    previous: str = ""  # iteration to continue from, e.g. iteration_3; empty: the newest
    subjects_per_iteration: int = 50  # galaxies asked about
    shards_per_iteration: int = 4  # pool shards predicted, in turn


@dataclass(frozen=True)
class Simulate:
    """How long a simulation runs."""

    iterations: int = 4


@dataclass(frozen=True)
class Oracle:
    """Who answers a request for labels."""

    kind: str = MISSING  # simulated: volunteers drawn from the hidden votes; known: the hidden votes themselves
    votes_per_galaxy: int = 40  # classifications after which a galaxy leaves Zooniverse
    late_fraction: float = 0.1  # of the galaxies get only some of their classifications in the first iteration
    anonymous_fraction: float = 0.2  # of the classifications are by volunteers who are not logged in


@dataclass(frozen=True)
class Tracking:
    """Weights & Biases."""

    mode: str = "offline"
    project: str = "zoobot"
    entity: str = ""
    table_galaxies: int = 16  # galaxies per iteration shown with their images


@dataclass(frozen=True)
class Reduce:
    """Where raw classifications come from."""

    export: str = ""  # a classification export of Zooniverse, CSV
    api_dump: str = ""  # rows of the Zooniverse API, JSON lines
    workflow_versions: str = ""  # the workflow's versions, JSON
    subjects: str = ""  # a subject export, CSV: tells which galaxy (iauname, id_str) a subject shows
    anonymous_repeats: str = "all"  # volunteers not logged in: all their classifications count, or first_per_session
    max_age_days: float = 7.0  # master_catalog warns when classifications.csv is older


@dataclass(frozen=True)
class Report:
    """What the report shows, and where it goes."""

    experiments: list[str] = field(default_factory=lambda: ["*"])  # names or patterns below {data_dir}/experiments
    output: str = ""  # folder of report.html and summary.json; empty: {data_dir}/report
    galaxies: int = 12  # pictures per iteration


@dataclass(frozen=True)
class Verify:
    """What to check."""

    path: str = ""  # a folder with a manifest, or an experiment


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    stage: str = MISSING
    data_dir: str = "data"
    seed: int = 0  # of the simulation: weights, dropout, data order, volunteers, random choices
    quick: bool = False  # test mode: a few galaxies, tiny images, an epoch; below {data_dir}/quick
    max_dropped_fraction: float = 0.01  # more bad rows or images than this are an error
    experiment_name: str = MISSING
    survey: Survey = field(default_factory=Survey)
    task: Task = field(default_factory=Task)
    reduce: Reduce = field(default_factory=Reduce)
    catalogs: Catalogs = field(default_factory=Catalogs)
    shards: Shards = field(default_factory=Shards)
    model: Model = field(default_factory=Model)
    acquisition: Acquisition = field(default_factory=Acquisition)
    oracle: Oracle = field(default_factory=Oracle)
    iterate: Iterate = field(default_factory=Iterate)
    simulate: Simulate = field(default_factory=Simulate)
    tracking: Tracking = field(default_factory=Tracking)
    report: Report = field(default_factory=Report)
    verify: Verify = field(default_factory=Verify)

    @property
    def survey_dir(self) -> Path:
        """Where the stages write what they make of the survey."""
        return Path(self.data_dir) / self.survey.name

    @property
    def source_dir(self) -> Path:
        """Where the survey's own tables and images lie; ``file_loc`` is relative to it."""
        return Path(self.survey.folder) if self.survey.folder else self.survey_dir

    def image_path(self, file_loc: str) -> Path:
        """Where a galaxy's picture lies: always below ``source_dir``, even for an absolute path in a survey's table."""
        return self.source_dir / file_loc.lstrip("/")

    @property
    def catalog_dir(self) -> Path:
        """The prepared catalogs."""
        return self.survey_dir / "prepared_catalogs" / self.catalogs.name

    @property
    def shard_dir(self) -> Path:
        """The shards."""
        return self.survey_dir / "shards" / self.shards.name

    @property
    def experiments_dir(self) -> Path:
        """All experiments, live ones and simulations."""
        return Path(self.data_dir) / "experiments"

    @property
    def report_dir(self) -> Path:
        """Where the report goes."""
        return Path(self.report.output) if self.report.output else Path(self.data_dir) / "report"

    @property
    def experiment_dir(self) -> Path:
        """This experiment."""
        return self.experiments_dir / "simulations" / self.experiment_name


# What each stage's output depends on, besides its inputs. Folders of the user's own are left out, so that data can
# move.
_DEPENDS_ON = {
    "reduce": ("survey.questions", "reduce.anonymous_repeats"),
    "master_catalog": ("survey.kind", "survey.name", "survey.questions", "survey.samples", "survey.n_galaxies",
                       "survey.draw_size_px", "survey.draw_seed"),
    "catalogs": ("survey.name", "survey.questions", "survey.retirement_votes", "task", "catalogs"),
    "shards": ("survey.name", "task", "shards"),
    "instructions": ("survey.name", "survey.questions", "survey.retirement_votes", "task", "model", "acquisition",
                     "oracle", "iterate.subjects_per_iteration", "iterate.shards_per_iteration", "seed"),
}  # fmt: skip


def stage_settings(settings: Settings, stage: str) -> dict[str, Any]:
    """The settings that the output of ``stage`` depends on: ``{full key: value}``."""
    flat = _flatten(dataclasses.asdict(settings))
    wanted = _DEPENDS_ON[stage]
    return {key: value for key, value in flat.items() if any(key == w or key.startswith(w + ".") for w in wanted)}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def register() -> None:
    """Make the schema known to Hydra, so that unknown keys and wrong types are refused at composition."""
    schema = OmegaConf.structured(Settings)
    _set_writable(schema)  # frozen dataclasses make read-only nodes, which Hydra cannot compose into
    ConfigStore.instance().store(name="schema", node=schema)


def _set_writable(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, None)
    for key in node:
        if OmegaConf.is_missing(node, key):
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _set_writable(child)


def from_config(cfg: DictConfig) -> Settings:
    """The checked settings of a composed config; all problems are reported together."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise SettingsError("These settings have no value: " + ", ".join(missing) + ". Give each as key=value.")
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, Settings)
    if settings.quick:
        settings = _quick(settings)
    problems = _problems(settings)
    if problems:
        raise SettingsError("\n  ".join([f"{len(problems)} setting(s) cannot be used:", *problems]))
    return settings


def _quick(s: Settings) -> Settings:
    """The test mode: the same path through every stage, in seconds, in a data folder of its own."""
    return replace(
        s,
        data_dir=str(Path(s.data_dir) / "quick"),
        survey=replace(s.survey, n_galaxies=min(s.survey.n_galaxies, 160), draw_size_px=min(s.survey.draw_size_px, 32)),
        catalogs=replace(s.catalogs, mock_labelled=min(s.catalogs.mock_labelled, 72)),
        shards=replace(
            s.shards, image_size_px=min(s.shards.image_size_px, 32), shard_size=min(s.shards.shard_size, 32),
            eval_size=min(s.shards.eval_size, 24), test_size=min(s.shards.test_size, 24),
        ),
        model=replace(
            s.model, blocks=[[4], [8]], hidden=8, final_size_px=min(s.model.final_size_px, 32),
            max_epochs=min(s.model.max_epochs, 2), steps_per_epoch=1, n_samples=min(s.model.n_samples, 5),
        ),
        iterate=replace(s.iterate, subjects_per_iteration=min(s.iterate.subjects_per_iteration, 8)),
        simulate=replace(s.simulate, iterations=min(s.simulate.iterations, 3)),
    )  # fmt: skip


def _problems(s: Settings) -> list[str]:
    """Everything that is wrong, each with its full key."""
    flat = _flatten(dataclasses.asdict(s))
    problems = [
        *_choices(flat, "stage", STAGES),
        *_choices(flat, "survey.kind", SURVEY_KINDS),
        *_choices(flat, "oracle.kind", ORACLE_KINDS),
        *_choices(flat, "acquisition.name", ACQUISITIONS),
        *_choices(flat, "reduce.anonymous_repeats", ANONYMOUS_REPEATS),
        *_choices(flat, "tracking.mode", TRACKING_MODES),
        *_choices(flat, "shards.source", SHARD_SOURCES),
        *_choices(flat, "shards.encoding", ENCODINGS),
        *_choices(flat, "shards.channels", (1, 3)),
    ]
    at_least = {
        "seed": 0, "survey.retirement_votes": 0, "survey.draw_size_px": 16, "survey.draw_seed": 0, "catalogs.seed": 0,
        "catalogs.mock_labelled": 3, "shards.image_size_px": 8, "shards.shard_size": 1, "shards.eval_size": 1,
        "shards.test_size": 1, "model.hidden": 1, "model.final_size_px": 8, "model.batch_size": 1,
        "model.max_epochs": 1, "model.steps_per_epoch": 1,
        "model.patience": 1, "model.n_samples": 1, "model.predict_batch_size": 1, "acquisition.expected_votes": 1,
        "oracle.votes_per_galaxy": 1, "iterate.subjects_per_iteration": 1, "iterate.shards_per_iteration": 1,
        "simulate.iterations": 1, "tracking.table_galaxies": 0, "report.galaxies": 0,
    }  # fmt: skip
    problems += [f"{key}={flat[key]}: must be at least {low}" for key, low in at_least.items() if flat[key] < low]
    ranges = {
        "max_dropped_fraction": (0, 1), "model.dropout_rate": (0, 0.95), "model.zoom": (0, 0.9),
        "model.learning_rate": (1e-9, 10),
        "oracle.late_fraction": (0, 1), "oracle.anonymous_fraction": (0, 1), "reduce.max_age_days": (0, math.inf),
    }  # fmt: skip
    problems += [
        f"{key}={flat[key]}: must be between {low} and {high}"
        for key, (low, high) in ranges.items()
        if not low <= flat[key] <= high
    ]
    for key in ("survey.name", "catalogs.name", "shards.name", "experiment_name"):
        if not flat[key] or "/" in flat[key] or flat[key].startswith("."):
            problems.append(f"{key}={flat[key]}: must be the name of a folder, without / and not starting with a dot")
    return problems + _misfits(s)


def _choices(flat: dict[str, Any], key: str, allowed: tuple[Any, ...]) -> list[str]:
    return [] if flat[key] in allowed else [f"{key}={flat[key]}: choose one of {', '.join(map(str, allowed))}"]


def _misfits(s: Settings) -> list[str]:
    """Settings that are fine alone but do not fit each other."""
    problems = []
    if s.survey.kind == "demo" and s.survey.n_galaxies < 1:
        problems.append(f"survey.n_galaxies={s.survey.n_galaxies}: the demo survey needs at least 1")
    if (
        s.survey.kind in ("gz2", "decals", "custom")
        and not s.survey.catalog
        and s.stage in ("master_catalog", "simulate")
    ):
        problems.append(
            f"survey.catalog: survey {s.survey.name} needs its source table, e.g. survey.catalog=catalog.csv"
        )
    if s.shards.source == "mock" and s.catalogs.mock_labelled <= s.shards.eval_size + s.shards.test_size:
        problems.append(
            f"catalogs.mock_labelled={s.catalogs.mock_labelled}: must exceed shards.eval_size + shards.test_size"
            f" = {s.shards.eval_size + s.shards.test_size}, or no galaxy is left to train on"
        )
    if s.model.final_size_px > s.shards.image_size_px:
        problems.append(
            f"model.final_size_px={s.model.final_size_px}: larger than the stored images"
            f" (shards.image_size_px={s.shards.image_size_px})"
        )
    smallest = 2 ** len(s.model.blocks)
    if not s.model.blocks or not all(s.model.blocks) or min(f for block in s.model.blocks for f in block) < 1:
        problems.append(
            f"model.blocks={s.model.blocks}: each block needs at least one convolution with at least one filter"
        )
    elif s.model.final_size_px < smallest:
        problems.append(f"model.blocks: {len(s.model.blocks)} poolings need model.final_size_px of at least {smallest}")
    if s.oracle.kind == "simulated" and s.oracle.votes_per_galaxy <= s.survey.retirement_votes:
        problems.append(
            f"oracle.votes_per_galaxy={s.oracle.votes_per_galaxy}: must exceed survey.retirement_votes"
            f"={s.survey.retirement_votes}, or no galaxy is ever labelled"
        )
    if s.stage == "verify" and not s.verify.path:
        problems.append("verify.path: name the folder to verify, e.g. verify.path=data/demo/shards/smooth")
    if s.stage == "reduce" and bool(s.reduce.export) == bool(s.reduce.api_dump):
        problems.append("reduce: give either reduce.export=FILE.csv or reduce.api_dump=FILE.jsonl")
    if s.stage == "reduce" and not s.reduce.workflow_versions:
        problems.append("reduce.workflow_versions: name the JSON file with the workflow's versions")
    return problems
