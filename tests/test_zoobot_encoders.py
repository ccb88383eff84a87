"""The published encoders of Zoobot: our networks give timm's features, and only a file that fits is loaded.

tests/fixtures/timm_features.npz has what timm gives for the same weights and pictures (benchmarks/timm_features.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks import timm_features
from benchmarks.timm_features import SMALL, weights_of
from tests.torch_writer import Arrays, save_bin, save_safetensors, state_dict, tensor, write_zip
from zoobot import folders
from zoobot.errors import FolderError, InputError, SettingsError
from zoobot.galaxies.tasks import Group
from zoobot.models import encoders, mc_dropout, timm_weights
from zoobot.models.architectures import ARCHITECTURES
from zoobot.settings import ModelSettings, Settings
from zoobot.stages import instructions, iterate, simulate

Compose = Callable[..., Settings]
FEATURES = Path(__file__).parent / "fixtures" / "timm_features.npz"
NAME = "zoobot-encoder-convnext_pico"
QUICK = (
    "stage=simulate", "quick=true", "tracking=disabled", "model=zoobot", "model.architecture=zoobot_convnext_pico",
    f"model.weights=zoobot:{NAME}", "shards.image_size_px=224", "simulate.iterations=1",
)  # fmt: skip


def of(name: str, size_px: int = 32) -> ModelSettings:
    return ModelSettings(name=name, architecture=f"zoobot_{name}", blocks=[], colour=True, final_size_px=size_px)


def tensors_of(name: str) -> dict[str, np.ndarray]:
    """All tensors that timm's network has, with those that are no weights of the encoder."""
    wanted = timm_weights.weights(encoders.build(of(name), 32, 3).get_layer("convolutions"))
    found = {key: weights_of(key, weight.shape) for key, weight in wanted.items()}
    if name in ("convnext_pico", "convnext_nano"):  # their dense layers are convolutions of 1 × 1
        found = {k: v[..., None, None] if ".mlp." in k and v.ndim == 2 else v for k, v in found.items()}
    return found


@pytest.fixture(scope="module")
def pico() -> dict[str, np.ndarray]:
    return tensors_of("convnext_pico")


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    return encoders.build(of("convnext_pico"), 32, 3)


@pytest.fixture
def published(pico: Arrays, tmp_path: Path) -> Path:
    """The encoder where model.weights=zoobot:NAME looks for it."""
    folder = tmp_path / "zoobot_encoders" / NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architecture": "convnext_pico", "num_features": 512}))
    save_safetensors(folder / "model.safetensors", pico)
    return folder


# --------------------------------------------------------------- the numbers are timm's


@pytest.mark.parametrize(
    ("name", "file", "size_px"),
    [
        ("convnext_pico", "pytorch_model.bin", 224),
        ("convnext_nano", "model.safetensors", 64),
        ("efficientnet_b0", "model.safetensors", 64),
        ("resnet18", "model.safetensors", 224),
        ("resnet50", "pytorch_model.bin", 64),
    ],
)
def test_a_file_of_timms_tensors_gives_timms_features(name: str, file: str, size_px: int, tmp_path: Path) -> None:
    save = save_bin if file.endswith("bin") else save_safetensors
    save(tmp_path / file, tensors_of(name))
    network = encoders.build(of(name, size_px), size_px, 3)
    encoders.load(network, tmp_path)
    found = timm_features.kept(network(timm_features.pictures(size_px), training=False))
    with np.load(FEATURES) as wanted:
        assert timm_features.difference(found, wanted[f"{name}_{size_px}"]) < 1e-4
        assert timm_features.difference(found[[1, 2, 0]], wanted[f"{name}_{size_px}"]) > 0.05


def test_the_features_are_those_of_pixels_from_0_to_1_in_three_colours() -> None:
    colour, grey = (encoders.build(replace(of("resnet18"), colour=colour), 32, 3) for colour in (True, False))
    grey.set_weights(colour.get_weights())
    seen = keras.Model(colour.get_layer("convolutions").input, colour.get_layer("convolutions").layers[1].output)
    pictures = np.array([0, 51, 255], np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8)
    pixels = np.asarray(seen(encoders.prepare(pictures, of("resnet18"))))
    assert pixels[:, 0, 0] == pytest.approx(np.array([[0.0], [0.2], [1.0]]) * np.ones(3), abs=1e-6)
    assert np.asarray(grey(pictures)) == pytest.approx(np.asarray(colour(pictures)), rel=1e-5, abs=1e-6)


# --------------------------------------------------------------- what does not fit


def changed(pico: Arrays, **more: np.ndarray | None) -> dict[str, np.ndarray]:
    return {key: value for key, value in {**pico, **more}.items() if value is not None}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"head.norm.bias": None}, "the file has no head.norm.bias"),
        ({"stages.3.blocks.2.gamma": np.ones(512, np.float32)}, "the network has no stages.3.blocks.2.gamma"),
        ({"stem.0.weight": np.ones((64, 1, 4, 4), np.float32)}, "stem.0.weight is float32 (64, 1, 4, 4), and must be"),
        ({"stages.0.blocks.0.mlp.fc1.weight": np.ones((64, 256), np.float32)}, "must be float (256, 64)"),
        ({"head.pre_logits.fc.weight": np.ones((2, 2), np.float32)}, "the network has no head.pre_logits.fc.weight"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    more: Mapping[str, np.ndarray | None], why: str, pico: Arrays, encoder: keras.Model, tmp_path: Path
) -> None:
    before, path = encoders.digest(encoder), tmp_path / "mine.safetensors"
    save_safetensors(path, changed(pico, **more))
    with pytest.raises(SettingsError) as caught:
        encoders.load(encoder, path)
    assert why in str(caught.value) and str(path) in str(caught.value) and encoders.digest(encoder) == before


def test_the_last_layer_of_a_classifier_is_left_out(pico: Arrays, encoder: keras.Model, tmp_path: Path) -> None:
    encoders.load(encoder, save_bin(tmp_path / "a.bin", pico))
    without = encoders.digest(encoder)
    one, counter = np.ones((1, 1), np.float32), np.zeros((), np.float32)
    heads = {"head.fc.weight": one, "head.fc.bias": one, "classifier.weight": one, "fc.bias": one}
    more = {**heads, "bn1.num_batches_tracked": counter}
    encoders.load(encoder, save_bin(tmp_path / "b.bin", {**more, **pico}))
    assert encoders.digest(encoder) == without


def test_numbers_of_another_type_and_not_finite_ones_are_refused(
    pico: Arrays, encoder: keras.Model, tmp_path: Path
) -> None:
    before = encoders.digest(encoder)
    path = save_safetensors(tmp_path / "a.safetensors", pico, dtype="I32")
    with pytest.raises(SettingsError, match=rf"{next(iter(pico))} is int32 .*, and must be float"):
        encoders.load(encoder, path)
    save_safetensors(path, changed(pico, **{"head.norm.bias": np.full(512, np.nan, np.float32)}))
    with pytest.raises(InputError, match=r"head\.norm\.bias has values that are not finite"):
        encoders.load(encoder, path)
    save_safetensors(path, pico)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="do not fill it"):
        encoders.load(encoder, path)
    write_zip(path, state_dict({"stem.0.weight": tensor("0", [2], [1], size=2)}), {"0": b"12345678"})
    with pytest.raises(SettingsError, match=r"the file has no head.norm.bias, .* and \d+ more"):
        encoders.load(encoder, path)
    assert encoders.digest(encoder) == before


def test_a_config_of_another_network_is_refused(published: Path) -> None:
    config = published / "config.json"
    for said, hint in (
        ("convnext_nano.in12k", "says convnext_nano; set model.architecture=zoobot_convnext_nano"),
        ("tf_efficientnet_b0", "says tf_efficientnet_b0; only zoobot_convnext_pico, "),
    ):
        config.write_text(json.dumps({"architecture": said}))
        with pytest.raises(SettingsError, match=hint):
            encoders.refuse_another(of("convnext_pico"), 32, 3, published)
    config.write_text("[]")
    with pytest.raises(SettingsError, match="says nothing"):
        encoders.refuse_another(of("convnext_pico"), 32, 3, published)
    config.unlink()
    encoders.refuse_another(of("convnext_pico"), 32, 3, published)
    with pytest.raises(SettingsError, match="the file has no"):
        encoders.refuse_another(of("convnext_nano"), 32, 3, published)
    own = ModelSettings(name="cnn", architecture="cnn", blocks=[[4]], final_size_px=32)
    with pytest.raises(SettingsError, match=r"model\.architecture=cnn: cannot take the weights in .*safetensors"):
        encoders.refuse_another(own, 32, 3, published)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["model.weights=zoobot:../elsewhere"], "'../elsewhere' is not the name of an encoder"),
        (["model.weights='zoobot:'"], "'' is not the name of an encoder"),
        (["model.architecture=pooled_cnn", "model.blocks=[[8]]"], "fits none but model.architecture=zoobot_convnext"),
        (["model.weights=imagenet"], "Keras has none"),
        (["model.final_size_px=31"], "needs at least 32"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_at_once(overrides: list[str], why: str, settings: Compose) -> None:
    with pytest.raises(SettingsError, match=why):
        settings("stage=simulate", "model=zoobot", "shards.image_size_px=224", *overrides)


# --------------------------------------------------------------- in an experiment


def test_a_missing_encoder_is_refused_before_any_work(settings: Compose, tmp_path: Path) -> None:
    chosen = settings(*QUICK)
    with pytest.raises(SettingsError) as caught:
        simulate.run(chosen)
    folder = tmp_path / "zoobot_encoders" / NAME  # the test mode looks there too, not in data/quick
    assert f"{folder} has neither model.safetensors nor pytorch_model.bin" in str(caught.value)
    assert f"hf download mwalmsley/{NAME} --local-dir {folder}" in str(caught.value)
    assert not (tmp_path / "quick").exists()


@pytest.mark.long
def test_a_head_learns_on_a_published_encoder(published: Path, settings: Compose) -> None:
    chosen = settings(*QUICK)
    simulate.run(chosen)
    source = json.loads((chosen.experiment_dir / "instructions" / "instructions.json").read_text())["encoder"]
    assert source["digest"] == folders.digest_file(published / "model.safetensors")
    network = encoders.build(chosen.model, 32, 3)
    encoders.load(network, published)
    assert [path.name for path in chosen.features_dir.iterdir()] == [f"{encoders.digest(network)[:16]}_1"]
    described = json.loads((chosen.experiment_dir / "iteration_0" / "model" / "architecture.json").read_text())
    assert described["encoder"] == encoders.digest(network)
    instructions.run(chosen)  # nothing to do
    file = published / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"pt"', b'"tp"'))
    with pytest.raises(FolderError, match="no longer holds the encoder"):
        iterate.run(chosen)


@pytest.mark.long
def test_it_is_trained_further_and_its_weights_are_ours_then(published: Path, tmp_path: Path) -> None:
    chosen = replace(of("convnext_pico"), dropout_rate=0.0, learning_rate=1e-3)
    network = mc_dropout.build(chosen, (Group("smooth", ("label", "not_label")),), 32, 3, seed=0)
    encoders.load(network.encoder, published)
    before = network.encoder.get_weights()
    network.trainer.run_eagerly = True  # one step: compiling it takes a minute
    loss = network.trainer.train_on_batch(timm_features.pictures(32)[:2], np.array([[3, 1], [0, 4]], np.float32))
    moved = [np.abs(new - old).max() for new, old in zip(network.encoder.get_weights(), before, strict=True)]
    assert np.isfinite(loss) and min(moved) > 0 and max(moved) < 0.01
    mc_dropout.save([network], chosen, tmp_path / "model", {"epochs": 1})
    encoders.refuse_another(chosen, 32, 3, tmp_path / "model")
    again = encoders.build(chosen, 32, 3)
    encoders.load(again, tmp_path / "model")
    assert encoders.digest(again) == encoders.digest(network.encoder)


def test_every_network_of_timm_has_an_architecture() -> None:
    from zoobot.models.timm_networks import NETWORKS

    assert {one.timm for one in ARCHITECTURES.values()} - {""} == set(NETWORKS) == {*SMALL, *timm_features.LARGE}
