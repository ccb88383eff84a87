"""stage=predict: what stands in a catalogue, that it is the same after a crash, what is refused, and how it is read."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from zoobot import folders
from zoobot.errors import FolderError, InputError, SettingsError
from zoobot.folders import disk
from zoobot.galaxies import database, table_writers, tfrecords
from zoobot.galaxies.tasks import Group
from zoobot.iterations import catalogue
from zoobot.iterations.files import ExperimentFolder
from zoobot.iterations.final_files import final_of
from zoobot.metrics import PredictedVotes, vote_fractions
from zoobot.models import head
from zoobot.models.architectures import ARCHITECTURES
from zoobot.settings import Settings
from zoobot.stages import finish, predict, shards, simulate

ROOT = Path(__file__).resolve().parents[1]
Compose = Callable[..., Settings]
QUICK = ("stage=predict", "quick=true", "tracking=disabled", "model=pixels", "task=demo_tree", "simulate.iterations=2",
         "experiment_name=done")  # fmt: skip
PAIR = (Group("smooth", ("yes", "no")),)


@pytest.fixture(scope="module")
def done(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A finished experiment, whose shards are to be predicted."""
    settings = compose(*QUICK, data_dir=tmp_path_factory.mktemp("data"))
    simulate.run(settings)
    finish.run(settings)
    return settings


@pytest.fixture
def parts_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the catalogue is one shard."""
    monkeypatch.setattr(catalogue, "PART_GALAXIES", 1)


def named(settings: Settings, name: str, **more: Any) -> Settings:
    return replace(settings, workers=1, predict=replace(settings.predict, name=name, **more))


def galaxies_of(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path / "galaxies")


def test_an_encoder_of_an_extension_predicts_whatever_the_number_of_workers(
    compose: Compose, tmp_path: Path, parts_of_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "mine", ARCHITECTURES["pixels"])  # the extension's own is gone afterwards
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from zoobot.models.architectures import ARCHITECTURES, Architecture\n"
        "ARCHITECTURES['mine'] = Architecture(lambda m: 1, fixed=lambda m, i: i.mean((1, 2, 3))[:, None] / 255)\n"
    )
    extended = ("model.architecture=mine", f"extensions=[{mine}]")
    settings = compose(*QUICK, *extended, data_dir=tmp_path)
    simulate.run(settings)
    finish.run(settings)
    predict.run(replace(settings, workers=2))
    assert len(galaxies_of(settings.predictions_dir / "done")) > 50


# --------------------------------------------------------------- one Dirichlet a galaxy


def question(samples: Any, likelihood: str = "dirichlet_multinomial", groups: tuple[Group, ...] = PAIR) -> Any:
    return next(PredictedVotes(np.asarray(samples, float), groups, likelihood).questions())


def test_samples_that_are_alike_give_their_own_dirichlet() -> None:
    found = vote_fractions.concentrations(question([[[3, 1]] * 5]))
    assert found[0] == pytest.approx([3, 1])
    low, high = vote_fractions.interval(found)
    assert (low[0, 0], high[0, 0]) == pytest.approx(beta(3, 1).interval(0.9))
    assert (low[0, 1], high[0, 1]) == pytest.approx(beta(1, 3).interval(0.9))


def test_points_give_the_dirichlet_with_their_mean_and_variance() -> None:
    found = vote_fractions.concentrations(question([[[0.2, 0.8], [0.6, 0.4]]], "multinomial"))[0]
    assert beta(*found).mean() == pytest.approx(0.4) and beta(*found).var() == pytest.approx(0.04)
    assert vote_fractions.entropy(np.array([[0.5, 0.5], [1.0, 0.0]])) == pytest.approx([np.log(2), 0])


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(st.lists(st.floats(1e-3, 1e4), min_size=n, max_size=n), min_size=1, max_size=6)
    )
)
def test_any_samples_give_fractions_within_their_interval(samples: list[list[float]]) -> None:
    group = (Group("q", tuple("abcde"[: len(samples[0])])),)
    c = vote_fractions.concentrations(question([samples], groups=group))
    low, high = vote_fractions.interval(c)
    assert (c > 0).all() and np.isfinite(c).all()
    assert (low >= 0).all() and (high <= 1).all() and (low <= high).all()
    mean = np.mean(np.array(samples) / np.sum(samples, axis=1, keepdims=True), axis=0)
    assert c[0] / c.sum() == pytest.approx(mean, abs=1e-5)


def test_the_interval_is_nearly_that_of_the_mixture() -> None:
    """Of logit-normal points, each with a Beta around it: 90 % of the fractions that it gives lie in the interval."""
    random = np.random.default_rng(0)
    mean, spread, scale = random.normal(0, 1.5, 200), random.uniform(0.1, 1, 200), random.uniform(2, 50, 200)
    chance = 1 / (1 + np.exp(-(mean[:, None] + spread[:, None] * random.normal(size=(200, 400)))))
    samples = np.stack([chance, 1 - chance], axis=2) * scale[:, None, None]
    low, high = vote_fractions.interval(vote_fractions.concentrations(question(samples)))
    drawn = random.beta(samples[..., 0], samples[..., 1])
    inside = ((drawn >= low[:, :1]) & (drawn <= high[:, :1])).mean(axis=1)
    assert inside.mean() == pytest.approx(0.9, abs=0.01) and inside.min() > 0.82 and inside.max() < 0.95


def test_galaxies_alone_have_the_head_s_own_posterior() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(300, 6))
    counts = random.multinomial(20, [0.5, 0.3, 0.2], 300)
    fitted = head.fit(features, counts, (Group("q", ("a", "b", "c")),))
    some = random.normal(size=(1500, 6))
    alone, joint = (sample(some, 100, np.random.default_rng(2)) for sample in (fitted.sample_alone, fitted.sample))
    first = fitted.orders[0][0]  # the other answers are products of splits, whose samples are paired at random
    assert np.sort(alone[:, :, first]) == pytest.approx(np.sort(joint[:, :, first]), rel=2e-3)
    assert alone.mean(axis=1) == pytest.approx(joint.mean(axis=1), rel=0.03)
    again = fitted.sample_alone(some[:700], 100, np.random.default_rng(2))
    assert again == pytest.approx(alone[:700], rel=1e-5), "it does not matter which galaxies are predicted together"


# --------------------------------------------------------------- the catalogue


def test_a_catalogue_has_every_galaxy_once_and_what_the_model_says_of_it(done: Settings, parts_of_one: None) -> None:
    path = predict.run(named(done, "all", columns=("file_loc",)))
    found, config = galaxies_of(path), tfrecords.load_config(done.shard_dir)
    assert path == Path(done.data_dir) / "demo" / "predictions" / "all" and folders.verify(path) == []
    names = [name for split in config.splits.values() for name in split]
    ids = [id_ for name in names for id_ in tfrecords.read_ids(done.shard_dir / name)]
    assert found["id_str"].tolist() == ids and len(list((path / "galaxies").iterdir())) == len(names)
    assert (found["file_loc"] == "galaxies/" + found["id_str"] + ".png").all()

    experiment = ExperimentFolder(done.experiment_dir)
    with database.connect(experiment.iterations()[-1].database) as connection:
        learnt = database.labelled_ids(connection, "train") | database.labelled_ids(connection, "pool")
    assert set(found["id_str"][found["learnt_from"]]) == learnt and 0 < len(learnt) < len(ids)

    model = catalogue._load(final_of(experiment).path, "any", done.shard_dir, done.features_dir)
    many = replace(model.recipe, model=replace(model.recipe.model, n_samples=400))
    predicted = replace(model, recipe=many).predict([done.shard_dir / name for name in names])
    for q in predicted.questions():
        mean = q.probabilities_N_K_A.mean(axis=1)
        own = found[[f"{answer}_fraction" for answer in q.group.answers]].to_numpy()
        assert own.sum(axis=1) == pytest.approx(1, abs=1e-5)
        assert np.abs(own - mean).max() < 0.05 and np.abs(own - mean).mean() < 0.005
        entropy = -(own * np.log(own)).sum(axis=1)
        assert found[f"{q.group.question}_entropy"].to_numpy() == pytest.approx(entropy, abs=1e-5)
        c = found[[f"{answer}_concentration" for answer in q.group.answers]].to_numpy(np.float64)
        for at, answer in enumerate(q.group.answers):
            ends = found[[f"{answer}_fraction_low", f"{answer}_fraction_high"]].to_numpy()
            assert ends == pytest.approx(np.stack(beta(c[:, at], c.sum(axis=1) - c[:, at]).interval(0.9), 1), abs=1e-4)
    featured = found["smooth-or-featured_featured-or-disk_fraction"]
    assert (found["smooth-or-featured_asked"] == 1).all() and found["disk-edge-on_asked"].equals(featured.rename(None))


def test_a_run_that_was_killed_goes_on_after_the_last_part_to_the_same_bytes(
    done: Settings, parts_of_one: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = predict.run(named(done, "killed"))
    whole = folders.digest_of(path)
    disk.make_writable(path)
    shutil.rmtree(path)
    write, written, at_most = table_writers.write_part, list[Path](), [2]

    def then_die(target: Path, table: Any) -> None:
        if len(written) == at_most[0]:
            raise KeyboardInterrupt
        write(target, table)
        written.append(target)

    monkeypatch.setattr(table_writers, "write_part", then_die)
    with pytest.raises(KeyboardInterrupt):
        predict.run(named(done, "killed"))
    assert not path.exists()
    with pytest.raises(FolderError, match=r"begun with other settings or inputs:\n.*predict\.licence"):
        predict.run(named(done, "killed", licence="CC BY 4.0"))
    at_most[0] = 99
    predict.run(named(done, "killed"))
    assert len({target.name for target in written}) == len(written), "finished parts are not made again"
    assert folders.digest_of(path) == whole and not folders.unfinished(path).exists()


def test_any_number_of_workers_gives_the_same_bytes(done: Settings, parts_of_one: None) -> None:
    path, digests = predict.run(named(done, "workers")), []
    for n in (1, 2):
        disk.make_writable(path)
        shutil.rmtree(path)
        predict.run(replace(named(done, "workers"), workers=n))
        digests.append(folders.digest_of(path))
    assert digests[0] == digests[1]


def test_a_process_that_is_killed_leaves_nothing_half_written(done: Settings) -> None:
    code = (
        "import os, runpy, signal, sys; sys.argv[0] = 'run.py'\n"
        "from zoobot.galaxies import table_writers\n"
        "from zoobot.iterations import catalogue\n"
        "catalogue.PART_GALAXIES = 1\n"
        "write = table_writers.write_part\n"
        "def dying(path, table):\n"
        "    write(path, table)\n"
        "    if path.name == 'part_00001.parquet': os.kill(os.getpid(), signal.SIGKILL)\n"
        "table_writers.write_part = dying\n"
        "runpy.run_path('run.py', run_name='__main__')\n"
    )
    words = [*QUICK, "workers=1", "predict.name=sigkill", f"data_dir={Path(done.data_dir).parent}"]
    died = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    staging = done.predictions_dir / ".sigkill.staging" / "galaxies"
    assert [path.name for path in sorted(staging.glob("part_*"))] == ["part_00000.parquet", "part_00001.parquet"]
    for part in staging.glob("part_*"):
        pd.read_parquet(part)


@pytest.mark.parametrize("form", ["fits", "csv"])
def test_one_file_has_the_same_rows_as_the_parts(form: str, done: Settings, parts_of_one: None) -> None:
    expected = galaxies_of(predict.run(named(done, "all", columns=("file_loc",))))
    path = predict.run(named(done, form, format=form, columns=("file_loc",)))
    assert not (path / "galaxies").exists()
    if form == "fits":
        table = Table.read(path / "catalogue.fits")
        comments = fits.getheader(path / "catalogue.fits", 1)["TCOMM*"]
        assert len(comments) == len(expected.columns) and comments["TCOMM1"] == "the galaxy's id"
        table.convert_bytestring_to_unicode()
        found = table.to_pandas()
    else:
        found = pd.read_csv(path / "catalogue.csv", dtype={"id_str": "string"})
    assert list(found) == list(expected) and found["id_str"].tolist() == expected["id_str"].tolist()
    assert found["learnt_from"].tolist() == expected["learnt_from"].tolist()
    assert found["file_loc"].tolist() == expected["file_loc"].tolist()
    numbers = [name for name in expected if expected[name].dtype == np.float32]
    assert len(numbers) > 30 and (found[numbers].astype(np.float32) == expected[numbers]).all(axis=None)


def test_positions_and_texts_that_fits_cannot_hold(tmp_path: Path) -> None:
    import pyarrow as pa

    columns = [
        table_writers.Column("id_str", "the id", pa.string()), table_writers.Column("ra", "", pa.float64(), "deg"),
        table_writers.Column("n", "", pa.int64()),
    ]  # fmt: skip
    for number, ids in enumerate((["a", "longer"], ["ü"])):
        ra, n = [1.25, None][: len(ids)], [2**60, 7][: len(ids)]
        table = pa.table([pa.array(ids), pa.array(ra), pa.array(n)], table_writers.schema(columns))
        table_writers.write_part(tmp_path / f"part_{number}.parquet", table)
    table_writers.write_fits([tmp_path / "part_0.parquet"], tmp_path / "a.fits")
    table = Table.read(tmp_path / "a.fits", mask_invalid=False)
    assert table["id_str"].tolist() == ["a", "longer"] and table["n"].tolist() == [2**60, 7]
    assert str(table["ra"].unit) == "deg" and table["ra"][0] == 1.25 and np.isnan(table["ra"][1])
    assert (tmp_path / "a.fits").stat().st_size % 2880 == 0
    table_writers.write_csv([tmp_path / f"part_{n}.parquet" for n in (0, 1)], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        '"id_str","ra","n"', '"a",1.25,1152921504606846976', '"longer",,7', '"ü",1.25,1152921504606846976',
    ]  # fmt: skip
    with pytest.raises(InputError, match="'ü' is not ASCII"):
        table_writers.write_fits([tmp_path / "part_1.parquet"], tmp_path / "b.fits")


def test_the_data_card_says_what_is_in_the_catalogue(done: Settings) -> None:
    path = predict.run(named(done, "card", citation="Nobody et al. 2026"))
    text, found = (path / "README.md").read_text(), galaxies_of(path)
    for said in (
        f"One row a galaxy: {len(found)}.", "Nobody et al. 2026", "NOT SET: give predict.licence=",
        f"the votes of {found['learnt_from'].sum()} of these galaxies", "0 galaxies have no row",
    ):  # fmt: skip
        assert said in text
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == list(found)
    content = json.loads((path / "croissant.json").read_text())
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.0" and content["citeAs"] == "Nobody et al. 2026"
    assert [f["source"]["extract"]["column"] for f in content["recordSet"][0]["field"]] == list(found)
    files = [each for each in content["distribution"] if each["@type"] == "cr:FileObject"]
    assert [folders.digest_file(path / each["contentUrl"]) for each in files] == [each["sha256"] for each in files]


def test_galaxies_without_a_picture_are_listed(compose: Compose, done: Settings) -> None:
    """Some pictures are spoilt after the experiment; the catalogue of new shards counts them."""
    settings = compose(*QUICK, "shards.name=damaged", "max_dropped_fraction=0.1", data_dir=Path(done.data_dir).parent)
    lost = pd.read_csv(done.catalog_dir / "mock_unlabelled.csv")["id_str"].tolist()[:2]
    pictures = [done.source_dir / "galaxies" / f"{id_}.png" for id_ in lost]
    before = [picture.read_bytes() for picture in pictures]
    try:
        for picture in pictures:
            picture.write_bytes(b"no picture")
        shards.run(settings)
    finally:
        for picture, content in zip(pictures, before, strict=True):
            picture.write_bytes(content)
    path = predict.run(named(settings, "damaged"))
    assert pd.read_csv(path / "dropped.csv")["id_str"].tolist() == lost
    assert "- 2 galaxies have no row" in (path / "README.md").read_text()
    found, every = galaxies_of(path), galaxies_of(predict.run(named(done, "undamaged")))
    same = every[~every["id_str"].isin(lost)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, same, rtol=1e-4, atol=1e-6)


def test_what_is_there_is_not_made_again_and_not_overwritten(done: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first = folders.digest_of(predict.run(named(done, "twice")))
    assert folders.digest_of(predict.run(named(done, "twice"))) == first and "nothing to do" in caplog.text
    with pytest.raises(FolderError, match=r"predict\.format: 'parquet' there, 'csv' now"):
        predict.run(named(done, "twice", format="csv"))


# --------------------------------------------------------------- what is refused


def test_an_experiment_that_is_not_there_or_not_finished(done: Settings, compose: Compose) -> None:
    with pytest.raises(FolderError, match="does not exist: no experiment has this name"):
        predict.run(replace(done, experiment_name="nobody"))
    settings = compose(*QUICK[:-1], "experiment_name=unfinished", "simulate.iterations=1",
                       data_dir=Path(done.data_dir).parent)  # fmt: skip
    simulate.run(settings)
    with pytest.raises(FolderError, match="has no final model"):
        predict.run(settings)
    with pytest.raises(FolderError, match="stage=shards"):
        predict.run(replace(done, shards=replace(done.shards, name="nowhere")))


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["task=smooth"], "is for task smooth, and .* has learnt task demo_tree"),
        (["shards.name=small", "shards.image_size_px=16", "model.final_size_px=16"], "image_size_px: 32 there, 16 now"),
        (["shards.name=cropped", "shards.crop=0.5"], r"shards\.crop: 1\.0 there, 0\.5 now"),
    ],
)
def test_shards_that_the_model_has_not_learnt_to_read(
    overrides: list[str], said: str, done: Settings, compose: Compose
) -> None:
    settings = compose(*QUICK, *overrides, data_dir=Path(done.data_dir).parent)
    simulate.run(replace(settings, experiment_name=f"other_{settings.shards.name}", simulate=replace(
        settings.simulate, iterations=1)))  # fmt: skip
    with pytest.raises(SettingsError, match=said):
        predict.run(settings)


def test_pictures_of_another_size_are_seen_without_the_experiment_s_shards(
    done: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tfrecords.load_config(done.shard_dir), image_size_px=48)
    monkeypatch.setattr(tfrecords, "load_config", lambda folder: config)
    monkeypatch.setattr(predict, "_refuse_others", lambda *_: None)
    with pytest.raises(SettingsError, match=r"takes pictures of another size; .* holds pictures of 48 px"):
        predict.run(named(done, "size"))


def test_columns_that_are_not_there_or_there_anyway(done: Settings) -> None:
    with pytest.raises(InputError, match="has no column redshift"):
        predict.run(named(done, "columns", columns=("redshift",)))
    with pytest.raises(SettingsError, match="has a column id_str anyway"):
        predict.run(named(done, "columns", columns=("id_str",)))
