"""A server that redirects, never ends, or answers nonsense gets no secret, and ends a run with one sentence."""

from __future__ import annotations

import gzip
import json
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.test_panoptes import CHOSEN, PAGES, QUESTIONS, fill, login
from zoobot.errors import InputError, ServiceError, SettingsError
from zoobot.oracles import addresses, panoptes, pull, transport
from zoobot.oracles.panoptes import Zooniverse
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer
from zoobot.settings import OracleSettings, Settings

Call = Callable[[Zooniverse], object]
BYTES_OF_A_MESSAGE = 700
CALLS: dict[str, tuple[str, str, Call]] = {  # method, path, and what makes such a request
    "classifications": ("GET", PAGES, lambda service: service.classifications_after(0)),
    "versions": ("GET", "/api/workflow_versions", lambda service: service.workflow_versions()),
    "workflows": ("GET", "/api/workflows/1", lambda service: service.workflows()),
    "a set": ("GET", "/api/subject_sets", lambda service: service.find_set("first")),
    "members": ("GET", "/api/subjects", lambda service: service.members("1")),
    "a link": ("POST", "/api/workflows/1/links/subject_sets", lambda service: service.show_set("1")),
    "a token": ("POST", "/oauth/token", lambda service: service.workflow_versions()),
}
BODIES = {
    "no JSON": b"<html><h1>Down for maintenance</h1></html>",
    "half of it": b'{"classifications": [{"id": "1", "annot',
    "not an object": b'["classifications"]',
    "null": b"null",
    "text": b'"hunter2"',
    "another object": b'{"status": "ok"}',
    "no list": b'{"classifications": {}, "subjects": 5, "subject_sets": "1", "workflows": true,'
    b' "workflow_versions": {}}',
    "lists of numbers": b'{"classifications": [1], "subjects": [1], "subject_sets": [1], "workflows": [1],'
    b' "workflow_versions": [1]}',
    "a number of 5,000 digits": b'{"classifications": [{"id": ' + b"9" * 5000 + b"}]}",
    "no number of JSON": b'{"classifications": [{"id": "1", "links": NaN}]}',
    "a number without end": b'{"classifications": [{"id": "1", "x": 1e999}]}',
    "lists in lists": b"[" * 100_000,
    "objects in objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "no text": b"\xff\xfe\x00{",
    "much of it": json.dumps({"classifications": [{"id": str(n), "links": {}} for n in range(20_000)]}).encode(),
}  # fmt: skip


@pytest.fixture
def chosen(server: PanoptesServer, tmp_path: Path) -> OracleSettings:
    return replace(CHOSEN, endpoint=server.endpoint, credentials_file=str(login(tmp_path)), retry_wait_s=0)


@pytest.fixture
def made(server: PanoptesServer) -> PanoptesServer:
    """A set with two subjects, and three classifications."""
    server.world.sets["1"] = {"display_name": "first", "metadata": {}, "members": ["5", "6"]}
    for subject in ("5", "6"):
        server.world.subjects[subject] = {"metadata": {"id_str": subject}, "mime": "image/png", "media": "abc"}
    fill(server, 3)
    return server


def error_of(call: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        call()
    assert raised.value.exit_status == 1 and len(str(raised.value)) < BYTES_OF_A_MESSAGE
    assert "run the same command again" in str(raised.value).lower()
    return raised.value


# --------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [302, 307, 308])
@pytest.mark.parametrize("name", CALLS)
def test_no_redirect_is_followed(made: PanoptesServer, chosen: OracleSettings, name: str, status: int) -> None:
    method, path, call = CALLS[name]
    with PanoptesServer(QUESTIONS, {}) as elsewhere:
        target = f"{elsewhere.endpoint}{path}?rehearsal-secret"
        made.faults = [Fault("redirect", path, method, status=status, location=target, times=99)]
        message = str(error_of(lambda: call(Zooniverse(chosen))))
        assert elsewhere.requests == [], "another host was asked, and may have been given the secret"
    assert f"a redirect (HTTP status {status}) to {elsewhere.endpoint}, which is not followed" in message
    assert f"for {method} {path}" in message and "secret" not in message
    assert made.count(f"{method} {path}.*") == 1


def test_a_password_is_not_redirected(made: PanoptesServer, chosen: OracleSettings, tmp_path: Path) -> None:
    login(tmp_path, username="volunteer-wrangler", password="rehearsal-password")
    with PanoptesServer(QUESTIONS, {}) as elsewhere:
        made.faults = [Fault("redirect", "/users/sign_in", "POST", status=307, location=elsewhere.endpoint)]
        error_of(lambda: Zooniverse(chosen).workflow_versions())
        assert elsewhere.requests == []
    assert len(Zooniverse(chosen).workflow_versions()) == 1


@pytest.mark.parametrize("location", ["http://[", "//evil.example/x", "?again", "", "file:///etc/passwd"])
def test_a_redirect_to_no_address_is_an_error_too(made: PanoptesServer, chosen: OracleSettings, location: str) -> None:
    made.faults = [Fault("redirect", PAGES, status=302, location=location)]
    assert "a redirect (HTTP status 302)" in str(error_of(lambda: Zooniverse(chosen).classifications_after(0)))


# --------------------------------------------------------------- shapes


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("a link", "a token")])
def test_an_answer_of_another_shape_is_one_sentence(
    made: PanoptesServer, chosen: OracleSettings, name: str, body: bytes
) -> None:
    method, path, call = CALLS[name]
    made.faults = [Fault("garbage", path, method, body=body, times=99)]
    message = str(error_of(lambda: call(Zooniverse(chosen))))
    assert f"answered {method} {path.removeprefix('/api')} with something else than it should: " in message
    made.faults = []
    call(Zooniverse(chosen))


TOKENS = {
    **{name: body for name, body in BODIES.items() if name != "much of it"},
    "no token": b'{"access_token": null, "expires_in": 7200}',
    "no end": b'{"access_token": "abc"}',
    "an end that is text": b'{"access_token": "abc", "expires_in": "soon"}',
    "an end in another age": b'{"access_token": "abc", "expires_in": 1e300}',
    "an end at no time": b'{"access_token": "abc", "expires_in": NaN}',
    "two lines": b'{"access_token": "abc\\r\\nX-Admin: 1", "expires_in": 7200}',
    "not Latin": b'{"access_token": "\\u2603", "expires_in": 7200}',
}


@pytest.mark.parametrize("body", TOKENS.values(), ids=TOKENS)
def test_a_token_of_another_shape_is_one_sentence(made: PanoptesServer, chosen: OracleSettings, body: bytes) -> None:
    made.faults = [Fault("garbage", "/oauth/token", "POST", body=body, times=2)]
    service = Zooniverse(chosen)
    with pytest.raises(ServiceError) as raised:
        service.workflow_versions()
    assert "abc" not in str(raised.value) and len(str(raised.value)) < BYTES_OF_A_MESSAGE
    made.faults = []
    assert len(service.workflow_versions()) == 1, "a part of the answer was kept"


@pytest.mark.parametrize("users", [None, [], [5], [{"id": "x"}], [{"id": "9" * 5000}]])
def test_a_sign_in_of_another_shape(
    made: PanoptesServer, chosen: OracleSettings, tmp_path: Path, users: object
) -> None:
    login(tmp_path, username="volunteer-wrangler", password="rehearsal-password")
    body = json.dumps({"users": users}).encode()
    made.faults = [Fault("garbage", "/users/sign_in", "POST", body=body)]
    assert "POST /users/sign_in" in str(error_of(lambda: Zooniverse(chosen).workflow_versions()))


FIELDS: list[tuple[str, str, list[object]]] = [
    ("classifications", "classifications.1.id", [None, "", "x", -1, 1.5, True, "9" * 5000, {"a": 1}, [1], "0"]),
    ("classifications", "classifications.1.links", [None, [], 5, "1"]),
    ("classifications", "classifications.1.links.workflow", [None, {}, "x"]),
    ("classifications", "classifications.1.links.subjects", [None, "5", {}]),
    ("classifications", "classifications.1.metadata", [None, [], "1.1"]),
    ("members", "subjects.1.id", [None, "9" * 5000]),
    ("members", "subjects.1.metadata", [None, []]),
    ("members", "subjects.1.locations", [None, {}, ["http://a"], [{"image/png": None}], [None]]),
    ("a set", "subject_sets.0.display_name", [None, 5]),
    ("workflows", "workflows.0.links", [None, []]),
    ("workflows", "workflows.0.links.project", [None, "x"]),
    ("workflows", "workflows.0.links.subject_sets", [5, {}]),
    ("workflows", "workflows.0.classifications_count", ["many", -1]),
    ("workflows", "workflows", [[]]),
    ("versions", "workflow_versions.0.id", [{}]),
    ("members", "meta", [None, [], 5]),
    ("members", "meta.subjects", [None, []]),
    ("members", "meta.subjects.next_href", [5, [], {}, "http://evil.example/subjects?page=2", "//evil.example", "a",
                                            "/a b", "/" + "a" * 10_000]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value"), [(n, f, value) for n, f, values in FIELDS for value in values])
def test_a_field_of_another_kind_is_named(
    made: PanoptesServer, chosen: OracleSettings, name: str, field: str, value: object
) -> None:
    method, path, call = CALLS[name]
    made.faults = [Fault("replaced", path, method, field=field, value=value)]
    message = str(error_of(lambda: call(Zooniverse(chosen))))
    assert f"answered {method} {path.removeprefix('/api')} with" in message and "received " in message
    assert field.split(".")[0] in message


def test_numbers_are_ids_as_text_is(made: PanoptesServer, chosen: OracleSettings, tmp_path: Path) -> None:
    for row in made.world.rows:
        row |= {"id": int(row["id"])}
        row["links"] |= {"workflow": 1}
    assert pull.pull(Zooniverse(chosen), tmp_path / "raw", chosen, 0) == 3
    assert pull.pull(Zooniverse(chosen), tmp_path / "raw", replace(chosen, overlap_ids=9), 0) == 0
    assert [row["id"] for row in pull.rows(tmp_path / "raw")] == ["1", "2", "3"]


def test_nothing_is_made_twice_when_the_answer_is_nonsense(made: PanoptesServer, chosen: OracleSettings) -> None:
    service = Zooniverse(chosen)
    made.faults = [
        Fault("garbage", "/api/subject_sets", "POST", body=b"null"),
        Fault("garbage", "/api/subjects", "POST", body=b'{"subjects": []}'),
        Fault("replaced", "/api/subjects/\\d+", "PUT", field="subjects.0.locations", value=None),
    ]
    set_id = service.create_set("second")
    error_of(lambda: service.create_subject(set_id, {"id_str": "g"}, "image/png"))
    assert made.struck == ["garbage", "garbage", "replaced"]
    assert [one["metadata"]["id_str"] for one in service.members(set_id)] == ["g"]


# --------------------------------------------------------------- what has no end


def test_a_list_that_comes_back_to_a_page_ends(made: PanoptesServer, chosen: OracleSettings) -> None:
    again = "/subjects?page=1&page_size=100"
    made.faults = [Fault("replaced", "/api/subjects", field="meta.subjects.next_href", value=again, times=99)]
    assert "its next page, number 3, is one that came before" in str(error_of(lambda: Zooniverse(chosen).members("1")))
    assert made.count("GET /api/subjects.*") == 2


def test_a_list_of_too_many_pages_ends(
    made: PanoptesServer, chosen: OracleSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panoptes, "PAGE_SIZE", 1)
    assert [one["id"] for one in Zooniverse(chosen).members("1")] == ["5", "6"]
    monkeypatch.setattr(panoptes, "MOST_PAGES", 0)
    assert "a list that does not end" in str(error_of(lambda: Zooniverse(chosen).members("1")))


def test_classifications_that_do_not_advance_end(made: PanoptesServer, chosen: OracleSettings, tmp_path: Path) -> None:
    body = json.dumps({"classifications": made.world.rows}).encode()
    made.faults = [Fault("garbage", PAGES, body=body, times=99)]
    with pytest.raises(ServiceError, match="after id 3 but gave older ones"):
        pull.pull(Zooniverse(chosen), tmp_path / "raw", chosen, 0)
    assert made.count(f"GET {PAGES}.*") == 2


PACKED = gzip.compress(bytes(2**26), 1)


class Endless(BaseHTTPRequestHandler):
    """Sends more than anybody wants: fast, slowly, or packed."""

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        try:
            if self.path == "/packed":
                self.wfile.write(PACKED)
            while self.path != "/packed":
                self.wfile.write(b" " if self.path == "/slow" else bytes(2**16))
                time.sleep(0.02 if self.path == "/slow" else 0)
        except OSError:
            return

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.mark.parametrize(
    ("path", "problem"), [("/fast", "1048576 bytes"), ("/packed", "bytes"), ("/slow", "took more")]
)
def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch, path: str, problem: str) -> None:
    import requests

    monkeypatch.setattr(transport, "MOST_BYTES", 2**20)
    monkeypatch.setattr(transport, "LONGEST_WAIT_S", 0.5 if path == "/slow" else 30)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    session = requests.Session()
    session.mount("http://", transport.PatientAdapter(5, 3, 0))
    tracemalloc.start()
    try:
        with pytest.raises(requests.RequestException, match=f"an answer .*{problem}"):
            session.get(f"http://127.0.0.1:{server.server_address[1]}{path}")
        assert tracemalloc.get_traced_memory()[1] < 2**24, "64 MiB were unpacked"
    finally:
        tracemalloc.stop()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("retry_after", ["9" * 5000, "\xb2", "Fri, 99 Foo 0000", "-5", "1e9", "nan"])
def test_a_wait_that_is_no_number_is_ours(made: PanoptesServer, chosen: OracleSettings, retry_after: str) -> None:
    made.faults = [Fault("status", PAGES, status=429, retry_after=retry_after)]
    assert len(Zooniverse(chosen).classifications_after(0)) == 3


# --------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("endpoint", "good"),
    [
        ("https://www.zooniverse.org", True), ("https://zoo.example:8443", True), ("http://127.0.0.1:8099", True),
        ("http://localhost:8099", True), ("http://[::1]:8099", True), ("http://www.zooniverse.org", False),
        ("https://www.zooniverse.org/", False), ("https://", False), ("ftp://a", False), ("https://me:pw@a", False),
        ("http://127.0.0.1@evil.example", False), ("http://127.0.0.1.evil.example", False), ("https://a?b", False),
        ("http://localhost\\@evil.example", False), ("https://a b", False), ("https://a\n", False), ("", False),
    ],
)  # fmt: skip
def test_credentials_are_sent_by_https_or_on_this_machine(endpoint: str, good: bool) -> None:
    assert (addresses.endpoint_problem(endpoint) == "") == good


REAL = "https://www.zooniverse.org"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://8.8.8.8/a.png?sig=1", ""), ("https://[2606:4700::1111]:8443/a", ""),
        ("http://8.8.8.8/a", "not https"),
        *((f"https://{host}/a", "not on the public internet") for host in (
            "127.0.0.1", "localhost", "[::1]", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
            "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "2130706433", "0177.0.0.1", "127.1", "100.64.0.1",
            "224.0.0.1", "[::]")),
        *((url, "no web address") for url in (
            "", "a.png", "file:///etc/passwd", "https://", "https://me@8.8.8.8/", "https://8.8.8.8\\@127.0.0.1/",
            "https://[", "//8.8.8.8/a", "https://8.8.8.8 /", "ftp://8.8.8.8/a", "https://8.8.8.8:99999999/")),
    ],
)  # fmt: skip
def test_pictures_are_on_the_public_internet(url: str, problem: str) -> None:
    assert problem in addresses.picture_problem(url, REAL, private=False)
    assert bool(problem) == bool(addresses.picture_problem(url, REAL, private=False))


def test_a_private_installation_and_a_rehearsal_have_pictures_of_their_own() -> None:
    for url in ("http://10.0.0.1:9000/a", "https://localhost/a"):
        assert addresses.picture_problem(url, REAL, private=True) == ""
    assert addresses.picture_problem("http://127.0.0.1:8099/a", "http://localhost:8099", private=False) == ""
    assert addresses.picture_problem("http://10.0.0.1/a", "http://localhost:8099", private=False) == "it is not https"
    assert "no web" in addresses.picture_problem("file:///etc/passwd", REAL, private=True)


def test_nothing_is_sent_to_a_private_address(made: PanoptesServer, chosen: OracleSettings) -> None:
    service = Zooniverse(chosen)
    for url in ("https://169.254.169.254/a?sig=1", "http://10.0.0.1/a?sig=1", "gopher://a?sig=1", "?sig=1"):
        for send in (lambda u: service.store_picture(u, b"x", "image/png"), lambda u: service.has_picture(u, 1)):
            with pytest.raises(InputError, match=r"oracle\.private_pictures=true") as raised:
                send(url)
            assert "sig=" not in str(raised.value) and raised.value.exit_status == 2
    assert not service.has_picture("", 1)


def test_a_picture_may_move_but_not_to_a_private_address(made: PanoptesServer, chosen: OracleSettings) -> None:
    service, url = Zooniverse(chosen), f"{made.endpoint}/media/abc"
    made.world.media["abc"] = "eHg="
    made.faults = [Fault("redirect", "/media/ab", "HEAD", status=302, location=url)]
    assert service.has_picture(f"{made.endpoint}/media/ab", 2)
    made.faults = [Fault("redirect", "/media/.*", "HEAD", status=302, location="https://169.254.169.254/a")]
    with pytest.raises(InputError, match=r"https://169\.254\.169\.254: it is not on the public internet"):
        service.has_picture(url, 2)
    made.faults = [Fault("redirect", "/media/.*", "HEAD", status=302, location=url, times=99)]
    with pytest.raises(ServiceError, match="cannot be reached: TooManyRedirects"):
        service.has_picture(url, 2)
    made.faults = [Fault("redirect", "/storage/.*", "PUT", status=307, location=url)]
    made.requests.clear()
    with pytest.raises(ServiceError, match="HTTP status 307"):
        service.store_picture(f"{made.endpoint}/storage/abc", b"xx", "image/png")
    assert len(made.requests) == 1


def test_settings_name_ids_and_addresses(settings: Callable[..., Settings]) -> None:
    live = ("stage=reduce", "reduce.pull=true", "oracle=panoptes", "oracle.project_id=1", "oracle.workflow_ids=[1]")
    assert settings(*live, "oracle.endpoint=http://localhost:8099").oracle.private_pictures is False
    for override, key in (
        ("oracle.project_id='١'", "project_id"), ("oracle.project_id='1.0'", "project_id"),
        ("oracle.project_id=01", "project_id"), ("oracle.workflow_ids=['6122.0']", "workflow_ids"),
        (f"oracle.workflow_ids=[1,{'9' * 30}]", "workflow_ids"), ("oracle.workflow_ids=[0]", "workflow_ids"),
        ("oracle.endpoint=http://10.0.0.1", "endpoint"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=f"oracle.{key}"):
            settings(*live, "oracle.endpoint=http://localhost:8099", override)


# --------------------------------------------------------------- secrets


def test_the_servers_text_is_one_short_line_without_secrets(made: PanoptesServer, chosen: OracleSettings) -> None:
    service = Zooniverse(chosen)
    service.workflow_versions()
    token = next(iter(made.world.tokens))
    said = f"\x1b[31mrehearsal-secret\n{token}\u202e https://a/b?sig=abc " + "x" * 10_000
    for body in (json.dumps({"classifications": said}), said):
        made.faults = [Fault("garbage", PAGES, body=body.encode())]
        message = str(error_of(lambda: service.classifications_after(0)))
        assert not [bad for bad in ("rehearsal-secret", token, "sig=", "\x1b", "\n", "\u202e") if bad in message]
    made.faults = [Fault("garbage", "/oauth/token", "POST", body=json.dumps({"errors": said}).encode())]
    assert "secret" not in str(error_of(lambda: Zooniverse(chosen).workflow_versions()))
