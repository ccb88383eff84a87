"""status.json and status.html of a live experiment: every end of a run, however it came, and what they never say."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.crash import in_child
from tests.test_live import LIVE, SECRETS, live, prepared, server
from zoobot import folders, stages
from zoobot.errors import FolderError, InputError, ServiceError, SettingsError
from zoobot.folders import disk
from zoobot.iterations import status as states
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer
from zoobot.reports import status
from zoobot.settings import Settings

__all__ = ["live", "prepared", "server"]
ROWS = "/api/classifications/project"


def stage(settings: Settings, name: str, **oracle: Any) -> Path:
    return stages.run(replace(settings, stage=name, oracle=replace(settings.oracle, **oracle)))


def pull(settings: Settings) -> None:
    stages.run(replace(settings, stage="reduce", reduce=replace(settings.reduce, pull=True)))


def page(settings: Settings) -> str:
    return (settings.experiment_dir / "status.html").read_text(encoding="utf-8")


def top(settings: Settings) -> str:
    found = re.search(r'<p class="verdict">(.*?)</p>', page(settings))
    assert found
    return found[1]


def now(settings: Settings) -> states.Status:
    return folders.read_record(states.path_of(settings), states.Status)


@pytest.fixture
def asked(live: Settings) -> Settings:
    """An experiment that has asked about four galaxies and two of the control sample."""
    stage(live, "instructions")
    assert top(live).startswith("All is well: the experiment is ready. Run stage=iterate")
    stage(live, "iterate")
    return live


# --------------------------------------------------------------- all is well


def test_the_status_after_each_stage(server: PanoptesServer, asked: Settings) -> None:
    first = now(asked)
    assert (first.state, first.run.stage, first.run.step) == ("well", "iterate", "request")
    assert first.run.process == os.getpid() and first.last_failure is None and first.last_pull is None
    assert [(w.stream, w.asked_in, w.iterations, w.galaxies) for w in first.found.awaited] == [
        ("chosen", "iteration_0", 0, 4), ("control", "iteration_0", 0, 2),
    ]  # fmt: skip
    assert first.found.next_request == states.NextRequest("iteration_1", 4, 52, 2, 4, None)
    assert top(asked) == "All is well: 6 galaxies wait for votes. Run stage=iterate when votes have come in."
    server.classify()
    stage(asked, "iterate")
    second = now(asked)
    summary = folders.read_json(asked.experiment_dir / "iteration_1" / "iteration.json")
    assert second.last_pull and second.last_pull.last_classification_id == server.world.last_row
    assert first.written <= second.last_pull.at <= second.written
    assert second.found.cost.classifications == summary["votes_spent"] > 0
    assert second.found.test_loss == summary["test_loss"] and second.found.labels == summary["train_galaxies"]
    still = sum(len(votes) for stream in summary["waiting"].values() for votes in stream.values())
    assert sum(w.galaxies for w in second.found.awaited) == still + 6 and still
    server.classify()
    pull(asked)
    third = now(asked)
    assert third.run.stage == "reduce" and third.last_pull
    assert third.last_pull.last_classification_id == server.world.last_row > second.last_pull.last_classification_id
    stage(asked, "finish")
    assert (now(asked).run.stage, now(asked).state) == ("finish", "well") and now(asked).last_pull == third.last_pull


def test_each_step_is_written_as_it_begins(asked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, write = [], status._write

    def seeing(settings: Settings, written: states.Status) -> None:
        write(settings, written)
        seen.append((now(settings).state, now(settings).run.step, top(settings).startswith("stage=iterate")))

    monkeypatch.setattr(status, "_write", seeing)
    stage(asked, "iterate")
    steps = ["", "receive", "train", "evaluate", "predict", "request"]
    assert seen == [*(("running", step, True) for step in steps), ("well", "request", False)]


def test_neither_file_belongs_to_a_manifest_and_the_experiment_verifies(asked: Settings) -> None:
    stages.run(replace(asked, stage="verify", verify=replace(asked.verify, path=str(asked.experiment_dir))))
    named = [path for path in asked.experiment_dir.rglob("manifest.json") if "status" in path.read_text()]
    assert named == []
    before = now(asked)
    for name in ("status.json", "status.html"):
        (asked.experiment_dir / name).unlink()
    stage(asked, "iterate")
    assert now(asked).found.iterations == before.found.iterations + 1


def test_a_stop_rule_ends_the_experiment(asked: Settings) -> None:
    stage(replace(asked, stop=replace(asked.stop, labels=1)), "iterate")
    assert re.fullmatch(
        r"The experiment is over, because \d+ galaxies are labelled \(.*\): run stage=finish\.", top(asked)
    )


def test_galaxies_that_wait_too_long_are_to_be_looked_at(asked: Settings) -> None:
    impatient = replace(asked, iterate=replace(asked.iterate, waiting_iterations=1))
    for _ in range(2):
        stage(impatient, "iterate")
    assert top(asked).startswith("6 galaxies have waited for more than 1 iterations: look at their subjects")


# --------------------------------------------------------------- every other end


def test_a_server_that_is_away(server: PanoptesServer, asked: Settings) -> None:
    server.faults = [Fault("status", ROWS, times=99)]
    with pytest.raises(ServiceError):
        stage(asked, "iterate")
    failed = now(asked)
    assert failed.state == "failed" and failed.last_failure and failed.last_failure.step == "receive"
    assert "cannot be reached: HTTP status 500" in failed.last_failure.message and failed.last_failure.exit_status == 1
    assert top(asked) == "stage=iterate failed: run the same command again later, and it goes on."
    server.faults = []
    stage(asked, "iterate")
    assert top(asked).startswith("All is well") and now(asked).last_failure == failed.last_failure
    assert "A later run ended well." in page(asked)


def test_credentials_that_are_refused(server: PanoptesServer, asked: Settings, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"client_id": "rehearsal", "client_secret": "volunteer-wrangler"}')
    bad.chmod(0o600)
    with pytest.raises(InputError):
        stage(asked, "iterate", credentials_file=str(bad))
    failure = now(asked).last_failure
    assert failure and "refused the credentials of" in failure.message and failure.exit_status == 2
    assert top(asked) == "stage=iterate failed: do what the message says, then run the same command again."
    assert not [
        s for s in SECRETS for name in ("json", "html") if s in (asked.experiment_dir / f"status.{name}").read_text()
    ]


def test_ctrl_c_and_an_error_in_the_program(asked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, state, said in (
        (KeyboardInterrupt(), "stopped", "stage=iterate was stopped: run the same command again, and it goes on."),
        (KeyError("a volunteer's name"), "failed", "stage=iterate failed: look into the log."),
    ):
        monkeypatch.setattr("zoobot.iterations.learning.learn", lambda it, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            stage(asked, "iterate")
        assert (now(asked).state, top(asked)) == (state, said) and now(asked).run.step == "train"
        assert (
            "volunteer&#39;s name" not in page(asked) and "a volunteer's name" not in states.path_of(asked).read_text()
        )


def test_what_a_server_sends_is_not_repeated(server: PanoptesServer, asked: Settings) -> None:
    server.classify()
    server.faults = [Fault("garbage", ROWS, body=b"<html>Hello Edwin Hubble</html>")]
    with pytest.raises(ServiceError, match="Edwin Hubble"):
        stage(asked, "iterate")
    failure = now(asked).last_failure
    assert failure and "Hubble" not in failure.message and "Nothing is lost" in failure.message
    assert "Hubble" not in page(asked)


def test_a_run_that_was_killed_is_noticed_by_the_next(asked: Settings, tmp_path: Path) -> None:
    def killed() -> None:
        from zoobot.iterations import learning

        learning.learn = lambda it: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, return-value]
        stage(asked, "iterate")

    assert in_child(killed, tmp_path / "output.txt") == -signal.SIGKILL
    left = now(asked)
    assert (left.state, left.run.step) == ("running", "train") and left.run.process != os.getpid()
    assert "If it does not run there any more, it was killed" in page(asked)
    stage(asked, "iterate")
    failure = now(asked).last_failure
    assert failure and failure.how == "killed"
    assert failure.message.startswith(
        f"The run that began at {status.moment(left.run.began)} (process {left.run.process}"
    )
    assert "was killed during train" in failure.message and top(asked).startswith("All is well")


def test_an_iteration_that_was_damaged(asked: Settings) -> None:
    path = asked.experiment_dir / "iteration_0" / "iteration.json"
    path.chmod(0o644)
    path.write_text("{}")
    with pytest.raises(FolderError):
        stage(asked, "iterate")
    failed = now(asked)
    assert failed.state == "failed" and failed.last_failure and "iteration_0" in failed.last_failure.message
    assert failed.found.iterations == 1, "what was known before"


def test_settings_that_are_refused(asked: Settings) -> None:
    with pytest.raises(SettingsError):
        stages.check_settings(replace(asked, stage="iterate", workers=-1))
    failure = now(asked).last_failure
    assert failure and "workers=-1: must be at least 0" in failure.message and failure.exit_status == 2


def test_a_second_run_leaves_the_status_of_the_first_alone(asked: Settings, tmp_path: Path) -> None:
    before = states.path_of(asked).read_bytes()
    with status.recorded(replace(asked, stage="iterate")), disk.lock(asked.experiment_dir):
        first = now(asked)

        def second() -> None:
            stage(asked, "iterate")

        assert in_child(second, tmp_path / "output.txt") == 2, "refused: the experiment is held"
        assert now(asked) == first and first.state == "running"
    assert states.path_of(asked).read_bytes() != before and now(asked).state == "well"


# --------------------------------------------------------------- it never does harm


@pytest.mark.parametrize("damage", ["[]", "", '{"format_version": 2}', '{"format_version": 1, "state": 7}'])
def test_a_status_that_was_edited_is_written_anew(asked: Settings, damage: str) -> None:
    states.path_of(asked).write_text(damage)
    stage(asked, "iterate")
    assert now(asked).state == "well" and now(asked).found.iterations == 2


def test_a_status_that_cannot_be_written_fails_no_stage_and_hides_no_error(
    asked: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("zoobot.reports.status.folders.publish_file", full)
    with pytest.raises(RuntimeError, match="mine"), status.recorded(replace(asked, stage="iterate")):
        raise RuntimeError("mine")
    assert "status.html could not be renewed: OSError" in caplog.text


def test_dry_runs_simulations_and_experiments_that_do_not_exist_have_none(
    asked: Settings, compose: Callable[..., Settings], tmp_path: Path
) -> None:
    before = states.path_of(asked).read_bytes()
    stage(asked, "iterate", dry_run=True)
    assert states.path_of(asked).read_bytes() == before
    absent = compose("stage=iterate", *LIVE, "experiment_name=absent", data_dir=tmp_path / "none")
    with pytest.raises(FolderError):
        stages.run(absent)
    simulated = replace(asked, oracle=replace(asked.oracle, live=False), stage="instructions")
    stages.run(replace(simulated, experiment_name="simulated"))
    assert not (tmp_path / "none").exists() and not list(simulated.experiments_dir.glob("simulations/*/status.*"))


def test_the_page_is_one_file_without_a_script(asked: Settings) -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append((tag, dict(attrs)))

    reader = Reader()
    reader.feed(page(asked))
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "img", "link", "iframe", "object"}
    assert [a for _, attributes in reader.tags for a in attributes if a.startswith("on") or a == "src"] == []
    assert [attributes["href"] for tag, attributes in reader.tags if tag == "a"] == ["status.json"]
    assert re.search(r"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC", page(asked)) and "url(" not in page(asked)


def test_messages_are_text_not_markup(asked: Settings) -> None:
    with pytest.raises(InputError), status.recorded(replace(asked, stage="iterate")):
        raise InputError("<script>alert(1)</script>")
    assert "<script>" not in page(asked) and "&lt;script&gt;" in page(asked)
