"""The transport below the client of the Zooniverse API: limits of time and size, retries, and no redirects.

The client sets no time limit, so a request can hang for ever. It retries only the first page of a list, only after 5xx,
and never after 429 or a lost connection. It follows redirects, even of the request that holds the client's secret.
"""

from __future__ import annotations

import logging
import random
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from zoobot.galaxies.ids import whole_number
from zoobot.oracles.addresses import origin

log = logging.getLogger("zoobot")
LONGEST_WAIT_S = 900.0  # if the server asks for a longer wait, or sends an answer for longer, we give up
MOST_BYTES = 64 * 2**20  # of an answer, unpacked
_CHUNK_BYTES = 2**16


class Unusable(requests.RequestException):
    """An answer that is not used and not asked for again: a redirect, or one that does not end."""


class PatientAdapter(HTTPAdapter):
    """Every request passes through it: tokens, each page of a list, uploads.

    A request is retried, unless it creates something: then ``Zooniverse.create_…`` first looks whether it took effect.
    No redirect is followed unless ``may_redirect``.
    """

    def __init__(self, timeout_s: float, tries: int, wait_s: float, may_redirect: bool = False) -> None:
        super().__init__()
        self.timeout_s, self.tries, self.wait_s, self.may_redirect = timeout_s, tries, wait_s, may_redirect
        self.request = ""  # the last one: its method and path
        self.problem = ""  # with the last request; "" if it was answered
        self.status = 0  # of the last answer

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, and send again after 429, 5xx, a lost connection or a time-out."""
        kwargs |= {"timeout": self.timeout_s, "stream": True}  # the body is read here, up to a limit
        path = urlsplit(request.url or "").path  # without the query, which in an upload holds the signature
        self.request = f"{request.method} {path}"
        creates = request.method == "POST" and path in ("/api/subjects", "/api/subject_sets")
        for attempt in range(1, self.tries + 1):
            response, failure = self._try(request, *args, **kwargs)
            wait_s = self._wait_s(attempt, response)
            refused = response is not None and response.status_code == 429  # it had no effect, so a retry is safe
            last = attempt == self.tries or wait_s > LONGEST_WAIT_S or (creates and not refused)
            if not self.problem or last or isinstance(failure, Unusable):
                break
            log.warning("Zooniverse: %s for %s; trying again in %.0f s (%d of %d)",
                        self.problem, self.request, wait_s, attempt, self.tries)  # fmt: skip
            time.sleep(wait_s)
        if failure is not None:
            raise failure
        assert response is not None
        return response

    def _try(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> tuple[requests.Response | None, requests.RequestException | None]:
        self.status = 0
        try:
            response = super().send(request, *args, **kwargs)
            self.status = response.status_code
            if response.is_redirect and not self.may_redirect:
                response.close()
                raise Unusable(f"a redirect (HTTP status {self.status}) {_target(response)}, which is not followed,")
            response._content = _body(response)
        except Unusable as error:
            self.problem = str(error)
            return None, error
        except (requests.RequestException, HTTPError) as error:
            self.problem = type(error).__name__  # its text may hold the signature
            return None, requests.ConnectionError(self.problem)
        self.problem = f"HTTP status {self.status}" if self.status == 429 or self.status >= 500 else ""
        return response, None

    def _wait_s(self, attempt: int, response: requests.Response | None) -> float:
        asked = response.headers.get("Retry-After", "") if response is not None else ""
        seconds = whole_number(asked)
        if seconds is not None:
            return float(seconds)
        try:
            return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
        except (ValueError, TypeError, OverflowError):
            return float(min(LONGEST_WAIT_S, self.wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)))


def _target(response: requests.Response) -> str:
    """Where a redirect leads. Its path is not shown: it may repeat what we sent."""
    target = origin(response.headers["Location"])
    return f"to {target}" if target else "to another path"


def _body(response: requests.Response) -> bytes:
    """The complete body, unpacked. Unusable: it does not end."""
    parts, n_bytes, start = [], 0, time.monotonic()
    try:
        while part := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            parts.append(part)
            n_bytes += len(part)
            if n_bytes > MOST_BYTES:
                raise Unusable(f"an answer of more than {MOST_BYTES} bytes")
            if time.monotonic() - start > LONGEST_WAIT_S:
                raise Unusable(f"an answer that took more than {LONGEST_WAIT_S:.0f} s")
    except BaseException:
        response.close()
        raise
    return b"".join(parts)
