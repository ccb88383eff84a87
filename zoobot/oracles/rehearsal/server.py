"""A stand-in for Zooniverse: a real HTTP server on this machine that the unmodified panoptes_client talks to.

    python -m zoobot.oracles.rehearsal --truth data/demo/galaxies/truth.csv --state /tmp/zooniverse.json

It follows the rules in the source of Panoptes (zooniverse/panoptes): headers, both ways of OAuth, paging by last_id,
ETags, unique names of subject sets; one bad id makes it refuse all subjects of a link. Simulated volunteers classify
what is linked to the workflow, and ``Fault`` makes the server misbehave. api.py holds the answers, this file the
transport.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from zoobot.galaxies.questions import QuestionTree
from zoobot.oracles.rehearsal.api import Answer, Api, Refused
from zoobot.oracles.rehearsal.world import World

Fractions = Mapping[str, Mapping[str, float]]  # id_str -> answer column -> share of the votes


@dataclass
class Fault:
    """What goes wrong with requests of this method and path: the first ``skip`` succeed, the next ``times`` fail.

    kind: ``status`` answers with ``status`` and does nothing; ``lost_answer`` does the work, then answers with
    ``status``; ``cut`` closes the connection in the middle of the answer; ``slow`` answers after ``seconds``;
    ``expired_token`` forgets all tokens; ``lost_upload`` says that an image was stored, but drops it; ``repeat`` gives
    a page's rows twice; ``late`` hides a page's rows until ``World.reveal``; ``redirect`` sends on to ``location`` with
    ``status``; ``garbage`` does the work, then answers with ``body``; ``replaced`` does the work, then answers with
    ``value`` in place of what stands at ``field``, such as ``subjects.0.locations`` (``*``: in each object).
    """

    kind: str
    path: str
    method: str = "GET"
    skip: int = 0
    times: int = 1
    status: int = 500
    retry_after: str = ""
    seconds: float = 0.0
    location: str = ""
    body: bytes = b""
    field: str = ""
    value: object = None

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request fails; counts it."""
        if self.times <= 0 or method != self.method or not re.fullmatch(self.path, path):
            return False
        self.skip -= 1
        self.times -= self.skip < 0
        return self.skip < 0

    def instead(self) -> Answer | None:
        """The answer in place of doing the work; None if the work is done."""
        if self.kind == "status":
            wait = {"Retry-After": self.retry_after} if self.retry_after else {}
            return Answer(self.status, {"errors": [{"message": "a simulated fault"}]}, wait)
        return Answer(self.status, None, {"Location": self.location}) if self.kind == "redirect" else None

    def spoilt(self, answer: Answer) -> Answer:
        """What is answered after the work was done."""
        if self.kind == "lost_answer":
            return Answer(self.status, {"errors": [{"message": "a simulated fault after the work was done"}]})
        if self.kind == "garbage":
            return Answer(200, self.body, answer.headers)
        if self.kind == "replaced":
            content = json.loads(json.dumps(answer.body))
            _put(content, self.field.split("."), self.value)
            return Answer(answer.status, content, answer.headers)
        return answer


def _put(content: Any, field: list[str], value: object) -> None:
    """Replace a value inside JSON. An object that is not there stays away."""
    first, *rest = field
    keys: Any = range(len(content)) if first == "*" else [int(first) if isinstance(content, list) else first]
    for key in keys:
        if rest and (isinstance(content, dict) or key < len(content)):
            _put(content[key], rest, value)
        elif not rest:
            content[key] = value


class PanoptesServer:
    """``with PanoptesServer(questions, fractions) as server:`` serves at ``server.endpoint`` until the block ends."""

    def __init__(
        self, questions: QuestionTree, fractions: Fractions, state: Path | None = None, port: int = 0, seed: int = 0
    ) -> None:
        self.world = World(questions, fractions, seed, state)
        self.faults: list[Fault] = []
        self.struck: list[str] = []  # the faults that happened, for tests to check
        self.requests: list[str] = []  # "METHOD /path?query", in order
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> PanoptesServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def classify(self, most: int | None = None) -> int:
        """Let volunteers classify the linked subjects, at most ``most`` of them. Returns the number of new rows."""
        with self._lock:
            return self.world.classify(most)

    def count(self, pattern: str) -> int:
        """How many requests ("METHOD /path?query") match."""
        return sum(bool(re.fullmatch(pattern, request)) for request in self.requests)

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> tuple[Answer, str]:
        """The answer to one request, and the kind of fault that affects sending it ("" for none)."""
        url = urlsplit(target)
        with self._lock:
            self.requests.append(f"{method} {target}")
            fault = next((f for f in self.faults if f.strikes(method, url.path)), None)
            kind = fault.kind if fault else ""
            if fault:
                self.struck.append(kind)
            if fault and (instead := fault.instead()):
                return instead, ""
            if kind == "expired_token":
                self.world.tokens.clear()
            try:
                query = dict(parse_qsl(url.query))
                answer = Api(self.world, self.endpoint, kind).answer(method, url.path, query, headers, body)
            except Refused as refused:
                answer = Answer(refused.status, {"errors": [{"message": refused.message}]})
            self.world.save()
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        return fault.spoilt(answer) if fault else answer, kind

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # otherwise each answer waits 40 ms for the client's acknowledgement

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answer, fault = outer.answer(self.command, self.path, self.headers, body)
                content = answer.content()
                try:
                    self.send_response(answer.status)
                    for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                    if fault == "cut":
                        self.wfile.flush()
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    self.close_connection = True  # the client gave up: a time-out

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler
