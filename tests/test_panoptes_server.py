"""The stand-in for Zooniverse, tested with the unmodified panoptes_client."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from panoptes_client import Classification, Panoptes, Subject, SubjectSet, SubjectWorkflowStatus, Workflow
from panoptes_client.panoptes import PanoptesAPIException
from PIL import Image

from zoobot.galaxies.questions import load_questions
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer

QUESTIONS = load_questions("demo")
TRUTH = {f"g{i}": {"smooth-or-featured_smooth": 0.75, "smooth-or-featured_artifact": 0.25} for i in range(3)}
CLIENT = {"client_id": "rehearsal", "client_secret": "rehearsal-secret"}


@pytest.fixture
def server() -> Iterator[PanoptesServer]:
    with PanoptesServer(QUESTIONS, TRUTH) as running:
        yield running


def upload(server: PanoptesServer, picture: Path, n: int = 3) -> SubjectSet:
    """A linked set of ``n`` subjects, made with the client's own methods."""
    Image.new("RGB", (8, 8)).save(picture)
    with Panoptes(endpoint=server.endpoint, **CLIENT):
        subject_set = SubjectSet()
        subject_set.links.project = "1"
        subject_set.display_name = "first"
        subject_set.save()
        subjects = []
        for number in range(n):
            subject = Subject()
            subject.links.project = "1"
            subject.add_location(str(picture))
            subject.metadata.update({"id_str": f"g{number}", "#retirement_limit": 6})
            subject.save()
            subjects.append(subject)
        subject_set.add(subjects)
        Workflow.find("1").links.subject_sets.add(subject_set)
    return subject_set


def test_the_client_uploads_volunteers_classify_and_the_client_reads(server: PanoptesServer, tmp_path: Path) -> None:
    subject_set = upload(server, tmp_path / "g.png")
    assert [server.classify() for _ in range(3)] == [9, 9, 0]  # half, the rest, then all are retired
    with Panoptes(endpoint=server.endpoint, **CLIENT):
        rows = [c.raw for c in Classification.where(scope="project", project_id=1, last_id=0, page_size=5)]
        assert len(rows) == 18 and [int(r["id"]) for r in rows] == sorted({int(r["id"]) for r in rows})
        assert {r["annotations"][0]["value"] for r in rows} == {0, 2}
        assert len(list(subject_set.subjects)) == 3
        assert list(Classification.where(scope="project", project_id=2, last_id=0)) == []
        with pytest.raises(PanoptesAPIException, match="Project ID required"):
            list(Classification.where(scope="project", last_id=0))
        export = Workflow("1").get_export("classifications")
        lines = list(csv.DictReader(io.StringIO(export.content.decode("utf-8"))))
    assert len(lines) == 18 and {line["workflow_version"] for line in lines} == {"1.1"}
    pages = [r for r in server.requests if r.startswith("GET /api/classifications/project?project_id=1")]
    assert len(pages) == 5  # 5 + 5 + 5 + 3 rows, and the empty page at the end


def test_a_password_works_as_well_and_a_wrong_one_does_not(server: PanoptesServer) -> None:
    with Panoptes(endpoint=server.endpoint, username="volunteer-wrangler", password="rehearsal-password"):
        assert Workflow.find("1").display_name == "Galaxies"
    with pytest.raises(PanoptesAPIException, match="Invalid email or password"):
        Panoptes(endpoint=server.endpoint, username="volunteer-wrangler", password="wrong")


def test_one_bad_id_makes_a_link_fail_and_what_is_linked_is_ignored(server: PanoptesServer, tmp_path: Path) -> None:
    subject_set = upload(server, tmp_path / "g.png")
    known = server.world.sets[subject_set.id]["members"]
    client = Panoptes(endpoint=server.endpoint, **CLIENT)
    path = f"/subject_sets/{subject_set.id}/links/subjects"
    for bad in (["1"], [known[0], known[0]]):
        with pytest.raises(PanoptesAPIException, match="all the subjects exist"):
            client.post(path, json={"subjects": [*known, *bad]})
    client.post(path, json={"subjects": known})
    assert len(server.world.sets[subject_set.id]["members"]) == 3


def test_the_client_retires_a_subject_and_reads_its_state(server: PanoptesServer, tmp_path: Path) -> None:
    subject_set = upload(server, tmp_path / "g.png")
    first, second, third = server.world.sets[subject_set.id]["members"]
    with Panoptes(endpoint=server.endpoint, **CLIENT) as client:
        Workflow.find("1").retire_subjects([first])
        server.classify()
        Workflow.find("1").retire_subjects([first, second], reason="consensus")
        found = {
            id_: [status.raw for status in SubjectWorkflowStatus.where(workflow_id="1", subject_id=id_)]
            for id_ in (first, second, third, "7")
        }
        with pytest.raises(PanoptesAPIException, match="not included in the list"):
            client.post("/workflows/1/retired_subjects", json={"subject_ids": [third], "retirement_reason": "bored"})
        assert list(SubjectWorkflowStatus.where(workflow_id="2", subject_id=first)) == []
    assert [len(statuses) for statuses in found.values()] == [1, 1, 1, 0]  # the last has none
    of = {id_: statuses[0] for id_, statuses in found.items() if statuses}
    assert [of[id_]["classifications_count"] for id_ in (first, second, third)] == [0, 3, 3]
    assert [of[id_]["retirement_reason"] for id_ in (first, second, third)] == ["other", "consensus", None]
    assert bool(of[first]["retired_at"]) and of[third]["retired_at"] is None
    assert of[first]["links"] == {"workflow": "1", "subject": first}


def test_a_prioritized_workflow_shows_linked_subjects_in_order(server: PanoptesServer, tmp_path: Path) -> None:
    """The priority is copied when a subject is linked; later changes, and subjects made inside a set, need more."""
    subject_set = upload(server, tmp_path / "g.png")
    server.world.workflows["1"]["prioritized"] = True
    members = server.world.sets[subject_set.id]["members"]
    assert server.world.linked() == members, "none has a priority"
    with Panoptes(endpoint=server.endpoint, **CLIENT) as client:
        for number, id_ in enumerate(members):
            subject = Subject.find(id_)
            subject.metadata["#priority"] = 10 - number
            subject.save()
        assert server.world.linked() == members, "a change of the metadata alone has no effect"
        subject_set.remove(members[:2])
        subject_set.add(members[:2])
        assert server.world.linked() == [members[1], members[0], members[2]]
        path = f"/set_member_subjects/{subject_set.id}{members[2]}"
        content, etag = client.get(path)
        assert content["set_member_subjects"][0]["priority"] is None
        client.put(path, json={"set_member_subjects": {"priority": 1}}, etag=etag)
        assert client.get(path)[0]["set_member_subjects"][0]["priority"] == "1.0"
        with pytest.raises(PanoptesAPIException, match="Could not find set_member_subject"):
            client.get("/set_member_subjects/77")
    assert server.world.linked() == [members[2], members[1], members[0]]
    assert server.classify(most=1) == 3 and server.world.rows[0]["links"]["subjects"] == [members[2]]


def test_headers_and_etags_are_required(server: PanoptesServer, tmp_path: Path) -> None:
    subject_set = upload(server, tmp_path / "g.png")
    client = Panoptes(endpoint=server.endpoint, **CLIENT)
    subject = server.world.sets[subject_set.id]["members"][0]
    change = {"subjects": {"metadata": {"id_str": "g9"}}}
    for etag, status in ((None, 428), ('W/"0"', 412)):
        assert client.put_request(f"/subjects/{subject}", json=change, etag=etag).status_code == status
    _, etag = client.get(f"/subjects/{subject}")
    assert client.put_request(f"/subjects/{subject}", json=change, etag=etag).status_code == 200
    plain = {"Authorization": f"Bearer {client.get_bearer_token()}"}
    assert requests.get(f"{server.endpoint}/api/workflows/1", headers=plain, timeout=5).status_code == 404
    accept = plain | {"Accept": "application/vnd.api+json; version=1"}
    assert requests.post(f"{server.endpoint}/api/subjects", b"{}", headers=accept, timeout=5).status_code == 415


def test_faults_strike_as_configured(server: PanoptesServer, tmp_path: Path) -> None:
    upload(server, tmp_path / "g.png")
    server.classify()
    server.faults = [Fault("status", "/api/classifications/project", skip=1, status=429, retry_after="3")]
    client = Panoptes(endpoint=server.endpoint, **CLIENT)
    answers = [client.get_request("/classifications/project", {"project_id": 1, "last_id": 0}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 200] and server.struck == ["status"]
    assert answers[1].headers["Retry-After"] == "3"
    server.faults = [Fault("cut", "/api/classifications/project")]
    with pytest.raises(requests.RequestException):
        client.get_request("/classifications/project", {"project_id": 1, "last_id": 0})


def test_the_state_survives_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    with PanoptesServer(QUESTIONS, TRUTH, state) as first:
        upload(first, tmp_path / "g.png")
        first.classify()
    with PanoptesServer(QUESTIONS, TRUTH, state) as second:
        assert second.world.rows == first.world.rows and second.world.media == first.world.media
        assert second.classify() == 9
