"""Sweeps: how many there are, finished simulations left alone, and one that was killed."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from zoobot import folders, sweep
from zoobot.errors import FolderError
from zoobot.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ["stage=simulate", "quick=true", "model=pixels", "tracking=disabled", "acquisition=random,entropy",
         "simulate.iterations=2"]  # fmt: skip


def test_jobs_get_their_number_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hydra = {"sweeper": {"params": {"seed": "0,1,2", "acquisition": "random,entropy"}}, "sweep": {"dir": "it's/logs"}}
    config = OmegaConf.create({"hydra": {**hydra, "overrides": {"task": ["seed=range(5)", "world=rare"], "hydra": []}}})
    OmegaConf.set_readonly(config, True)
    sweep.PrepareJobs().on_multirun_start(config)
    count, name, logs = OverridesParser.create().parse_overrides(list(config.hydra.overrides.hydra))
    assert (count.key_or_group, count.value()) == ("hydra.job.env_set.ZOOBOT_SWEEP_JOBS", "10")
    assert (name.key_or_group, name.value()) == ("hydra.job.env_set.ZOOBOT_SWEEP", "it's_logs")
    assert (logs.key_or_group, logs.value()) == ("hydra.sweep.dir", f"{tmp_path}/it's/logs")


def run(data_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "run.py", "-m", *SWEEP, f"data_dir={data_dir}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def digests(data_dir: Path) -> dict[str, str]:
    manifests = sorted((data_dir / "quick").rglob("manifest.json"))
    return {str(path.parent.relative_to(data_dir)): folders.digest_of(path.parent) for path in manifests}


@pytest.mark.long
def test_a_killed_sweep_goes_on_to_the_same_files(tmp_path: Path, settings: Callable[..., Settings],
                                                  caplog: pytest.LogCaptureFixture,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    killed = run(tmp_path / "killed")
    second = tmp_path / "killed" / "quick" / "experiments" / "simulations" / "demo_smooth_pixels_entropy_seed0"
    while killed.poll() is None and not second.exists():
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    output, _ = run(tmp_path / "killed").communicate()
    assert "demo_smooth_pixels_random_seed0 already has 2 iterations: nothing to do" in output
    assert "2 of 2: demo demo_smooth_pixels_entropy_seed0\n" in output, output
    whole = run(tmp_path / "whole")
    whole.communicate()
    assert whole.returncode == 0 and digests(tmp_path / "killed") == digests(tmp_path / "whole")
    # pictures, catalogs, shards; instructions and two iterations each; and random's fit to all labels
    assert len(digests(tmp_path / "whole")) == 3 + 2 * 3 + 1

    finished = settings(*[o.replace("random,entropy", "random") for o in SWEEP])
    finished = replace(finished, data_dir=str(tmp_path / "whole" / "quick"))
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    sweep.run_job(finished, 0, str(ROOT))
    assert Path.cwd() == ROOT, "a launcher may start it elsewhere"
    assert "already has 2 iterations: nothing to do" in caplog.text
    other = replace(finished, iterate=replace(finished.iterate, subjects_per_iteration=3))
    with pytest.raises(FolderError, match=r"iterate\.subjects_per_iteration: 8 there, 3 now"):
        sweep.run_job(other, 0, str(ROOT))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stop.labels=20,1000"], "_seed${seed}_labels${stop.labels}"),
        (["simulate.iterations=1,2", "seed=0,1"], "_iterations${simulate.iterations}"),
        (["shards.crop=0.5,1"], "shards.name="),
        (["seed=0,0"], "are the same experiment"),
        (["seed=0,-1", "model.n_samples=0,5"], "model.n_samples=0: must be at least 1 (in 2 of 4 jobs"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_run_is_refused_before_it_starts(overrides: list[str], said: str, tmp_path: Path) -> None:
    command = [sys.executable, "run.py", "-m", "stage=simulate", "model=pixels", *overrides, f"data_dir={tmp_path}/d"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("The sweep cannot start") and said in done.stderr
    assert not (tmp_path / "d").exists() and "Traceback" not in done.stdout + done.stderr


@pytest.mark.long
def test_a_sweep_says_how_many_jobs_finished(tmp_path: Path) -> None:
    command = [sys.executable, "run.py", "-m", "stage=catalogs", "task=smooth,gz2_tree,demo_tree", "quick=true"]
    made = [sys.executable, "run.py", "stage=master_catalog", "quick=true", f"data_dir={tmp_path}"]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    done = subprocess.run([*command, f"data_dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "2 of 3 finished, 1 failed:\n  2: task=gz2_tree: Task gz2_tree does not fit the survey" in done.stderr


def test_an_outline_says_what_a_command_line_would_make(tmp_path: Path) -> None:
    data_dir = f"data_dir={tmp_path}"
    two = sweep.outline(["-m", "stage=simulate", "acquisition=badge,random", "simulate.iterations=3", data_dir])
    assert [job.acquisition.name for job in two] == ["badge", "random"]
    assert {job.simulate.iterations for job in two} == {3} and len({job.experiment_dir for job in two}) == 2
    assert len(sweep.outline(["experiment=demo_sweep", data_dir])) == 20
    assert [job.stage for job in sweep.outline(["stage=shards", data_dir])] == ["shards"]
    for words, reason in (
        (["stage=simulate", "seed=0,1"], "a comma separates"), (["stage=simulate", "task=none"], "no such option"),
        (["stage=simulate", "shards.eval_size=-1"], "must be at least 1"), (["seed=1"], "You must specify 'stage'"),
    ):  # fmt: skip
        with pytest.raises(sweep.Refused, match=reason):
            sweep.outline([*words, data_dir])
    assert list(tmp_path.iterdir()) == [], "nothing is run"


def test_the_name_that_a_refused_sweep_is_told_to_take_works(tmp_path: Path) -> None:
    words = ["-m", "stage=simulate", "stop.labels=20,1000", f"data_dir={tmp_path}"]
    with pytest.raises(sweep.Refused, match="Put what is swept into the name") as refused:
        sweep.outline(words)
    (name,) = re.findall(r"'(experiment_name=.*?)'", str(refused.value))
    jobs = sweep.outline([*words, name])
    assert len({job.experiment_name for job in jobs}) == 2 and all("$" not in job.experiment_name for job in jobs)
    jobs = sweep.outline([*words, "acquisition=random,badge", "experiment_name=${acquisition.name}_${stop.labels}"])
    assert {job.experiment_name for job in jobs} == {"random_20", "random_1000", "badge_20", "badge_1000"}
