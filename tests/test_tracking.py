"""Weights & Biases, offline: what a run holds is read back from the files that `wandb sync` would upload."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb

from zoobot import folders, sweep
from zoobot.iterations.files import IterationFolder
from zoobot.reports import dashboard
from zoobot.settings import Settings
from zoobot.stages import simulate

TINY = (
    "stage=simulate", "quick=true", "survey.n_galaxies=120", "survey.draw_size_px=16", "simulate.iterations=2",
    "iterate.subjects_per_iteration=4", "tracking.table_galaxies=3", "tracking.project=test", "oracle.late_fraction=0",
    "model=pixels",
)  # fmt: skip


@pytest.fixture(scope="module")
def done(compose: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A simulation of two iterations, logged offline as they were published."""
    settings = compose(*TINY, data_dir=tmp_path_factory.mktemp("tracked"))
    simulate.run(settings)
    wandb.teardown()  # its service writes the last records when it ends
    return settings


def run_folders(settings: Settings) -> list[Path]:
    return sorted((settings.experiment_dir / "tracking" / "wandb").glob("offline-run-*"))


def records_in(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a log as LevelDB's, in blocks of 32 KiB, after a header of 7 bytes."""
    content, at, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:  # too little for a record's header, so the block is padded
            at += left
            continue
        _crc, size, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a complete record, or the last part of one
            yield parts
            parts = b""


def read_back(folder: Path) -> dict[str, Any]:
    """The run's record and config, and its history: one dictionary for each step."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    run: dict[str, Any] = {"history": []}
    for content in records_in(next(folder.glob("*.wandb"))):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "run":
            run["record"] = record.run
            run["config"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.WhichOneof("record_type") == "artifact":
            run["artifact"] = list(record.artifact.manifest.contents)
        if record.WhichOneof("record_type") == "history":
            items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            run["history"].append(items)
    return run


# --------------------------------------------------------------- what is logged


def test_each_iteration_has_a_run_of_its_own_with_a_fixed_id(done: Settings) -> None:
    records = [read_back(folder)["record"] for folder in run_folders(done)]
    assert len(records) == 2
    for number, record in enumerate(sorted(records, key=lambda r: r.display_name)):
        assert record.run_id == dashboard.run_id(done.experiment_name, number)
        assert record.display_name == f"{done.experiment_name}/iteration_{number}"
        assert (record.run_group, record.project, record.job_type) == (done.experiment_name, "test", "iteration")


def test_ids_are_fixed_and_differ() -> None:
    assert dashboard.run_id("demo_smooth_random_seed0", 0) == "6e2d1bfc222b8c5b"  # of sha256sum
    assert len({dashboard.run_id(name, number) for name in ("a", "b", "a/1") for number in range(12)}) == 36


def test_the_newest_run_holds_the_complete_curve(done: Settings) -> None:
    runs = {read_back(folder)["record"].display_name[-1]: read_back(folder) for folder in run_folders(done)}
    for number, run in ((0, runs["0"]), (1, runs["1"])):
        curve = [step for step in run["history"] if "counts/number" in step]
        assert [step["counts/number"] for step in curve] == list(range(number + 1))
        for n, step in enumerate(curve):
            folder = done.experiment_dir / f"iteration_{n}"
            summary, measured = folders.read_json(folder / "iteration.json"), folders.read_json(folder / "metrics.json")
            assert step["counts/train_galaxies"] == summary["train_galaxies"]
            assert step["timings_s/train"] == summary["timings_s"]["train"]
            assert step["test/all/loss"] == pytest.approx(measured["test"]["all"]["loss"])
            assert {key for key in step if key.startswith("eval/")} == {
                f"eval/{question}/{name}"
                for question, values in measured["eval"].items()
                for name, value in values.items()
                if not isinstance(value, list)
            }


def test_settings_and_pictures_of_the_galaxies_chosen_are_logged(done: Settings) -> None:
    folder = run_folders(done)[0]
    run = read_back(folder)
    instructions = folders.read_json(done.experiment_dir / "instructions" / "instructions.json")
    assert run["config"]["iteration"] == 0 and run["config"]["model"] == instructions["model"]
    assert run["config"]["shards"]["digest"] == instructions["shards"]["digest"]
    table = json.loads(next(folder.rglob("chosen*.table.json")).read_text())
    asked = folders.read_json(done.experiment_dir / "iteration_0" / "requests.json")["ids"]
    assert table["columns"] == ["rank", "id_str", "acquisition", "picture"]
    assert [row[1] for row in table["data"]] == asked[:3]
    staged = [Path(entry.local_path) for entry in run["artifact"] if entry.path.endswith(".png")]
    assert all(path.is_relative_to(done.experiment_dir) for path in staged), "a picture lies outside the data folder"
    pictures = done.experiment_dir / "iteration_0" / "pictures"
    assert sorted(path.read_bytes() for path in staged) == sorted(
        (pictures / f"{rank:05d}.png").read_bytes() for rank in range(3)
    )


def test_logging_writes_nothing_into_the_published_folders(done: Settings) -> None:
    for name in ("instructions", "iteration_0", "iteration_1"):
        assert folders.verify(done.experiment_dir / name) == []


def test_a_failure_of_the_client_is_logged_and_stops_nothing(
    done: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = replace(done, data_dir=str(tmp_path))
    blocked.experiment_dir.mkdir(parents=True)
    for name in ("instructions", "iteration_0"):
        (blocked.experiment_dir / name).symlink_to(done.experiment_dir / name)
    (blocked.experiment_dir / "tracking").write_text("a file is in the way")
    dashboard.log_iterations(blocked, [IterationFolder(blocked.experiment_dir / "iteration_0")])
    assert "iteration_0 was not logged to Weights & Biases: FileExistsError" in caplog.text
    (blocked.experiment_dir / "tracking").unlink()
    refused = replace(blocked, tracking=replace(done.tracking, project="not/a:project"))
    dashboard.log_iterations(refused, [IterationFolder(blocked.experiment_dir / "iteration_0")])
    assert caplog.text.count("was not logged") == 2


def test_a_run_that_was_missed_is_logged_when_its_finished_simulation_is_called_again(done: Settings) -> None:
    receipt = done.experiment_dir / "tracking" / "logged_iteration_1.json"
    for again in (simulate.run, lambda settings: sweep.run_job(settings, 0, str(Path.cwd()))):
        receipt.unlink()
        again(done)
        assert receipt.is_file() and len(run_folders(done)) == 2


def test_disabled_writes_nothing(done: Settings, tmp_path: Path) -> None:
    off = replace(done, data_dir=str(tmp_path), tracking=replace(done.tracking, mode="disabled"))
    dashboard.log_iterations(off, [IterationFolder(done.experiment_dir / "iteration_0")])
    assert list(tmp_path.iterdir()) == []
