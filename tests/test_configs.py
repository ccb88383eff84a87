"""Every option of every config group, every experiment, and what is said of settings that cannot be used."""

from __future__ import annotations

import ast
import dataclasses
import io
import tokenize
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from zoobot.errors import SettingsError
from zoobot.models.architectures import ARCHITECTURES
from zoobot.settings import Settings, compose, flatten, schema, stage_settings
from zoobot.stages import CHOICES

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"
Compose = Callable[..., Settings]
# What an option cannot know, and its file says so.
NEEDS = {
    "stage=verify": ["verify.path=data"],
    "stage=reduce": ["reduce.export=a.csv", "reduce.workflow_versions=b.json"],
    "survey=decals": ["survey.catalog=joint_catalog.fits"],
    "shards=standard": ["catalogs.mock_labelled=6000"],
    "model=zoobot": ["shards.image_size_px=224"],
    "model=features": ["survey.features=features.parquet"],
    "acquisition=oracle_batch": ["model=pixels"],
    "oracle=panoptes": ["stage=iterate", "shards.source=real", "oracle.project_id=1", "oracle.workflow_ids=[1]"],
}
ALL_OPTIONS = [
    f"{path.parent.name}={path.stem}" for path in sorted(CONFIG_DIR.glob("*/*.yaml")) if path.parent.name != "questions"
]


def raw_config(*overrides: str) -> DictConfig:
    """What Hydra composes, its own part included, not checked."""
    compose.register()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return hydra_compose("config", list(overrides), return_hydra_config=True)


def problems_of(compose: Compose, tmp_path: Path, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        compose("stage=simulate", *overrides, data_dir=tmp_path)
    return str(caught.value)


# --------------------------------------------------------------- every option


def test_every_group_of_settings_has_options_and_every_option_a_group() -> None:
    groups = {option.split("=")[0] for option in ALL_OPTIONS}
    with_options = {"acquisition", "engine", "model", "oracle", "shards", "stage", "survey", "task", "tracking"}
    assert groups == with_options | {"experiment", "world"} and with_options <= {f.name for f in fields(Settings)}


def test_every_member_of_a_closed_set_has_an_option() -> None:
    def values(group: str, *keys: str) -> set[str]:
        found = set()
        for path in (CONFIG_DIR / group).glob("*.yaml"):
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            for key in keys:
                content = content.get(key, {})
            found |= {content} if isinstance(content, str) else set()
        return found

    assert values("acquisition", "name") == set(CHOICES["acquisition.name"])
    assert values("world", "survey", "world") == set(CHOICES["survey.world"])
    of_one_option = {name for name, one in ARCHITECTURES.items() if one.timm}  # model=zoobot, with model.architecture
    architectures = values("model", "architecture") | {Settings().model.architecture}
    assert architectures | of_one_option == set(CHOICES["model.architecture"]) and architectures & of_one_option
    assert values("oracle", "oracle", "kind") | values("oracle", "kind") == set(CHOICES["oracle.kind"])
    assert values("survey", "kind") == set(CHOICES["survey.kind"])
    assert values("stage", "stage") == set(CHOICES["stage"])


@pytest.mark.parametrize("option", [o for o in ALL_OPTIONS if not o.startswith("experiment=")])
def test_every_option_composes_and_validates(option: str, compose: Compose, tmp_path: Path) -> None:
    group, name = option.split("=")
    needs = NEEDS.get(option, [])
    stage = [] if group == "stage" or "stage=iterate" in needs else ["stage=simulate"]
    settings = compose(*stage, option, *needs, data_dir=tmp_path)
    if group == "world":  # a case of the demo survey, not a group of settings
        assert settings.survey.name == ("demo" if name == "none" else f"demo_{name}")
    else:
        assert name in repr(getattr(settings, group))


@pytest.mark.parametrize("option", [o for o in ALL_OPTIONS if o.startswith("experiment=")])
def test_every_experiment_composes_with_every_value_of_its_sweep(option: str, compose: Compose, tmp_path: Path) -> None:
    sweep = raw_config(option).hydra.sweeper.params or {}
    values = [[f"{key}={value}" for value in str(listed).split(",")] for key, listed in sweep.items()]
    first = [of[0] for of in values]
    for number, of in enumerate(values):  # all combinations of hundreds would take minutes
        chosen = [[*first[:number], value, *first[number + 1 :]] for value in of]
        names = {str(compose(option, *overrides, data_dir=tmp_path).experiment_dir) for overrides in chosen}
        assert len(names) == len(of), "two simulations of a sweep would share a folder"
    opening = (CONFIG_DIR / "experiment" / f"{option.split('=')[1]}.yaml").read_text().splitlines()[:2]
    assert f"# python run.py {option}" in opening


@pytest.mark.parametrize(
    "survey, task, acquisition",
    [("demo", "demo_tree", "random"), ("gz2", "gz2_tree", "mutual_information"), ("gz2", "bar", "random")],
)
def test_groups_combine(survey: str, task: str, acquisition: str, compose: Compose) -> None:
    chosen = [f"survey={survey}", f"task={task}", f"acquisition={acquisition}", "shards=standard"]
    settings = compose("stage=simulate", *chosen, "seed=3", "quick=true", data_dir=Path("d"))
    assert settings.experiment_name == f"{survey}_{task}_small_cnn_{acquisition}_seed3"
    assert settings.shards.name == f"{task}_seed3_mock_standard"


def test_live_batches_have_some_at_random_unless_set_otherwise() -> None:
    live = ("oracle=panoptes", *NEEDS["oracle=panoptes"])
    assert raw_config(*live).acquisition.random_share == 0.2 and raw_config(*live).oracle.control_per_iteration > 0
    assert raw_config(*live, "acquisition=lcmd").acquisition.name == "lcmd"
    assert raw_config("stage=simulate").acquisition.random_share == 0


def test_a_config_that_is_printed_can_be_read_as_yaml() -> None:
    printed = yaml.safe_load(OmegaConf.to_yaml(raw_config("stage=simulate")))
    assert set(printed) == {f.name for f in fields(Settings)} | {"hydra"}


# --------------------------------------------------------------- every key


def test_every_key_has_a_comment() -> None:
    source = Path(schema.__file__).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    keys, bare = 0, []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field in node.body:
            if not isinstance(field, ast.AnnAssign) or is_dataclass(getattr(schema, ast.unparse(field.annotation), 0)):
                continue
            keys += 1
            assert field.end_lineno is not None
            if not commented & set(range(field.lineno, field.end_lineno + 1)):
                bare.append(f"{node.name}.{ast.unparse(field.target)}")
    assert bare == []
    assert keys == len(_leaves(Settings)) >= 70


def _leaves(cls: type) -> list[str]:
    """The names of all settings below a dataclass."""
    leaves: list[str] = []
    for field in fields(cls):
        below = field.default_factory
        if isinstance(below, type) and is_dataclass(below):
            assert below.__doc__ and not below.__doc__.startswith(f"{below.__name__}(")
            leaves += _leaves(below)
        else:
            leaves.append(field.name)
    return leaves


def test_settings_are_frozen(compose: Compose, tmp_path: Path) -> None:
    settings = compose("stage=simulate", data_dir=tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.seed = 1  # type: ignore[misc]


# --------------------------------------------------------------- what is refused


def test_all_problems_are_reported_together_with_full_keys(compose: Compose, tmp_path: Path) -> None:
    text = problems_of(
        compose, tmp_path, "seed=-1", "model.dropout_rate=2", "oracle.kind=psychic", "shards.encoding=gif",
        "shards.channels=2", "experiment_name=a/b", "iterate.subjects_per_iteration=0", "max_dropped_fraction=nan",
    )  # fmt: skip
    for said in (
        "9 setting(s) cannot be used", "\n  seed=-1: must be at least 0", "model.dropout_rate=2.0: must be between",
        "oracle.kind=psychic: choose one of simulated, known", "shards.encoding=gif: choose one of raw, png, jpeg",
        "shards.channels=2: choose one of 1, 3", "experiment_name=a/b: must be a folder name",
        "iterate.subjects_per_iteration=0", "max_dropped_fraction=nan",
    ):  # fmt: skip
        assert said in text
    assert len(text.splitlines()) == 10  # catalogs.seed follows seed


def test_settings_without_a_value_are_named_together(compose: Compose, tmp_path: Path) -> None:
    text = problems_of(compose, tmp_path, "task.name=???", "survey.questions=???")
    assert text == "These settings have no value: survey.questions, task.name. Give each as key=value."


def test_settings_that_do_not_fit_each_other(compose: Compose, tmp_path: Path) -> None:
    text = problems_of(
        compose, tmp_path, "catalogs.mock_labelled=700", "model.final_size_px=65", "model.blocks=[[8],[]]",
        "oracle.votes_per_galaxy=36", "survey.n_galaxies=0", "survey.name=.hidden",
    )  # fmt: skip
    for said in (
        "7 setting(s)",  # the experiment is named after the survey
        "catalogs.mock_labelled=700: must exceed shards.eval_size + shards.test_size = 700",
        "model.final_size_px=65: larger than the stored images",
        "model.blocks=[[8], []]: each block needs",
        "oracle.votes_per_galaxy=36: must exceed survey.retirement_votes=36",
        "survey.n_galaxies=0: the demo survey needs at least 1",
        "survey.name=.hidden: must be a folder name",
    ):
        assert said in text


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["model.xla=true", "model.final_size_px=32"], "model.xla: XLA cannot make pictures smaller"),
        (["model.blocks=[[8],[8],[8],[8]]", "model.final_size_px=8"], "model.blocks: 4 halvings need"),
        (["survey=decals"], "survey.catalog: survey decals needs its source table"),
        (["stage=verify"], "verify.path: name the folder"),
        (["survey.bands=[g,r]"], "survey.bands=['g', 'r']: list three bands for a colour picture, or one for a grey"),
        (["survey.bands=[g,r,skip,G]"], "each once"),
        (["survey.stretch=log"], "survey.stretch=log: choose one of nanomaggies, noise"),
        (["survey.zero_point=-99"], "survey.zero_point=-99.0: must be between"),
        (["survey.max_pixels=1"], "survey.max_pixels=1: must be at least 64"),
        (["stage=reduce"], "reduce.workflow_versions: name"),
        (["model=features"], "model.architecture=features: needs survey.features=FILE.parquet"),
        (["survey.features=a.pq"], "survey.features=a.pq: is stored instead of pictures, which model.architecture=cnn"),
        (["survey.features=a.pq", "model=pixels"], "model.architecture=pixels needs; choose model=features"),
        (["survey.features=../a.pq", "survey=custom", "survey.name=mine"], "survey.features=../a.pq: ../a.pq leads to"),
        (["stage=pretrain", "survey.features=a.pq"], "stage=pretrain: learns from pictures, and survey.features has"),
        (["stage=pretrain", "model=features"], "model=features needs no encoder"),
        (["shards=standard"], "catalogs.mock_labelled=800: must exceed"),
        (["survey.folder=${nope}"], "survey.folder cannot be used: Interpolation key 'nope' not found"),
    ],
)
def test_settings_that_a_choice_needs(overrides: list[str], said: str, compose: Compose, tmp_path: Path) -> None:
    assert said in problems_of(compose, tmp_path, *overrides)


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["stage=simulate", "modell.hidden=3"], "modell"),
        (["stage=simulate", "model.hiden=3"], "hiden"),
        (["stage=simulate", "model.hidden=many"], "many"),
        (["stage=simulate", "seed=null"], "seed"),
        (["stage=simulate", "task=none_such"], "decals_tree"),
        ([], "catalogs"),
    ],
)
def test_what_hydra_refuses(overrides: list[str], said: str) -> None:
    with pytest.raises((ConfigCompositionException, MissingConfigException)) as caught:
        raw_config(*overrides)
    assert said in f"{caught.value}{caught.value.__cause__ or ''}"


# --------------------------------------------------------------- quick, and what an output depends on


@pytest.mark.parametrize("model, shards", [("cnn", "standard"), ("small_cnn", "small")])
def test_quick_makes_everything_small_in_a_folder_of_its_own(model: str, shards: str, compose: Compose) -> None:
    s = compose("stage=simulate", f"model={model}", f"shards={shards}", "quick=true", data_dir=Path("d"))
    assert s.data_dir == "d/quick" and s.survey.n_galaxies <= 160 and s.simulate.iterations <= 3
    assert s.shards.image_size_px == s.model.final_size_px == 32 and s.model.max_epochs <= 2
    assert s.catalogs.mock_labelled > s.shards.eval_size + s.shards.test_size


def test_quick_raises_no_value(compose: Compose) -> None:
    s = compose("stage=simulate", "quick=true", "survey.n_galaxies=90", "simulate.iterations=1", data_dir=Path("d"))
    assert s.survey.n_galaxies == 90 and s.simulate.iterations == 1


def test_quick_reads_a_survey_where_it_lies(compose: Compose) -> None:
    quick = compose("stage=simulate", "quick=true", "survey=custom", "survey.name=mine", data_dir=Path("d"))
    assert quick.source_dir == Path("d/mine") and quick.survey_dir == Path("d/quick/mine")
    drawn = compose("stage=simulate", "quick=true", data_dir=Path("d"))
    assert drawn.source_dir == drawn.survey_dir == Path("d/quick/demo")


def test_an_output_depends_on_all_but_places_and_looks(compose: Compose, tmp_path: Path) -> None:
    settings = compose("stage=simulate", data_dir=tmp_path)
    used = {key for stage in ("master_catalog", "catalogs", "shards", "pretrain", "instructions", "finish", "predict",
                              "reduce")
            for key in stage_settings(settings, stage)}  # fmt: skip
    every = set(flatten(dataclasses.asdict(settings)))
    free = ("report.", "tracking.", "verify.", "check.", "reduce.", "stage", "data_dir", "quick", "experiment_name")
    assert {key for key in every - used if not key.startswith(free)} == {
        "survey.folder", "survey.pictures", "survey.allow_links",
        "survey.catalog", "survey.classifications", "survey.features",  # places; their content goes in by its digest
        "extensions", "oracle.live",  # goes in by digest; follows from oracle.kind
        "survey.same_galaxy", "workers", "engine.name", "engine.address",
        "max_dropped_fraction", "iterate.previous", "simulate.iterations", "verify_inputs", "stop.votes",  # limits
        "stop.labels", "stop.eval_loss", "stop.next_100_labels_buy", "stop.minutes_per_vote",
        "oracle.dry_run", "oracle.subjects", "oracle.credentials_file",  # how Zooniverse is reached, not what is asked
        "oracle.retry_wait_s", "oracle.overlap_ids", "oracle.tries", "oracle.timeout_s", "oracle.private_pictures",
        "oracle.priority", "oracle.write_predictions", "iterate.waiting_iterations",  # beside a subject, and a warning
    }  # fmt: skip
