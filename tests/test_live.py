"""Live work against the stand-in for Zooniverse: requests with each fault alone, then five days with all of them."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoobot import folders
from zoobot.errors import InputError, ServiceError, SettingsError
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.images import read_image
from zoobot.galaxies.questions import load_questions
from zoobot.oracles.protocol import Asked
from zoobot.oracles.rehearsal.__main__ import read_truth
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer
from zoobot.oracles.zooniverse import LiveProject
from zoobot.settings import Settings
from zoobot.stages import catalogs, finish, instructions, iterate, master_catalog, shards

Compose = Callable[..., Settings]
QUESTIONS = load_questions("demo")
LIVE = (
    "oracle=panoptes", "oracle.project_id=1", "oracle.workflow_ids=[1]", "shards.source=real", "quick=true",
    "oracle.votes_per_galaxy=52", "oracle.control_votes=4", "oracle.control_per_iteration=2", "oracle.overlap_ids=3000",
    "survey.retirement_votes=48", "oracle.retry_wait_s=0.01", "oracle.timeout_s=1", "tracking=disabled",
    "iterate.subjects_per_iteration=4", "oracle.tries=4", "model=pixels", "model.n_samples=2",
)  # fmt: skip
SECRETS = ("rehearsal-secret", "rehearsal-password", "volunteer-wrangler", "sig=")


def credentials(folder: Path) -> str:
    path = folder / "zooniverse_login.json"
    path.write_text('{"client_id": "rehearsal", "client_secret": "rehearsal-secret"}')
    path.chmod(0o600)
    return str(path)


@pytest.fixture(scope="module")
def prepared(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Shards of the demo survey for live work; the server's truth is beside the survey's pictures."""
    folder = tmp_path_factory.mktemp("live")
    settings = compose("stage=shards", *LIVE, "oracle.endpoint=http://127.0.0.1:9", data_dir=folder)
    for stage in (master_catalog, catalogs, shards):
        stage.run(settings)
    return settings


def copy_of(prepared: Settings, folder: Path, server: PanoptesServer, **changes: Any) -> Settings:
    """A copy of the prepared data, with the server to ask."""
    shutil.copytree(prepared.data_dir, folder / "data")
    live = replace(prepared.oracle, endpoint=server.endpoint, credentials_file=credentials(folder), **changes)
    return replace(prepared, data_dir=str(folder / "data"), oracle=live)


@pytest.fixture
def server(prepared: Settings) -> Iterator[PanoptesServer]:
    with PanoptesServer(QUESTIONS, read_truth(prepared.survey_dir / "galaxies" / "truth.csv", QUESTIONS)) as running:
        yield running


@pytest.fixture
def live(prepared: Settings, server: PanoptesServer, tmp_path: Path) -> Settings:
    return copy_of(prepared, tmp_path, server)


def project(settings: Settings) -> LiveProject:
    unfinished = settings.experiment_dir / ".iteration_0.unfinished"
    return LiveProject(settings, settings.catalog_dir / "unlabelled.csv", QUESTIONS, unfinished)


def pool(settings: Settings, n: int = 3) -> list[str]:
    return list(pd.read_csv(settings.catalog_dir / "unlabelled.csv", dtype={"id_str": str})["id_str"][:n])


def assert_asked_once(server: PanoptesServer, settings: Settings, ids: list[str], n_votes: int) -> None:
    """Each galaxy has one subject, in the one set, with the survey's own picture."""
    subjects = server.world.subjects
    assert sorted(one["metadata"]["id_str"] for one in subjects.values()) == sorted(ids)
    assert [sorted(one["members"]) for one in server.world.sets.values()] == [sorted(subjects)]
    assert server.world.linked() == sorted(subjects, key=int)
    for subject_id, one in subjects.items():
        assert one["metadata"]["#retirement_limit"] == n_votes and server.world.has_image(subject_id)
        assert set(one["metadata"]) <= {"id_str", "ra", "dec", "#retirement_limit"}


REQUEST_FAULTS = {
    "the set is made, its answer lost": Fault("lost_answer", "/api/subject_sets", "POST"),
    "the set is not made": Fault("status", "/api/subject_sets", "POST", status=429, retry_after="0"),
    "a subject is made, its answer lost": Fault("lost_answer", "/api/subjects", "POST", skip=1),
    "a subject is not made": Fault("status", "/api/subjects", "POST", skip=1, times=2),
    "a subject's answer is cut": Fault("cut", "/api/subjects", "POST"),
    "a picture is said to be stored and is not": Fault("lost_upload", "/storage/.*", "PUT", skip=1),
    "a picture is not stored": Fault("status", "/storage/.*", "PUT", times=2),
    "a link is made, its answer lost": Fault("lost_answer", "/api/subject_sets/\\d+/links/subjects", "POST"),
    "a token expires": Fault("expired_token", "/api/subjects", "POST", skip=1),
    "a list of members comes late": Fault("slow", "/api/subjects", seconds=1.3),
}


@pytest.mark.parametrize("fault", REQUEST_FAULTS.values(), ids=REQUEST_FAULTS)
def test_a_request_survives(server: PanoptesServer, live: Settings, fault: Fault) -> None:
    server.faults = [replace(fault)]
    first = project(live).request(pool(live), "x_iteration_0", 52)
    assert server.struck
    assert_asked_once(server, live, pool(live), 52)
    server.requests.clear()
    assert project(live).request(pool(live), "x_iteration_0", 52) == first
    assert server.count("POST /api/subjects|POST /api/subject_sets|PUT .*") == 0, "doing it again sent something"


@pytest.mark.parametrize("at", range(9))
def test_a_request_that_was_killed_anywhere_is_finished_by_the_next(
    server: PanoptesServer, live: Settings, at: int
) -> None:
    """The service fails after ``at`` changes, the last of which took effect, and is back for the second try."""
    changes = "/api/(subjects|subject_sets|workflows).*|/storage/.*"
    server.faults = [
        Fault("lost_answer", changes, "POST", skip=at // 2 + at % 2),
        Fault("status", changes, "POST", times=99),
        Fault("status", "/storage/.*", "PUT", skip=at // 2, times=99),
    ]
    with pytest.raises(ServiceError):
        project(live).request(pool(live), "x_iteration_0", 52)
    server.faults = []
    project(live).request(pool(live), "x_iteration_0", 52)
    assert_asked_once(server, live, pool(live), 52)


def test_galaxies_that_are_on_zooniverse_are_linked(server: PanoptesServer, live: Settings, tmp_path: Path) -> None:
    ids = pool(live, 4)
    old = project(live).request(ids[:2], "old", 30).subjects
    export = pd.DataFrame(
        {
            "subject_id": [*(f"{id_}.0" for id_ in old.values()), "999"],
            "metadata": [json.dumps({"id_str": i}) for i in ids[:3]],
        }
    )
    export.to_csv(tmp_path / "subjects.csv", index=False)
    again = replace(live, oracle=replace(live.oracle, subjects=str(tmp_path / "subjects.csv")))
    receipt = project(again).request(ids, "new", 52)
    assert {i: receipt.subjects[i] for i in ids[:2]} == old and len(server.world.subjects) == 4
    assert all(one["metadata"]["#retirement_limit"] == 52 for one in server.world.subjects.values())
    assert project(again).request(ids, "new", 52) == receipt and len(server.world.subjects) == 4


def test_an_export_with_a_bad_id_is_refused_before_anything_is_received(
    server: PanoptesServer, live: Settings, tmp_path: Path
) -> None:
    (tmp_path / "subjects.csv").write_text('subject_id,metadata\n7.5,"{""id_str"": ""g""}"\n')
    instructions.run(live)
    with pytest.raises(InputError, match=r"subjects\.csv: column subject_id, row 1: 7\.5 is no id of a subject"):
        iterate.run(replace(live, oracle=replace(live.oracle, subjects=str(tmp_path / "subjects.csv"))))
    assert server.requests == [] and not (folders.unfinished(live.experiment_dir / "iteration_0") / "received").exists()


def test_a_set_with_other_galaxies_is_not_ours(server: PanoptesServer, live: Settings) -> None:
    project(live).request(pool(live, 3), "x_iteration_0", 52)
    with pytest.raises(InputError, match="holds 1 galaxies that this iteration does not ask"):
        project(live).request(pool(live, 2), "x_iteration_0", 52)


def test_a_galaxy_with_two_subjects_keeps_the_first(server: PanoptesServer, live: Settings) -> None:
    receipt = project(live).request(pool(live, 2), "x_iteration_0", 52)
    one = server.world.sets[receipt.subject_set_id]
    server.world.subjects["90001"] = dict(server.world.subjects[one["members"][0]])
    one["members"].append("90001")
    assert project(live).request(pool(live, 2), "x_iteration_0", 52) == receipt
    assert sorted(one["members"]) == sorted(receipt.subjects.values())


def test_a_galaxy_without_a_picture_is_refused_before_anything_is_sent(server: PanoptesServer, live: Settings) -> None:
    table = pd.read_csv(live.catalog_dir / "unlabelled.csv", dtype=str).set_index("id_str")
    path = live.image_path(table.loc[pool(live)[1], "file_loc"])
    path.parent.chmod(0o755)
    path.unlink()
    with pytest.raises(InputError, match=rf"1 of 3 galaxies have no picture(.|\n)*{path.name}: no such file"):
        project(live).request(pool(live), "x_iteration_0", 52)
    assert server.requests == []


def test_a_fits_image_is_uploaded_as_a_picture(server: PanoptesServer, live: Settings) -> None:
    from astropy.io import fits

    path = live.catalog_dir / "unlabelled.csv"
    path.parent.chmod(0o755)
    path.chmod(0o644)
    table = pd.read_csv(path, dtype={"id_str": str})
    table.loc[0, "file_loc"] = "galaxy.fits"
    table.to_csv(path, index=False)
    fits.PrimaryHDU(np.random.default_rng(0).random((3, 40, 40), np.float32)).writeto(live.image_path("galaxy.fits"))
    project(live).request(pool(live, 1), "x_iteration_0", 52)
    assert_asked_once(server, live, pool(live, 1), 52)
    assert next(iter(server.world.subjects.values()))["mime"] == "image/png"
    stored = base64.b64decode(next(iter(server.world.media.values())))
    with Image.open(io.BytesIO(stored)) as picture:  # volunteers see what the network is trained on
        assert np.array_equal(np.asarray(picture), read_image(live.image_path("galaxy.fits"), live.survey))


def test_rows_of_others_do_not_count_and_the_true_last_id_is_kept(server: PanoptesServer, live: Settings) -> None:
    receipt = project(live).request(pool(live, 2), "x_iteration_0", 52)
    server.classify()
    galaxy = pool(live, 1)[0]
    waiting = {galaxy: Asked(receipt.subjects[galaxy], 52)}
    received = project(live).receive(waiting, [], 5)
    assert received.last_classification_id == server.world.last_row == 500_000_000 + 3 * 52
    assert received.votes.loc[galaxy, QUESTIONS.root.total] == 26 == len(received.classifications)
    assert received.workflow_versions == server.world.versions and len(received.rejected) == 0
    server.classify()
    again = project(live).receive(waiting, [], 5)  # as after a crash before the votes became labels
    assert again.votes.loc[galaxy, QUESTIONS.root.total] == 52 == len(again.classifications)


def test_what_the_server_corrects_counts_in_the_same_and_in_a_later_iteration(
    server: PanoptesServer, live: Settings
) -> None:
    receipt = project(live).request(pool(live, 1), "x_iteration_0", 52)
    server.classify()
    galaxy, subject = next(iter(receipt.subjects.items()))
    waiting = {galaxy: Asked(subject, 52)}
    right, row = server.world.rows[5]["annotations"], server.world.rows[5]
    row["annotations"] = [{"task": "T0", "value": 99}]
    server.faults = [Fault("replaced", "/api/workflow_versions", field="workflow_versions.0.tasks", value=None)]
    with pytest.raises(InputError, match=r"none of \d+ answers is a vote; .* workflow 1, version 1\.1 has no tasks"):
        project(live).receive(waiting, [], 5)
    first = project(live).receive(waiting, [], 5)
    assert first.votes.loc[galaxy, QUESTIONS.root.total] == 25 and len(first.rejected) == 1
    row |= {"annotations": right, "updated_at": "2099-01-01T00:00:00.000Z"}
    again = project(live).receive(waiting, [], 5)
    assert again.votes.loc[galaxy, QUESTIONS.root.total] == 26 and len(again.classifications) == 27
    shutil.rmtree(folders.unfinished(live.experiment_dir / "iteration_0"))
    later = project(live).receive(waiting, first.classifications, first.last_classification_id)
    assert later.votes.loc[galaxy, QUESTIONS.root.total] == 26 and later.classifications == [row]


def test_tests_before_launch_are_no_labels_unless_a_setting_says_so(server: PanoptesServer, live: Settings) -> None:
    receipt = project(live).request(pool(live, 1), "x_iteration_0", 52)
    server.classify()
    for row in server.world.rows:
        row["metadata"]["live_project"] = False
    galaxy, subject = next(iter(receipt.subjects.items()))
    waiting = {galaxy: Asked(subject, 52)}
    with pytest.raises(InputError, match=r"test before the launch of the project.*reduce\.before_launch=true counts"):
        project(live).receive(waiting, [], 5)
    for key, n_votes in (("allow_no_votes", 0), ("before_launch", 26)):
        settings = replace(live, reduce=replace(live.reduce, **{key: True}))
        assert project(settings).receive(waiting, [], 5).votes.loc[galaxy, QUESTIONS.root.total] == n_votes


def test_a_last_id_that_never_was_is_corrected_in_the_next_iteration(server: PanoptesServer, live: Settings) -> None:
    receipt = project(live).request(pool(live, 1), "x_iteration_0", 52)
    server.classify()
    galaxy, subject = next(iter(receipt.subjects.items()))
    received = project(live).receive({galaxy: Asked(subject, 52)}, [], 10**17)
    assert received.votes.loc[galaxy, QUESTIONS.root.total] == 26
    assert received.last_classification_id == server.world.last_row


def test_a_workflow_of_another_project_is_refused_before_anything_is_sent(
    server: PanoptesServer, live: Settings
) -> None:
    server.world.workflows["1"]["project"] = "7"
    with pytest.raises(InputError, match=r"workflow 1 belongs to project 7, not to oracle\.project_id=1"):
        project(live).request(pool(live), "x_iteration_0", 52)
    assert server.count("(POST|PUT|DELETE) /(api|storage).*") == 0


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("oracle.project_id=''",), "oracle.project_id: oracle=panoptes needs"),
        (("oracle.workflow_ids=[smooth]",), "oracle.workflow_ids: oracle=panoptes needs"),
        (("oracle.endpoint=http://www.zooniverse.org",), "oracle.endpoint=http://www.zooniverse.org: must be https"),
        (("shards.source=mock",), "live work needs shards.source=real"),
        (("stage=simulate",), "volunteers need days"),
    ],
)
def test_settings_that_do_not_fit_live_work(compose: Compose, tmp_path: Path, overrides: Any, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        compose("stage=iterate", *LIVE, *overrides, data_dir=tmp_path)


def test_a_dry_run_says_what_it_would_send_and_leaves_no_iteration(
    server: PanoptesServer, live: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    instructions.run(live)
    dry = replace(live, oracle=replace(live.oracle, dry_run=True))
    iterate.run(dry)
    assert caplog.text.count("would upload") == 6 and server.count("(POST|PUT|DELETE) /(api|storage).*") == 0
    assert folders.list_numbered(live.experiment_dir, "iteration") == []
    said = {line.split('"id_str": "')[1].split('"')[0] for line in caplog.text.splitlines() if "would upload" in line}
    iterate.run(live)
    assert {one["metadata"]["id_str"] for one in server.world.subjects.values()} == said


def test_a_dry_run_keeps_no_votes_for_the_real_run_that_follows(server: PanoptesServer, live: Settings) -> None:
    instructions.run(live)
    iterate.run(live)
    dry = replace(live, oracle=replace(live.oracle, dry_run=True))
    server.classify()  # half of the votes
    iterate.run(dry)
    assert not folders.unfinished(live.experiment_dir / "iteration_1").exists()
    server.classify()  # days later
    iterate.run(live)
    summary = folders.read_json(live.experiment_dir / "iteration_1" / "iteration.json")
    assert summary["labels_received"] == 4 and summary["control_labels_received"] == 2
    assert not [path for path in live.experiment_dir.iterdir() if "dry_run" in path.name]
    finish.run(live)
    final = folders.read_json(live.experiment_dir / "final" / "final.json")
    assert final["train_galaxies"] == summary["train_galaxies"] and final["recipe"]["iteration"] == 1
    assert "control" in folders.read_json(live.experiment_dir / "final" / "metrics.json")


# --------------------------------------------------------------- five days


def five_days(settings: Settings, server: PanoptesServer, faults: list[Fault]) -> list[str]:
    """An iteration each day, then volunteers. If the service stays away or answers nonsense, the day ends with an error
    and is repeated. Returns the errors.
    """
    instructions.run(settings)
    server.faults, errors = faults, []
    for day in range(5):
        for _ in range(20):
            try:
                assert iterate.run(settings).name == f"iteration_{day}"
                break
            except (ServiceError, InputError) as error:
                errors.append(f"status {error.exit_status}: {error}")
        else:
            raise AssertionError("the service never came back")
        server.world.reveal()
        server.classify()
    return errors


ALL_FAULTS = [
    Fault("status", "/oauth/token", "POST", status=503),
    Fault("status", "/api/classifications/project", status=429, retry_after="0", skip=1, times=2),
    Fault("status", "/api/classifications/project", skip=2, times=4),  # fails at each try: the day ends with an error
    Fault("cut", "/api/classifications/project", times=2),
    Fault("late", "/api/classifications/project"),
    Fault("repeat", "/api/classifications/project", times=3),
    Fault("expired_token", "/api/subjects", "POST", skip=1),
    Fault("lost_answer", "/api/subject_sets", "POST", skip=1),
    Fault("lost_answer", "/api/subjects", "POST", skip=2, times=2),
    Fault("cut", "/api/subjects", "POST", skip=6),
    Fault("status", "/storage/.*", "PUT", skip=3, times=4),
    Fault("lost_upload", "/storage/.*", "PUT", skip=5, times=2),
    Fault("lost_answer", "/api/subject_sets/\\d+/links/subjects", "POST", skip=1, times=4),
    Fault("slow", "/api/subjects", seconds=1.3),
]
# Each ends a run, with this exit status and words of its error.
ROWS = "/api/classifications/project"
PRIVATE = [{"image/png": "https://169.254.169.254/a.png?sig=abc"}]
HOSTILE = [
    (1, "a redirect", Fault("redirect", "/oauth/token", "POST", skip=1, status=307, location="http://127.0.0.1:9")),
    (1, "is no token", Fault("garbage", "/oauth/token", "POST", skip=2, body=b"[]")),
    (1, "expected JSON", Fault("garbage", ROWS, body=b"<html>Down for maintenance</html>")),
    (1, "expected JSON", Fault("garbage", ROWS, body=b'{"classifications": ' + b"9" * 5000 + b"}")),
    (1, "inside each other", Fault("garbage", ROWS, body=b"[" * 900 + b"]" * 900)),
    (1, "expected a list of cl", Fault("replaced", ROWS, field="classifications", value={"0": None})),
    (1, "id of cl", Fault("replaced", ROWS, field="classifications.3.id", value="9" * 5000)),
    (1, "links.workflow of cl", Fault("replaced", ROWS, field="classifications.*.links", value=None)),
    (1, "metadata of cl", Fault("replaced", ROWS, field="classifications.*.metadata", value=None)),
    (1, "workflow_versions 1 of 1", Fault("replaced", "/api/workflow_versions", field="workflow_versions.0", value=5)),
    (1, "links.project of wo", Fault("replaced", "/api/workflows/1", field="workflows.0.links", value=None)),
    (1, "next_href", Fault("replaced", "/api/subjects", skip=1, field="meta", value=None)),
    (1, "one that came before", Fault("replaced", "/api/subjects", skip=1, times=2, field="meta.subjects.next_href",
                                      value="/subjects?page=1&page_size=100")),
    (1, "metadata of su", Fault("replaced", "/api/subjects", skip=2, field="subjects.0.metadata", value=None)),
    (2, "public internet", Fault("replaced", "/api/subjects", "POST", field="subjects.0.locations", value=PRIVATE)),
    (2, "public internet", Fault("redirect", "/media/.*", "HEAD", status=302, location="https://10.0.0.1/a.png")),
]  # fmt: skip


def labels(settings: Settings, table: str) -> dict[str, str]:
    with database.connect(settings.experiment_dir / "iteration_4" / "iteration.db") as connection:
        return dict(connection.execute(f"SELECT id_str, votes FROM {table} WHERE iteration >= 0"))


def test_five_days_with_every_fault_give_the_labels_of_five_days_without(prepared: Settings, tmp_path: Path) -> None:
    truth = read_truth(prepared.survey_dir / "galaxies" / "truth.csv", QUESTIONS)
    found = []
    every = [*ALL_FAULTS, *(fault for _, _, fault in HOSTILE)]
    for name, faults in (("calm", []), ("stormy", [replace(fault) for fault in every])):
        (tmp_path / name).mkdir()
        with PanoptesServer(QUESTIONS, truth) as server:
            settings = copy_of(prepared, tmp_path / name, server)
            errors = five_days(settings, server, faults)
            assert not [fault for fault in server.faults if fault.times > 0], "a fault never struck"
            found.append((settings, server))
    for status, words, _ in HOSTILE:
        assert [e for e in errors if e.startswith(f"status {status}:") and words in e], (words, errors)
    assert not [error for error in errors if any(secret in error for secret in SECRETS)]
    (calm, calm_server), (stormy, stormy_server) = found
    for table, n in (("labels", 12), ("control_labels", 6)):
        assert len(labels(calm, table)) == n and labels(calm, table) == labels(stormy, table)
    asked = [one["metadata"]["id_str"] for one in stormy_server.world.subjects.values()]
    assert len(asked) == len(set(asked)) == 30, "a galaxy was uploaded twice, or was lost"
    assert sorted(asked) == sorted(one["metadata"]["id_str"] for one in calm_server.world.subjects.values())
    for server in (calm_server, stormy_server):
        members = [subject for one in server.world.sets.values() for subject in one["members"]]
        assert sorted(members) == sorted(server.world.subjects) == sorted(set(members)) and len(server.world.sets) == 10
        assert server.world.linked() == sorted(members, key=int)
    check_control(stormy)
    check_no_secret(tmp_path, stormy_server)
    assert [p for n in range(5) for p in folders.verify(stormy.experiment_dir / f"iteration_{n}")] == []


def check_control(settings: Settings) -> None:
    """The control sample gets few votes, is never trained on, and is measured separately."""
    chosen, control = set(labels(settings, "labels")), set(labels(settings, "control_labels"))
    assert not chosen & control
    for number in range(5):
        folder = settings.experiment_dir / f"iteration_{number}"
        content = folders.read_json(folder / "requests.json")
        assert len(content["control"]["ids"]) == 2 and not set(content["control"]["ids"]) & set(content["ids"])
        assert content["votes"] == 52 and content["control"]["votes"] == 4
    assert set(folders.read_json(folder / "metrics.json")) == {"eval", "test", "control"}
    assert folders.read_json(folder / "metrics.json")["control"]["all"]["galaxies"] == 6
    assert folders.read_json(folder / "iteration.json")["train_galaxies"] == labelled_before(settings) + 12
    assert folder.parent.parent.name == "live"


def labelled_before(settings: Settings) -> int:
    return tfrecords.load_config(settings.shard_dir).galaxies["train"]


def check_no_secret(folder: Path, server: PanoptesServer) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "zooniverse_login.json"]
    assert len(files) > 100
    for path in files:
        content = path.read_bytes()
        for secret in (*SECRETS, *server.world.tokens):
            assert secret.encode() not in content, f"{path} holds a secret"


def test_pictures_are_the_surveys_own(server: PanoptesServer, live: Settings) -> None:
    project(live).request(pool(live, 1), "x_iteration_0", 52)
    stored = base64.b64decode(next(iter(server.world.media.values())))
    with Image.open(io.BytesIO(stored)) as picture:
        assert picture.size == (live.survey.draw_size_px,) * 2
