"""A stand-in for the server of Weights & Biases on 127.0.0.1: it keeps what a client sends, and answers just enough.

Written from what wandb 0.31 sends: GraphQL (``UpsertBucket``, ``CreateRunFiles``, ``CreateArtifact`` …), the history in
posts to ``file_stream``, files in PUTs. How the real server treats lines that it already has is not documented, so the
three ways that it could are all here (``Rewrite``): what is sent must be right in each of them.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

Rewrite = Literal["erase", "replace lines", "drop old steps"]
KEY = "5ec4e7" * 6 + "abcd"  # 40 hex digits, as a key of W&B has
ENTITY = "someone"


@dataclass
class Run:
    """What the server has of one run."""

    record: dict[str, Any] = field(default_factory=dict)  # the newest value of each field that was sent
    lines: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return {key: item["value"] for key, item in json.loads(self.record["config"]).items()}


@dataclass
class Artifact:
    """An artifact: how it was made, its files, its manifest, and whether it was committed."""

    input: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.files["wandb_manifest.json"])["contents"]
        return found


class WandbServer:
    """``with WandbServer() as server:`` listens on a free port, and stops by itself."""

    def __init__(self, rewrite: Rewrite = "erase") -> None:
        self.rewrite = rewrite
        self.deleted: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.unknown: list[str] = []  # requests that are not answered here
        self.sent: list[bytes] = []  # every body
        self.lock = threading.Lock()

    def __enter__(self) -> WandbServer:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What sends a process of wandb here, with a key that is nobody's."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}

    # ----------------------------------------------------------- GraphQL

    def graphql(self, query: str, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        answer: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self, f"_{name}", None)
        if answer is None:
            self.unknown.append(query)
            return 200, {"data": {}}
        if name in ("UpsertBucket", "RunResumeStatus") and values["name"] in self.deleted:
            text = f"run {values['name']} was previously created and deleted; try a new run name"
            return 409, {"errors": [{"message": text}], "data": None}
        if problem := too_long(values):
            return 400, {"errors": [{"message": problem}], "data": None}
        return 200, {"data": answer(values)}

    def _UpsertBucket(self, values: dict[str, Any]) -> dict[str, Any]:
        is_new = values["name"] not in self.runs
        run = self.runs.setdefault(values["name"], Run())
        run.record |= {key: value for key, value in values.items() if value is not None}
        project = {"id": "p", "name": run.record["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = {
            "id": f"gid-{values['name']}", "name": values["name"], "displayName": run.record.get("displayName"),
            "description": None, "config": run.record.get("config"), "sweepName": None, "project": project,
            "historyLineCount": len(run.lines),
        }  # fmt: skip
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _RunResumeStatus(self, values: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(values["name"])
        bucket = run and {
            "id": f"gid-{values['name']}", "name": values["name"], "summaryMetrics": json.dumps(run.summary),
            "displayName": run.record.get("displayName"), "logLineCount": 0, "historyLineCount": len(run.lines),
            "eventsLineCount": 0, "historyTail": json.dumps([json.dumps(line) for line in run.lines[-1:]]),
            "eventsTail": "[]", "config": run.record.get("config"), "tags": run.record.get("tags"),
            "wandbConfig": '{"t": 1}', "runInfo": {"args": []},
        }  # fmt: skip
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": ENTITY}, "bucket": bucket}}

    def _ServerFeaturesQuery(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _Viewer(self, values: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY, "id": "e"}}]}
        return {"viewer": {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "email": "", "admin": False,
                           "teams": teams, "name": ENTITY, "apiKeys": {"edges": []}}}  # fmt: skip

    def _RunStoppedStatus(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def _UpsertView2(self, values: dict[str, Any]) -> dict[str, Any]:
        is_new = values["name"] not in self.views
        self.views[values["name"]] = values
        return {"upsertView": {"view": {"id": "1", "name": values["name"]}, "inserted": is_new}}

    def _CreateRunFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": n, "uploadUrl": f"{self.url}/upload/run/{values['run']}/{n}"} for n in values["files"]]
        return {"createRunFiles": {"runID": f"gid-{values['run']}", "uploadHeaders": [], "files": files}}

    # ----------------------------------------------------------- artifacts

    def _CreateArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        given = values["input"]
        same = [
            number for number, each in enumerate(self.artifacts) if each.committed and
            all(each.input[k] == given[k] for k in ("digest", "artifactCollectionName"))
        ]  # fmt: skip
        if not same:
            self.artifacts.append(Artifact(given))
        number = same[0] if same else len(self.artifacts) - 1
        sequence = {"id": "s", "latestArtifact": {"id": str(number)} if same else None}
        artifact = {"id": str(number), "state": "COMMITTED" if same else "PENDING", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _ArtifactType(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _OrganizationCoreWeaveOrganizationID(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _CreateArtifactManifest(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self._manifest(values["artifactID"])}}

    def _UpdateArtifactManifest(self, values: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": {"artifactManifest": self._manifest(values["artifactManifestID"])}}

    def _manifest(self, id_: str) -> dict[str, Any]:
        url = f"{self.url}/upload/artifact/{id_}/wandb_manifest.json"
        return {"id": id_, "file": {"id": "f", "uploadUrl": url, "uploadHeaders": []}}

    def _CreateArtifactFiles(self, values: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {"node": {
                "storagePath": f["name"], "uploadUrl": f"{self.url}/upload/artifact/{f['artifactID']}/{f['name']}",
                "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": f["artifactID"]},
            }}
            for f in values["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _CommitArtifact(self, values: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[int(values["artifactID"])].committed = True
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": ""}}}

    # ----------------------------------------------------------- history and files

    def stream(self, id_: str, body: dict[str, Any]) -> None:
        """Lines of the history from an offset on, and the summary."""
        run, files = self.runs[id_], body.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            lines, offset = [json.loads(line) for line in history["content"]], history["offset"]
            newest = run.lines[-1]["_step"] if run.lines else -1
            if self.rewrite == "erase":
                run.lines = [*run.lines[:offset], *lines]
            elif self.rewrite == "replace lines":
                run.lines[offset : offset + len(lines)] = lines
            else:
                run.lines += [line for line in lines if line["_step"] > newest]
        for text in (files.get("wandb-summary.json") or {}).get("content", []):
            run.summary = json.loads(text)

    def upload(self, path: str, content: bytes) -> None:
        kind, id_, name = path.removeprefix("/upload/").split("/", 2)
        to = self.runs[id_].files if kind == "run" else self.artifacts[int(id_)].files
        to[name] = content


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """The client resets its connections when it ends: no error."""


def too_long(values: dict[str, Any]) -> str:
    """Why the real server would refuse a run: names of up to 128 characters, tags of 1 to 64."""
    for tag in values.get("tags") or []:
        if not 1 <= len(tag) <= 64:
            return f"invalid tag '{tag}'. must be between 1 and 64 characters"
    for key in ("displayName", "groupName", "project", "jobType"):
        if len(values.get(key) or "") > 128:
            return f"{key} must be at most 128 characters"
    return ""


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body, status = self._body(), 200
            answer: dict[str, Any] = {}
            with server.lock:
                if self.path == "/graphql":
                    content = json.loads(body)
                    status, answer = server.graphql(content["query"], content.get("variables") or {})
                elif found := re.fullmatch(r"/files/.*/([^/]+)/file_stream", self.path):
                    server.stream(found[1], json.loads(body))
                else:
                    server.unknown.append(self.path)
            self._answer(status, answer)

        def do_PUT(self) -> None:
            body = self._body()
            with server.lock:
                server.upload(unquote(self.path), body)
            self._answer(200, {})

        def do_GET(self) -> None:
            server.unknown.append(self.path)
            self._answer(404, {})

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            server.sent.append(body)
            return body

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def sync(server: WandbServer, *paths: Path, more: Sequence[str] = ()) -> str:
    """`wandb sync` in a process of its own, as people call it; what it says."""
    command = [sys.executable, "-m", "wandb", "sync", *more, *map(str, paths)]
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"} | server.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=paths[0])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
