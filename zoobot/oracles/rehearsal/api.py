"""How the stand-in for Zooniverse answers each request."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qsl, urlencode

from zoobot.oracles.rehearsal import exports
from zoobot.oracles.rehearsal.world import PROJECT, WORKFLOW, World
from zoobot.oracles.simulated import WORKFLOW_VERSION
from zoobot.votes.rows import Json

ACCEPT = "application/vnd.api+json; version=1"
CLIENTS = {"rehearsal": "rehearsal-secret"}
USERS = {"volunteer-wrangler": "rehearsal-password"}
PAGE_SIZE, LARGEST_PAGE = 20, 100
REASONS = (None, "classification_count", "flagged", "blank", "nothing_here", "consensus", "other", "human")


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass
class Answer:
    """Status, body (JSON, or bytes as they are) and headers."""

    status: int
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """The body as it goes over the wire."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Api:
    """Answers one request; ``fault`` is the kind of fault to simulate ("" for none)."""

    def __init__(self, world: World, endpoint: str, fault: str) -> None:
        self.world, self.endpoint, self.fault = world, endpoint, fault

    def answer(self, method: str, path: str, query: Json, headers: Message, body: bytes) -> Answer:
        """Find the function that answers, after the checks that Panoptes makes first: headers and token."""
        if path.startswith("/api/"):
            if headers.get("Accept") != ACCEPT:
                raise Refused(404, "Not Found")
            if method != "GET" and headers.get("Content-Type", "").split(";")[0] != "application/json":
                raise Refused(415, "Unsupported Media Type")
            token = headers.get("Authorization", "").removeprefix("Bearer ")
            if self.world.tokens.get(token, 0) < time.time():
                raise Refused(401, "The access token is invalid or has expired")
        for verb, pattern, answerer in self._routes():
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                return answerer(*match.groups(), query=query, headers=headers, body=body)
        raise Refused(404, f"No route for {method} {path}")

    def _routes(self) -> list[tuple[str, str, Callable[..., Answer]]]:
        return [
            ("GET", "/users/sign_in", self._csrf),
            ("POST", "/users/sign_in", self._sign_in),
            ("POST", "/oauth/token", self._token),
            ("GET", "/api/classifications/project", self._classifications),
            ("GET", "/api/subjects(?:/(\\d+))?", self._subjects),
            ("POST", "/api/subjects", self._create_subject),
            ("PUT", "/api/subjects/(\\d+)", self._update_subject),
            ("PUT", "/storage/([0-9a-f]+)", self._store),
            ("GET", "/media/([0-9a-f]+)", self._media),
            ("HEAD", "/media/([0-9a-f]+)", self._media),
            ("GET", "/api/subject_sets(?:/(\\d+))?", self._subject_sets),
            ("POST", "/api/subject_sets", self._create_set),
            ("POST", "/api/subject_sets/(\\d+)/links/subjects", self._link),
            ("DELETE", "/api/subject_sets/(\\d+)/links/subjects/([\\d,]+)", self._unlink),
            ("GET", "/api/set_member_subjects(?:/(\\d+))?", self._members),
            ("PUT", "/api/set_member_subjects/(\\d+)", self._update_member),
            ("GET", "/api/workflows/(\\d+)", self._workflow),
            ("POST", "/api/workflows/(\\d+)/links/subject_sets", self._link_sets),
            ("POST", "/api/workflows/(\\d+)/retired_subjects", self._retire),
            ("GET", "/api/subject_workflow_statuses", self._statuses),
            ("GET", "/api/workflow_versions", self._versions),
            ("GET", "/api/(?:projects|workflows)/(\\d+)/(classifications|subjects)_export", self._export),
            ("POST", "/api/(?:projects|workflows)/(\\d+)/(classifications|subjects)_export", self._export),
            ("GET", "/exports/(classifications|subjects).csv", self._export_file),
        ]

    # ----------------------------------------------------------- who is asking

    def _csrf(self, query: Json, headers: Message, body: bytes) -> Answer:
        return Answer(200, {}, {"X-CSRF-Token": "csrf-1", "Set-Cookie": "_Panoptes_session=new; path=/"})

    def _sign_in(self, query: Json, headers: Message, body: bytes) -> Answer:
        given = json.loads(body)
        user = given["user"]
        if given["authenticity_token"] != "csrf-1" or "_Panoptes_session=" not in headers.get("Cookie", ""):
            raise Refused(422, "Invalid authenticity token")
        if USERS.get(user["login"]) != user["password"]:
            return Answer(401, {"error": "Invalid email or password."})
        return Answer(200, {"users": [{"id": "7"}]}, {"Set-Cookie": "_Panoptes_session=in; path=/"})

    def _token(self, query: Json, headers: Message, body: bytes) -> Answer:
        form = dict(parse_qsl(body.decode()))
        signed_in = "_Panoptes_session=in" in headers.get("Cookie", "")
        allowed = {
            "client_credentials": CLIENTS.get(form.get("client_id", "")) == form.get("client_secret", "none"),
            "password": signed_in,
            "refresh_token": form.get("refresh_token") == "refresh-1",
        }
        if not allowed.get(form.get("grant_type", "")):
            return Answer(401, {"error": "invalid_client"})
        token = secrets.token_hex(16)
        self.world.tokens[token] = time.time() + self.world.lifetime_s
        refresh = {} if form["grant_type"] == "client_credentials" else {"refresh_token": "refresh-1"}
        return Answer(200, {"access_token": token, "expires_in": self.world.lifetime_s, **refresh})

    # ----------------------------------------------------------- classifications

    def _classifications(self, query: Json, **_: object) -> Answer:
        if "last_id" in query and "project_id" not in query:
            raise Refused(422, "Project ID required if last_id is included")
        size, last_id = _page_size(query), int(query.get("last_id", 0))
        # Whoever is no collaborator gets an empty list, as on the real server.
        projects = {query.get("project_id", PROJECT)} & set(self.world.editable)
        rows = [
            row
            for row in self.world.rows
            if row["links"]["project"] in projects and int(row["id"]) > last_id and row["id"] not in self.world.late
        ]
        rows = sorted(rows, key=lambda row: int(row["id"]))[:size]
        next_id = max((row["id"] for row in rows), default="")  # the largest as text, as on the real server
        if self.fault == "late":
            self.world.late += [row["id"] for row in rows[:-1]]
            rows = rows[-1:]
        if self.fault == "repeat":
            rows = [*rows, *rows]
        following = urlencode({**query, "last_id": next_id})
        meta = {"page": 1, "page_size": size, "count": 0, "page_count": 0,
                "next_href": f"/classifications/project?{following}" if rows else None}  # fmt: skip
        return Answer(200, {"classifications": rows, "links": {}, "meta": {"classifications": meta}})

    # ----------------------------------------------------------- subjects and their pictures

    def _subject(self, subject_id: str, *, put: bool = False) -> Json:
        subject = self.world.subjects[subject_id]
        key = subject["media"]
        signature = hashlib.sha256(key.encode()).hexdigest()[:16]
        url = f"{self.endpoint}/storage/{key}?sig={signature}" if put else f"{self.endpoint}/media/{key}"
        sets = [set_id for set_id, one in self.world.sets.items() if subject_id in one["members"]]
        return {"id": subject_id, "metadata": subject["metadata"], "locations": [{subject["mime"]: url}],
                "href": f"/subjects/{subject_id}", "links": {"project": PROJECT, "subject_sets": sets}}  # fmt: skip

    def _subjects(self, subject_id: str | None, query: Json, **_: object) -> Answer:
        ids = query.get("id") or subject_id
        found = sorted(self.world.subjects, key=int) if query.get("project_id", PROJECT) == PROJECT else []
        if ids:
            found = [id_ for id_ in found if id_ in ids.split(",")]
        if "subject_set_id" in query:
            found = [id_ for id_ in found if id_ in self._set(query["subject_set_id"])["members"]]
        if subject_id and not found:
            raise Refused(404, f"Could not find subject with id='{subject_id}'")
        return self._page("subjects", [self._subject(id_) for id_ in found], query, etag=bool(subject_id))

    def _create_subject(self, body: bytes, **_: object) -> Answer:
        given = json.loads(body)["subjects"]
        links = given["links"]
        if str(links["project"]) != PROJECT:
            raise Refused(422, "Couldn't find linked project for current user")
        subject_id = self.world.number()
        self.world.subjects[subject_id] = {"metadata": given.get("metadata", {})}
        self._new_media(subject_id, given["locations"])
        for set_id in links.get("subject_sets", []):
            self._set(str(set_id))["members"].append(subject_id)
        return Answer(201, {"subjects": [self._subject(subject_id, put=True)]})

    def _update_subject(self, subject_id: str, headers: Message, body: bytes, **_: object) -> Answer:
        if subject_id not in self.world.subjects:
            raise Refused(404, f"Could not find subject with id='{subject_id}'")
        self._check_etag(headers, self._subject(subject_id))
        given = json.loads(body)["subjects"]
        self.world.subjects[subject_id] |= {"metadata": given["metadata"]} if "metadata" in given else {}
        if "locations" in given:
            self._new_media(subject_id, given["locations"])
        return Answer(200, {"subjects": [self._subject(subject_id, put=True)]})

    def _new_media(self, subject_id: str, locations: list[str]) -> None:
        self.world.subjects[subject_id] |= {"mime": locations[0], "media": secrets.token_hex(8)}

    def _store(self, key: str, query: Json, headers: Message, body: bytes) -> Answer:
        if query.get("sig") != hashlib.sha256(key.encode()).hexdigest()[:16]:
            raise Refused(403, "Signature did not match")
        if headers.get("x-ms-blob-type") != "BlockBlob":
            raise Refused(400, "x-ms-blob-type is missing")
        if headers.get("Authorization"):
            raise Refused(400, "two ways of authorization")
        if self.fault != "lost_upload":
            self.world.media[key] = base64.b64encode(body).decode()
        return Answer(201)

    def _media(self, key: str, **_: object) -> Answer:
        if key not in self.world.media:
            raise Refused(404, "BlobNotFound")
        return Answer(200, base64.b64decode(self.world.media[key]), {"Content-Type": "image/png"})

    # ----------------------------------------------------------- subject sets

    def _set(self, set_id: str) -> Json:
        if set_id not in self.world.sets:
            raise Refused(404, f"Could not find subject_set with id='{set_id}'")
        found: Json = self.world.sets[set_id]
        return found

    def _show_set(self, set_id: str) -> Json:
        one = self._set(set_id)
        workflows = [w for w, value in self.world.workflows.items() if set_id in value["subject_sets"]]
        return {"id": set_id, "display_name": one["display_name"], "metadata": one["metadata"],
                "set_member_subjects_count": len(one["members"]), "href": f"/subject_sets/{set_id}",
                "links": {"project": PROJECT, "workflows": workflows}}  # fmt: skip

    def _subject_sets(self, set_id: str | None, query: Json, **_: object) -> Answer:
        if set_id:
            return self._page("subject_sets", [self._show_set(set_id)], query, etag=True)
        found = [self._show_set(one) for one in self.world.sets if query.get("project_id", PROJECT) == PROJECT]
        if "display_name" in query:
            found = [one for one in found if one["display_name"] == query["display_name"]]
        return self._page("subject_sets", found, query)

    def _create_set(self, body: bytes, **_: object) -> Answer:
        given = json.loads(body)["subject_sets"]
        if any(one["display_name"] == given["display_name"] for one in self.world.sets.values()):
            raise Refused(400, "Validation failed: Display name has already been taken")
        set_id = self.world.number()
        self.world.sets[set_id] = {"display_name": given["display_name"], "members": [], "priorities": {},
                                   "metadata": given.get("metadata", {})}  # fmt: skip
        return Answer(201, {"subject_sets": [self._show_set(set_id)]}, {"ETag": _etag(self._show_set(set_id))})

    def _link(self, set_id: str, body: bytes, **_: object) -> Answer:
        self._set(set_id)
        ids = [str(id_) for id_ in json.loads(body)["subjects"]]
        if len(set(ids)) != len(ids) or not set(ids) <= set(self.world.subjects):
            raise Refused(422, "Error: check the subject set and all the subjects exist.")
        self.world.link(set_id, ids)
        return Answer(200, {"subject_sets": [self._show_set(set_id)]})

    def _unlink(self, set_id: str, ids: str, **_: object) -> Answer:
        one = self._set(set_id)
        one["members"] = [id_ for id_ in one["members"] if id_ not in ids.split(",")]
        return Answer(204)

    def _members(self, member: str | None, query: Json, **_: object) -> Answer:
        found = [
            {"id": f"{set_id}{id_}", "priority": None if id_ not in one["priorities"] else str(one["priorities"][id_]),
             "links": {"subject_set": set_id, "subject": id_}}
            for set_id, one in self.world.sets.items()
            for id_ in one["members"]
            if query.get("subject_set_id", set_id) == set_id
            and query.get("subject_id", id_) == id_
            and member in (None, f"{set_id}{id_}")
        ]  # fmt: skip
        if member and not found:
            raise Refused(404, f"Could not find set_member_subject with id='{member}'")
        return self._page("set_member_subjects", found, query, etag=bool(member))

    def _update_member(self, member: str, headers: Message, body: bytes, **_: object) -> Answer:
        now = json.loads(self._members(member, {}).content())["set_member_subjects"][0]
        self._check_etag(headers, now)
        priorities = self.world.sets[now["links"]["subject_set"]]["priorities"]
        priorities[now["links"]["subject"]] = float(json.loads(body)["set_member_subjects"]["priority"])
        return self._members(member, {})

    # ----------------------------------------------------------- workflows

    def _show_workflow(self, workflow_id: str) -> Json:
        if workflow_id not in self.world.workflows:
            raise Refused(404, f"Could not find workflow with id='{workflow_id}'")
        workflow = self.world.workflows[workflow_id]
        links = {"project": workflow.get("project", PROJECT), "subject_sets": workflow["subject_sets"]}
        n_made = sum(row["links"]["workflow"] == workflow_id for row in self.world.rows)
        return {"id": workflow_id, "display_name": "Galaxies", "version": WORKFLOW_VERSION,
                "prioritized": workflow["prioritized"], "classifications_count": n_made, "links": links}  # fmt: skip

    def _workflow(self, workflow_id: str, query: Json, **_: object) -> Answer:
        return self._page("workflows", [self._show_workflow(workflow_id)], query, etag=True)

    def _link_sets(self, workflow_id: str, body: bytes, **_: object) -> Answer:
        self._show_workflow(workflow_id)
        linked = self.world.workflows[workflow_id]["subject_sets"]
        linked += [id_ for id_ in json.loads(body)["subject_sets"] if self._set(id_) and id_ not in linked]
        return Answer(200, {"workflows": [self._show_workflow(workflow_id)]})

    def _retire(self, workflow_id: str, body: bytes, **_: object) -> Answer:
        self._show_workflow(workflow_id)
        given = json.loads(body)
        if given.get("retirement_reason") not in REASONS:
            raise Refused(422, "Retirement reason is not included in the list")
        self.world.retire(workflow_id, [str(id_) for id_ in given["subject_ids"]], given["retirement_reason"])
        return Answer(204)

    def _statuses(self, query: Json, **_: object) -> Answer:
        workflow, ids = query.get("workflow_id", WORKFLOW), query.get("subject_id", "").split(",")
        there = self.world.statuses(workflow) if workflow in self.world.workflows else []
        answer = self._page("subject_workflow_statuses", [s for s in there if s["links"]["subject"] in ids], query)
        # This list is not counted, so it names a next page even at its end.
        following = urlencode({**query, "page": int(query.get("page", 1)) + 1})
        uncounted = {"count": 0, "page_count": 0, "next_href": f"/subject_workflow_statuses?{following}"}
        body = json.loads(answer.content())
        body["meta"]["subject_workflow_statuses"] |= uncounted
        return Answer(200, body)

    def _versions(self, query: Json, **_: object) -> Answer:
        wanted = query.get("workflow_id", WORKFLOW)
        found = [one for one in self.world.versions if one["links"]["workflow"] == wanted]
        return self._page("workflow_versions", found, query)

    # ----------------------------------------------------------- exports

    def _export(self, _id: str, what: str, **_: object) -> Answer:
        medium = {"id": "1", "src": f"{self.endpoint}/exports/{what}.csv", "metadata": {"state": "ready"}}
        return Answer(200, {"media": [medium]})

    def _export_file(self, what: str, **_: object) -> Answer:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerows(exports.rows(self.world, what))
        return Answer(200, text.getvalue().encode(), {"Content-Type": "text/csv"})

    # ----------------------------------------------------------- shared by all

    def _page(self, slug: str, found: list[Json], query: Json, *, etag: bool = False) -> Answer:
        size, page = _page_size(query), int(query.get("page", 1))
        pages = max(1, -(-len(found) // size))
        following = f"/{slug}?{urlencode({**query, 'page': page + 1})}" if page < pages else None
        meta = {"page": page, "page_size": size, "count": len(found), "page_count": pages, "next_href": following}
        body = {slug: found[(page - 1) * size : page * size], "links": {}, "meta": {slug: meta}}
        return Answer(200, body, {"ETag": _etag(found[0])} if etag else {})

    def _check_etag(self, headers: Message, now: Json) -> None:
        if "If-Match" not in headers:
            raise Refused(428, "Request requires If-Match header to be present")
        if headers["If-Match"] != _etag(now):
            raise Refused(412, "Precondition failed")


def _page_size(query: Json) -> int:
    return min(int(query.get("page_size", PAGE_SIZE)), LARGEST_PAGE)


def _etag(value: Json) -> str:
    return f'W/"{hashlib.md5(json.dumps(value, sort_keys=True).encode()).hexdigest()}"'
