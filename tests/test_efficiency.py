"""The gain over random: numbers by hand, the coverage of intervals, and what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.records import a_summary
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.reports import efficiency
from zoobot.reports.experiments import CurvePoint, Experiment

LABELS = (60, 100, 140)


def experiment(folder: Path, losses_T_N: np.ndarray) -> Experiment:
    """An experiment with only the labels and test losses that matter here."""
    iterations = []
    for number, losses_N in enumerate(losses_T_N):
        made = IterationFolder(folder / f"iteration_{number}")
        made.path.mkdir(parents=True)
        ids = [str(i) for i in range(len(losses_N))]
        made.write_test_losses(pa.table({"id_str": ids, "loss": losses_N}))
        loss = float(losses_N.mean())
        iterations.append(CurvePoint(made, a_summary(), LABELS[number], len(losses_N), loss, {}, {}))
    instructions: Any = None
    return Experiment(ExperimentFolder(folder), instructions, {}, None, iterations)


def pairs(tmp_path: Path, ours: list[list[float]], random: list[list[float]], noise: float = 0.0, n: int = 50) -> Any:
    """A pair for each row of mean losses; both experiments of a pair share each galaxy's own loss."""
    found = []
    for seed, of in enumerate(zip(ours, random, strict=True)):
        own_N = noise * np.random.default_rng(seed).standard_normal(n)
        found.append(
            tuple(
                experiment(tmp_path / f"{name}{seed}", np.array(means)[:, None] + own_N)
                for name, means in zip("ab", of, strict=True)
            )
        )
    return found


def test_gain_by_hand(tmp_path: Path) -> None:
    """Ours reaches random's last loss, 1.0, halfway between 60 and 100 labels: 80 of 140."""
    gain = efficiency.gain(pairs(tmp_path, [[1.4, 0.6, 0.5]] * 3, [[1.4, 1.2, 1.0]] * 3), 3)
    assert gain is not None
    assert gain["labels_ratio"] == pytest.approx({"value": 80 / 140, "low": 80 / 140, "high": 80 / 140})
    assert gain["area"]["value"] == pytest.approx((0 + 0.6 + 0.5) / (1.4 + 1.2 + 1.0))
    assert gain["worst"]["value"] == 0
    assert (gain["median_labels_ratio"], gain["reached"]) == (pytest.approx(80 / 140), 3)


def test_what_is_never_reached_is_none_and_worse_is_said(tmp_path: Path) -> None:
    gain = efficiency.gain(pairs(tmp_path, [[1.4, 1.5, 1.3]] * 3, [[1.4, 1.2, 1.0]] * 3), 3)
    assert gain is not None and gain["labels_ratio"]["value"] is None and gain["median_labels_ratio"] is None
    assert gain["reached"] == 0 and gain["worst"]["value"] == pytest.approx(0.3)
    assert gain["area"]["high"] < 0


def test_without_test_losses_there_is_no_gain(tmp_path: Path) -> None:
    of = pairs(tmp_path, [[1.0, 0.9, 0.8]] * 2, [[1.0, 0.9, 0.8]] * 2)
    (of[0][0].iterations[0].folder.path / "test.parquet").unlink()
    assert efficiency.gain(of, 3) is None


def test_the_interval_covers_seeds_and_galaxies_and_equal_choices_are_no_gain(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ours = [[1.4, *(1.2 + 0.05 * random.standard_normal(2))] for _ in range(10)]
    others = [[1.4, *(1.2 + 0.05 * random.standard_normal(2))] for _ in range(10)]
    gain = efficiency.gain(pairs(tmp_path, ours, others, noise=1.0), 3)
    assert gain is not None
    assert gain["area"]["low"] < 0 < gain["area"]["high"]


def test_no_gain_is_found_in_about_one_of_twenty_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 12 pairs; percentile intervals of a mean are a little short, so up to 1 in 8 passes."""
    monkeypatch.setattr(efficiency, "REPLICATES", 100)
    random, found = np.random.default_rng(1), 0
    for trial in range(60):
        both = 1.2 + 0.05 * random.standard_normal((2, 12, 3))
        gain = efficiency.gain(pairs(tmp_path / str(trial), both[0].tolist(), both[1].tolist(), n=5), 3)
        found += gain is not None and not gain["area"]["low"] <= 0 <= gain["area"]["high"]
    assert found <= 60 / 8
