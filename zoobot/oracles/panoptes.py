"""The Zooniverse API, through its official client. Only this module imports panoptes_client, and it does so late.

The client logs in, renews its tokens and sets the headers. This module adds what the client lacks: time limits,
retries, and a check that each request had its effect.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from zoobot.errors import InputError, ServiceError
from zoobot.galaxies.ids import zooniverse_id
from zoobot.oracles import credentials
from zoobot.settings import OracleSettings
from zoobot.votes.classifications import Json

log = logging.getLogger("zoobot")
PAGE_SIZE = 100  # the most that the server gives
LONGEST_WAIT_S = 900.0  # if the server asks for a longer wait, we give up with an error


class _PatientAdapter(HTTPAdapter):
    """The transport below the client. Every request passes through it: tokens, each page of a list, uploads.

    The client sets no time limit, so a request can hang for ever. It retries only the first page of a list, only after
    5xx, and never after 429 or a lost connection. Here each request has a time limit and is retried, unless it creates
    something: then ``Zooniverse.create_…`` first looks whether it took effect.
    """

    def __init__(self, timeout_s: float, tries: int, wait_s: float) -> None:
        super().__init__()
        self.timeout_s, self.tries, self.wait_s = timeout_s, tries, wait_s
        self.problem = ""  # with the last request; "" if it was answered

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, and send again after 429, 5xx, a lost connection or a time-out."""
        kwargs["timeout"] = self.timeout_s
        path = urlsplit(request.url or "").path  # without the query, which in an upload holds the signature
        creates = request.method == "POST" and path in ("/api/subjects", "/api/subject_sets")
        for attempt in range(1, self.tries + 1):
            response, failure = None, None
            try:
                response = super().send(request, *args, **kwargs)
                _ = response.content  # read now, so that a connection lost halfway is noticed here
                status = response.status_code
                self.problem = f"HTTP status {status}" if status == 429 or status >= 500 else ""
            except requests.RequestException as error:
                failure, self.problem = error, type(error).__name__  # its text may hold the signature
            wait_s = self._wait_s(attempt, response)
            refused = response is not None and response.status_code == 429  # it had no effect, so a retry is safe
            last = attempt == self.tries or wait_s > LONGEST_WAIT_S or (creates and not refused)
            if not self.problem or last:
                break
            log.warning("Zooniverse: %s for %s %s; trying again in %.0f s (%d of %d)",
                        self.problem, request.method, path, wait_s, attempt, self.tries)  # fmt: skip
            time.sleep(wait_s)
        if failure is not None:
            raise failure
        assert response is not None
        return response

    def _wait_s(self, attempt: int, response: requests.Response | None) -> float:
        asked = response.headers.get("Retry-After", "") if response is not None else ""
        if asked.isdigit():
            return float(asked)
        try:
            return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
        except ValueError:
            return float(min(LONGEST_WAIT_S, self.wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)))


class Zooniverse:
    """One project on one Panoptes server.

    This object holds its own client and never uses the library's thread-local ``connect``: a thread that forgot to
    connect would reach the public service. With ``dry_run`` it can only read.
    """

    def __init__(self, oracle: OracleSettings) -> None:
        for name in ("urllib3", "panoptes_client"):  # at DEBUG they log upload addresses, signatures included
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            from panoptes_client import Panoptes
        except ImportError as error:
            raise InputError(
                "panoptes-client, the client of the Zooniverse API, is not installed. Run: pip install panoptes-client"
            ) from error
        self._oracle, self._credentials = oracle, credentials.load(oracle.credentials_file)
        self._adapter = _PatientAdapter(oracle.timeout_s, oracle.tries, oracle.retry_wait_s)
        # Empty, not None: with None the client reads the environment and logs in before it has a time limit.
        self._client = Panoptes(
            endpoint=oracle.endpoint, client_id=self._credentials.client_id, username="", password=""
        )
        self._client.client_secret = self._credentials.client_secret
        self._storage = requests.Session()  # for pictures: the place that stores them gets no token
        for session in (self._client.session, self._storage):
            session.mount("https://", self._adapter)
            session.mount("http://", self._adapter)

    # ----------------------------------------------------------- requests

    def _call(self, method: str, path: str, params: Mapping[str, Any], body: Json, etag: str) -> tuple[Json, str]:
        """The JSON of an answer and its ETag. Raises an error if the answer is one."""
        if self._oracle.dry_run and method != "GET":
            raise AssertionError(f"oracle.dry_run is set, but {method} {path} was about to be sent")
        response = self._request(method, path, params, body, etag)
        if response.status_code == 401:  # the server dropped the token before it expired
            self._client.bearer_token = None
            response = self._request(method, path, params, body, etag)
        try:
            content = response.json() if response.content else {}
        except ValueError:
            content = None
        if response.status_code >= 400 or not isinstance(content, dict):
            raise ServiceError(
                f"Zooniverse ({self._oracle.endpoint}) answered {method} {path.split('?')[0]} with HTTP status"
                f" {response.status_code}: {_messages(content)}.",
                response.status_code,
            )
        return content, response.headers.get("ETag", "")

    def _request(self, method: str, path: str, params: Mapping[str, Any], body: Json, etag: str) -> requests.Response:
        from panoptes_client.panoptes import PanoptesAPIException

        where = f"Zooniverse ({self._oracle.endpoint})"
        try:
            self._client.login(self._credentials.username, self._credentials.password)
            # This method gives the complete response; the client's other methods lose the status of an error.
            response: requests.Response = self._client.http_request(
                method, path, params=dict(params), headers={}, json=body or None, etag=etag or None
            )
            return response
        except (PanoptesAPIException, requests.RequestException, KeyError, ValueError) as error:
            if self._adapter.problem:
                raise ServiceError(
                    f"{where} cannot be reached: {self._adapter.problem} for {method} {path.split('?')[0]}."
                    " Nothing is lost: run the same command again later."
                ) from None
            # The client raises KeyError for an unknown client id, and a JSON error for a grant that is not allowed.
            said = f": {error}" if isinstance(error, PanoptesAPIException) else ""
            raise InputError(f"{where} refused the credentials of {self._credentials.origin}{said}.") from None

    def _get(self, path: str, **params: Any) -> tuple[Json, str]:
        return self._call("GET", path, params, {}, "")

    def _post(self, path: str, body: Json) -> Json:
        return self._call("POST", path, {}, body, "")[0]

    def _pages(self, slug: str, **params: Any) -> Iterator[Json]:
        """All objects of a list, page by page."""
        path, query = f"/{slug}", {"page_size": PAGE_SIZE, **params}
        while path:
            content, _ = self._call("GET", path, query, {}, "")
            yield from _objects(content, slug)
            path, query = content.get("meta", {}).get(slug, {}).get("next_href") or "", {}  # includes the query

    # ----------------------------------------------------------- classifications

    def classifications_after(self, last_id: int) -> list[Json]:
        """The project's next rows with an id above ``last_id``, in order of id; empty at the end."""
        path, project = "/classifications/project", self._oracle.project_id
        content, _ = self._get(path, project_id=project, last_id=last_id, page_size=PAGE_SIZE)
        rows = _objects(content, "classifications")
        if not all(isinstance(row.get("id"), str) and row["id"].isdecimal() for row in rows):
            raise ServiceError(f"Zooniverse ({self._oracle.endpoint}) gave a classification whose id is not a number.")
        return sorted(rows, key=lambda row: int(row["id"]))

    def workflow_versions(self) -> list[Json]:
        """All versions of the workflows: they say what each answer's index means."""
        found = [
            version
            for id_ in self._oracle.workflow_ids
            for version in self._pages("workflow_versions", workflow_id=id_)
        ]
        if not found:
            raise InputError(
                f"oracle.workflow_ids={self._oracle.workflow_ids}: Zooniverse ({self._oracle.endpoint}) has no version"
                " of such a workflow, or these credentials may not see it."
            )
        return found

    # ----------------------------------------------------------- subject sets

    def find_set(self, name: str) -> str:
        """The id of the project's subject set of this name, or "" if it does not exist."""
        found = self._pages("subject_sets", project_id=self._oracle.project_id, display_name=name)
        return next((str(one["id"]) for one in found if one["display_name"] == name), "")

    def create_set(self, name: str) -> str:
        """Create a subject set, or find the one that an earlier try created. Names are unique in a project."""
        body = {"subject_sets": {"display_name": name, "links": {"project": self._oracle.project_id}}}
        try:
            return str(_objects(self._post("/subject_sets", body), "subject_sets")[0]["id"])
        except ServiceError:
            found = self.find_set(name)
            if not found:
                raise
            return found

    def show_set(self, set_id: str) -> None:
        """Make the first workflow show the set to volunteers, if it does not already."""
        path = f"/workflows/{self._oracle.workflow_ids[0]}"
        workflow = _objects(self._get(path)[0], "workflows")[0]
        if set_id not in workflow["links"].get("subject_sets", []):
            self._post(f"{path}/links/subject_sets", {"subject_sets": [set_id]})

    def members(self, set_id: str) -> list[Json]:
        """The subjects of a set, in order of id."""
        return sorted(self._pages("subjects", subject_set_id=set_id), key=lambda subject: int(subject["id"]))

    def link(self, set_id: str, subject_ids: Sequence[str]) -> None:
        """Put subjects into a set. An unknown id makes the server refuse its complete batch; a subject that is already
        in the set is ignored.
        """
        for batch in _batches(subject_ids):
            self._post(f"/subject_sets/{set_id}/links/subjects", {"subjects": batch})

    def unlink(self, set_id: str, subject_ids: Sequence[str]) -> None:
        """Remove subjects from a set."""
        for batch in _batches(subject_ids):
            self._call("DELETE", f"/subject_sets/{set_id}/links/subjects/{','.join(batch)}", {}, {}, "")

    def set_priorities(self, set_id: str, priorities: Mapping[str, int]) -> None:
        """Give the members of a set these priorities; a prioritized workflow shows 1 first, and those without one last.

        The server copies ``#priority`` only when a subject is linked, not when it is created inside its set.
        """
        for member in list(self._pages("set_member_subjects", subject_set_id=set_id)):
            wanted = priorities.get(_subject_of(member))
            if wanted is not None and member.get("priority") not in (wanted, f"{wanted}.0"):  # a decimal comes as text
                self._update(f"/set_member_subjects/{member['id']}", "set_member_subjects", {"priority": wanted})

    # ----------------------------------------------------------- what is retired

    def statuses(self, subject_ids: Sequence[str]) -> dict[str, Json]:
        """The state of subjects in the first workflow: ``retired_at`` and ``classifications_count``. A subject that
        nobody has classified there may have none.
        """
        found: dict[str, Json] = {}
        for batch in _batches(subject_ids):
            # Not by pages: a batch fits one page, and this list names a next page even at its end.
            query = {"workflow_id": self._oracle.workflow_ids[0], "subject_id": ",".join(batch)}
            content, _ = self._get("/subject_workflow_statuses", page_size=PAGE_SIZE, **query)
            found |= {_subject_of(status): status for status in _objects(content, "subject_workflow_statuses")}
        return found

    def retire(self, subject_ids: Sequence[str]) -> None:
        """Let the first workflow show these subjects to nobody any more. One that is already retired stays so."""
        for batch in _batches(subject_ids):
            path = f"/workflows/{self._oracle.workflow_ids[0]}/retired_subjects"
            self._post(path, {"subject_ids": batch, "retirement_reason": "other"})

    # ----------------------------------------------------------- subjects

    def existing(self, subject_ids: Sequence[str]) -> list[Json]:
        """Which of these subjects exist in the project."""
        project = self._oracle.project_id
        return [
            subject
            for batch in _batches(subject_ids)
            for subject in self._pages("subjects", project_id=project, id=",".join(batch))
        ]

    def create_subject(self, set_id: str, metadata: Json, media_type: str) -> tuple[str, str]:
        """Create a subject inside a set. Returns its id and the address for its picture.

        One request does both, so the subject can be found in the set even if the answer is lost.
        """
        links = {"project": self._oracle.project_id, "subject_sets": [set_id]}
        body = {"subjects": {"locations": [media_type], "metadata": metadata, "links": links}}
        for attempt in range(1, self._oracle.tries + 1):
            try:
                subject = _objects(self._post("/subjects", body), "subjects")[0]
                return str(subject["id"]), picture_url(subject)
            except ServiceError as error:
                if 400 <= error.http_status < 500 or attempt == self._oracle.tries:
                    raise
            time.sleep(self._adapter.wait_s)
            made = [one for one in self.members(set_id) if one["metadata"].get("id_str") == metadata["id_str"]]
            if made:
                return str(made[0]["id"]), self.update_subject(made[0]["id"], {"locations": [media_type]})
        raise AssertionError("oracle.tries is at least 1")

    def update_subject(self, subject_id: str, changes: Json) -> str:
        """Change a subject's ``metadata`` or ``locations``; returns the address for its picture."""
        return picture_url(self._update(f"/subjects/{subject_id}", "subjects", changes))

    def _update(self, path: str, slug: str, changes: Json) -> Json:
        for attempt in range(1, self._oracle.tries + 1):
            _, etag = self._get(path)
            try:
                content, _ = self._call("PUT", path, {}, {slug: changes}, etag)
                return _objects(content, slug)[0]
            except ServiceError as error:  # somebody changed it in the meantime
                if error.http_status not in (409, 412) or attempt == self._oracle.tries:
                    raise
        raise AssertionError("oracle.tries is at least 1")

    # The client's own upload hides failures: ``Subject.save`` returns as if the picture had arrived.

    def store_picture(self, url: str, content: bytes, media_type: str) -> None:
        """Send a picture to the address that the server gave for it."""
        if self._oracle.dry_run:
            raise AssertionError("oracle.dry_run is set, but a picture was about to be sent")
        headers = {"Content-Type": media_type, "x-ms-blob-type": "BlockBlob"}
        try:
            status = self._storage.put(url, content, headers=headers).status_code
        except requests.RequestException:
            status = 0
        if not 200 <= status < 300:  # do not show the address: it holds the upload's signature
            raise ServiceError(
                f"A picture could not be stored ({self._adapter.problem or f'HTTP status {status}'})."
                " Nothing is lost: run the same command again later.",
                status,
            )

    def has_picture(self, url: str, size_bytes: int | None) -> bool:
        """Whether a subject's picture can be downloaded (and has this size)."""
        try:
            response = self._storage.head(url, allow_redirects=True)
        except requests.RequestException:
            raise ServiceError(f"Zooniverse's pictures cannot be reached: {self._adapter.problem}.") from None
        given = response.headers.get("Content-Length", "")
        return response.status_code == 200 and (size_bytes is None or not given or int(given) == size_bytes)


def picture_url(subject: Json) -> str:
    """The address of a subject's first picture."""
    return next((str(url) for location in subject["locations"][:1] for url in location.values()), "")


def _objects(content: Json, slug: str) -> list[Json]:
    found = content.get(slug)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ServiceError(f"Zooniverse gave no list of {slug}.")
    return found


def _subject_of(linked: Json) -> str:
    links = linked.get("links")
    subject = zooniverse_id(links.get("subject")) if isinstance(links, dict) else ""
    if not subject:
        raise ServiceError(f"Zooniverse did not say which subject {linked.get('href') or linked.get('id')} is about.")
    return subject


def _messages(content: object) -> str:
    errors = content.get("errors") or content.get("error") if isinstance(content, dict) else None
    if isinstance(errors, list):
        errors = "; ".join(str(e.get("message", e)) if isinstance(e, dict) else str(e) for e in errors)
    return str(errors or "no reason given")


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    return (list(ids[start : start + PAGE_SIZE]) for start in range(0, len(ids), PAGE_SIZE))
