"""The Zooniverse API, through its official client. Only this module imports panoptes_client, and it does so late.

The client logs in, renews its tokens and sets the headers. This module adds what the client lacks: a check that each
request had its effect. transport.py limits each request, answers.py checks what came, pictures.py moves the pictures.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests

from zoobot.errors import InputError, ServiceError
from zoobot.galaxies.ids import whole_number, zooniverse_id
from zoobot.oracles import answers, credentials
from zoobot.oracles.answers import Answer, picture_url
from zoobot.oracles.pictures import Pictures
from zoobot.oracles.transport import PatientAdapter
from zoobot.settings import OracleSettings
from zoobot.votes.rows import Json

log = logging.getLogger("zoobot")
PAGE_SIZE = 100  # the most that the server gives
MOST_PAGES = 1_000  # of a list of subjects, sets or versions
# What the client raises when an answer to its own requests (sign in, token) is not what it expects.
_BROKEN = (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


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
        self._adapter = PatientAdapter(oracle.timeout_s, oracle.tries, oracle.retry_wait_s)
        # Empty, not None: with None the client reads the environment and logs in before it has a time limit.
        self._client = Panoptes(
            endpoint=oracle.endpoint, client_id=self._credentials.client_id, username="", password=""
        )
        self._client.client_secret = self._credentials.client_secret
        self._client.session.mount("https://", self._adapter)
        self._client.session.mount("http://", self._adapter)
        self._pictures = Pictures(oracle)

    # ----------------------------------------------------------- requests

    def _call(self, method: str, path: str, params: Mapping[str, Any], body: Json, etag: str) -> tuple[Answer, str]:
        """The answer and its ETag. Raises an error if the answer is one."""
        if self._oracle.dry_run and method != "GET":
            raise AssertionError(f"oracle.dry_run is set, but {method} {path} was about to be sent")
        response = self._request(method, path, params, body, etag)
        if response.status_code == 401:  # the server dropped the token before it expired
            self._client.bearer_token = None
            response = self._request(method, path, params, body, etag)
        request = f"Zooniverse ({self._oracle.endpoint}) answered {method} {self._shown(path.split('?')[0])}"
        if response.status_code < 400:
            return Answer.read(request, response.content, self._shown), response.headers.get("ETag", "")
        try:
            reason = Answer.read(request, response.content, self._shown).reason()
        except ServiceError:
            reason = "no reason given"
        raise ServiceError(f"{request} with HTTP status {response.status_code}: {reason}.", response.status_code)

    def _request(self, method: str, path: str, params: Mapping[str, Any], body: Json, etag: str) -> requests.Response:
        from panoptes_client.panoptes import PanoptesAPIException

        try:
            self._client.login(self._credentials.username, self._credentials.password)
            # This method gives the complete response; the client's other methods lose the status of an error.
            response: requests.Response = self._client.http_request(
                method, path, params=dict(params), headers={}, json=body or None, etag=etag or None
            )
            return response
        except (PanoptesAPIException, requests.RequestException, *_BROKEN) as error:
            said = f": {self._shown(str(error))}" if isinstance(error, PanoptesAPIException) else ""
            raise self._failure(said) from None

    def _failure(self, said: str) -> InputError | ServiceError:
        """Why there is no answer to the last request, which may have been that for a token."""
        where, request = f"Zooniverse ({self._oracle.endpoint})", self._shown(self._adapter.request)
        later = "Nothing is lost: run the same command again later."
        self._client.bearer_token = None  # half of an answer may have been taken over
        if self._adapter.problem:
            return ServiceError(
                f"{where} cannot be reached: {self._shown(self._adapter.problem)} for {request}. {later}"
            )
        if self._adapter.status < 400:  # the answer is not shown: it may hold a token
            return ServiceError(f"{where} answered {request}, but what came is no token{said}. {later}")
        return InputError(f"{where} refused the credentials of {self._credentials.origin}{said}.")

    def _shown(self, text: str) -> str:
        """The server's text for a message, without what we sent it in confidence."""
        for secret in (*self._credentials.secrets(), str(self._client.bearer_token or "")):
            text = text.replace(secret, "…") if secret else text
        return answers.shown(text)

    def _get(self, path: str, **params: Any) -> tuple[Answer, str]:
        return self._call("GET", path, params, {}, "")

    def _post(self, path: str, body: Json) -> Answer:
        return self._call("POST", path, {}, body, "")[0]

    def _pages(self, slug: str, **params: Any) -> Iterator[Json]:
        """All objects of a list, page by page. ServiceError: it has no end."""
        path, query, seen = f"/{slug}", {"page_size": PAGE_SIZE, **params}, set[str]()
        while path:
            answer, _ = self._call("GET", path, query, {}, "")
            yield from answer.objects(slug)
            path, query = answer.next_page(slug), {}  # includes the query
            if path in seen or len(seen) >= MOST_PAGES:
                raise ServiceError(
                    f"{answer.request} with a list that does not end: its next page, number {len(seen) + 2}, is"
                    f" {'one that came before' if path in seen else 'one too many'}. Run the same command again later."
                )
            seen.add(path)

    # ----------------------------------------------------------- project and workflows

    def workflows(self) -> list[Json]:
        """The workflows in the settings. InputError: one of them is hidden from us, or belongs to another project."""
        found = []
        for id_ in self._oracle.workflow_ids:
            try:
                workflow = self._get(f"/workflows/{id_}")[0].one("workflows")
            except ServiceError as error:
                if error.http_status not in (403, 404):
                    raise
                raise InputError(
                    f"oracle.workflow_ids: Zooniverse ({self._oracle.endpoint}) has no workflow {id_}, or the"
                    f" credentials of {self._credentials.origin} may not see it."
                ) from None
            project = zooniverse_id(workflow["links"]["project"])
            if project != self._oracle.project_id:
                raise InputError(
                    f"oracle.workflow_ids: workflow {id_} belongs to project {project}, not to"
                    f" oracle.project_id={self._oracle.project_id}."
                )
            found.append(workflow)
        return found

    def require_visible_classifications(self) -> None:
        """InputError: the project has classifications, and we see none. Only a warning if it may have none.

        The server gives an empty list to everybody who is no collaborator of the project.
        """
        if self.classifications_after(0):
            return
        project, origin = self._oracle.project_id, self._credentials.origin
        n_made = sum(whole_number(workflow.get("classifications_count")) or 0 for workflow in self.workflows())
        if n_made:
            raise InputError(
                f"oracle.project_id={project}: its workflows have {n_made} classifications, but Zooniverse"
                f" ({self._oracle.endpoint}) shows none of them to the credentials of {origin}. Use those of a"
                " collaborator of the project."
            )
        log.warning("project %s shows no classification to the credentials of %s. If volunteers have classified there,"
                    " these credentials are not those of a collaborator", project, origin)  # fmt: skip

    # ----------------------------------------------------------- classifications

    def classifications_after(self, last_id: int) -> list[Json]:
        """The project's next rows with an id above ``last_id``, in order of id; empty at the end."""
        path, project = "/classifications/project", self._oracle.project_id
        answer, _ = self._get(path, project_id=project, last_id=last_id, page_size=PAGE_SIZE)
        return sorted(answer.objects("classifications"), key=lambda row: int(row["id"]))

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
        return next((one["id"] for one in found if one["display_name"] == name), "")

    def create_set(self, name: str) -> str:
        """Create a subject set, or find the one that an earlier try created. Names are unique in a project."""
        body = {"subject_sets": {"display_name": name, "links": {"project": self._oracle.project_id}}}
        try:
            return str(self._post("/subject_sets", body).one("subject_sets")["id"])
        except ServiceError:
            found = self.find_set(name)
            if not found:
                raise
            return found

    def show_set(self, set_id: str) -> None:
        """Make the first workflow show the set to volunteers, if it does not already."""
        path = f"/workflows/{self._oracle.workflow_ids[0]}"
        linked = self._get(path)[0].one("workflows")["links"].get("subject_sets") or []
        if set_id not in map(zooniverse_id, linked):
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
            wanted = priorities.get(zooniverse_id(member["links"]["subject"]))
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
            answer, _ = self._get("/subject_workflow_statuses", page_size=PAGE_SIZE, **query)
            for status in answer.objects("subject_workflow_statuses"):
                found[zooniverse_id(status["links"]["subject"])] = status
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
                subject = self._post("/subjects", body).one("subjects")
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
                answer, _ = self._call("PUT", path, {}, {slug: changes}, etag)
                return answer.one(slug)
            except ServiceError as error:  # somebody changed it in the meantime
                if error.http_status not in (409, 412) or attempt == self._oracle.tries:
                    raise
        raise AssertionError("oracle.tries is at least 1")

    def store_picture(self, url: str, content: bytes, media_type: str) -> None:
        """Send a picture to the address that the server gave for it."""
        if self._oracle.dry_run:
            raise AssertionError("oracle.dry_run is set, but a picture was about to be sent")
        self._pictures.store(url, content, media_type)

    def has_picture(self, url: str, size_bytes: int | None) -> bool:
        """Whether a subject's picture can be downloaded (and has this size)."""
        return self._pictures.has(url, size_bytes)


def _batches(ids: Sequence[str]) -> Iterator[list[str]]:
    return (list(ids[start : start + PAGE_SIZE]) for start in range(0, len(ids), PAGE_SIZE))
