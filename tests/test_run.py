"""run.py as a user runs it: exit statuses, one clear message, what the log holds, and that no secret is written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import run as entry
from zoobot.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
SECRET = "5ec4e7" * 6 + "abcd"  # 40 hex digits, as a W&B key has
QUICK = ("quick=true", "survey.n_galaxies=120", "survey.draw_size_px=16")


def run(*arguments: str, cwd: Path = ROOT, file_limit: int = 0) -> subprocess.CompletedProcess[str]:
    """Run run.py; ``file_limit``: no file may become larger, in bytes."""

    def limit() -> None:
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300, preexec_fn=limit,
        env={**os.environ, "WANDB_API_KEY": SECRET, "COLUMNS": "200"},
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a run that the user can fix: status 2, no traceback."""
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert "Traceback" not in output and 'File "' not in output
    return output


def logs(data_dir: Path) -> str:
    return "".join(path.read_text() for path in data_dir.rglob("run.log"))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the master catalog and catalogs of a few demo galaxies, made by two commands."""
    path = tmp_path_factory.mktemp("run") / "my data"
    for stage in ("master_catalog", "catalogs"):
        done = run(f"stage={stage}", *QUICK, f"data_dir={path}")
        assert done.returncode == 0, done.stdout + done.stderr
    return path


# --------------------------------------------------------------- the config


def test_the_config_is_printed_as_yaml_and_nothing_is_written(tmp_path: Path) -> None:
    done = run("--cfg", "job", "stage=simulate", "seed=4", cwd=tmp_path)
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    printed = yaml.safe_load(done.stdout)
    assert printed["seed"] == 4 and printed["stage"] == "simulate" and SECRET not in done.stdout


# --------------------------------------------------------------- status 2: the user can fix it


def test_without_a_stage_the_stages_are_listed(tmp_path: Path) -> None:
    message = refused(run("survey=demo", cwd=tmp_path))
    assert all(stage in message for stage in STAGES)


def test_unknown_keys_and_options_are_named(tmp_path: Path) -> None:
    assert "hiden" in refused(run("stage=simulate", "model.hiden=3", cwd=tmp_path))
    message = refused(run("stage=simulate", "task=nope", cwd=tmp_path))
    assert "nope" in message and "smooth" in message


def test_problems_are_reported_together_once_and_logged(tmp_path: Path) -> None:
    done = run("stage=simulate", "oracle.kind=psychic", "model.hidden=0", f"data_dir={tmp_path}")
    message = refused(done)
    for said in ("oracle.kind=psychic: choose one of", "model.hidden=0: must be at least 1"):
        assert message.count(said) == 1 and said in logs(tmp_path)


def test_a_data_dir_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused(run("stage=catalogs", f"data_dir={tmp_path}/file"))
    assert f"{tmp_path}/file" in message and "data_dir" in message


@pytest.mark.long
def test_a_changed_setting_is_refused_with_its_key(data_dir: Path) -> None:
    message = refused(run("stage=master_catalog", *QUICK, "survey.draw_seed=1", f"data_dir={data_dir}"))
    assert "survey.draw_seed: 0 there, 1 now" in message


@pytest.mark.long
def test_a_failed_job_of_a_sweep_is_the_status_of_the_sweep(data_dir: Path) -> None:
    message = refused(run("-m", "stage=catalogs", "task=smooth,gz2_tree", *QUICK, f"data_dir={data_dir}"))
    assert "nothing to do" in message and "Task gz2_tree does not fit the survey" in message


@pytest.mark.long
def test_a_failed_job_of_submitit_says_why_on_the_terminal_and_leaves_no_secret(data_dir: Path) -> None:
    pytest.importorskip("submitit")
    sweep = ("-m", "stage=catalogs", "task=smooth,gz2_tree", "hydra/launcher=submitit_local")
    message = refused(run(*sweep, *QUICK, f"data_dir={data_dir}"))
    assert "Task gz2_tree does not fit the survey" in message and "2 of 2: demo" in logs(data_dir)
    pickles = list(data_dir.glob("logs/*/*/.submitit/*/*.pkl"))
    assert len(pickles) == 4, "what was submitted and what came of it, of two jobs"
    assert not [path for path in data_dir.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_cluster_that_is_away_is_no_fault_of_the_data_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away() -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:26379")

    monkeypatch.setattr(entry, "main", away)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    assert entry.cli() == 2
    message = capsys.readouterr().err
    assert message.startswith("hydra.launcher: Failed to connect to Ray cluster") and "data_dir" not in message


# --------------------------------------------------------------- status 0 and 1


def test_a_stage_called_again_does_nothing(data_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (data_dir / "quick").rglob("*") if path.is_file()}
    done = run("stage=catalogs", *QUICK, f"data_dir={data_dir}")
    assert done.returncode == 0 and "nothing to do" in done.stdout and done.stderr == ""
    assert "next   python" in done.stdout and f"stage=shards {' '.join(QUICK)}" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_verify_lists_what_differs(data_dir: Path) -> None:
    folder = data_dir / "quick" / "demo"
    verify = ("stage=verify", f"verify.path={folder}", f"data_dir={data_dir}")
    done = run(*verify)
    assert done.returncode == 0 and "2 folders verified" in done.stdout
    path = next(folder.glob("prepared_catalogs/*/oracle.csv"))
    content = path.read_bytes()
    path.chmod(0o644)
    try:
        path.write_bytes(content.replace(b"1", b"2"))
        done = run(*verify)
    finally:
        path.write_bytes(content)
    assert done.returncode == 1 and f"{path}: its content has changed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_verify_of_nothing(data_dir: Path) -> None:
    assert "holds no folder with a manifest.json" in refused(
        run("stage=verify", f"verify.path={data_dir}/nowhere", f"data_dir={data_dir}")
    )


def test_an_error_of_ours_or_of_the_machine_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    """A disk on which no file can grow beyond 8000 bytes: what a full disk does."""
    done = run("stage=master_catalog", *QUICK, f"data_dir={tmp_path}", file_limit=8000)
    assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr
    log = logs(tmp_path)
    assert "stopped by an error in the program" in log and "Traceback" in log
    assert not (tmp_path / "quick" / "demo" / "galaxies").exists(), "half a folder was published"


# --------------------------------------------------------------- secrets


def test_no_secret_is_written_anywhere(data_dir: Path) -> None:
    small = ("simulate.iterations=1", "model=pixels", "iterate.subjects_per_iteration=2", "tracking=offline")
    done = run("stage=simulate", *QUICK, *small, f"data_dir={data_dir}")
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in data_dir.parent.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files) and any(path.name == "overrides.yaml" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in done.stdout + done.stderr
    assert any(b"experiment_name" in path.read_bytes() for path in files), "the test reads what is written"
