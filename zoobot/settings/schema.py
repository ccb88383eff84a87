"""Every setting of the program, as frozen dataclasses.

The comments beside the fields are the reference; the YAML files in configs/ give the values. Below `main` no config
object exists: stages take a ``Settings``, whose values have been checked together once (zoobot/settings/checks.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MISSING: Any = "???"  # a value that the config must give, as OmegaConf writes it


@dataclass(frozen=True)
class SurveySettings:
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
    world: str = "standard"  # demo: standard, rare_bars, duplicates, artifacts, faint or unpredictable


@dataclass(frozen=True)
class TaskSettings:
    """What the model learns from the survey's questions."""

    name: str = MISSING  # also part of the names of catalogs, shards and experiments
    questions: list[str] = MISSING  # of the survey's question set; a question left out is not learnt
    label: list[str] = field(
        default_factory=list
    )  # single question: answers counted as k of N; empty: learn the whole tree
    filters: list[str] = field(default_factory=list)  # pandas expressions that a labelled galaxy must meet


@dataclass(frozen=True)
class CatalogsSettings:
    """Who is labelled, and which labels a simulation hides."""

    name: str = MISSING  # of their folder
    seed: int = 0  # shuffles the galaxies: which are labelled at the start, which are hidden
    mock_labelled: int = 0  # labelled galaxies that a simulation starts from: train + eval + test
    max_galaxies: int = 0  # of the labelled and of the unlabelled ones each, the first in shuffled order; 0: all


@dataclass(frozen=True)
class ShardsSettings:
    """How galaxies are stored for training and prediction."""

    name: str = MISSING  # of their folder
    source: str = "mock"  # mock: simulations; real: live work
    image_size_px: int = 64  # side of the stored images
    channels: int = 3  # 3 colour, 1 grey
    crop: float = 1.0  # the central part of a picture that is stored, as a fraction of its side; 1: all
    encoding: str = "raw"  # raw (uint8 pixels), png or jpeg
    shard_size: int = 512  # galaxies in a shard
    eval_size: int = 0  # labelled galaxies for early stopping
    test_size: int = 0  # labelled galaxies for the metrics that are reported


@dataclass(frozen=True)
class ModelSettings:
    """The network, its training and its posterior samples."""

    name: str = MISSING  # of the option in configs/model
    architecture: str = "cnn"  # of the encoder: cnn, pooled_cnn, efficientnet_b0, efficientnet_v2_b0, convnext_tiny
    blocks: list[list[int]] = MISSING  # (pooled_)cnn: filters of the 3x3 convolutions; each inner list halves the image
    hidden: int = 128  # cnn: units of the dense layer in front of the dropout
    colour: bool = False  # whether the network sees colours
    final_size_px: int = 64  # side of the images the network sees
    weights: str = ""  # the encoder starts from: an encoder of stage=pretrain, imagenet, a path; empty: random weights
    train: str = "all"  # all: encoder and head; head: a Bayesian linear head on the encoder as it is, in seconds
    orientations: int = 1  # features are averaged over so many flips and quarter turns when predicting: 1 or 8
    ensemble: int = 1  # networks trained from different seeds, which share the posterior samples
    dropout_rate: float = 0.5  # share of the features left out, in training and for each posterior sample
    likelihood: str = "multinomial"  # of a question's votes; dirichlet_multinomial: they may scatter more than that
    rotate: bool = True  # training images are rotated by any angle; flips are always on
    zoom: float = 0.2  # training images are magnified by up to this fraction
    learning_rate: float = 0.001  # of the Adam optimiser
    batch_size: int = 64  # galaxies in a training step
    steps_per_epoch: int = 15  # at least so many batches are an epoch: a small training set is passed several times
    max_epochs: int = 30  # training stops here at the latest
    patience: int = 8  # epochs without a better eval loss before training stops
    warm_start: bool = False  # start from the weights of the iteration before
    n_samples: int = 20  # posterior samples per galaxy
    predict_batch_size: int = 256  # galaxies predicted at a time
    recalibrate: bool = False  # make the samples less or more sure by one temperature, fitted on the eval galaxies
    mixed_precision: bool = False  # compute in float16, with float32 weights; a machine without GPU ignores it
    xla: bool = False  # compile the training step with XLA; a machine without GPU ignores it
    all_gpus: bool = False  # split each training batch over all GPUs; a machine with fewer than two ignores it


@dataclass(frozen=True)
class PretrainSettings:
    """How stage=pretrain teaches an encoder galaxies without any votes."""

    name: str = "galaxies"  # of the encoder's folder
    epochs: int = 12  # passes over the pictures
    batch_size: int = 128  # galaxies told apart in a training step
    learning_rate: float = 0.001  # of the AdamW optimiser, at its highest
    temperature: float = 0.2  # of the contrastive loss: lower looks harder at the most similar galaxies
    max_galaxies: int = 0  # of the pool: the first shards, until they hold so many; 0: all
    seed: int = 0  # of the encoder's weights and views: simulations with other seeds share one encoder


@dataclass(frozen=True)
class AcquisitionSettings:
    """How the galaxies to ask about are chosen."""

    name: str = MISSING  # of the function, as in configs/acquisition; docs/acquisition.md explains them
    expected_votes: int = 40  # votes a galaxy is expected to get for the first question
    coldness: float = 1.0  # power_ and softmax_mutual_information: more is less noise
    skip_confident: float = 1.0  # leave out galaxies whose answers are sure with more than this probability; 1: none
    random_share: float = 0.0  # of the galaxies asked about are drawn at random, whatever their score


@dataclass(frozen=True)
class IterateSettings:
    """What one iteration does."""

    previous: str = ""  # iteration to continue from, e.g. iteration_3; empty: the newest
    subjects_per_iteration: int = 50  # galaxies asked about
    shards_per_iteration: int = 4  # pool shards predicted, in turn
    gate_margin: float = 0.0  # flag a model whose eval loss is this much above that of the iteration before; 0: never
    keep_better: bool = False  # such a model is not used: the one of the iteration before goes on


@dataclass(frozen=True)
class StopSettings:
    """When an experiment makes no further iteration. Each rule is off at 0."""

    votes: int = 0  # so many classifications were received
    labels: int = 0  # so many galaxies are labelled
    eval_loss: float = 0.0  # the eval loss is no higher than this
    next_100_labels_buy: float = 0.0  # the next 100 labels are expected to lower the eval loss by less than this
    minutes_per_vote: float = 0.5  # of a volunteer: a guess, to be set to what the project measures


@dataclass(frozen=True)
class SimulateSettings:
    """How long a simulation runs."""

    iterations: int = 4  # in all, those that are there already included


@dataclass(frozen=True)
class OracleSettings:
    """Who answers a request for labels."""

    kind: str = (
        MISSING  # simulated: volunteers drawn from the hidden votes; known: the hidden votes; panoptes: real ones
    )
    live: bool = False  # real people answer: the experiment lies in experiments/live, and cannot be simulated
    votes_per_galaxy: int = 40  # classifications after which a galaxy leaves Zooniverse
    control_per_iteration: int = 0  # galaxies drawn at random and asked about too: their labels only test the model
    control_votes: int = 5  # classifications of such a galaxy
    late_fraction: float = 0.1  # simulated: galaxies that get only some of their classifications in the first iteration
    anonymous_fraction: float = 0.2  # simulated: classifications by volunteers who are not logged in
    # The rest is for panoptes. Credentials are no setting: see zoobot/oracles/credentials.py.
    endpoint: str = ""  # the Panoptes server; https://www.zooniverse.org is the real one
    project_id: str = ""  # the Zooniverse project, e.g. 5733
    workflow_ids: list[str] = field(default_factory=list)  # the first shows the galaxies; the votes of all are read
    last_classification_id: int = 0  # classifications after this id are read: the newest when the experiment begins
    subjects: str = ""  # the project's subject export, CSV: galaxies in it are linked, not uploaded again
    credentials_file: str = ""  # JSON with mode 600, outside the repository; empty: the environment (PANOPTES_…)
    dry_run: bool = False  # stage=iterate prints what it would ask for, sends nothing and writes no iteration
    overlap_ids: int = 50_000  # so many ids are read again each time, since a classification can become visible late
    timeout_s: float = 60.0  # for every request
    tries: int = 6  # of every request
    retry_wait_s: float = 5.0  # before the second try; doubled for each one after, more or less


@dataclass(frozen=True)
class TrackingSettings:
    """Weights & Biases."""

    mode: str = "offline"  # offline, online (needs WANDB_API_KEY in the environment) or disabled
    project: str = "zoobot"  # on Weights & Biases
    entity: str = ""  # user or team there; empty: the key's own
    table_galaxies: int = 16  # galaxies per iteration shown with their images


@dataclass(frozen=True)
class ReduceSettings:
    """Where raw classifications come from: one of the first three."""

    pull: bool = False  # what is new in the project of oracle=panoptes
    export: str = ""  # a classification export of Zooniverse, CSV
    api_dump: str = ""  # rows of the Zooniverse API, JSON lines
    workflow_versions: str = ""  # the workflow's versions, JSON
    subjects: str = ""  # a subject export, CSV: tells which galaxy (iauname, id_str) a subject shows
    anonymous_repeats: str = "all"  # volunteers not logged in: all their classifications count, or first_per_session
    max_age_days: float = 7.0  # master_catalog warns when classifications.csv is older


@dataclass(frozen=True)
class ReportSettings:
    """What the report shows, and where it goes."""

    experiments: list[str] = field(default_factory=lambda: ["*"])  # names or patterns below {data_dir}/experiments
    output: str = ""  # folder of report.html and summary.json; empty: {data_dir}/report
    galaxies: int = 12  # pictures per iteration


@dataclass(frozen=True)
class VerifySettings:
    """What to check."""

    path: str = ""  # a folder with a manifest, or an experiment


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    stage: str = MISSING  # what to do
    data_dir: str = "data"  # all that is written goes below it
    seed: int = 0  # of the simulation: weights, dropout, data order, volunteers, random choices
    quick: bool = False  # test mode: a few galaxies, tiny images, an epoch; below {data_dir}/quick
    max_dropped_fraction: float = 0.01  # more bad rows or images than this are an error
    verify_inputs: str = "sizes"  # what a stage checks of the folders it reads: sizes of files, or digests of all bytes
    experiment_name: str = MISSING  # of its folder; the group of its W&B runs
    extensions: list[str] = field(
        default_factory=list
    )  # Python files of your own that add acquisition functions, encoders, oracles or surveys: docs/extending.md
    survey: SurveySettings = field(default_factory=SurveySettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    reduce: ReduceSettings = field(default_factory=ReduceSettings)
    catalogs: CatalogsSettings = field(default_factory=CatalogsSettings)
    shards: ShardsSettings = field(default_factory=ShardsSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    acquisition: AcquisitionSettings = field(default_factory=AcquisitionSettings)
    oracle: OracleSettings = field(default_factory=OracleSettings)
    iterate: IterateSettings = field(default_factory=IterateSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    simulate: SimulateSettings = field(default_factory=SimulateSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    verify: VerifySettings = field(default_factory=VerifySettings)

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

    def catalog(self, name: str) -> Path:
        """The ``labelled`` or ``unlabelled`` galaxies that shards are made of."""
        return self.catalog_dir / f"{'mock_' if self.shards.source == 'mock' else ''}{name}.csv"

    @property
    def shard_dir(self) -> Path:
        """The shards."""
        return self.survey_dir / "shards" / self.shards.name

    @property
    def encoders_dir(self) -> Path:
        """The encoders of stage=pretrain."""
        return self.survey_dir / "encoders"

    @property
    def weights_path(self) -> Path | None:
        """What the encoder starts from: the name of an encoder of the survey's, or any path."""
        if self.model.weights in ("", "imagenet"):
            return None
        return Path(os.path.normpath(self.encoders_dir / self.model.weights))  # its ".." may lead out of no folder yet

    @property
    def features_dir(self) -> Path:
        """Features of frozen encoders: a cache, which may be deleted at any time."""
        return self.survey_dir / "features"

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
        kind = "live" if self.oracle.live else "simulations"
        return self.experiments_dir / kind / self.experiment_name
