"""The main job on real galaxies that others published; skipped where they are not at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoobot import folders
from zoobot.settings import Settings
from zoobot.stages import report, simulate

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"
SURVEYS = {
    "gz2": ["survey=gz2", f"survey.folder={REAL / 'gz2'}"],
    # one consensus vote per galaxy
    "sdss": ["survey=custom", "survey.name=sdss", f"survey.folder={REAL / 'sdss'}", "survey.retirement_votes=0",
             "oracle.votes_per_galaxy=1", "oracle.late_fraction=0"],
}  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder shared/realdata is not here")
@pytest.mark.parametrize(
    ("survey", "task", "model"),
    [
        ("gz2", "smooth", "pixels"),
        pytest.param("gz2", "gz2_tree", "pixels", marks=pytest.mark.long),
        ("sdss", "smooth", "pixels"),
    ],
)
def test_four_iterations(survey: str, task: str, model: str, settings: Callable[..., Settings]) -> None:
    chosen = settings("stage=simulate", "quick=true", f"task={task}", f"model={model}", *SURVEYS[survey])
    chosen = replace(chosen, simulate=replace(chosen.simulate, iterations=4))  # quick makes three
    experiment = simulate.run(chosen)
    for number in range(4):
        assert folders.verify(experiment / f"iteration_{number}") == []
    summary = json.loads((experiment / "iteration_3" / "iteration.json").read_text())
    assert summary["train_galaxies"] > 24 and summary["requested"] == 8
    predictions = pd.read_parquet(experiment / "iteration_3" / "predictions.parquet")
    assert predictions["id_str"].is_unique and np.isfinite(predictions["acquisition"]).all()
    truth = pd.read_csv(chosen.survey_dir / f"{chosen.survey.name}_master_catalog.csv", dtype={"id_str": "string"})
    assert set(predictions["id_str"]) < set(truth["id_str"])
    page = report.run(chosen).read_text(encoding="utf-8")
    assert page.count("<img src=") >= 3 * 8
