"""The complete loop on tiny galaxies: every stage runs for real, then the folders are checked."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.records import another_manifest
from zoobot import folders, metrics
from zoobot.errors import FolderError, SettingsError
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import Group, build_task
from zoobot.iterations import receive
from zoobot.iterations.files import IterationFolder
from zoobot.metrics.temperature import Calibration, calibrate
from zoobot.oracles.protocol import Asked, Received
from zoobot.settings import Settings
from zoobot.stages import catalogs, instructions, iterate, master_catalog, shards, simulate

Compose = Callable[..., Settings]
QUICK = ("stage=simulate", "quick=true", "oracle.late_fraction=0.4", "tracking=disabled", "model=pixels")


@pytest.fixture(scope="module")
def done(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A finished simulation of three iterations, for tests that only read it."""
    settings = compose(*QUICK, "acquisition=mutual_information", data_dir=tmp_path_factory.mktemp("data"))
    simulate.run(settings)
    return settings


def iteration(settings: Settings, number: int) -> Path:
    return settings.experiment_dir / f"iteration_{number}"


def read(settings: Settings, number: int, name: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((iteration(settings, number) / name).read_text())
    return content


def copy_data(settings: Settings, tmp_path: Path) -> Settings:
    """A writable copy of the same data."""
    data_dir = tmp_path / "moved" / "quick"
    shutil.copytree(settings.data_dir, data_dir)
    for path in (data_dir, *data_dir.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return replace(settings, data_dir=str(data_dir))


def test_an_iteration_holds_what_the_contract_says(done: Settings) -> None:
    for number in range(3):
        names = {path.name for path in iteration(done, number).iterdir()}
        assert names == {
            "iteration.json", "iteration.db", "classifications", "acquired", "model", "predictions.parquet", "pictures",
            "requests.json", "metrics.json", "eval.parquet", "test.parquet", "manifest.json",
        }  # fmt: skip


def test_every_folder_verifies_down_to_the_catalogs(done: Settings) -> None:
    chain = folders.with_inputs([iteration(done, 2)])
    names = {path.name for path in chain}
    assert {"iteration_0", "iteration_1", "instructions", done.shards.name, done.catalogs.name} <= names
    assert [problem for path in chain for problem in folders.verify(path)] == []


def test_labels_asked_for_are_received_once_and_trained_on(done: Settings) -> None:
    asked: list[str] = []
    for number in range(3):
        with database.connect(iteration(done, number) / "iteration.db") as connection:
            rows = connection.execute("SELECT id_str FROM labels WHERE iteration = ?", (number,)).fetchall()
        received = {id_str for (id_str,) in rows}
        files = sorted((iteration(done, number) / "acquired").glob("*.tfrecord"))
        assert {id_str for path in files for id_str in tfrecords.read_ids(path)} == received <= set(asked)
        summary = read(done, number, "iteration.json")
        assert summary["labels_received"] == len(received)
        new = read(done, number, "requests.json")["ids"]
        assert isinstance(new, list) and not set(new) & set(asked), "a galaxy was asked about twice"
        asked += new
    with database.connect(iteration(done, 2) / "iteration.db") as connection:
        labelled = database.labelled_ids(connection, "pool")
    waiting = set(asked[:16]) - labelled
    assert 0 < len(labelled) < 16 and read(done, 2, "iteration.json")["still_waiting"] == len(waiting) > 0
    assert read(done, 2, "iteration.json")["train_galaxies"] == 24 + len(labelled)


def test_a_galaxy_with_too_few_votes_waits_and_its_earlier_votes_count(done: Settings) -> None:
    rows = [
        [
            json.loads(line)
            for line in (iteration(done, n) / "classifications/classifications.jsonl").read_text().splitlines()
        ]
        for n in range(3)
    ]
    per_subject = [
        pd.Series([row["links"]["subjects"][0] for row in part], dtype="str").value_counts() for part in rows
    ]
    in_two_parts = set(per_subject[1].index) & set(per_subject[2].index)
    assert in_two_parts
    assert all(per_subject[1][s] + per_subject[2][s] == done.oracle.votes_per_galaxy for s in in_two_parts)
    ids = [int(row["id"]) for part in rows for row in part]
    assert ids == list(range(1, len(ids) + 1))
    assert read(done, 2, "iteration.json")["last_classification_id"] == len(ids)


def test_as_many_votes_as_the_limit_are_not_enough_for_a_label(done: Settings) -> None:
    questions = load_questions("demo")
    it: Any = SimpleNamespace(questions=questions, task=build_task(done.task, questions))
    zero = dict.fromkeys(questions.columns, 0)
    smooth, disk = questions.root.columns[:2]
    votes = pd.DataFrame([zero | {smooth: 30, disk: 6}, zero | {smooth: 31, disk: 6}], index=["as many", "one more"])
    asked = {"as many": Asked("", 40, 2), "one more": Asked("", 40, 1)}
    found = receive._sort(it, Received([], votes, 0), asked, 36)
    assert {id_str: (counts["label"], counts["total_votes"]) for id_str, counts in found.labels.items()} == {
        "one more": (31, 37)
    }
    assert (found.below_threshold, found.returned, found.waiting) == (0, [], {2: {"as many": 36}})


def test_what_is_finished_is_labelled_with_what_it_has_and_without_a_vote_goes_back(done: Settings) -> None:
    questions = load_questions("demo")
    it: Any = SimpleNamespace(questions=questions, task=build_task(done.task, questions))
    zero, smooth = dict.fromkeys(questions.columns, 0), questions.root.columns[0]
    rows = {"enough": 37, "retired": 36, "one": 1, "none": 0, "waits": 36, "waits too": 0, "waits since": 5}
    votes = pd.DataFrame([zero | {smooth: n} for n in rows.values()], index=list(rows))
    asked = {id_str: Asked("", 40, 3) for id_str in rows} | {"waits since": Asked("", 40, 1)}
    finished = frozenset({"enough", "retired", "one", "none"})
    found = receive._sort(it, Received([], votes, 0, finished=finished), asked, 36)
    assert {id_str: counts["total_votes"] for id_str, counts in found.labels.items()} == {
        "enough": 37, "retired": 36, "one": 1,
    }  # fmt: skip
    assert found.below_threshold == 2 and found.returned == ["none"]
    assert found.waiting == {1: {"waits since": 5}, 3: {"waits": 36, "waits too": 0}}


def test_labels_in_records_and_database_are_the_volunteers(done: Settings) -> None:
    path = next(iter(sorted((iteration(done, 1) / "acquired").glob("*.tfrecord"))))
    with database.connect(iteration(done, 1) / "iteration.db") as connection:
        stored = dict(connection.execute("SELECT id_str, votes FROM labels WHERE iteration = 1").fetchall())
    pool = {}
    config = tfrecords.load_config(done.shard_dir)
    for name in config.splits["pool"]:
        for record in tfrecords.read(done.shard_dir / name):
            id_str, pixels, votes = tfrecords.decode(record, "raw")
            assert votes == {}, "a hidden vote is in a pool shard"
            pool[id_str] = pixels
    for record in tfrecords.read(path):
        id_str, pixels, votes = tfrecords.decode(record, "raw")
        assert votes == json.loads(stored[id_str])
        assert 36 < votes["total_votes"] <= 40 and 0 <= votes["label"] <= votes["total_votes"]
        assert votes["label"] == votes["smooth-or-featured_smooth"]
        assert (pixels == pool[id_str]).all()


def test_requests_are_the_best_of_the_galaxies_that_may_be_asked_about(done: Settings) -> None:
    for number in range(3):
        predictions = pd.read_parquet(iteration(done, number) / "predictions.parquet")
        best = predictions.sort_values("acquisition", ascending=False).head(8)["id_str"]
        assert set(read(done, number, "requests.json")["ids"]) == set(best)  # type: ignore[call-overload]
        samples = np.stack(predictions["label"].to_list())
        assert samples.shape == (len(predictions), done.model.n_samples) and (samples > 0).all()
        with database.connect(iteration(done, number) / "iteration.db") as connection:
            assert not set(predictions["id_str"]) & database.labelled_ids(connection, "pool")


@pytest.mark.parametrize("name", ["lcmd", "batch_mutual_information"])
def test_batches_with_some_at_random(compose: Compose, done: Settings, tmp_path: Path, name: str) -> None:
    settings = compose(
        *QUICK, f"acquisition={name}", "experiment_name=batch", "acquisition.random_share=0.25",
        data_dir=Path(copy_data(done, tmp_path).data_dir).parent,
    )  # fmt: skip
    instructions.run(settings)
    iterate.run(settings)
    predictions = pd.read_parquet(iteration(settings, 0) / "predictions.parquet").sort_values("rank")
    assert read(settings, 0, "requests.json")["ids"] == predictions["id_str"].head(8).tolist()
    assert predictions["at_random"].tolist() == [False] * 6 + [True] * 2 + [False] * (len(predictions) - 8)


@pytest.mark.long
def test_a_network_is_trained_in_a_process_of_its_own_and_predicts(compose: Compose, tmp_path: Path) -> None:
    settings = compose("stage=simulate", "quick=true", "tracking=disabled", "simulate.iterations=1", data_dir=tmp_path)
    simulate.run(settings)
    names = {path.name for path in (iteration(settings, 0) / "model").iterdir()}
    weights = {"encoder.weights.h5", "encoder.json", "head.weights.h5"}
    assert names == weights | {"architecture.json", "training.json"}
    assert read(settings, 0, "iteration.json")["epochs"] == settings.model.max_epochs
    samples = np.stack(pd.read_parquet(iteration(settings, 0) / "predictions.parquet")["label"].to_list())
    assert ((samples >= 0) & (samples <= 1)).all() and samples.std(axis=1).min() > 0
    assert folders.verify(iteration(settings, 0)) == []


def test_the_mean_of_the_samples_differs_between_galaxies_and_samples(done: Settings) -> None:
    samples = np.stack(pd.read_parquet(iteration(done, 2) / "predictions.parquet")["label"].to_list())
    assert samples.mean(axis=1).std() > 0 and samples.std(axis=1).min() > 0


def test_doing_it_again_does_nothing(done: Settings, caplog: pytest.LogCaptureFixture) -> None:
    before = folders.digest_of(iteration(done, 2))
    caplog.set_level("INFO")
    simulate.run(done)
    assert caplog.text.count("nothing to do") == 5
    assert folders.digest_of(iteration(done, 2)) == before and not iteration(done, 3).exists()


def test_a_changed_setting_is_refused_with_its_key(done: Settings) -> None:
    changed = replace(done, model=replace(done.model, learning_rate=0.5))
    with pytest.raises(FolderError, match=r"model\.learning_rate: 0\.001 there, 0\.5 now"):
        simulate.run(changed)
    with pytest.raises(FolderError, match=r"model\.learning_rate"):
        iterate.run(changed)


def test_an_iteration_is_never_made_twice(done: Settings) -> None:
    with pytest.raises(FolderError, match="Each iteration is made only once"):
        iterate.run(replace(done, iterate=replace(done.iterate, previous="iteration_0")))


def test_equal_runs_have_equal_digests_anywhere_and_go_on_after_a_move(
    done: Settings, compose: Compose, tmp_path: Path
) -> None:
    again = compose(*QUICK, "acquisition=mutual_information", data_dir=tmp_path)
    for stage in (master_catalog, catalogs, shards, instructions, iterate):
        stage.run(again)
    assert folders.digest_of(iteration(again, 0)) == folders.digest_of(iteration(done, 0))
    moved = copy_data(done, tmp_path)
    shutil.rmtree(iteration(moved, 2))
    iterate.run(moved)  # in another folder, and without the last iteration
    assert folders.digest_of(iteration(moved, 2)) == folders.digest_of(iteration(done, 2))


def test_other_shards_than_the_instructions_name_are_refused(done: Settings, tmp_path: Path) -> None:
    moved = copy_data(done, tmp_path)
    another_manifest(moved.shard_dir, digest="0" * 64)
    with pytest.raises(FolderError, match="no longer holds the shards"):
        iterate.run(moved)


def test_a_gap_or_a_cut_file_stops_the_next_iteration_before_it_starts(done: Settings, tmp_path: Path) -> None:
    moved = copy_data(done, tmp_path)
    (iteration(moved, 1) / "requests.json").write_text("{}")
    with pytest.raises(FolderError, match=r"requests\.json: 2 bytes, should be"):
        iterate.run(moved)
    shutil.rmtree(iteration(moved, 1))
    with pytest.raises(FolderError, match="has no iteration_1"):
        iterate.run(moved)


def test_iterate_without_instructions_says_what_to_run(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="stage=instructions"):
        iterate.run(compose("stage=iterate", "quick=true", "model=pixels", data_dir=tmp_path))


@pytest.mark.parametrize(("name", "votes", "warned"), [
    ("mutual_information", 5, True), ("mutual_information", 20, False), ("random", 5, False)
])  # fmt: skip
def test_galaxies_with_other_votes_than_the_scores_expect_are_noticed_before_the_first_iteration(
    done: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, votes: int, warned: bool
) -> None:
    scores = replace(done.acquisition, name=name, expected_votes=votes)
    instructions.run(replace(copy_data(done, tmp_path), experiment_name="other", acquisition=scores))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.rpartition("set ")[2] for message in warnings] == ["acquisition.expected_votes=49"] * warned


@pytest.mark.parametrize("model", [("model.warm_start=true",), ("model=pixels", "model.colour=false")])
@pytest.mark.long
def test_a_tree_with_the_historical_votes(compose: Compose, tmp_path: Path, model: tuple[str, ...]) -> None:
    settings = compose(
        "stage=simulate", "quick=true", "task=demo_tree", "oracle=known", "acquisition=random", "simulate.iterations=2",
        "shards.encoding=png", "shards.channels=1", *model, data_dir=tmp_path,
    )  # fmt: skip
    simulate.run(settings)
    oracle = pd.read_csv(settings.catalog_dir / "oracle.csv").set_index("id_str")
    with database.connect(iteration(settings, 1) / "iteration.db") as connection:
        rows = connection.execute("SELECT id_str, votes FROM labels WHERE iteration = 1").fetchall()
    assert len(rows) == 8
    for id_str, votes in rows:
        assert json.loads(votes) == oracle.loc[id_str].to_dict()
    measured = read(settings, 1, "metrics.json")["test"]
    assert isinstance(measured, dict) and set(measured) == {*settings.task.questions, "all"}
    if settings.model.warm_start:
        first = [read(settings, n, "model/training.json")["eval_loss"][0] for n in range(2)]
        assert first[1] < first[0]


def test_a_calibration_is_fitted_on_eval_and_used_on_test_and_on_the_pool(compose: Compose, tmp_path: Path) -> None:
    measured, predicted = [], []
    for recalibrate in (False, True):
        settings = compose(
            "stage=simulate", "quick=true", "task=demo_tree", "model=pixels", "tracking=disabled",
            "acquisition=mutual_information", "simulate.iterations=1", f"model.recalibrate={recalibrate}",
            data_dir=tmp_path / str(recalibrate),
        )  # fmt: skip
        simulate.run(settings)
        measured.append([read(settings, 0, name) for name in ("iteration.json", "metrics.json")])
        table = pd.read_parquet(iteration(settings, 0) / "predictions.parquet").set_index("id_str")
        bar = np.stack([np.stack(table[answer].to_list()) for answer in ("bar_yes", "bar_no")], axis=2)
        predicted.append(metrics.PredictedVotes(bar, (Group("bar", ("yes", "no")),), settings.model.likelihood))
        assert (table["acquisition"] > 0).all()  # of concentrations
    (off, plain), (on, corrected) = measured
    assert off["weights_sha256"] == on["weights_sha256"]
    by = IterationFolder(iteration(settings, 0)).summary().calibration
    assert all(off[key] == 1 for key in vars(by)) and by != Calibration()
    assert corrected["eval"]["all"]["loss"] < plain["eval"]["all"]["loss"]
    assert corrected["test"]["all"]["loss"] != plain["test"]["all"]["loss"]
    assert calibrate(predicted[0], by).samples_N_K_A == pytest.approx(
        predicted[1].samples_N_K_A, rel=0.01
    )  # stored with 8 bits


def test_an_unknown_likelihood_is_refused(compose: Compose, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model\.likelihood=poisson: choose one of multinomial, dirichlet"):
        compose("stage=simulate", "model.likelihood=poisson", data_dir=tmp_path)


def test_instructions_hold_every_fixed_setting_and_no_machine(done: Settings) -> None:
    content = json.loads((done.experiment_dir / "instructions" / "instructions.json").read_text())
    assert content["shards"]["digest"] == folders.digest_of(done.shard_dir)
    assert not Path(content["shards"]["path"]).is_absolute()
    for key in ("task", "model", "acquisition", "oracle", "iterations", "subjects_per_iteration",
                "shards_per_iteration", "initial_size_px", "final_size_px", "warm_start", "seed",
                "last_classification_id"):  # fmt: skip
        assert key in content, key
    instructions.run(done)
