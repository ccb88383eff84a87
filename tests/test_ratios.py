"""The table of ratios and its baseline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ratios
from benchmarks.ratios import Ratio

ROOT = Path(__file__).resolve().parents[1]


def test_a_ratio_falls_by_more_than_a_quarter() -> None:
    found = [Ratio("a", "b", 7.4), Ratio("c", "d", 7.6), Ratio("new", "x", 0.1)]
    baseline = {"a / b": 10.0, "c / d": 10.0}
    assert ratios.fallen(found, baseline) == found[:1]
    lines = ratios.table(found, baseline)
    assert [line.split()[-1] for line in lines] == ["change", "-26%", "-24%", "new"]


def test_ratios_reach_the_table_only_when_a_benchmark_runs_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios.record("a", "b", 2.0)
    monkeypatch.setenv("ZOOBOT_RATIOS", str(tmp_path / "found"))
    ratios.record("a", "b", 2.0)
    assert json.loads((tmp_path / "found").read_text()) == {"figure": "a", "reference": "b", "value": 2.0}


@pytest.mark.long
def test_one_benchmark_is_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ratios.BENCHMARKS, "startup", ("1",))
    monkeypatch.setattr(ratios, "BASELINE", tmp_path / "baseline.json")
    ratios.BASELINE.write_text('{"machine": "", "ratios": {}}')
    monkeypatch.setattr(sys, "argv", ["ratios", "startup", "--renew"])
    ratios.main()
    kept = json.loads((tmp_path / "baseline.json").read_text())["ratios"]
    assert len(kept) == 3 and all(value > 0 for value in kept.values())
    too_fast = {"machine": "another", "ratios": dict.fromkeys(kept, 100.0)}
    (tmp_path / "baseline.json").write_text(json.dumps(too_fast))
    monkeypatch.setattr(sys, "argv", ["ratios", "startup"])
    with pytest.raises(SystemExit, match=r"(?s)Fell by more than 25%:\n  run\.py --help / import hydra"):
        ratios.main()


def test_an_unknown_benchmark_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ratios", "speed"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "speed: choose from startup, acquisition" in done.stderr


def test_the_baseline_has_ratios_of_every_benchmark() -> None:
    kept = json.loads(ratios.BASELINE.read_text())
    assert kept["machine"] and len(kept["ratios"]) >= 12
