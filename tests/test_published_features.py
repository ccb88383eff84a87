"""A survey of published features: every stage without a picture and without TensorFlow, and each of its faults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.test_feature_tables import settings as settings_of
from tests.test_layers import loaded
from zoobot import folders
from zoobot.errors import FolderError, InputError, SettingsError
from zoobot.galaxies import database, feature_tables, tfrecords
from zoobot.galaxies.tables import read_table
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.models import features
from zoobot.reports import choices
from zoobot.settings import Settings
from zoobot.stages import catalogs, check, instructions, master_catalog, pretrain, report, shards, simulate, verify

Compose = Callable[..., Settings]
N, H = 300, 32
SMOOTH, FEATURED, ARTIFACT = (f"smooth-or-featured_{a}" for a in ("smooth", "featured-or-disk", "artifact"))
SIZES = ("catalogs.mock_labelled=100", "shards.eval_size=20", "shards.test_size=40", "shards.shard_size=64")
RUN = ("survey=custom", "survey.name=mine", "survey.features=features.parquet", "model=features", *SIZES,
       "simulate.iterations=3", "iterate.subjects_per_iteration=20", "tracking=disabled")  # fmt: skip


def write(folder: Path, rows: slice = slice(None), change: Callable[[Any], Any] = lambda vectors: vectors) -> Path:
    """A table without pictures, and features of these rows, whose logit of a smooth galaxy is linear in them."""
    random = np.random.default_rng(5)
    features_N_H = random.normal(size=(N, H)).astype(np.float32)
    logit_N = features_N_H @ random.normal(size=H) * 2 / np.sqrt(H)
    votes = random.binomial(40, 1 / (1 + np.exp(-logit_N)))
    ids = [f"0{n:03}" for n in range(N)]
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"id_str": ids, SMOOTH: votes, FEATURED: 40 - votes, ARTIFACT: 0})
    table.to_csv(folder / "catalog.csv", index=False)
    order = random.permutation(N)
    names, vectors = [ids[n] for n in order][rows], change(features_N_H[order][rows].tolist())
    pq.write_table(pa.table({"id_str": names, "embedding": vectors}), folder / "features.parquet")
    return folder


@pytest.fixture
def mine(settings: Compose, tmp_path: Path) -> Compose:
    """``mine("stage=shards", …)``: the settings of such a survey, whose folder is ``in``."""
    if not (tmp_path / "in").exists():
        write(tmp_path / "in")
    return lambda *more: settings(*RUN, f"survey.folder={tmp_path / 'in'}", *more)


def until_shards(s: Settings) -> Path:
    master_catalog.run(s)
    catalogs.run(s)
    return shards.run(s)


def digests(s: Settings) -> dict[str, str]:
    """The digests of the shards, the instructions and all iterations."""
    return {path.name: folders.digest_of(path) for path in (s.shard_dir, *s.experiment_dir.glob("i*"))}


# --------------------------------------------------------------- a simulation


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The data of a simulation by the command line, and the packages that it loaded."""
    folder = tmp_path_factory.mktemp("features")
    survey = write(folder / "in")
    packages = loaded("run.py", "stage=simulate", *RUN, f"survey.folder={survey}", f"data_dir={folder / 'data'}")
    return folder, packages


def test_a_simulation_loads_no_tensorflow_and_is_verified(simulated: tuple[Path, set[str]], compose: Compose) -> None:
    folder, packages = simulated
    assert "pyarrow" in packages and not packages & {"tensorflow", "keras", "wandb"}
    verify.run(compose("stage=verify", f"verify.path={folder}", data_dir=folder / "data"))


def of_simulation(simulated: tuple[Path, set[str]], compose: Compose, *more: str) -> Settings:
    folder = simulated[0]
    return compose("stage=simulate", *RUN, f"survey.folder={folder / 'in'}", *more, data_dir=folder / "data")


def test_the_head_learns_from_the_features(simulated: tuple[Path, set[str]], compose: Compose) -> None:
    s = of_simulation(simulated, compose)
    with database.connect(s.shard_dir / "shards.db") as connection:
        _, votes = database.read_votes(connection, "test")
    base_rate = np.std([v["label"] / v["total_votes"] for v in votes])
    first, last = (IterationFolder(s.experiment_dir / f"iteration_{n}").metrics()["test"] for n in (0, 2))
    assert first["smooth-or-featured"]["rmse"] < 0.8 * base_rate, "with 40 galaxies"
    assert last["smooth-or-featured"]["rmse"] < 0.6 * base_rate
    assert last["all"]["loss"] < first["all"]["loss"]


def test_again_gives_the_same_bytes(simulated: tuple[Path, set[str]], mine: Compose) -> None:
    s = mine("stage=simulate")
    simulate.run(s)
    there = simulated[0] / "data" / "experiments" / "simulations" / s.experiment_name
    assert {name: digest for name, digest in digests(s).items() if name.startswith("i")} == {
        path.name: folders.digest_of(path) for path in there.glob("i*")
    }


def test_shards_hold_the_features_of_each_galaxy(simulated: tuple[Path, set[str]], compose: Compose) -> None:
    s = of_simulation(simulated, compose)
    config = tfrecords.load_config(s.shard_dir)
    assert (config.encoding, config.image_size_px, config.channels) == ("features", 0, 0)
    table = pd.read_parquet(s.source_dir / "features.parquet").set_index("id_str")["embedding"]
    acquired = s.experiment_dir / "iteration_1" / "acquired" / "acquired_00000.tfrecord"
    files = [s.shard_dir / name for names in config.splits.values() for name in names]
    ids: list[str] = []
    for path in [*files, acquired]:
        for record in tfrecords.read(path):
            id_str, found, votes = tfrecords.decode(record, config.encoding)
            assert found.dtype == np.float32 and found.tolist() == table[id_str].tolist()
            assert bool(votes) == ("pool" not in path.name)
            ids.append(id_str)
    assert sorted(set(ids)) == sorted(table.index) and len(ids) > N


def test_the_report_and_the_dashboard_show_no_pictures(simulated: tuple[Path, set[str]], compose: Compose) -> None:
    s = of_simulation(simulated, compose, "stage=report")
    page = report.run(s).read_text()
    assert "Asked about in iteration 0" in page and 'class="id">0' in page
    assert "data:image" not in page and '<span class="none">' not in page
    experiment = ExperimentFolder(s.experiment_dir)
    for table in choices.tables(experiment, experiment.iterations(), 4).values():
        assert table.count("<tr>") == 5 and "picture" not in table and "<img" not in table


def test_published_features_give_the_experiment_of_the_encoder_that_made_them(
    settings: Compose, tmp_path: Path
) -> None:
    quick = ("stage=simulate", "quick=true", "simulate.iterations=2", "tracking=disabled")
    pictures = settings(*quick, "model=pixels")
    simulate.run(pictures)
    config, folder = tfrecords.load_config(pictures.shard_dir), tmp_path / "in"
    files = [pictures.shard_dir / name for names in config.splits.values() for name in names]
    encoder = features.FrozenEncoder(pictures.model, config, None)
    folder.mkdir()
    names = [id_str for path in files for id_str in tfrecords.read_ids(path)]
    vectors = np.concatenate([features.encode(encoder, path) for path in files])
    pq.write_table(pa.table({"id_str": names, "pixels": vectors.tolist()}), folder / "features.parquet")
    votes = pd.read_csv(pictures.survey_dir / "galaxies" / "votes.csv", dtype=str).drop(columns="file_loc")
    votes.to_csv(folder / "catalog.csv", index=False)
    own = settings(*quick, *RUN[:4], f"survey.folder={folder}", "survey.questions=demo")
    simulate.run(own)
    for n in range(2):
        ours, theirs = (IterationFolder(s.experiment_dir / f"iteration_{n}") for s in (own, pictures))
        assert ours.summary().weights_sha256 == theirs.summary().weights_sha256
        assert ours.requests().ids == theirs.requests().ids


def test_quick_stores_few_of_them(mine: Compose) -> None:
    s = mine("stage=simulate", "quick=true", "simulate.iterations=1")
    simulate.run(s)
    assert sum(tfrecords.load_config(s.shard_dir).galaxies.values()) == 160


# --------------------------------------------------------------- shards


def test_a_stopped_run_goes_on_to_the_same_shards(mine: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    s = mine("stage=shards", "shards.shard_size=16")
    until_shards(s)
    whole = folders.digest_of(s.shard_dir)
    s.shard_dir.rename(s.shard_dir.with_name("before"))
    written, write_file = list[Path](), tfrecords.write

    def stop(path: Path, records: list[bytes]) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        write_file(path, records)

    monkeypatch.setattr(tfrecords, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        shards.run(s)
    monkeypatch.undo()
    shards.run(s)
    assert folders.digest_of(s.shard_dir) == whole
    assert not list(s.shard_dir.parent.glob(".mine*")) and not folders.unfinished(s.shard_dir).exists()


def test_features_are_part_of_what_shards_depend_on(mine: Compose, tmp_path: Path) -> None:
    s = mine("stage=shards")
    until_shards(s)
    (tmp_path / "in" / "moved.parquet").write_bytes((tmp_path / "in" / "features.parquet").read_bytes())
    shards.run(mine("stage=shards", "survey.features=moved.parquet"))  # nothing to do: the same content
    write(tmp_path / "in", change=lambda vectors: (np.array(vectors) + 1).tolist())
    with pytest.raises(FolderError, match=r"made with other settings or inputs:\s+features: '[0-9a-f]+' there"):
        shards.run(s)


def test_galaxies_without_features_are_dropped_with_their_reason(mine: Compose, tmp_path: Path) -> None:
    def damage(vectors: list[Any]) -> list[Any]:
        return [None, [float("nan")] * 2 + vectors[1][2:], vectors[2][1:], *vectors[3:]]

    write(tmp_path / "in", slice(1, None), damage)
    said = "4 of 300 galaxies have no features, more than max_dropped_fraction=0.01: 296 x with features; 1 x"
    with pytest.raises(InputError, match=re.escape(f"{said} features.parquet has no row with this id_str; 1 x ")):
        until_shards(mine("stage=shards"))
    s = mine("stage=shards", "max_dropped_fraction=0.02")
    shards.run(s)
    config = tfrecords.load_config(s.shard_dir)
    assert sum(config.galaxies.values()) == N - 4
    assert sorted(entry.reason.removeprefix("its features in features.parquet ") for entry in config.dropped) == [
        "are empty", "are not 32 numbers, as those of others", "features.parquet has no row with this id_str",
        "have NaN, infinity, or numbers beyond float32",
    ]  # fmt: skip


def test_ids_of_another_survey_are_shown_beside_ours(mine: Compose, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "in" / "features.parquet")
    names = pa.array([f"J{id_str}" for id_str in table["id_str"].to_pylist()])
    pq.write_table(table.set_column(0, "id_str", names), tmp_path / "in" / "features.parquet")
    with pytest.raises(InputError, match=r"300 of 300 galaxies .*without: '0\d+'.*only the features have: 'J0"):
        until_shards(mine("stage=shards", "max_dropped_fraction=0.5"))
    write(tmp_path / "in")
    shards.run(mine("stage=shards"))  # fixed: nothing of the refused run is in the way


def test_a_table_may_have_pictures_for_some(mine: Compose, settings: Compose, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "in" / "catalog.csv", dtype=str)
    table.assign(file_loc=["a.png", *[""] * 299]).to_csv(tmp_path / "in" / "catalog.csv", index=False)
    s = mine("stage=shards")
    until_shards(s)
    assert read_table(master_catalog.catalog_path(s))["file_loc"].notna().sum() == 1
    pictures = ("stage=master_catalog", "survey=custom", f"survey.folder={tmp_path / 'in'}")
    with pytest.raises(InputError, match=r"299 of 300 rows cannot be used.*no file_loc"):
        master_catalog.run(settings(*pictures, "survey.name=pictures"))
    with pytest.raises(FolderError, match="file_loc: 'may be empty' there, None now"):
        master_catalog.run(settings(*pictures, "survey.name=mine"))


# --------------------------------------------------------------- what does not fit


def test_shards_of_the_other_kind_are_refused(mine: Compose, settings: Compose, tmp_path: Path) -> None:
    until_shards(mine("stage=shards"))
    names = ("survey=custom", "survey.name=mine", f"survey.folder={tmp_path / 'in'}", *SIZES)
    said = r"shards/\w+ holds features; model\.architecture=\w+ needs pictures\. Choose model=features"
    with pytest.raises(SettingsError, match=said):
        instructions.run(settings("stage=instructions", *names, "model=pixels"))
    with pytest.raises(SettingsError, match=said):
        pretrain.run(settings("stage=pretrain", *names, "model=pretrained"))


def test_pictures_are_refused_by_the_model_of_features(settings: Compose, tmp_path: Path) -> None:
    quick = ("stage=instructions", "quick=true")
    until_shards(settings(*quick))
    with pytest.raises(SettingsError, match=r"holds pictures; model\.architecture=features needs features"):
        instructions.run(settings(*quick, "model=features", "survey.features=x.parquet"))


def test_volunteers_need_a_picture(mine: Compose, tmp_path: Path) -> None:
    table = pd.read_csv(tmp_path / "in" / "catalog.csv", dtype=str)
    table.loc[100:, [SMOOTH, FEATURED, ARTIFACT]] = None
    live = ("oracle=panoptes", "oracle.project_id=1", "oracle.workflow_ids=[1]", "shards.source=real")
    s = mine("stage=instructions", *live)
    table.to_csv(tmp_path / "in" / "catalog.csv", index=False)
    until_shards(s)
    with pytest.raises(InputError, match=r"200 of 200 galaxies have no picture in .*Volunteers need one: give"):
        instructions.run(s)
    table["file_loc"] = table["id_str"] + ".png"
    table.to_csv(tmp_path / "in" / "catalog.csv", index=False)
    for name in table["file_loc"][101:]:
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    s = mine("stage=instructions", *live, "survey.name=pictures")
    until_shards(s)
    with pytest.raises(InputError, match=r"1 of 200 galaxies have no picture in .*, for example 0100\."):
        instructions.run(s)
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "0100.png")
    instructions.run(s)


# --------------------------------------------------------------- stage=check


def checked(settings: Compose, folder: Path, *more: str) -> None:
    names = ("survey=custom", "survey.name=mine", f"survey.folder={folder}", "survey.features=features.parquet")
    check.run(settings("stage=check", *names, *more))


def test_check_finds_the_features_and_says_what_to_run(
    settings: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked(settings, write(tmp_path / "in", slice(1, None)))
    printed = capsys.readouterr().out
    said = "features: 32 (embedding); 299 x with features; 1 x features.parquet has no row with this id_str; 0 rows"
    assert said in printed and "pictures" not in printed
    command = next(line for line in printed.splitlines() if line.startswith("python run.py stage=simulate"))
    found = settings(*shlex.split(command)[2:-1])
    assert found.model.architecture == "features" and found.survey.features == "features.parquet"


def test_the_proposed_command_has_the_settings_of_the_tables(
    settings: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "in")
    table = pd.read_csv(folder / "catalog.csv", dtype=str)
    table.rename(columns={"id_str": "tile"}).to_csv(folder / "catalog.csv", index=False)
    more = ("survey.id_str='t {tile}'", "survey.features_column=0")
    ids = pq.read_table(folder / "features.parquet")["id_str"]
    columns = {str(n): pa.array(np.arange(N) % (n + 2)) for n in range(2)}
    pq.write_table(pa.table({"tile": ids, **columns}), folder / "features.parquet")
    checked(settings, folder, *more)
    printed = capsys.readouterr().out
    command = next(line for line in printed.splitlines() if line.startswith("python run.py stage=simulate"))
    found = settings(*shlex.split(command)[2:-1]).survey
    assert (found.id_str, found.features_column, found.catalog) == ("t {tile}", "0", "catalog.csv")
    assert "features: 2 (0 … 1); 300 x with features" in printed


def test_check_says_what_is_wrong_with_the_features(settings: Compose, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", slice(30, None))
    with pytest.raises(InputError, match=r"no simulation can run on this survey yet:\s+30 of 300 galaxies have no"):
        checked(settings, folder)
    with pytest.raises(InputError, match=r"x\.parquet does not exist"):
        checked(settings, folder, "survey.features=x.parquet")


def test_a_row_group_of_any_size_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_tables, "_ROWS", 16)
    seen, values = list[int](), feature_tables._values

    def count(batch: pa.RecordBatch, table: feature_tables.FeatureTable) -> Any:
        seen.append(len(batch))
        return values(batch, table)

    monkeypatch.setattr(feature_tables, "_values", count)
    table = feature_tables.find(settings_of(write(tmp_path / "in")))
    assert table.n_features == H and feature_tables.gather(table, []).n_other == N
    assert max(seen) == 16 and sum(seen) == N
