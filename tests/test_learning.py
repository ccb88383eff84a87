"""How an iteration learns: a head on a frozen encoder and its cache, ensembles, a crash in the middle, the gate."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.records import another_manifest
from zoobot import acquisition, folders
from zoobot.engine import process
from zoobot.errors import FolderError, InputError, SettingsError
from zoobot.galaxies import tfrecords
from zoobot.models import encoders, features, head, losses, mc_dropout, training
from zoobot.settings import Settings
from zoobot.stages import instructions, iterate, simulate

Compose = Callable[..., Settings]
QUICK = ("stage=simulate", "quick=true", "tracking=disabled")
HEAD = (*QUICK, "model=pretrained", "acquisition=mutual_information")
ENSEMBLE = (*QUICK, "model.ensemble=3", "model.warm_start=true", "acquisition=ensemble_disagreement")


@pytest.fixture(scope="module")
def frozen(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Three iterations of a head on an encoder of stage=pretrain, and the shards that the other tests share."""
    settings = compose(*HEAD, "experiment_name=frozen", data_dir=tmp_path_factory.mktemp("data"))
    simulate.run(settings)
    return settings


def beside(frozen: Settings, compose: Compose, name: str, *overrides: str) -> Settings:
    """Settings of another experiment on the same shards."""
    return compose(*overrides, f"experiment_name={name}", data_dir=Path(frozen.data_dir).parent)


def iteration(settings: Settings, number: int) -> Path:
    return settings.experiment_dir / f"iteration_{number}"


def read(settings: Settings, number: int, name: str) -> Any:
    return json.loads((iteration(settings, number) / name).read_text())


def forget(path: Path) -> None:
    """Delete a finished folder."""
    for folder in (path, *path.rglob("*")):
        folder.chmod(0o755)
    shutil.rmtree(path)


# --------------------------------------------------------------- a head on a frozen encoder


@pytest.mark.long
def test_a_head_is_fitted_to_the_features_of_the_encoder_that_is_named(frozen: Settings) -> None:
    encoder = json.loads((frozen.encoders_dir / "galaxies" / "encoder.json").read_text())
    for number in range(3):
        folder = iteration(frozen, number) / "model"
        assert {path.name for path in folder.iterdir()} == {"head.npz", "architecture.json", "training.json"}
        assert read(frozen, number, "model/architecture.json")["encoder"] == encoder["weights_sha256"]
        fitted = head.load(folder / "head.npz")
        correlation = read(frozen, number, "model/training.json")["questions"]["smooth-or-featured"][
            "votes_correlation"
        ]
        assert fitted.questions[0].rho == correlation
    samples = np.stack(pd.read_parquet(iteration(frozen, 2) / "predictions.parquet")["label"].to_list())
    assert samples.shape[1] == frozen.model.n_samples and (samples > 0).all() and samples.std(axis=1).min() > 0
    assert "encoder" in json.loads((frozen.experiment_dir / "instructions" / "instructions.json").read_text())
    chain = folders.with_inputs([iteration(frozen, 2)])
    assert frozen.encoders_dir / "galaxies" in chain and not [p for path in chain for p in folders.verify(path)]


def test_features_are_kept_and_deleting_them_changes_nothing(frozen: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = folders.digest_of(iteration(frozen, 2))
    encoded: list[Path] = []
    encode = encoders.encode

    def counted(of_records: encoders.Pass, path: Path, batch_size: int) -> Any:
        encoded.append(path)
        return encode(of_records, path, batch_size)

    monkeypatch.setattr(encoders, "encode", counted)
    features._last_built.clear()
    build = encoders.build
    monkeypatch.setattr(encoders, "build", lambda *_: pytest.fail("the encoder was built"))
    forget(iteration(frozen, 2))
    iterate.run(frozen)
    assert encoded == [] and folders.digest_of(iteration(frozen, 2)) == before
    monkeypatch.setattr(encoders, "build", build)
    forget(iteration(frozen, 2))
    shutil.rmtree(frozen.features_dir)
    iterate.run(frozen)
    assert folders.digest_of(iteration(frozen, 2)) == before
    assert len(encoded) == len(set(encoded)) == len(list(frozen.features_dir.rglob("*.npy"))) > 5


def test_kept_features_are_those_of_the_encoder(frozen: Settings) -> None:
    config = tfrecords.load_config(frozen.shard_dir)
    path = frozen.shard_dir / config.splits["pool"][0]
    encoder = encoders.build(frozen.model, config.image_size_px, config.channels)
    encoders.load(encoder, frozen.encoders_dir / "galaxies")
    pictures = np.stack([tfrecords.decode(record, "raw")[1] for record in tfrecords.read(path)])
    turned = [np.rot90(flipped, k, axes=(1, 2)) for flipped in (pictures, pictures[:, :, ::-1]) for k in range(4)]
    mean = np.mean([np.asarray(encoder(view.copy(), training=False)) for view in turned], axis=0)
    assert features.frozen_features(frozen, config).of(path) == pytest.approx(mean, abs=1e-4)


def test_features_that_were_changed_are_made_again(frozen: Settings) -> None:
    config = tfrecords.load_config(frozen.shard_dir)
    path = frozen.shard_dir / config.splits["pool"][0]
    before = np.array(features.frozen_features(frozen, config).of(path))
    for damage in (lambda content: content[:-3] + b"abc", lambda content: content[: len(content) // 2], lambda _: b""):
        for kept in frozen.features_dir.rglob("*.npy"):
            kept.write_bytes(damage(kept.read_bytes()))
        assert np.array_equal(features.frozen_features(frozen, config).of(path), before)
    name = folders.digest_in(path)[:16]
    assert len(list(frozen.features_dir.rglob(f"{name}*.npy"))) == 1, "what was damaged is removed"


@pytest.mark.parametrize("override", ["model.blocks=[[8],[16]]", "model.final_size_px=16", "model.colour=false",
                                      "model.architecture=cnn"])  # fmt: skip
@pytest.mark.parametrize("bare", [False, True])
def test_weights_that_do_not_fit_are_refused_by_the_instructions(
    override: str, bare: bool, frozen: Settings, compose: Compose, tmp_path: Path
) -> None:
    more = []
    if bare:
        shutil.copyfile(frozen.encoders_dir / "galaxies" / "encoder.weights.h5", tmp_path / "a.weights.h5")
        more.append(f"model.weights={tmp_path}/a.weights.h5")
    settings = beside(frozen, compose, f"unfit_{bare}", *HEAD, *more)
    key = override.removeprefix("model.").split("=")[0]
    changed = {"blocks": [[8], [16]], "final_size_px": 16, "colour": False, "architecture": "cnn"}[key]
    other = replace(settings, model=replace(settings.model, **{key: changed}))
    if bare and key == "final_size_px":
        return  # the same weights: a network without a dense layer takes any size
    with pytest.raises(SettingsError, match=rf"{key}: .* there, .* now|does not fit this network"):
        instructions.run(other)
    assert not other.experiment_dir.exists()


def test_another_encoder_than_the_instructions_name_is_refused(frozen: Settings) -> None:
    manifest = frozen.encoders_dir / "galaxies" / "manifest.json"
    content = manifest.read_text()
    try:
        another_manifest(manifest.parent, digest="0" * 64)
        with pytest.raises(FolderError, match="no longer holds the encoder"):
            iterate.run(frozen)
    finally:
        manifest.write_text(content)
        manifest.chmod(0o444)


def test_a_file_of_weights_that_changed_since_the_instructions_is_refused(
    frozen: Settings, compose: Compose, tmp_path: Path
) -> None:
    weights = tmp_path / "mine.weights.h5"
    shutil.copyfile(frozen.encoders_dir / "galaxies" / "encoder.weights.h5", weights)
    settings = beside(frozen, compose, "from_a_file", *HEAD, f"model.weights={weights}")
    path = instructions.run(settings)
    assert folders.read_json(path / "instructions.json")["encoder"]["digest"] == folders.digest_file(weights)
    assert not folders.verify(path)
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(FolderError, match=r"mine\.weights\.h5 no longer holds the encoder"):
        iterate.run(settings)
    weights.unlink()
    with pytest.raises(FolderError, match=r"mine\.weights\.h5 is missing"):
        iterate.run(settings)


def test_the_head_learns_which_galaxies_were_drawn_at_random(
    frozen: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_random: list[Any] = []
    fit = head.fit

    def recorded(*given: Any) -> head.Head:
        at_random.append(given[3])
        return fit(*given)

    monkeypatch.setattr(head, "fit", recorded)
    for name, share in (("mixture", 0.5), ("random", 1)):
        at_random.clear()
        overrides = (f"acquisition={name}", "oracle.late_fraction=0", f"acquisition.random_share={share % 1}")
        settings = beside(frozen, compose, f"at_random_{name}", *HEAD, *overrides)
        simulate.run(settings)
        n_first = int(at_random[0].sum())
        if name == "random":
            assert at_random.pop().all(), "the last one is the fit to all labels"
        assert [len(t) - n_first for t in at_random] == [0, 8, 16] and at_random[0].all()
        assert [t.sum() - n_first for t in at_random] == [0, 8 * share, 16 * share]


def test_an_encoder_of_another_survey_is_named_from_this_one(frozen: Settings, compose: Compose) -> None:
    other = beside(frozen, compose, "other", *HEAD, "survey.name=other", "model.weights=../../demo/encoders/galaxies")
    assert not other.encoders_dir.exists() and instructions.encoder_source(other) == frozen.encoders_dir / "galaxies"


def test_an_encoder_of_another_shape_or_none_is_refused(frozen: Settings) -> None:
    config = tfrecords.load_config(frozen.shard_dir)
    other = replace(frozen, model=replace(frozen.model, blocks=[[5]]))
    with pytest.raises(SettingsError, match=r"not have the shape in the settings:\n  blocks: \[\[4\], \[8\]\] there"):
        features.frozen_features(other, config)
    with pytest.raises(SettingsError, match=r"does not exist\. Give the name of an encoder"):
        features.frozen_features(replace(frozen, model=replace(frozen.model, weights="nowhere")), config)


@pytest.mark.parametrize("architecture", ["cnn", "pooled_cnn"])
def test_imagenet_is_refused_for_our_own_architectures(settings: Compose, architecture: str) -> None:
    with pytest.raises(SettingsError, match=f"imagenet: Keras has none for model.architecture={architecture}"):
        settings(*QUICK, "model=pretrained", f"model.architecture={architecture}", "model.weights=imagenet")
    settings(*QUICK, "model=efficientnet_b0", "model.weights=imagenet")


def test_a_simulation_pretrains_in_a_process_of_its_own(settings: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def call(function: Any, of: Settings, what: str) -> None:
        asked.append(of.stage)
        raise InputError("far enough")

    monkeypatch.setattr(process, "call", call)
    with pytest.raises(InputError, match="far enough"):
        simulate.run(settings(*QUICK, "model=pretrained"))
    assert asked == ["pretrain"]


# --------------------------------------------------------------- ensembles


@pytest.mark.long
def test_an_ensemble_learns_predicts_and_warm_starts_by_member(
    frozen: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = beside(frozen, compose, "ensemble", *ENSEMBLE)
    started: list[str] = []
    candidates: list[acquisition.Candidates] = []
    train, choose = training.train, acquisition.choose

    def note_start(network: mc_dropout.Network, *others: Any) -> Any:
        started.append(encoders.digest(network.encoder))
        return train(network, *others)

    def note_candidates(name: str, of: acquisition.Source, *others: Any, **named: Any) -> acquisition.Choice:
        candidates.append(of.take(np.arange(len(of))))
        return choose(name, of, *others, **named)

    monkeypatch.setattr(training, "train", note_start)
    monkeypatch.setattr(acquisition, "choose", note_candidates)
    instructions.run(settings)
    for _ in range(2):
        iterate.run(settings)
    saved = [
        [read(settings, n, f"model/encoder{member}.json")["weights_sha256"] for member in ("", "_1", "_2")]
        for n in range(2)
    ]
    assert len(set(started)) == 6 and started[3:] == saved[0] and len({*saved[0], *saved[1]}) == 6
    config = tfrecords.load_config(settings.shard_dir)
    assert [c.member_K.tolist() for c in candidates] == [[0, 0, 1, 1, 2]] * 2
    hidden = settings.model.hidden
    assert candidates[1].features_N_H.shape[1] == 3 * hidden
    networks = [
        mc_dropout.build(settings.model, candidates[1].predicted.groups, config.image_size_px, 3, 0) for _ in range(3)
    ]
    for member, network in enumerate(networks):
        mc_dropout.load_weights(network, iteration(settings, 1) / "model", member)
    assert mc_dropout.weights_digest(networks) == read(settings, 1, "iteration.json")["weights_sha256"]
    assert len(read(settings, 1, "model/training.json")["members"]) == 2


# --------------------------------------------------------------- training that can be trusted


class Killed(BaseException):
    """Stands for a signal, without ending the tests."""


@pytest.mark.long
def test_an_iteration_killed_while_training_goes_on_to_the_same_folder(
    frozen: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = beside(frozen, compose, "killed", *QUICK)
    instructions.run(settings)
    iterate.run(settings)
    whole = folders.digest_of(iteration(settings, 0))
    forget(iteration(settings, 0))
    add = training._TrainingState.add

    def then_die(state: Any, *losses: float) -> None:
        add(state, *losses)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training._TrainingState, "add", then_die)
        with pytest.raises(Killed):
            iterate.run(settings)
    assert len(list(settings.experiment_dir.glob(".iteration_0.unfinished/training_0_*.npz"))) == 1
    caplog.set_level("INFO")
    iterate.run(settings)
    assert "training continues after epoch 1" in caplog.text
    assert folders.digest_of(iteration(settings, 0)) == whole
    assert not (settings.experiment_dir / ".iteration_0.unfinished").exists()


def test_training_that_diverges_publishes_nothing(
    frozen: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = beside(frozen, compose, "diverged", *QUICK)
    instructions.run(settings)
    monkeypatch.setattr(losses, "loss", lambda *_: lambda counts, outputs: outputs * math.nan)
    with pytest.raises(InputError, match=r"Training diverged.*Nothing was published"):
        iterate.run(settings)
    assert not iteration(settings, 0).exists()


@pytest.mark.parametrize("keep_better", [False, True])
def test_a_model_that_is_worse_is_flagged_and_not_used_if_the_settings_say_so(
    frozen: Settings, compose: Compose, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    keep_better: bool,
) -> None:  # fmt: skip
    """The third head is fitted to votes with swapped answers."""
    name = f"gate_{keep_better}"
    settings = beside(frozen, compose, name, *HEAD, "iterate.gate_margin=1e-6", f"iterate.keep_better={keep_better}")
    instructions.run(settings)
    for _ in range(2):
        iterate.run(settings)
    fit = head.fit
    monkeypatch.setattr(head, "fit", lambda x, counts, *others: fit(x, counts[:, ::-1], *others))
    iterate.run(settings)
    second, third = (read(settings, n, "iteration.json") for n in (1, 2))
    loss = [read(settings, n, "metrics.json")["eval"]["all"]["loss"] for n in (1, 2)]
    assert not second["kept_previous_model"] and third["worse_than_previous_by"] > 1e-6
    measured = loss[0] + third["worse_than_previous_by"]
    assert loss[1] < measured - 0.1 if keep_better else loss[1] == pytest.approx(measured)
    assert "the new model is worse than that of iteration_1" in caplog.text
    assert third["kept_previous_model"] == keep_better == (third["weights_sha256"] == second["weights_sha256"])
    files = [(iteration(settings, n) / "model" / "head.npz").read_bytes() for n in (1, 2)]
    assert (files[0] == files[1]) == keep_better


def test_a_gate_wider_than_the_difference_flags_nothing(frozen: Settings, compose: Compose) -> None:
    settings = beside(frozen, compose, "wide", *HEAD, "iterate.gate_margin=100", "iterate.keep_better=true")
    instructions.run(settings)
    for _ in range(2):
        iterate.run(settings)
    assert read(settings, 1, "iteration.json")["worse_than_previous_by"] is None
    assert read(settings, 1, "metrics.json") == read(frozen, 1, "metrics.json")


# --------------------------------------------------------------- many iterations in one driver


def test_a_second_simulation_on_the_same_shards_encodes_nothing(
    frozen: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = (*HEAD, "stage=simulate", "iterate.subjects_per_iteration=4", "simulate.iterations=2")
    simulate.run(beside(frozen, compose, "encodes", *few, "acquisition=badge"))
    monkeypatch.setattr(features, "encode", lambda _, path: pytest.fail(f"{path} was encoded again"))
    simulate.run(beside(frozen, compose, "encodes_nothing", *few, "acquisition=uherding"))


@pytest.mark.long
def test_the_driver_of_a_simulation_builds_no_network_and_does_not_grow(
    frozen: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short version of benchmarks/memory.py, which runs a hundred iterations."""
    settings = beside(
        frozen, compose, "long", *QUICK, "acquisition=random", "iterate.subjects_per_iteration=1",
        "iterate.shards_per_iteration=1", "simulate.iterations=2", "model.max_epochs=1",
    )  # fmt: skip
    monkeypatch.setattr(mc_dropout, "build", lambda *_: pytest.fail("a network was built in the driver"))
    before = _resident_mb()
    simulate.run(settings)
    assert len(folders.list_numbered(settings.experiment_dir, "iteration")) == 2
    assert _resident_mb() - before < 50


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
