"""The final model: networks or the newest iteration's head, what it may learn from, crashes, loading elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoobot import folders, metrics
from zoobot.errors import FolderError
from zoobot.folders import disk
from zoobot.galaxies import tfrecords
from zoobot.iterations import finishing, networks
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.iterations.final_files import FinalFolder, final_of
from zoobot.iterations.iteration import Iteration, Labelled
from zoobot.models import datasets, training
from zoobot.settings import Settings
from zoobot.stages import finish, instructions, iterate, report, simulate

Compose = Callable[..., Settings]
QUICK = ("stage=finish", "quick=true", "tracking=disabled", "simulate.iterations=2")


pytestmark = pytest.mark.long  # all of them need a simulation


@pytest.fixture(scope="module")
def done(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two iterations of a head on a frozen encoder; some of the galaxies asked about were drawn at random."""
    settings = compose(
        *QUICK, "model=pretrained", "acquisition=mixture", "acquisition.random_share=0.5", "experiment_name=done",
        data_dir=tmp_path_factory.mktemp("data"),
    )  # fmt: skip
    simulate.run(settings)
    return settings


@pytest.fixture(autouse=True)
def no_final(done: Settings) -> None:
    path = final_of(ExperimentFolder(done.experiment_dir)).path
    for folder in (path, folders.unfinished(path)):
        if folder.exists():
            disk.make_writable(folder)
            shutil.rmtree(folder)


def newest(settings: Settings) -> IterationFolder:
    return ExperimentFolder(settings.experiment_dir).iterations()[-1]


def judge(monkeypatch: pytest.MonkeyPatch, eval_loss: float) -> None:
    """Give the newest iteration's model this eval loss, so that it is worse or better than the networks."""
    monkeypatch.setattr(IterationFolder, "loss", lambda self, split: eval_loss)


def config_of(settings: Settings) -> tfrecords.ShardConfig:
    return tfrecords.load_config(settings.shard_dir)


def counts_of(settings: Settings, split: str) -> tuple[list[Path], Any]:
    """The shards of a split, and its votes, read without the code under test."""
    config = config_of(settings)
    files = [settings.shard_dir / name for name in config.splits[split]]
    votes = [tfrecords.decode(record, config.encoding)[2] for file in files for record in tfrecords.read(file)]
    label, total = (np.array([v[name] for v in votes]) for name in ("label", "total_votes"))
    return files, np.stack([label, total - label], axis=1)


def test_networks_that_are_better_are_the_final_model_and_need_no_other_folder(
    done: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    judge(monkeypatch, 99.0)
    made = FinalFolder(finish.run(done))
    found = made.read()
    assert found.fine_tuned and found.recipe.model.ensemble == 2 and "eval loss lower by" in caplog.text
    assert found.better_by == pytest.approx(99 - found.eval_loss) and found.iteration_test_loss == 99
    assert found.train_galaxies == newest(done).summary().train_galaxies
    assert {"encoder.weights.h5", "encoder_1.weights.h5", "head_1.weights.h5"} <= {p.name for p in made.model.iterdir()}
    assert folders.verify(made.path) == []

    moved = FinalFolder(tmp_path / "elsewhere")
    shutil.copytree(made.path, moved.path)
    encoders = done.encoders_dir.rename(done.encoders_dir.with_name("hidden"))
    try:
        model = finishing.load(moved, config_of(done), tmp_path / "features")
        for split in ("eval", "test"):
            files, counts = counts_of(done, split)
            assert metrics.loss(model.predict(files), counts) == pytest.approx(made.loss(split), rel=1e-6)
    finally:
        encoders.rename(done.encoders_dir)


def test_networks_that_are_not_better_leave_the_head_which_is_whole(
    done: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with monkeypatch.context() as patch:
        judge(patch, 0.0)
        made = FinalFolder(finish.run(done))
    found, last = made.read(), newest(done)
    assert not found.fine_tuned and found.tried_eval_loss is not None and found.tried_eval_loss > 0
    assert "training further does not lower its eval loss" in caplog.text
    assert (made.model / "head.npz").read_bytes() == (last.model / "head.npz").read_bytes()
    assert made.metrics() == last.metrics() and made.test_losses() == last.test_losses()
    assert {p.name for p in made.model.iterdir()} == {
        "architecture.json", "training.json", "head.npz", "encoder.json", "encoder.weights.h5",
    }  # fmt: skip
    model = finishing.load(made, config_of(done), tmp_path)
    files, counts = counts_of(done, "test")
    assert metrics.loss(model.predict(files), counts) == pytest.approx(last.loss("test"), rel=1e-6)


def test_a_crash_in_the_second_network_goes_on_to_the_same_bytes(
    done: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judge(monkeypatch, 99.0)
    whole = folders.digest_of(finish.run(done))
    assert finish.run(done) and folders.digest_of(final_of(ExperimentFolder(done.experiment_dir)).path) == whole
    path = final_of(ExperimentFolder(done.experiment_dir)).path
    disk.make_writable(path)
    shutil.rmtree(path)
    add, trained = training._TrainingState.add, []

    def then_die(state: Any, *losses: float) -> None:
        add(state, *losses)
        trained.append(state)
        if len(trained) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._TrainingState, "add", then_die)
        with pytest.raises(KeyboardInterrupt):
            finish.run(done)
    assert not path.exists()
    caplog.set_level("INFO")
    finish.run(done)
    assert caplog.text.count("training continues after epoch 1") == 2
    assert folders.digest_of(path) == whole and not folders.unfinished(path).exists()


def test_only_train_and_acquired_labels_are_learnt_from(done: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(monkeypatch, 99.0)
    path = finish.run(done)
    whole = FinalFolder(path).read()
    disk.make_writable(path)
    shutil.rmtree(path)
    labelled, read = Iteration.labelled, []

    def reversed_votes(it: Iteration, split: str) -> Labelled:
        found = labelled(it, split)
        return found if split == "train" else replace(found, counts_N_A=found.counts_N_A[:, ::-1])

    def noted(files: list[Path], *others: Any) -> Any:
        read.extend(files)
        return datasets.dataset(files, *others)

    monkeypatch.setattr(Iteration, "labelled", reversed_votes)
    monkeypatch.setattr(networks, "dataset", noted)
    finish.run(done)
    other = FinalFolder(path).read()
    assert (other.weights_sha256, other.recipe) == (whole.weights_sha256, whole.recipe)
    assert other.eval_loss != whole.eval_loss and other.test_loss != whole.test_loss, "the test changes these votes"
    assert {file.parent.name for file in read} == {"parts"}


class Stop(Exception):
    """Ends a run where the test has seen enough."""


def test_every_label_is_left_out_once_and_only_random_ones_calibrate(
    done: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[list[str]] = []
    calibrated: dict[str, list[float]] = {}

    def fine_tune(it: Iteration, given: list[networks.Records], folder: Path) -> Any:
        parts.extend([id_ for file in part.files for id_ in tfrecords.read_ids(file)] for part in given)
        assert [part.n for part in given] == [len(part) for part in parts]
        row_N = np.arange(sum(map(len, parts)), dtype=np.float32)
        return np.stack([row_N, row_N], axis=1)[:, None]  # one sample, which says its row

    def fit(left_out: metrics.PredictedVotes, counts_N_A: Any, spread: bool) -> None:
        assert not spread, "one network's samples do not say how much networks differ"
        ids = [id_ for part in parts for id_ in part]
        rows = left_out.samples_N_K_A[:, 0, 0].astype(int)
        calibrated.update(zip([ids[row] for row in rows], counts_N_A.tolist(), strict=True))
        raise Stop

    monkeypatch.setattr(networks, "fine_tune", fine_tune)
    monkeypatch.setattr(finishing, "fit_calibration", fit)
    with pytest.raises(Stop):
        finish.run(done)
    experiment, first = ExperimentFolder(done.experiment_dir), counts_of(done, "train")
    ids = [id_ for file in first[0] for id_ in tfrecords.read_ids(file)]
    acquired = [id_ for file in newest(done).labelled_files("acquired") for id_ in tfrecords.read_ids(file)]
    assert sorted(parts[0] + parts[1]) == sorted(ids + acquired) and abs(len(parts[0]) - len(parts[1])) <= 1
    drawn = experiment.iteration(0).drawn_at_random() & set(acquired)
    assert 0 < len(drawn) < len(acquired)
    assert set(calibrated) == set(ids) | drawn
    assert [calibrated[id_] for id_ in ids] == first[1].tolist()


def test_networks_of_iterations_are_trained_again_in_the_same_way(
    done: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = compose(
        *QUICK[:-1], "model.ensemble=2", "experiment_name=networks", data_dir=Path(done.data_dir).parent
    )  # fmt: skip
    instructions.run(settings)
    iterate.run(settings)
    with monkeypatch.context() as patch:
        judge(patch, 0.0)
        kept = FinalFolder(finish.run(settings))
    assert not kept.read().fine_tuned
    model = finishing.load(kept, config_of(settings), tmp_path)
    files, counts = counts_of(settings, "test")
    assert metrics.loss(model.predict(files), counts) == pytest.approx(newest(settings).loss("test"), rel=1e-6)
    kept.path.rename(kept.path.with_name("earlier"))

    judge(monkeypatch, 99.0)
    found = FinalFolder(finish.run(settings)).read()
    assert found.fine_tuned and found.recipe.model == settings.model
    assert found.weights_sha256 != newest(settings).summary().weights_sha256


def test_fixed_features_are_finished_without_networks(compose: Compose, tmp_path: Path) -> None:
    settings = compose(*QUICK, "model=pixels", "experiment_name=pixels", data_dir=tmp_path)
    simulate.run(settings)
    made = FinalFolder(finish.run(settings))
    found = made.read()
    assert not found.fine_tuned and found.tried_eval_loss is None and found.better_by == 0
    files, counts = counts_of(settings, "eval")
    model = finishing.load(made, config_of(settings), tmp_path / "features")
    assert metrics.loss(model.predict(files), counts) == pytest.approx(made.loss("eval"), rel=1e-6)
    summary = json.loads((report.run(settings).with_name("summary.json")).read_text())
    assert summary["experiments"][0]["final"] == {
        "fine_tuned": False, "better_by": 0.0, "test_loss": found.test_loss, "iteration_test_loss": found.test_loss,
    }  # fmt: skip
    assert "Final model of simulations/pixels" in report.run(settings).read_text()

    iterate.run(settings)  # more labels than the final model has seen
    with pytest.raises(FolderError, match="input iteration: it has changed since"):
        finish.run(settings)


def test_an_experiment_without_iterations_cannot_be_finished(done: Settings) -> None:
    settings = replace(done, experiment_name="empty")
    instructions.run(settings)
    with pytest.raises(FolderError, match="has no finished iteration"):
        finish.run(settings)
