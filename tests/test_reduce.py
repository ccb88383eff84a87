"""stage=reduce from its three sources; a pull grows, the others are written once."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from zoobot import folders
from zoobot.errors import FolderError, InputError, ServiceError, SettingsError
from zoobot.folders import files, published
from zoobot.galaxies.questions import load_questions
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer
from zoobot.oracles.simulated import classification
from zoobot.settings import Settings
from zoobot.stages import reduce

Build = Callable[..., Settings]
QUESTIONS = load_questions("demo")
SMOOTH = "smooth-or-featured_smooth"


@pytest.fixture
def pulling(settings: Build, server: PanoptesServer, tmp_path: Path) -> Settings:
    login = tmp_path / "zooniverse_login.json"
    login.write_text('{"client_id": "rehearsal", "client_secret": "rehearsal-secret"}')
    login.chmod(0o600)
    return settings(
        "stage=reduce", "oracle=panoptes", "oracle.project_id=1", "oracle.workflow_ids=[1]", "reduce.pull=true",
        f"oracle.endpoint={server.endpoint}", f"oracle.credentials_file={login}", "oracle.retry_wait_s=0.01",
    )  # fmt: skip


def add(server: PanoptesServer, first: int, n: int, subject: str = "5") -> None:
    answers = [{"task": "T0", "value": 0}]
    server.world.rows += [classification(id_, subject, id_, answers, "1", "1") for id_ in range(first, first + n)]


def result(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    record = folders.read_json(folder / "reduction.json")
    for name, digest in record["sha256"].items():
        assert folders.digest_file(folder / name) == digest
    return pd.read_csv(folder / "classifications.csv", dtype={"subject_id": str}).set_index("subject_id"), record


def test_a_pull_grows_from_day_to_day(
    pulling: Settings, server: PanoptesServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    add(server, 1, 150)
    folder = reduce.run(pulling)
    assert result(folder)[0].loc["5", SMOOTH] == 150
    reduce.run(pulling)
    assert "nothing to do" in caplog.text
    add(server, 200, 30, "6")
    server.faults = [Fault("status", "/api/classifications/project", skip=1, times=2)]
    reduce.run(pulling)
    table, record = result(folder)
    assert table[SMOOTH].to_dict() == {"5": 150, "6": 30} and record["answers_read"] == 180
    assert "30 new classifications, up to id 229" in caplog.text
    raw = pulling.survey_dir / "raw_classifications"
    assert {path.name for path in raw.iterdir()} == {"rows_00000.jsonl", "state.json", "workflow_versions.json"}


def test_a_stop_while_the_new_result_is_written_is_made_good(
    pulling: Settings, server: PanoptesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(server, 1, 5)
    folder = reduce.run(pulling)
    add(server, 10, 5)
    publish = files.publish_file

    def stop(path: Path, content: bytes) -> None:
        if path.name == "reduction.json":
            raise KeyboardInterrupt
        publish(path, content)

    monkeypatch.setattr(published, "publish_file", stop)
    with pytest.raises(KeyboardInterrupt):
        reduce.run(pulling)
    monkeypatch.undo()
    reduce.run(pulling)
    assert result(folder)[0].loc["5", SMOOTH] == 10


def test_a_service_that_fails_leaves_the_old_result(pulling: Settings, server: PanoptesServer) -> None:
    add(server, 1, 5)
    folder = reduce.run(pulling)
    server.faults = [Fault("status", "/api/classifications/project", times=99)]
    with pytest.raises(ServiceError):
        reduce.run(pulling)
    assert result(folder)[0].loc["5", SMOOTH] == 5


def test_other_settings_and_damage_are_refused(pulling: Settings, server: PanoptesServer) -> None:
    add(server, 1, 5)
    folder = reduce.run(pulling)
    other = replace(pulling, survey=replace(pulling.survey, questions="gz2"))
    with pytest.raises(FolderError, match=r"survey.questions: 'demo' there, 'gz2' now"):
        reduce.run(other)
    (folder / "classifications.csv").write_text("subject_id\n")
    with pytest.raises(FolderError, match=r"classifications.csv: it was changed after it was written"):
        reduce.run(pulling)


@pytest.mark.parametrize(("source", "name"), [("export", "export.csv"), ("api_dump", "api_dump.jsonl")])
def test_export_and_dump_give_the_same_and_are_written_once(
    settings: Build, server: PanoptesServer, tmp_path: Path, source: str, name: str
) -> None:
    from zoobot.oracles.rehearsal.api import Api

    add(server, 1, 20)
    (tmp_path / "versions.json").write_text(json.dumps({"workflow_versions": server.world.versions}))
    server.world.subjects["5"] = {"metadata": {"!iauname": "J1"}}
    server.world.sets["1"] = {"members": ["5"], "display_name": "a", "metadata": {}}
    api = Api(server.world, server.endpoint, "")
    files = {
        "export.csv": api._export_file("classifications").content(),
        "api_dump.jsonl": "".join(json.dumps(row) + "\n" for row in server.world.rows).encode(),
        "subjects": api._export_file("subjects").content(),
    }
    for file_name, content in files.items():
        (tmp_path / file_name).write_bytes(content)
    chosen = settings(
        "stage=reduce", f"reduce.{source}={tmp_path / name}", f"reduce.workflow_versions={tmp_path}/versions.json",
        f"reduce.subjects={tmp_path}/subjects",
    )  # fmt: skip
    table, _ = result(reduce.run(chosen))
    assert table.loc["5", SMOOTH] == 20 and table.loc["5", "iauname"] == "J1"
    reduce.run(chosen)
    with (tmp_path / name).open("a") as file:
        csv.writer(file).writerow([])
    with pytest.raises(FolderError, match=rf"input classifications/{name}: it has changed since"):
        reduce.run(chosen)


def test_missing_files_and_settings(settings: Build, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        reduce.run(settings("stage=reduce", "reduce.export=nowhere", "reduce.workflow_versions=v"))
    for overrides in (["reduce.pull=true"], [], ["reduce.export=a", "reduce.api_dump=b"]):
        with pytest.raises(SettingsError, match="reduce"):
            settings("stage=reduce", *overrides)
