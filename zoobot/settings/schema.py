"""Every setting of the program, as frozen dataclasses.

The comments beside the fields become docs/settings.md; the YAML files in configs/ give the values. Stages never see a
Hydra config. They take a ``Settings``, whose values are checked together once (zoobot/settings/checks.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoobot.errors import InputError

PUBLISHED = "zoobot:"  # what model.weights begins with for an encoder that the Zoobot project has published
MISSING: Any = "???"  # how OmegaConf marks a value that the config must give


@dataclass(frozen=True)
class SurveySettings:
    """The galaxies, where their images and tables are, and what volunteers are asked."""

    name: str = MISSING  # name of the survey, and of its folder in data_dir
    kind: str = MISSING  # how its tables are read: demo, gz2, decals or custom
    folder: str = ""  # holds the source table and the images; empty: {data_dir}/{survey.name}
    catalog: str = ""  # source table, in any format of docs/own_survey.md, relative to `folder`
    id_str: str = ""  # custom: the column with the ids, or a template such as '{brickid}_{objid}'; empty: id_str
    file_loc: str = ""  # custom: the column with the pictures, or a template: 'png/{id_str}.png'; empty: file_loc
    path_prefix: str = ""  # beginning of the paths in the table that is removed: the folder on another machine
    pictures: str = ""  # address of the pictures if they are in an object store: s3://bucket/prefix; empty: in `folder`
    allow_links: bool = False  # read tables and pictures through links that lead out of `folder`
    classifications: str = ""  # decals, custom: votes to join, relative to `folder`; none: those of stage=reduce
    features: str = ""  # parquet file or folder of published features, relative to `folder`: stored instead of pictures
    features_column: str = ""  # their column of lists, or the first of numbered columns; empty: the only one
    questions: str = MISSING  # a question set in configs/questions, or the path of a YAML file
    same_within_arcsec: float = 1.0  # galaxies no farther apart than this are the same one; 0: do not look at positions
    same_galaxy: str = "warn"  # if a galaxy is there under two ids: warn (both stay in one split) or error
    bands: list[str] = field(
        default_factory=lambda: ["g", "r", "z"]
    )  # FITS: the bands to show, and the order of the planes where the header names none; skip: a plane not shown
    zero_point: float = 0.0  # FITS: AB magnitude of a pixel value of 1, whatever the header says; 0: as it says
    stretch: str = "nanomaggies"  # FITS: brightness in nanomaggies, or for any unit in units of each picture's noise
    max_pixels: int = 10_000_000  # drop larger pictures, and files of more than 16 bytes for each of these pixels
    retirement_votes: int = 36  # a galaxy is retired with MORE votes than this for the first question
    samples: list[str] = field(default_factory=list)  # gz2: keep rows with these values in `sample`; empty: all
    n_galaxies: int = 0  # demo: how many galaxies to draw
    draw_size_px: int = 64  # demo: side length of a drawn image
    draw_seed: int = 0  # demo: seed that decides which galaxies are drawn
    world: str = "standard"  # demo: standard, rare_bars, duplicates, artifacts, faint, unpredictable, consensus


@dataclass(frozen=True)
class TaskSettings:
    """What the model learns from the survey's questions."""

    name: str = MISSING  # name of the task; also part of the names of catalogs, shards and experiments
    questions: list[str] = MISSING  # the questions to learn, from the survey's question set
    label: list[str] = field(
        default_factory=list
    )  # for a single question: the answers counted as k of N; empty: learn all `questions` as a tree
    filters: list[str] = field(default_factory=list)  # what a labelled galaxy must meet: comparisons of its columns


@dataclass(frozen=True)
class CatalogsSettings:
    """Which galaxies are labelled, and which labels a simulation hides."""

    name: str = MISSING  # name of the catalogs' folder
    seed: int = 0  # shuffles the galaxies, to decide which are labelled at the start and which are hidden
    mock_labelled: int = 0  # how many labelled galaxies a simulation starts with: train + eval + test
    max_galaxies: int = 0  # use at most this many labelled and unlabelled galaxies each, in shuffled order; 0: all


@dataclass(frozen=True)
class ShardsSettings:
    """How galaxies are stored for training and prediction."""

    name: str = MISSING  # name of the shards' folder
    source: str = "mock"  # mock: for simulations; real: for live work
    image_size_px: int = 64  # side length of the stored images
    channels: int = 3  # 3: colour, 1: grey
    crop: float = 1.0  # store only the central part of a picture, this fraction of its side; 1: all of it
    encoding: str = "raw"  # raw (uint8 pixels), png or jpeg
    shard_size: int = 512  # galaxies per shard
    eval_size: int = 0  # labelled galaxies for early stopping
    test_size: int = 0  # labelled galaxies for the metrics that are reported


@dataclass(frozen=True)
class ModelSettings:
    """The network, its training and its posterior samples."""

    name: str = MISSING  # name of the option in configs/model
    architecture: str = "cnn"  # encoder: cnn, pooled_cnn, efficientnet_b0, … : docs/models.md lists all
    blocks: list[list[int]] = MISSING  # (pooled_)cnn: filters of the 3x3 convolutions; each inner list halves the image
    hidden: int = 128  # cnn: units of the dense layer before the dropout
    colour: bool = False  # whether the network sees colours
    final_size_px: int = 64  # side length of the images that the network sees
    weights: str = ""  # initial encoder weights: of stage=pretrain, zoobot:NAME, imagenet or a path; empty: random
    train: str = "all"  # all: train encoder and head; head: a Gaussian-process head on a fixed encoder, in seconds
    orientations: int = 1  # when predicting, average features over this many flips and quarter turns: 1 or 8
    ensemble: int = 1  # number of networks, trained with different seeds; they share the posterior samples
    dropout_rate: float = 0.5  # fraction of the features left out, in training and for each posterior sample
    likelihood: str = "multinomial"  # how a question's votes scatter; dirichlet_multinomial allows more scatter
    rotate: bool = True  # rotate training images by any angle; flips are always on
    zoom: float = 0.2  # magnify training images by up to this fraction
    learning_rate: float = 0.001  # learning rate of the Adam optimiser
    batch_size: int = 64  # galaxies per training step
    steps_per_epoch: int = 15  # lowest number of batches per epoch; a small training set is repeated to reach it
    max_epochs: int = 30  # training stops after this many epochs at the latest
    patience: int = 8  # training stops after this many epochs without a better eval loss
    warm_start: bool = False  # start from the weights of the previous iteration
    n_samples: int = 20  # posterior samples per galaxy
    predict_batch_size: int = 256  # galaxies per batch when predicting
    recalibrate: bool = False  # correct the confidence of the samples by a few numbers, fitted on the eval galaxies
    mixed_precision: bool = False  # compute in float16, with float32 weights; ignored on a machine without GPU
    xla: bool = False  # compile prediction with XLA, 3 to 4 times as fast; ignored on a machine without GPU
    all_gpus: bool = False  # split each training batch over all GPUs; ignored on a machine with fewer than two


@dataclass(frozen=True)
class PretrainSettings:
    """How stage=pretrain trains an encoder on galaxies without any votes."""

    name: str = "galaxies"  # name of the encoder's folder
    epochs: int = 12  # passes over the pictures
    batch_size: int = 128  # galaxies per training step, which the encoder learns to distinguish
    learning_rate: float = 0.003  # highest learning rate of the AdamW optimiser
    temperature: float = 0.2  # of the contrastive loss: a lower one gives more weight to the most similar galaxies
    max_galaxies: int = 0  # use the first pool shards up to this many galaxies; 0: the whole pool
    seed: int = 0  # of the encoder's weights and views; simulations with different seeds can share one encoder


@dataclass(frozen=True)
class AcquisitionSettings:
    """How the galaxies to ask about are chosen."""

    name: str = MISSING  # name of the acquisition function, as in configs/acquisition; see docs/acquisition.md
    expected_votes: int = 40  # votes a galaxy is expected to get for the first question
    coldness: float = 1.0  # power_ and softmax_mutual_information: a higher value means less noise
    skip_confident: float = 1.0  # leave out galaxies whose answers are certain with more than this probability; 1: none
    candidate_batches: int = 40  # oracle_batch: how many batches to try with their true votes, in each iteration
    random_share: float = 0.0  # fraction of the galaxies asked about that is drawn at random, whatever their score


@dataclass(frozen=True)
class IterateSettings:
    """What one iteration does."""

    previous: str = ""  # iteration to continue from, e.g. iteration_3; empty: the newest
    subjects_per_iteration: int = 50  # how many galaxies to ask about
    shards_per_iteration: int = 4  # how many pool shards to predict, in turn
    gate_margin: float = 0.0  # flag a model whose eval loss exceeds the previous one by more than this; 0: never
    keep_better: bool = False  # do not use a flagged model; keep that of the previous iteration
    waiting_iterations: int = 5  # warn of galaxies that wait for votes for more iterations than this; 0: never


@dataclass(frozen=True)
class StopSettings:
    """When an experiment stops making iterations. Each rule is off at 0."""

    votes: int = 0  # stop when this many classifications were received
    labels: int = 0  # stop when this many galaxies are labelled
    eval_loss: float = 0.0  # stop when the eval loss is no higher than this
    next_100_labels_buy: float = 0.0  # stop when the next 100 labels are expected to lower eval loss by less than this
    minutes_per_vote: float = 0.5  # a volunteer's time per vote: a guess, so set it to what your project measures


@dataclass(frozen=True)
class SimulateSettings:
    """How long a simulation runs."""

    iterations: int = 4  # total number, including iterations that already exist


@dataclass(frozen=True)
class OracleSettings:
    """Who answers a request for labels."""

    kind: str = MISSING  # simulated: volunteers drawn from hidden votes; known: the hidden votes; panoptes: real ones
    live: bool = False  # real people answer: the experiment is in experiments/live and cannot be simulated
    votes_per_galaxy: int = 40  # classifications after which a galaxy leaves Zooniverse
    control_per_iteration: int = 0  # extra galaxies to ask about, drawn at random; their labels only test the model
    control_votes: int = 5  # classifications of each of these extra galaxies
    late_fraction: float = 0.1  # simulated: fraction of galaxies with only some classifications in the first iteration
    anonymous_fraction: float = 0.2  # simulated: fraction of classifications by volunteers who are not logged in
    retire_confident: float = 1.0  # retire a waiting galaxy that is certain with more than this probability; 1: none
    # The settings below are for panoptes. Credentials are not a setting: see zoobot/oracles/credentials.py.
    endpoint: str = ""  # address of the Panoptes server; the real one is https://www.zooniverse.org
    project_id: str = ""  # the Zooniverse project, e.g. 5733
    workflow_ids: list[str] = field(default_factory=list)  # the first shows the galaxies; the votes of all are read
    last_classification_id: int = 0  # read classifications after this id: the newest when the experiment begins
    subjects: str = ""  # the project's subject export, CSV: its galaxies are linked, not uploaded again
    priority: bool = False  # give each subject its rank as #priority: a prioritized workflow shows 1 first
    write_predictions: bool = False  # write the predicted fractions to the subjects (#zoobot_…, hidden from volunteers)
    credentials_file: str = ""  # JSON with mode 600, outside the repository; empty: use the environment (PANOPTES_…)
    dry_run: bool = False  # stage=iterate prints what it would ask for, sends nothing and writes no iteration
    overlap_ids: int = 50_000  # read this many ids again each time, because classifications can become visible late
    private_pictures: bool = False  # a private installation: pictures may be in a private network, and without https
    timeout_s: float = 60.0  # time limit of every request
    tries: int = 6  # attempts per request
    retry_wait_s: float = 5.0  # before the second attempt; doubled for each further one, with random variation


@dataclass(frozen=True)
class TrackingSettings:
    """Logging to Weights & Biases."""

    mode: str = "offline"  # offline, online (needs WANDB_API_KEY in the environment) or disabled
    project: str = "zoobot"  # project on Weights & Biases
    entity: str = ""  # user or team on Weights & Biases; empty: the owner of the API key
    table_galaxies: int = 16  # galaxies shown with their images, per iteration


@dataclass(frozen=True)
class ReduceSettings:
    """Where raw classifications come from: give one of the first four. And which of them count."""

    pull: bool = False  # get the new classifications of the project in oracle=panoptes
    export: Any = ""  # path of a Zooniverse classification export, CSV; or several: [monday.csv,tuesday.csv]
    api_dump: Any = ""  # path of rows of the Zooniverse API, JSON; or several
    caesar: str = ""  # path of Caesar's reductions, CSV: votes that Caesar has counted already
    caesar_reducers: list[str] = field(
        default_factory=list
    )  # the task of each reducer key, [KEY:T0]; empty: a key begins with its task's, as in t0-stats
    workflow_versions: str = ""  # path of the workflow's versions: JSON of the API, or the project builder's CSV
    subjects: str = ""  # path of a subject export, CSV: says which galaxy (iauname, id_str) a subject shows
    anonymous_repeats: str = "all"  # volunteers not logged in: count all their classifications, or first_per_session
    before_launch: bool = False  # count classifications that were made as a test, before the project was live
    gold_standard: bool = False  # count gold-standard classifications, which experts make as examples
    allow_no_votes: bool = False  # publish a result without a single vote, instead of an error
    max_age_days: float = 7.0  # stage=master_catalog warns if classifications.csv is older

    @property
    def counted(self) -> dict[str, Any]:
        """Which classifications count, as ``votes.reduce`` takes it."""
        return {
            "anonymous_repeats": self.anonymous_repeats,
            "before_launch": self.before_launch,
            "gold_standard": self.gold_standard,
        }

    @property
    def files(self) -> list[str]:
        """The files of classifications: one or several."""
        given = self.export or self.api_dump or self.caesar
        return [str(path) for path in given] if isinstance(given, list) else [str(given)]


@dataclass(frozen=True)
class FinishSettings:
    """How stage=finish trains networks for the final model of an experiment."""

    networks: int = 5  # how many networks; each is trained on all labels but one part, which says when to stop
    # With model.train=head, whose encoder is trained further; with train=all the networks train as in an iteration.
    epochs: int = 12  # training stops after this many epochs; the weights of the best one are kept
    learning_rate: float = 0.001  # learning rate of the Adam optimiser
    dropout_rate: float = 0.0  # fraction of the features left out, in training and for each posterior sample


@dataclass(frozen=True)
class PredictSettings:
    """The catalogue that stage=predict makes with the final model of the experiment in experiment_name."""

    name: str = MISSING  # name of the catalogue's folder
    format: str = "parquet"  # parquet (a folder of files), fits or csv
    columns: list[str] = field(default_factory=list)  # columns of the survey's table to copy, beside ra and dec
    licence: str = ""  # of the catalogue, for its data card: a name or an address
    citation: str = ""  # how to cite the catalogue, for its data card


@dataclass(frozen=True)
class ReportSettings:
    """What the report shows, and where it goes."""

    experiments: list[str] = field(default_factory=lambda: ["*"])  # names or patterns in {data_dir}/experiments
    output: str = ""  # folder of report.html and summary.json; empty: {data_dir}/report
    galaxies: int = 12  # galaxies in each row; fewer on a page of more than 3,000


@dataclass(frozen=True)
class VerifySettings:
    """What to check."""

    path: str = ""  # a folder with a manifest, or an experiment


@dataclass(frozen=True)
class CheckSettings:
    """How stage=check looks at a survey."""

    pictures: int = 200  # read this many pictures, drawn at random
    output: str = ""  # a folder for a file of settings, {output}/experiment/{survey.name}.yaml; empty: none


@dataclass(frozen=True)
class EngineSettings:
    """Where shards, features and catalogues are made."""

    name: str = "local"  # local: processes on this machine; ray: a Ray cluster (docs/cluster.md)
    address: str = ""  # ray: a cluster that runs, HOST:PORT; empty: start a Ray on this machine


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    stage: str = MISSING  # the stage to run
    data_dir: str = "data"  # the folder for all output
    seed: int = 0  # of the simulation: weights, dropout, data order, volunteers, random choices
    quick: bool = False  # test mode: few galaxies, tiny images, short training; output goes to {data_dir}/quick
    max_dropped_fraction: float = 0.01  # stop with an error if a larger fraction of rows or images is bad
    workers: int = 0  # processes that work side by side; 0: as many as there are cores and work for
    verify_inputs: str = "sizes"  # what a stage checks in the folders it reads: sizes (JSON: digests) or all digests
    experiment_name: str = MISSING  # name of the experiment's folder, and of its W&B run
    extensions: list[str] = field(
        default_factory=list
    )  # your own Python files with acquisition functions, encoders, oracles or surveys: docs/extending.md
    engine: EngineSettings = field(default_factory=EngineSettings)
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
    finish: FinishSettings = field(default_factory=FinishSettings)
    predict: PredictSettings = field(default_factory=PredictSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    verify: VerifySettings = field(default_factory=VerifySettings)
    check: CheckSettings = field(default_factory=CheckSettings)

    @property
    def cluster(self) -> str | None:
        """The address of a Ray cluster, empty for one that is started on this machine; None: no cluster."""
        return self.engine.address if self.engine.name == "ray" else None

    @property
    def survey_dir(self) -> Path:
        """The folder of everything that the stages make from the survey."""
        return Path(self.data_dir) / self.survey.name

    @property
    def source_dir(self) -> Path:
        """The folder of the survey's own tables and images; ``file_loc`` is relative to it."""
        return Path(self.survey.folder) if self.survey.folder else self.survey_dir

    @property
    def pictures_place(self) -> str:
        """Where the pictures are: an address, or ``source_dir``."""
        return self.survey.pictures or str(self.source_dir)

    def image_path(self, file_loc: str) -> Path:
        """The path of a galaxy's picture: always below ``source_dir``, even if the table has an absolute path.

        InputError: it leads elsewhere, by ``..`` or a link. A picture from there would go into shards, and be sent.
        """
        return self.inside(file_loc.lstrip("/"))

    def inside(self, name: str) -> Path:
        """A file of the survey. InputError: ``name`` leads out of ``source_dir``, which may itself be a link."""
        folder = os.path.realpath(self.source_dir)
        try:
            found = os.path.join(folder, name)  # noqa: PTH118  # many thousand times: pathlib is slower
            found = os.path.normpath(found) if self.survey.allow_links else os.path.realpath(found)
        except ValueError as error:  # a zero byte
            raise InputError(f"{name!r} is not the name of a file") from error
        if not found.startswith(folder + os.sep):
            raise InputError(
                f"{name} leads to {found}, out of {folder}: only what lies in survey.folder is read. Put the file"
                " there, or (for links) set survey.allow_links=true"
            )
        return self.source_dir / name

    @property
    def catalog_dir(self) -> Path:
        """The prepared catalogs."""
        return self.survey_dir / "prepared_catalogs" / self.catalogs.name

    def catalog(self, name: str) -> Path:
        """The table of ``labelled`` or ``unlabelled`` galaxies that shards are made from."""
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
    def published_encoders_dir(self) -> Path:
        """Encoders that the user has downloaded. The test mode reads them where they are."""
        data_dir = Path(self.data_dir)
        return (data_dir.parent if self.quick else data_dir) / "zoobot_encoders"

    @property
    def weights_path(self) -> Path | None:
        """The path of the initial encoder weights: one of the survey's encoders, a published one, or any path."""
        if self.model.weights in ("", "imagenet"):
            return None
        if self.model.weights.startswith(PUBLISHED):
            return self.published_encoders_dir / self.model.weights.removeprefix(PUBLISHED)
        return Path(os.path.normpath(self.encoders_dir / self.model.weights))  # ".." works even if no folder exists yet

    @property
    def predictions_dir(self) -> Path:
        """The catalogues of predicted votes."""
        return self.survey_dir / "predictions"

    @property
    def features_dir(self) -> Path:
        """Cached features of frozen encoders; the folder may be deleted at any time."""
        return self.survey_dir / "features"

    @property
    def experiments_dir(self) -> Path:
        """The folder of all experiments, live and simulated."""
        return Path(self.data_dir) / "experiments"

    @property
    def report_dir(self) -> Path:
        """The folder of the report."""
        return Path(self.report.output) if self.report.output else Path(self.data_dir) / "report"

    @property
    def experiment_dir(self) -> Path:
        """The folder of this experiment."""
        kind = "live" if self.oracle.live else "simulations"
        return self.experiments_dir / kind / self.experiment_name
