"""Costs, the fitted learning curve, and the rules that stop an experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records import a_summary
from zoobot.iterations import stopping
from zoobot.iterations.files import IterationFolder
from zoobot.settings import Settings, StopSettings
from zoobot.stages import iterate, simulate


def iteration(path: Path, loss: float, **summary: Any) -> IterationFolder:
    path.mkdir()
    folder = IterationFolder(path)
    folder.write_summary(a_summary(**summary))
    folder.write_metrics({"eval": {"all": {"loss": loss}}})
    return folder


def test_costs_by_hand(tmp_path: Path) -> None:
    before = [iteration(tmp_path / "0", 1.0, classifications_received=10, train_galaxies=60)]
    spent = stopping.costs(before, 30, 100, 0.9, StopSettings(minutes_per_vote=0.25))
    assert spent == stopping.Costs(votes_spent=40, volunteer_minutes=10.0, next_100_labels_buy=None)


@given(st.floats(0.1, 3), st.floats(0.05, 2), st.floats(0.2, 1.5))
def test_the_curve_is_found_again(floor: float, scale: float, slope: float) -> None:
    labels = [60, 100, 140, 180, 220, 260]

    def loss(n: float) -> float:
        return float(floor + scale * (n / 60) ** -slope)

    gain = stopping.expected_gain(labels, [loss(n) for n in labels])
    assert gain == pytest.approx(loss(260) - loss(360), rel=0.05, abs=1e-4)


def test_a_curve_that_does_not_fall_promises_nothing_and_a_short_one_is_none() -> None:
    assert stopping.expected_gain([60, 100, 140, 180], [1.0] * 4) == pytest.approx(0, abs=1e-5)
    assert stopping.expected_gain([60, 60, 100, 140], [1.0, 1.0, 0.9, 0.8]) is None


@pytest.mark.parametrize(
    "stop, said",
    [
        (StopSettings(votes=400), "400 votes were spent"),
        (StopSettings(labels=100), "100 galaxies are labelled"),
        (StopSettings(eval_loss=0.9), "the eval loss is 0.900"),
        (StopSettings(next_100_labels_buy=0.01), "by 0.0050"),
        (StopSettings(votes=401, labels=101, eval_loss=0.89, next_100_labels_buy=0.004), None),
        (StopSettings(), None),
    ],
)
def test_rules(tmp_path: Path, stop: StopSettings, said: str | None) -> None:
    last = iteration(tmp_path / "0", 0.9, votes_spent=400, train_galaxies=100, next_100_labels_buy=0.005)
    why = stopping.reason([last], stop)
    assert said in why if said and why else why is None and said is None
    assert stopping.reason([], stop) is None


def test_a_simulation_stops_and_says_why(settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture) -> None:
    chosen = settings("stage=simulate", "quick=true", "model=pixels", "tracking=disabled", "stop.labels=25")
    caplog.set_level("INFO")
    experiment = simulate.run(chosen)
    done = len(list(experiment.glob("iteration_*")))
    assert done < chosen.simulate.iterations and "galaxies are labelled (stop.labels=25)" in caplog.text
    iterate.run(replace(chosen, stage="iterate"))
    assert len(list(experiment.glob("iteration_*"))) == done
