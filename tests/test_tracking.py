"""Weights & Biases: what is logged is what the experiment's own files say, as it is kept and as a server gets it."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.wandb_records import read_back
from tests.wandb_server import KEY, Rewrite, WandbServer, sync
from zoobot import folders, sweep
from zoobot.galaxies import database
from zoobot.iterations.files import ExperimentFolder, IterationFolder, Summary
from zoobot.models import saved
from zoobot.reports import dashboard, history
from zoobot.reports.history import History
from zoobot.settings import Settings
from zoobot.stages import simulate

TINY = (
    "stage=simulate", "quick=true", "survey.n_galaxies=120", "survey.draw_size_px=16", "simulate.iterations=3",
    "iterate.subjects_per_iteration=4", "tracking.table_galaxies=3", "tracking.project=test", "model=pixels",
    "oracle.late_fraction=0.4",
)  # fmt: skip
Compose = Callable[..., Settings]


@pytest.fixture(scope="module")
def done(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Three iterations, logged offline as they were published, with random's of the same pair beside them."""
    data = tmp_path_factory.mktemp("tracked")
    simulate.run(compose(*TINY, "acquisition=random", data_dir=data))
    settings = compose(*TINY, data_dir=data)
    simulate.run(settings)
    return settings


@pytest.fixture
def copied(done: Settings, tmp_path: Path) -> Settings:
    """The same, in a folder that a test may change."""
    shutil.copytree(done.data_dir, tmp_path / "data", symlinks=True)
    return replace(done, data_dir=str(tmp_path / "data"))


def iterations_of(settings: Settings) -> list[IterationFolder]:
    return ExperimentFolder(settings.experiment_dir).iterations()


def runs_of(settings: Settings) -> Path:
    return settings.experiment_dir / "tracking" / "wandb"


def logged(settings: Settings) -> list[dict[str, Any]]:
    """The rows in the records of the offline run, in order."""
    return [row for folder in sorted(runs_of(settings).iterdir()) for row in read_back(folder)["history"]]


def log_anew(settings: Settings, up_to: int) -> None:
    dashboard.log_iterations(settings, iterations_of(settings)[:up_to])


# --------------------------------------------------------------- what is logged


def test_an_experiment_has_one_run_of_its_instructions_digest(done: Settings) -> None:
    parts = [read_back(folder) for folder in sorted(runs_of(done).iterdir())]
    assert [path.name for path in sorted(runs_of(done).iterdir())] == [f"offline-run-{n:05d}" for n in (0, 2, 4)]
    digest = folders.read_manifest(done.experiment_dir / "instructions").digest
    for record in (part["record"] for part in parts):
        assert record.run_id == digest[:16] and record.display_name == done.experiment_name
        assert (record.project, record.job_type) == ("test", "simulation")
        assert record.run_group == "quick_demo_smooth_pixels_badge"
        assert {"demo", "smooth", "pixels", "badge", "quick"} <= set(record.tags)


def test_experiments_with_the_same_name_have_different_runs(done: Settings, compose: Compose, tmp_path: Path) -> None:
    """A quick one and a full one; and those of two people. Before, both had the same run."""
    other = compose(*TINY, "iterate.subjects_per_iteration=5", "simulate.iterations=1", data_dir=tmp_path)
    simulate.run(other)
    assert other.experiment_name == done.experiment_name
    full = replace(other, quick=False)
    runs = [dashboard.describe_run(settings) for settings in (done, other, full)]
    assert runs[0].id != runs[1].id and "quick" in runs[1].tags and "quick" not in runs[2].tags


def test_every_number_of_an_iteration_is_logged_key_by_key(done: Settings) -> None:
    rows = [row for row in logged(done) if history.NUMBER in row]
    assert [row[history.NUMBER] for row in rows] == [0, 1, 2]
    for row, folder in zip(rows, iterations_of(done), strict=True):
        wanted: dict[str, Any] = {}
        for split, questions in folders.read_json(folder.path / "metrics.json").items():
            for question, values in questions.items():
                wanted |= {f"{split}/{question}/{name}": value for name, value in values.items()}
        found = {key: row[key] for key in row if key.startswith(("eval/", "test/", "control/"))}
        assert found.keys() == wanted.keys() and any(isinstance(v, list) for v in wanted.values())
        for key, value in wanted.items():
            assert found[key] == pytest.approx(value) if not isinstance(value, list) else (
                found[key]["values"] == pytest.approx(value) and len(found[key]["bins"]) == len(value) + 1
            ), key  # fmt: skip
        summary = folders.read_json(folder.path / "iteration.json")
        for key, value in row.items():
            if key.startswith(("counts/", "cost/", "timings_s/", "model/")) and (name := key.split("/")[1]) in summary:
                assert value == summary[name] or len(summary[name]) == value, key
        assert {key: row[f"timings_s/{key}"] for key in summary["timings_s"]} == summary["timings_s"]


# A field of iteration.json that is not logged, and why.
NOT_LOGGED = {
    "previous": "follows from the number", "train_files": "a list of names", "predicted_shards": "a list of names",
    "last_classification_id": "an id, no number", "weights_sha256": "a digest", "test_loss": "it is test/all/loss",
    "waiting": "its ages are waiting/ages", "timings_s": "each step is timings_s/…",
}  # fmt: skip


def test_every_field_of_an_iteration_is_logged_or_has_a_reason(done: Settings) -> None:
    names = {key.split("/", 1)[1] for row in logged(done) for key in row if key.startswith(("counts", "cost", "model"))}
    empty = {"next_100_labels_buy", "worse_than_previous_by"}  # None in such a short experiment
    assert Summary.__annotations__.keys() - names - {"FORMAT"} == {*NOT_LOGGED, *empty}


def test_the_axis_of_a_curve_is_the_number_of_labels(done: Settings) -> None:
    axes, rows = read_back(next(runs_of(done).iterdir()))["axes"], logged(done)
    for key in {key for row in rows for key in row if not key.startswith("_")}:
        axis = axes.get(key) or axes.get(f"{key.split('/')[0]}/*") or axes.get(f"{key.split('/')[0]}*")
        wanted = history.AXES.get(f"{key.split('/')[0]}/", history.LABELS)
        assert key in (history.LABELS, *history.AXES.values()) or axis == wanted, key
        assert all(wanted in row for row in rows if key in row), f"{key} is logged without its axis"


def test_tables_show_pictures_predictions_votes_and_scores(done: Settings) -> None:
    folder = iterations_of(done)[1]
    media = {path.stem: path.read_text() for path in (done.experiment_dir / "tracking" / "media").iterdir()}
    assert set(media) == {f"{name}_{n}" for n in range(3) for name in ("chosen", "answered", "worst_of_eval")} - {
        "answered_0"
    }
    asked = folder.requests().ids
    assert re.findall(r"<tr><td>(\S+?)</td>", media["chosen_1"]) == asked[:3]
    pictures = re.findall(r"base64,([^\"]+)\"", media["chosen_1"])
    kept = [np.asarray(Image.open(folder.picture(rank)), float) for rank in range(3)]
    for rank, text in enumerate(pictures):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))), float)
        apart = [np.abs(shown - each).mean() for each in kept]
        assert apart[rank] == min(apart) < 20, "another galaxy's picture"
    assert len(pictures) == 3 and re.search(r"<td>smooth [01]\.\d\d</td><td>–</td>", media["chosen_1"])
    answered = re.findall(r"<tr><td>(\S+?)</td>", media["answered_1"])
    assert answered and set(answered) <= set(iterations_of(done)[0].requests().ids)
    votes = database.read_new_votes(folder.database)
    for id_str in answered:
        of_it = f"smooth {votes[id_str]['label']}\u00a0of\u00a0{votes[id_str]['total_votes']}"
        assert of_it in media["answered_1"]
    worst = folder.worst_of_eval(3)
    assert re.findall(r"<tr><td>(\S+?)</td>", media["worst_of_eval_1"]) == list(worst["id_str"])
    assert worst["loss"].is_monotonic_decreasing and media["worst_of_eval_1"].count("<img") == 3


def test_the_eval_losses_are_those_of_the_metrics(done: Settings) -> None:
    for folder in iterations_of(done):
        everything = folder.worst_of_eval(10_000)
        assert everything["loss"].mean() == pytest.approx(folder.loss("eval"))
        assert np.allclose(everything["label"] + everything["not_label"], 1)


def test_the_difference_is_from_random_of_the_same_pair(done: Settings, compose: Compose) -> None:
    random = compose(*TINY, "acquisition=random", data_dir=Path(done.data_dir).parent)
    rows = [row for row in logged(done) if history.DIFFERENCE_NUMBER in row]
    assert [row[history.DIFFERENCE_NUMBER] for row in rows] == [0, 1, 2]
    for row, own, other in zip(rows, iterations_of(done), iterations_of(random), strict=True):
        assert row["difference/loss"] == pytest.approx(own.loss("test") - other.loss("test"))
        assert row[history.DIFFERENCE_LABELS] == own.summary().train_galaxies
    assert not any(history.DIFFERENCE_NUMBER in row for row in logged(random)), "random from itself"


def test_random_of_another_pair_is_no_baseline(done: Settings, copied: Settings) -> None:
    other = json.loads((random := copied.experiment_dir.with_name("demo_smooth_pixels_random_seed0") / "instructions"
                        / "instructions.json").read_text())  # fmt: skip
    shutil.rmtree(copied.experiment_dir / "tracking")
    random.chmod(0o644)
    random.write_text(folders.to_text(other | {"seed": 1}))
    log_anew(copied, 3)
    assert not any(history.DIFFERENCE_NUMBER in row for row in logged(copied))
    random.write_text('"name": "random", "seed": 0, of no use')  # damaged: no reason not to log ours
    shutil.rmtree(copied.experiment_dir / "tracking")
    log_anew(copied, 3)
    assert len(logged(copied)) == 3


def test_counts_of_what_waits_and_of_what_was_chosen(done: Settings) -> None:
    rows = [row for row in logged(done) if history.NUMBER in row]
    waited = [row for row in rows if row["counts/still_waiting"]]
    assert waited, "the test needs galaxies that wait"
    for row in waited:
        assert sum(row["waiting/ages"]["values"]) == row["counts/still_waiting"]
    last = iterations_of(done)[-1]
    votes = database.read_new_votes(last.database).values()
    positive = np.mean([2 * v["label"] >= v["total_votes"] for v in votes])
    assert rows[-1]["choice/share/label"] == pytest.approx(positive)
    assert sum(rows[-1]["choice/scores"]["values"]) == last.summary().predicted_galaxies
    assert rows[-1]["cost/bytes"] == sum(
        path.stat().st_size for path in last.path.rglob("*") if path.is_file() and path.name != folders.MANIFEST
    )


def test_training_curves_go_on_through_networks_and_iterations(done: Settings, tmp_path: Path) -> None:
    made = IterationFolder(tmp_path / "iteration_3")
    made.model.mkdir(parents=True)
    first, second = ({"train_loss": [3.0, 2.0], "eval_loss": [3.5, 2.5]}, {"train_loss": [1.0], "eval_loss": [1.5]})
    content = {"epochs": 2, "weights_sha256": "0", **first, "members": [{"epochs": 1, **second}]}
    saved.write_training(made.model, content)
    before = History(dashboard.describe_run(done), [{history.EPOCH: 7}])
    rows = history._epochs(before, made)
    assert [row[history.EPOCH] for row in rows] == [8, 9, 10] and {row["training/iteration"] for row in rows} == {3}
    assert [row["training/eval_loss"] for row in rows] == [3.5, 2.5, 1.5]
    assert history._epochs(before, iterations_of(done)[0]) == [], "a head has no epochs"


# --------------------------------------------------------------- secrets and hidden votes


def test_what_is_logged_needs_no_hidden_vote(copied: Settings) -> None:
    """Without the catalogs, where the hidden votes are, the rows are the same; and no waiting galaxy has votes."""
    before = history.tracking_of(copied.experiment_dir).read()
    shutil.rmtree(copied.experiment_dir / "tracking")
    shutil.rmtree(copied.survey_dir / "prepared_catalogs")
    live = replace(copied, oracle=replace(copied.oracle, live=True))
    live.experiment_dir.parent.mkdir()
    for name in (copied.experiment_dir.name, "demo_smooth_pixels_random_seed0"):
        (copied.experiment_dir.parent / name).rename(live.experiment_dir.with_name(name))
    run = dashboard.describe_run(live)
    after = history.update(live, run, iterations_of(live))
    rows = [sorted(json.dumps(row, sort_keys=True) for row in each.rows) for each in (before, after)]
    assert rows[0] == rows[1] and len(rows[0]) == 6
    assert run.job_type == "live"
    known = database.read_new_votes(iterations_of(live)[-1].database)
    for path in (live.experiment_dir / "tracking" / "media").iterdir():
        for id_str, votes in re.findall(
            r"<tr><td>(\S+?)</td>.*?<td>.*?</td><td>.*?</td><td>(.*?)</td>", path.read_text()
        ):
            assert votes == "–" or id_str in known or "worst" in path.name


def test_a_table_cannot_carry_markup() -> None:
    from zoobot.reports.galaxy_tables import Galaxy, to_html

    text = to_html([Galaxy("<script>x</script>", 1.0, "{0}", "&", None)], "score")
    assert "<script>" not in text and "&lt;script&gt;" in text and "<td>{0}</td>" in text and "picture" not in text


# --------------------------------------------------------------- what a server gets


def test_a_moved_folder_arrives_with_its_tables_and_pictures(copied: Settings, done: Settings, tmp_path: Path) -> None:
    """Before, a moved folder was synced without its table and pictures, which were staged by absolute paths."""
    moved = replace(copied, data_dir=str(tmp_path / "elsewhere"))
    Path(copied.data_dir).rename(moved.data_dir)
    for part in runs_of(moved).iterdir():
        for artifact in read_back(part)["artifacts"]:
            assert [entry.local_path for entry in artifact.manifest.contents if entry.local_path] == []
    with WandbServer() as server:
        sync(server, runs_of(moved))
    (id_, run), *others = server.runs.items()
    assert not others and server.unknown == []
    assert run.record["tags"] == dashboard.describe_run(moved).tags and run.config["quick"] is True
    assert [{k: v for k, v in line.items() if k[0] != "_"} for line in run.lines] == [
        {k: v for k, v in row.items() if k[0] != "_"} for row in logged(done)
    ]
    shown = [line[key] for line in run.lines for key in line if key.startswith("tables/")]
    assert len(shown) == 8 and all(run.files[each["path"]].count(b"data:image/webp;base64,") == 3 for each in shown[:2])
    newest = server.artifacts[-1]
    assert newest.committed and newest.input["artifactCollectionName"] == f"experiment-{id_}"
    for name, entry in newest.manifest.items():
        assert (
            entry["digest"] == folders.digest_file(moved.experiment_dir / name) and entry["ref"] == f"zoobot://{name}"
        )
    assert {"iteration_2/metrics.json", "iteration_2/requests.json", "instructions/instructions.json"} <= set(
        newest.manifest
    )
    assert not any(KEY.encode() in body for body in server.sent)


@pytest.mark.parametrize("rewrite", ["erase", "replace lines", "drop old steps"])
def test_a_later_iteration_goes_on_with_the_same_run(copied: Settings, rewrite: Rewrite) -> None:
    """However the server treats lines that it has already, because none is sent again."""
    shutil.rmtree(copied.experiment_dir / "tracking")
    random = copied.experiment_dir.with_name("demo_smooth_pixels_random_seed0")
    random.rename(random.with_name(".hidden"))  # so that its rows come only at the end
    with WandbServer(rewrite) as server:
        for number in (1, 3):
            log_anew(copied, number)
            sync(server, runs_of(copied))
        random.with_name(".hidden").rename(random)
        log_anew(copied, 3)
        assert "1 run(s)" in sync(server, runs_of(copied))
        assert "No runs to sync" in sync(server, runs_of(copied))
    (run,) = server.runs.values()
    assert [line.get(history.NUMBER) for line in run.lines] == [0, 1, 2, None, None, None]
    assert [line.get(history.DIFFERENCE_NUMBER) for line in run.lines] == [None, None, None, 0, 1, 2]
    assert [line["_step"] for line in run.lines] == list(range(6))
    assert run.summary["counts/number"] == 2 and run.summary["difference/number"] == 2


def log_in_a_process(settings: Settings, server: WandbServer, number: int) -> str:
    """Log the first iterations as another process does, with another environment; what it says."""
    code = (
        "import logging, pickle, sys; logging.basicConfig(format='%(message)s')\n"
        "from zoobot.iterations.files import ExperimentFolder\nfrom zoobot.reports import dashboard\n"
        "settings, number = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "dashboard.log_iterations(settings, ExperimentFolder(settings.experiment_dir).iterations()[:number])"
    )
    online = replace(settings, tracking=replace(settings.tracking, mode="online"))
    environment = {**os.environ, **server.environment, "WANDB_MODE": "online"}
    environment.pop("WANDB_SERVICE", None)  # that of this process, which knows another server
    command = [sys.executable, "-c", code, pickle.dumps((online, number)).hex()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.long
def test_online_the_server_gets_what_it_has_not_got(copied: Settings) -> None:
    shutil.rmtree(copied.experiment_dir / "tracking")
    log_anew(copied, 1)  # offline, and not synced yet
    with WandbServer() as server:
        assert "not logged" not in log_in_a_process(copied, server, 2)
        assert not runs_of(copied).exists(), "it would be there twice after a sync"
        (copied.experiment_dir / "tracking" / "sent.json").unlink()  # as if it had been stopped before it was noted
        log_in_a_process(copied, server, 2)
        log_in_a_process(copied, server, 3)
        n_requests = len(server.sent)
        log_in_a_process(copied, server, 3)
        assert len(server.sent) == n_requests, "nothing is new, so nothing is asked"
    (run,) = server.runs.values()
    assert [line["_step"] for line in run.lines] == list(range(6)) and server.unknown == []
    assert [line.get(history.NUMBER, line.get(history.DIFFERENCE_NUMBER)) for line in run.lines] == [0, 0, 1, 1, 2, 2]
    log_anew(copied, 3)
    assert not runs_of(copied).exists() or not list(runs_of(copied).iterdir()), "offline goes on where online stopped"


# --------------------------------------------------------------- faults, some of them from public reports


def test_a_run_that_was_deleted_is_a_warning(copied: Settings) -> None:
    """wandb issues 1192, 4897, 4948: status 409 for an id that was used before, and once an endless retry."""
    shutil.rmtree(copied.experiment_dir / "tracking")
    with WandbServer() as server:
        server.deleted.add(dashboard.describe_run(copied).id)
        assert "previously created and deleted" in log_in_a_process(copied, server, 3)
        log_anew(copied, 3)
        assert "previously created and deleted" in sync(server, runs_of(copied))
        assert not list(runs_of(copied).rglob("*.synced")), "a sync that failed is not marked as done"
        server.deleted.clear()
        sync(server, runs_of(copied))
    assert [len(run.lines) for run in server.runs.values()] == [6]


@pytest.mark.long
def test_a_server_that_cannot_be_reached_is_a_warning(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "CONNECT_S", 1)
    with WandbServer() as server:
        pass
    shutil.rmtree(copied.experiment_dir / "tracking")
    assert "was not logged" in log_in_a_process(copied, server, 1)
    assert history.tracking_of(copied.experiment_dir).read().rows, "the next call sends them"


def test_a_copy_that_is_synced_bit_by_bit_gets_each_row_once(copied: Settings, tmp_path: Path) -> None:
    """wandb issues 3841, 5865: of offline runs with one id, the last replaced the others."""
    shutil.rmtree(copied.experiment_dir / "tracking")
    with WandbServer() as server:
        for number in (1, 2, 3):
            log_anew(copied, number)
            shutil.copytree(runs_of(copied), tmp_path / "laptop", dirs_exist_ok=True)
            sync(server, tmp_path / "laptop")
    (run,) = server.runs.values()
    assert [line["_step"] for line in run.lines] == list(range(6))


@given(st.text(min_size=1, max_size=300), st.booleans())
def test_names_and_tags_are_short_enough(name: str, quick: bool) -> None:
    """wandb issues 4208, 8322: a tag of more than 64 characters was refused after days of work, by the sync."""
    from unittest import mock

    class Instructions:
        survey, experiment = name, name
        task = model = acquisition = type("Named", (), {"name": name})

    manifest = mock.Mock(digest="0123456789abcdef" * 4, provenance=mock.Mock(git=mock.Mock(commit="c" * 40)))
    settings = mock.Mock(quick=quick, experiment_dir=Path("x"), oracle=mock.Mock(live=False))
    with (
        mock.patch.object(folders, "read_manifest", return_value=manifest),
        mock.patch("zoobot.iterations.files.InstructionsFolder.read", return_value=Instructions()),
        mock.patch.object(dashboard, "asdict", return_value={}),
    ):
        run = dashboard.describe_run(settings)
    assert all(1 <= len(tag) <= 64 for tag in run.tags) and len(set(run.tags)) == len(run.tags)
    assert len(run.name) <= 128 and len(run.group) <= 128 and re.fullmatch("[0-9a-f]{16}", run.id)


def test_rows_are_steps_so_none_can_be_too_old(copied: Settings) -> None:
    """wandb issues 4482, 5632, 5913: lines with an older step are dropped. A row without a value would be no step."""
    rows = history.tracking_of(copied.experiment_dir).read().rows
    assert all(rows) and not any("_step" in row for row in rows) and len(rows) == len(logged(copied))


def test_an_interrupted_part_is_written_again(copied: Settings) -> None:
    before = logged(copied)
    sent = copied.experiment_dir / "tracking" / "sent.json"
    sent.write_text(folders.to_text({"mode": "offline", "rows": 4}))  # the last part was not noted
    (copied.experiment_dir / "tracking" / ".writing" / "wandb").mkdir(parents=True)
    log_anew(copied, 3)
    assert json.loads(sent.read_text()) == {"mode": "offline", "rows": len(before), "report_sha256": ""}
    without = [{k: v for k, v in row.items() if k[0] != "_"} for row in before]
    assert [{k: v for k, v in row.items() if k[0] != "_"} for row in logged(copied)] == without


def test_a_report_that_came_later_is_named_by_its_digest(copied: Settings) -> None:
    report = copied.report_dir / "report.html"
    report.parent.mkdir()
    report.write_text("a report")
    log_anew(copied, 3)
    log_anew(copied, 3)
    newest = read_back(sorted(runs_of(copied).iterdir())[-1])
    assert newest["history"] == [] and len(list(runs_of(copied).iterdir())) == 4
    (artifact,) = newest["artifacts"]
    entries = {entry.path: entry.digest for entry in artifact.manifest.contents}
    assert entries["report.html"] == folders.digest_file(report) and len(entries) == 11


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
    log_anew(blocked, 1)
    assert "iteration_0 was not logged to Weights & Biases: " in caplog.text
    (blocked.experiment_dir / "tracking").unlink()
    refused = replace(blocked, tracking=replace(done.tracking, project="not/a:project"))
    log_anew(refused, 1)
    assert caplog.text.count("was not logged") == 2
    log_anew(blocked, 1)
    assert caplog.text.count("was not logged") == 2 and len(logged(blocked)) == 1, "the id was still in use"


def test_a_run_that_was_missed_is_logged_when_its_finished_simulation_is_called_again(copied: Settings) -> None:
    for again in (simulate.run, lambda settings: sweep.run_job(settings, 0, str(Path.cwd()))):
        shutil.rmtree(copied.experiment_dir / "tracking")
        again(copied)
        assert len(logged(copied)) == 6


def test_disabled_writes_nothing(done: Settings, tmp_path: Path) -> None:
    off = replace(done, data_dir=str(tmp_path), tracking=replace(done.tracking, mode="disabled"))
    dashboard.log_iterations(off, [IterationFolder(done.experiment_dir / "iteration_0")])
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_gives_its_runs_a_tag(done: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOBOT_SWEEP", "2026-11-26_15-10-11-123456")
    assert "sweep:2026-11-26_15-10-11-123456" in dashboard.describe_run(done).tags
    assert asdict(dashboard.describe_run(done))["config"]["instructions_digest"]


def test_wandb_itself_is_in_no_history(done: Settings) -> None:
    assert "wandb" not in json.dumps([asdict(history.tracking_of(done.experiment_dir).read())]) and wandb.run is None
