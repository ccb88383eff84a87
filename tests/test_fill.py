"""Features that worker processes compute: the same bytes as here, and only where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from benchmarks.networks import write_shards
from zoobot import folders
from zoobot.engine import map as engine
from zoobot.models import encoders, features
from zoobot.models.architectures import ARCHITECTURES, Floats32
from zoobot.models.features import FeatureCache, FrozenEncoder
from zoobot.settings import Settings

Shards = tuple[Settings, list[Path], Callable[[str], FeatureCache]]


@pytest.fixture
def made(settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shards:
    """Shards of noise, and the features of a small encoder in a folder of this name. It is taken for a large one."""
    s = settings("stage=simulate", "quick=true", "model=small_cnn", "workers=2")
    files, config = write_shards(tmp_path, s, 24, 8)
    keras.utils.set_random_seed(0)
    (tmp_path / "encoder").mkdir()
    encoders.save(encoders.build(s.model, config.image_size_px, 3), s.model, tmp_path / "encoder")
    frozen = FrozenEncoder(s.model, config, tmp_path / "encoder")
    large = replace(ARCHITECTURES[s.model.architecture], has_imagenet=True)
    monkeypatch.setitem(ARCHITECTURES, s.model.architecture, large)
    monkeypatch.setattr(features, "_GPU", tmp_path / "none")
    return s, files, lambda name: features.cached(frozen, tmp_path / name)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.npy")}


@pytest.mark.long
def test_workers_compute_the_same_bytes(made: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s, files, cache = made
    for path in files:
        cache("here").of(path)
    features.fill(cache("there"), s, 8, files)
    assert content(tmp_path / "there") == content(tmp_path / "here") and len(content(tmp_path / "here")) == 3
    monkeypatch.setattr(engine, "in_order", None)
    features.fill(cache("there"), s, 8, files)  # all are kept: nothing is called


def test_workers_are_used_where_that_is_faster(made: Shards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    s, files, cache = made
    used = list[tuple[int, str | None]]()

    def in_order(function: object, items: Any, workers: int, name_of: object, cluster: str | None) -> Any:
        used.append((workers, cluster))
        yield from ()

    monkeypatch.setattr(engine, "in_order", in_order)
    monkeypatch.setattr(engine, "cores", lambda cluster=None: 16)
    many, one = features.GALAXIES_PER_WORKER, replace(s, workers=0)
    features.fill(cache("a"), one, many // 3, files)
    features.fill(cache("a"), s, 8, files[:1])
    assert used == [], "for one worker's galaxies, or one shard, no process is started"
    features.fill(cache("a"), one, many, files)
    features.fill(cache("a"), replace(one, engine=replace(s.engine, name="ray", address="a:1")), many, files)
    features.fill(cache("a"), s, 8, files)
    assert used == [(3, None), (3, "a:1"), (2, None)]
    (tmp_path / "none").mkdir()
    features.fill(cache("a"), s, 8, files)
    monkeypatch.setattr(features, "_GPU", tmp_path / "other")
    monkeypatch.setitem(ARCHITECTURES, "cnn", replace(ARCHITECTURES["cnn"], has_imagenet=False))
    monkeypatch.setitem(ARCHITECTURES, "pooled_cnn", replace(ARCHITECTURES["pooled_cnn"], has_imagenet=False))
    features.fill(cache("a"), s, 8, files)
    assert len(used) == 3, "not with a GPU, nor for a small encoder"
    features.fill(cache("a"), replace(s, engine=replace(s.engine, name="ray", address="a:1")), 8, files)
    assert len(used) == 4, "but on a cluster"


def test_features_where_an_earlier_version_kept_them_are_found(tmp_path: Path) -> None:
    with folders.create(tmp_path / "made", {}, {}) as staging:
        (staging / "shard").write_text("records")
    encoded: list[Path] = []

    def encode(path: Path) -> Floats32:
        encoded.append(path)
        return np.ones((2, 3), np.float32)

    cache, shard = FeatureCache(tmp_path / "features", "0" * 64, 1, encode), tmp_path / "made" / "shard"
    assert not cache.has(shard)
    cache.of(shard)
    (kept,) = (tmp_path / "features").rglob("*.npy")
    kept.rename(kept.parent.parent / kept.name)
    assert cache.has(shard) and np.array_equal(cache.of(shard), np.ones((2, 3))) and len(encoded) == 1
