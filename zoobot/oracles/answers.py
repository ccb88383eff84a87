"""What Zooniverse answers, checked before it is used. Nothing else reads an answer of the API.

An answer is JSON: ``{"subjects": [{"id": "5", …}, …], "meta": {"subjects": {"next_href": "/subjects?page=2", …}}}``. If
it is anything else, a ServiceError with exit status 1 names the request and what came.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from zoobot.errors import ServiceError
from zoobot.galaxies.ids import whole_number, zooniverse_id
from zoobot.votes.rows import Json

MOST_OBJECTS = 1_000  # in an answer: ten times as many as the server gives
DEEPEST = 100  # lists and objects inside each other. Python's own limit depends on who calls
_SHOWN = 200  # characters
_PATH = re.compile(r"(/\w[\x21-\x7e]{0,8000})?", re.ASCII)  # on the same server: not //other-server


def shown(text: str) -> str:
    """The server's text for a message: one short line, without what follows the ? of an address, as signatures do."""
    text = re.sub(r"\?[^\s\"'<>]+", "?…", text[: 10 * _SHOWN])
    text = "".join(c if c.isprintable() else " " for c in text).strip()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


@dataclass(frozen=True)
class Answer:
    """The JSON object that came for a request."""

    request: str  # such as "Zooniverse (https://www.zooniverse.org) answered GET /subjects"
    content: Json
    show: Callable[[str], str] = shown

    @classmethod
    def read(cls, request: str, body: bytes, show: Callable[[str], str] = shown) -> Answer:
        """Parse a body; an empty one is an object without content."""
        answer = cls(request, {}, show)
        try:
            content = json.loads(body, parse_float=_finite, parse_constant=_finite) if body else {}
        except (ValueError, RecursionError):  # also numbers of thousands of digits
            raise answer._odd("expected JSON", body.decode(errors="replace")) from None
        if _is_deep(content):
            raise answer._odd(f"expected at most {DEEPEST} lists and objects inside each other")
        if not isinstance(content, dict):
            raise answer._odd("expected an object", content)
        return cls(request, content, show)

    def objects(self, slug: str) -> list[Json]:
        """The objects in the list ``slug``. Each has the fields that we use, and its ``id`` in the form of ``ids``."""
        found = self.content.get(slug)
        if not isinstance(found, list):
            raise self._odd(f"expected a list of {slug}", found)
        if len(found) > MOST_OBJECTS:
            raise self._odd(f"expected at most {MOST_OBJECTS} {slug}, got {len(found)}")
        for number, one in enumerate(found, start=1):
            if not isinstance(one, dict):
                raise self._odd(f"{slug} {number} of {len(found)} is no object", one)
            for name, (what, is_good) in {"id": _ID, **_FIELDS.get(slug, {})}.items():
                value = _field(one, name)
                if not is_good(value):
                    raise self._odd(f"{name} of {slug} {number} of {len(found)} is not {what}", value)
        return [{**one, "id": zooniverse_id(one["id"])} for one in found]

    def one(self, slug: str) -> Json:
        """The first object in the list ``slug``, which must not be empty."""
        found = self.objects(slug)
        if not found:
            raise self._odd(f"expected one of {slug}", [])
        return found[0]

    def next_page(self, slug: str) -> str:
        """The path of the list's next page; "" if this is the last."""
        href = _field(self.content, f"meta.{slug}.next_href")
        known = isinstance(_field(self.content, f"meta.{slug}"), dict)
        if not known or not (href is None or (isinstance(href, str) and _PATH.fullmatch(href))):
            raise self._odd(f"expected meta.{slug}.next_href, a path or null", self.content.get("meta"))
        return href or ""

    def reason(self) -> str:
        """Why a request was refused."""
        errors = self.content.get("errors") or self.content.get("error")
        if isinstance(errors, list):
            errors = "; ".join(str(e.get("message", e)) if isinstance(e, dict) else str(e) for e in errors[:10])
        return self.show(str(errors or "no reason given"))

    def _odd(self, problem: str, *received: object) -> ServiceError:
        came = f"; received {self.show(_text(received[0]))}" if received else ""
        return ServiceError(f"{self.request} with something else than it should: {problem}{came}. Nothing is lost: run"
                            " the same command again later.")  # fmt: skip


def picture_url(subject: Json) -> str:
    """The address of a subject's first picture; "" if it has none."""
    return next((str(url) for location in subject["locations"][:1] for url in location.values()), "")


# --------------------------------------------------------------- shapes

_Kind = tuple[str, Callable[[object], bool]]


def _is_list_of_pictures(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(location, dict) and all(isinstance(url, str) for url in location.values()) for location in value
    )


_ID: _Kind = ("an id", lambda value: bool(zooniverse_id(value)))
_COUNT_OR_NULL: _Kind = ("a number", lambda value: value is None or whole_number(value) is not None)
_TEXT: _Kind = ("text", lambda value: isinstance(value, str))
_OBJECT: _Kind = ("an object", lambda value: isinstance(value, dict))
_LIST: _Kind = ("a list", lambda value: isinstance(value, list))
_LIST_OR_NULL: _Kind = ("a list", lambda value: value is None or isinstance(value, list))
_PICTURES: _Kind = ("a list of addresses", _is_list_of_pictures)
# What we use of each object. Annotations and workflow versions are judged when they are counted: real ones may be odd.
_FIELDS: dict[str, dict[str, _Kind]] = {
    "classifications": {"links.workflow": _ID, "links.subjects": _LIST, "metadata": _OBJECT},
    "subjects": {"metadata": _OBJECT, "locations": _PICTURES},
    "subject_sets": {"display_name": _TEXT},
    "set_member_subjects": {"links.subject": _ID},
    "subject_workflow_statuses": {"links.subject": _ID, "classifications_count": _COUNT_OR_NULL},
    "workflows": {"links.project": _ID, "links.subject_sets": _LIST_OR_NULL, "classifications_count": _COUNT_OR_NULL},
}


def _field(one: Json, name: str) -> object:
    """The value at a name such as ``links.project``; None if there is none."""
    value: object = one
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _is_deep(content: object) -> bool:
    level = [content]
    for _ in range(DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _finite(text: str) -> float:
    """A number that other readers of JSON can read, too."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number in JSON")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
