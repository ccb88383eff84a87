"""benchmarks/labels.py: pairs share their start and their test galaxies, and figures by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import labels
from zoobot.galaxies.tasks import Group


def galaxies(n: int = 80) -> labels.Galaxies:
    random = np.random.default_rng(0)
    features = random.normal(size=(n, 4)).astype(np.float32)
    yes = random.binomial(10, 1 / (1 + np.exp(-2 * features[:, 0])))
    counts = np.stack([yes, 10 - yes], axis=1).astype(float)
    return labels.Galaxies(np.array([f"g{i:02d}" for i in range(n)]), features, counts, (Group("q", ("a", "b")),), 10)


def test_points_by_hand() -> None:
    assert labels.points("8:8:24,10:44") == [8, 16, 24, 34, 44]


def test_pairs_start_from_the_same_labels_and_test_on_the_same_galaxies() -> None:
    ours, random = (labels.simulate(galaxies(), [10, 20, 30], (name, 3)) for name in ("uherding", "random"))
    assert ours[0] == random[0] and ours[1].shape == random[1].shape == (3, 24)
    assert (ours[1][0] == random[1][0]).all() and (ours[1][1] != random[1][1]).any()


def test_the_second_function_begins_with_the_wider_steps() -> None:
    steps = [8, 16, 24, 64]
    assert [labels._function("uherding+badge", steps, point) for point in range(3)] == ["uherding"] * 2 + ["badge"]


def test_the_comparison_by_hand() -> None:
    """Ours falls to random's last loss, 0.5, half way between 20 and 30 labels."""
    ids = [f"g{i}" for i in range(5)]
    curves = {"random": [1.0, 0.8, 0.5], "ours": [1.0, 0.6, 0.4]}
    losses = {
        name: [(ids, np.repeat(np.array(curve)[:, None], 5, axis=1), [0.0]) for _ in range(3)]
        for name, curve in curves.items()
    }
    found = labels.compare(losses, [10, 20, 30])["ours"]
    assert found["loss"] == pytest.approx([1.0, 0.6, 0.4])
    labels_ratio, lower = found["labels"], found["lower"]
    assert isinstance(labels_ratio, dict) and isinstance(lower, dict)
    assert labels_ratio["value"] == pytest.approx(25 / 30)
    assert lower["value"] == pytest.approx((0 + 0.2 + 0.1) / (1.0 + 0.8 + 0.5))
