"""Credentials, requests and pulls: each fault alone, against the stand-in."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from zoobot.errors import FolderError, InputError, ServiceError
from zoobot.galaxies.questions import load_questions
from zoobot.oracles import credentials, pull
from zoobot.oracles.panoptes import Zooniverse
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer
from zoobot.oracles.simulated import classification
from zoobot.settings import OracleSettings

QUESTIONS = load_questions("demo")
CHOSEN = OracleSettings(
    kind="panoptes", project_id="1", workflow_ids=["1"], timeout_s=5, tries=3, retry_wait_s=0.01, overlap_ids=0
)
PAGES = "/api/classifications/project"


@pytest.fixture
def chosen(server: PanoptesServer, tmp_path: Path) -> OracleSettings:
    return replace(CHOSEN, endpoint=server.endpoint, credentials_file=str(login(tmp_path)))


def login(folder: Path, mode: int = 0o600, **content: str) -> Path:
    path = folder / "zooniverse_login.json"
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(content or {"client_id": "rehearsal", "client_secret": "rehearsal-secret"}))
    path.chmod(mode)
    return path


def fill(server: PanoptesServer, n: int, first: int = 1, step: int = 1, workflow: str = "1") -> list[str]:
    answers = [{"task": "T0", "value": 0}]
    ids = range(first, first + n * step, step)
    server.world.rows += [classification(id_, f"{1 + id_ % 7}", id_, answers, "1", workflow) for id_ in ids]
    return [str(id_) for id_ in ids]


def ids(folder: Path) -> list[str]:
    return [row["id"] for row in pull.rows(folder)]


# --------------------------------------------------------------- credentials


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Other users can read .* \(mode 640\).*chmod 600"):
        credentials.load(str(login(tmp_path, 0o640)))
    assert credentials.load(str(login(tmp_path))).client_secret == "rehearsal-secret"


def test_a_file_in_the_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "REPOSITORY", tmp_path)
    with pytest.raises(InputError, match="is inside the repository"):
        credentials.load(str(login(tmp_path)))


@pytest.mark.parametrize("text", ["", "[]", '{"username": "me"', '{"username": "me", "password": ""}', '"hunter2"'])
def test_a_file_without_credentials_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    path = login(tmp_path)
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        credentials.load(str(path))
    assert "hunter2" not in str(raised.value) and raised.value.__cause__ is None


def test_credentials_come_from_the_environment_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="PANOPTES_CLIENT_ID"):
        credentials.load("")
    monkeypatch.setenv("PANOPTES_USERNAME", "me")
    monkeypatch.setenv("PANOPTES_PASSWORD", "hunter2")
    found = credentials.load("")
    assert found.password == "hunter2" and "hunter2" not in repr(found) and "me'" not in repr(found)


@pytest.mark.parametrize(
    "wrong", [{"client_id": "who", "client_secret": "hunter2"}, {"username": "who", "password": "hunter2"}]
)
def test_wrong_credentials_say_so_without_showing_them(
    chosen: OracleSettings, tmp_path: Path, wrong: dict[str, str]
) -> None:
    with pytest.raises(InputError, match="refused the credentials of") as raised:
        Zooniverse(replace(chosen, credentials_file=str(login(tmp_path, **wrong)))).workflow_versions()
    assert "hunter2" not in str(raised.value) and raised.value.__suppress_context__


def test_a_user_name_and_password_work(chosen: OracleSettings, tmp_path: Path) -> None:
    login(tmp_path, username="volunteer-wrangler", password="rehearsal-password")
    assert len(Zooniverse(chosen).workflow_versions()) == 1


# --------------------------------------------------------------- requests


FAULTS = {
    "too many requests": Fault("status", PAGES, status=429, retry_after="0"),
    "too many requests, twice": Fault("status", PAGES, status=429, times=2),
    "an error of the server": Fault("status", PAGES, status=500),
    "an error on a later page": Fault("status", PAGES, status=503, skip=2, times=2),
    "a connection cut in the answer": Fault("cut", PAGES, skip=1),
    "no answer in time": Fault("slow", PAGES, seconds=0.6),
    "a token that expired early": Fault("expired_token", PAGES, skip=1),
    "no token at first": Fault("status", "/oauth/token", "POST", status=502),
    "rows that appear twice": Fault("repeat", PAGES, times=9),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_pull_survives(server: PanoptesServer, chosen: OracleSettings, tmp_path: Path, fault: Fault) -> None:
    expected = fill(server, 250)
    server.faults = [replace(fault)]
    assert pull.pull(Zooniverse(replace(chosen, timeout_s=0.3)), tmp_path / "raw", chosen, 0) == 250
    assert ids(tmp_path / "raw") == expected and fault.kind in server.struck
    assert [json.dumps(row) for row in pull.rows(tmp_path / "raw")] == [json.dumps(row) for row in server.world.rows]


def test_retry_after_is_honoured_and_a_day_is_too_long(server: PanoptesServer, chosen: OracleSettings) -> None:
    service = Zooniverse(chosen)
    server.faults = [Fault("status", PAGES, status=429, retry_after="1")]
    start = time.monotonic()
    assert service.classifications_after(0) == [] and time.monotonic() - start >= 1
    server.faults = [Fault("status", PAGES, status=429, retry_after="86400")]
    with pytest.raises(ServiceError, match="HTTP status 429") as raised:
        service.classifications_after(0)
    assert raised.value.exit_status == 1 and server.count(f"GET {PAGES}.*") == 3


def test_a_service_that_stays_away_is_an_error_that_says_try_later(
    server: PanoptesServer, chosen: OracleSettings
) -> None:
    server.faults = [Fault("status", PAGES, status=503, times=99)]
    with pytest.raises(ServiceError, match=r"cannot be reached: HTTP status 503 .*run the same command") as raised:
        Zooniverse(chosen).classifications_after(0)
    assert raised.value.exit_status == 1 and server.count(f"GET {PAGES}.*") == chosen.tries
    with pytest.raises(ServiceError, match="cannot be reached: ConnectionError"):
        Zooniverse(replace(chosen, endpoint="http://127.0.0.1:9")).classifications_after(0)


def test_a_refusal_is_not_repeated_and_gives_the_reason(server: PanoptesServer, chosen: OracleSettings) -> None:
    with pytest.raises(ServiceError, match="HTTP status 404: Could not find workflow with id='2'") as raised:
        Zooniverse(replace(chosen, workflow_ids=["2"])).show_set("5")
    assert raised.value.exit_status == 2 and server.count("GET /api/workflows/2") == 1
    with pytest.raises(InputError, match=r"oracle.workflow_ids=\['2'\]: .* has no version"):
        Zooniverse(replace(chosen, workflow_ids=["2"])).workflow_versions()


def test_another_thread_reaches_the_same_server(server: PanoptesServer, chosen: OracleSettings) -> None:
    service, found = Zooniverse(chosen), []
    fill(server, 3)
    thread = threading.Thread(target=lambda: found.extend(service.classifications_after(0)))
    thread.start()
    thread.join()
    assert len(found) == 3  # the endpoint in the environment, http://127.0.0.1:9, would have refused


def test_a_dry_run_cannot_send(chosen: OracleSettings) -> None:
    service = Zooniverse(replace(chosen, dry_run=True))
    for send in (
        lambda: service.create_set("a"),
        lambda: service.store_picture("http://127.0.0.1:9", b"", "image/png"),
    ):
        with pytest.raises(AssertionError, match="dry_run"):
            send()


def test_two_subject_sets_never_have_one_name(server: PanoptesServer, chosen: OracleSettings) -> None:
    service = Zooniverse(chosen)
    server.faults = [Fault("lost_answer", "/api/subject_sets", "POST")]
    made = service.create_set("first")
    assert service.create_set("first") == made == service.find_set("first") and len(server.world.sets) == 1
    assert service.find_set("second") == ""


# --------------------------------------------------------------- pull


def test_only_what_is_new_is_stored(server: PanoptesServer, chosen: OracleSettings, tmp_path: Path) -> None:
    first = fill(server, 120, first=11)
    service, folder = Zooniverse(chosen), tmp_path / "raw"
    assert pull.pull(service, folder, chosen, 20) == 110  # those up to 20 are from before the experiment
    fill(server, 5, first=300, workflow="2")
    assert pull.pull(service, folder, chosen, 20) == 0 and pull.last_id(folder) == 304
    second = fill(server, 130, first=400)
    assert pull.pull(service, folder, chosen, 20) == 130
    assert ids(folder) == first[10:] + second
    versions = json.loads((folder / pull.VERSIONS).read_text())
    assert versions == {"workflow_versions": server.world.versions}


def test_ids_that_become_visible_late_are_found(server: PanoptesServer, chosen: OracleSettings, tmp_path: Path) -> None:
    expected = fill(server, 250)
    careful, folder = replace(chosen, overlap_ids=100), tmp_path / "raw"
    server.faults = [Fault("late", PAGES, skip=2)]
    assert pull.pull(Zooniverse(careful), folder, careful, 0) == 201
    server.world.reveal()
    assert pull.pull(Zooniverse(careful), folder, careful, 0) == 49
    assert sorted(ids(folder), key=int) == expected and pull.last_id(folder) == 250


def test_a_stopped_pull_continues_where_it_stopped(
    server: PanoptesServer, chosen: OracleSettings, tmp_path: Path
) -> None:
    expected = fill(server, 350)
    folder = tmp_path / "raw"
    server.faults = [Fault("status", PAGES, skip=2, times=99)]
    with pytest.raises(ServiceError):
        pull.pull(Zooniverse(chosen), folder, chosen, 0)
    assert len(ids(folder)) == 200
    with (folder / "rows_00000.jsonl").open("a") as file:
        file.write('{"id": "201", "ann')  # killed while it wrote the third page
    server.faults = []
    server.requests.clear()
    assert pull.pull(Zooniverse(chosen), folder, chosen, 0) == 150
    assert ids(folder) == expected
    assert server.count(f"GET {PAGES}.*") == 3 and server.count(f"GET {PAGES}.*last_id=0.*") == 0


def test_files_end_and_begin(
    server: PanoptesServer, chosen: OracleSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "MAX_ROWS", 150)
    expected = fill(server, 500)
    pull.pull(Zooniverse(chosen), tmp_path / "raw", chosen, 0)
    assert ids(tmp_path / "raw") == expected and len(pull.row_files(tmp_path / "raw")) == 3


def test_another_project_and_changed_files_are_refused(
    server: PanoptesServer, chosen: OracleSettings, tmp_path: Path
) -> None:
    fill(server, 5)
    folder = tmp_path / "raw"
    pull.pull(Zooniverse(chosen), folder, chosen, 0)
    with pytest.raises(FolderError, match=r"workflow_ids: .* there, .* now"):
        pull.pull(Zooniverse(chosen), folder, replace(chosen, workflow_ids=["1", "2"]), 0)
    (folder / "rows_00000.jsonl").write_text("")
    with pytest.raises(FolderError, match="is missing or has been cut short"):
        pull.pull(Zooniverse(chosen), folder, chosen, 0)


def test_ids_of_more_digits_and_odd_text_pass(server: PanoptesServer, chosen: OracleSettings, tmp_path: Path) -> None:
    expected = fill(server, 150, first=999_999_950)
    server.world.rows[0]["metadata"]["session"] = "half a pair \ud800, a line end \u2028 and é"
    pull.pull(Zooniverse(chosen), tmp_path / "raw", chosen, 0)
    assert ids(tmp_path / "raw") == expected and list(pull.rows(tmp_path / "raw")) == server.world.rows


class Pages:
    """The calls that a pull makes, answered from memory, for many small pulls."""

    def __init__(self, all_ids: list[int], breaks_at: int) -> None:
        self.ids, self.left = sorted(all_ids), breaks_at

    def classifications_after(self, last_id: int) -> list[dict[str, Any]]:
        self.left -= 1
        if self.left == 0:
            raise ServiceError("broken")
        return [classification(id_, "1", 1, []) for id_ in self.ids if id_ > last_id][:4]

    def workflows(self) -> list[dict[str, Any]]:
        return []

    def require_visible_classifications(self) -> None:
        pass

    workflow_versions = workflows


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walks=st.lists(st.tuples(st.sets(st.integers(1, 40), max_size=20), st.integers(0, 6)), min_size=1, max_size=4))
def test_every_row_is_stored_once_however_pulls_are_interrupted_and_ids_appear(
    walks: list[tuple[set[int], int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, careful, visible = tmp_path_factory.mktemp("raw"), replace(CHOSEN, overlap_ids=40), set[int]()
    for new, breaks_at in [*walks, (set(), 0)]:
        visible |= new
        try:
            pull.pull(Pages(sorted(visible), breaks_at), folder, careful, 0)
        except ServiceError:
            continue
        assert sorted(map(int, ids(folder))) == sorted(visible)


def test_no_secret_is_logged(server: PanoptesServer, chosen: OracleSettings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = Zooniverse(chosen)
    server.faults = [Fault("status", "/storage/.*", "PUT", times=99)]
    _, url = service.create_subject(service.create_set("a"), {"id_str": "g"}, "image/png")
    with pytest.raises(ServiceError) as raised:
        service.store_picture(url, b"picture", "image/png")
    signature = url.split("sig=")[1]
    for text in (caplog.text, str(raised.value)):
        for secret in ("rehearsal-secret", signature, *server.world.tokens):
            assert secret not in text
    assert "trying again" in caplog.text
