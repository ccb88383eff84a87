"""Pictures, at the addresses that the server gives for them. No token and no password goes there."""

from __future__ import annotations

from typing import Any

import requests

from zoobot.errors import InputError, ServiceError
from zoobot.galaxies.ids import whole_number
from zoobot.oracles import addresses
from zoobot.oracles.answers import shown
from zoobot.oracles.transport import PatientAdapter
from zoobot.settings import OracleSettings

MOST_REDIRECTS = 5  # of a download. An upload is not redirected.


class _PictureAdapter(PatientAdapter):
    """Sends only to addresses where pictures may be; each redirect passes through it, too."""

    def __init__(self, oracle: OracleSettings) -> None:
        super().__init__(oracle.timeout_s, oracle.tries, oracle.retry_wait_s, may_redirect=True)
        self.oracle = oracle

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """InputError: there may be no picture at this address."""
        url = request.url or ""
        require_usable(url, self.oracle)
        return super().send(request, *args, **kwargs)


class Pictures:
    """Stores pictures, and looks whether they have arrived."""

    def __init__(self, oracle: OracleSettings) -> None:
        self._oracle, self._adapter, self._session = oracle, _PictureAdapter(oracle), requests.Session()
        self._session.mount("https://", self._adapter)
        self._session.mount("http://", self._adapter)
        self._session.max_redirects = MOST_REDIRECTS

    # The client's own upload hides failures: ``Subject.save`` returns as if the picture had arrived.

    def store(self, url: str, content: bytes, media_type: str) -> None:
        """Send a picture to the address that the server gave for it."""
        require_usable(url, self._oracle)
        headers = {"Content-Type": media_type, "x-ms-blob-type": "BlockBlob"}
        try:
            status = self._session.put(url, content, headers=headers, allow_redirects=False).status_code
        except requests.RequestException:
            status = 0
        if not 200 <= status < 300:  # do not show the address: it holds the upload's signature
            raise ServiceError(
                f"A picture could not be stored ({self._adapter.problem or f'HTTP status {status}'})."
                " Nothing is lost: run the same command again later.",
                status,
            )

    def has(self, url: str, size_bytes: int | None) -> bool:
        """Whether a picture can be downloaded (and has this size)."""
        if not url:
            return False
        require_usable(url, self._oracle)
        try:
            response = self._session.head(url, allow_redirects=True)
            problem = self._adapter.problem
        except requests.RequestException as error:
            problem = self._adapter.problem or type(error).__name__
        if problem:
            raise ServiceError(
                f"Zooniverse's pictures cannot be reached: {problem}."
                " Nothing is lost: run the same command again later."
            )
        given = response.headers.get("Content-Length", "")
        return response.status_code == 200 and (size_bytes is None or not given or whole_number(given) == size_bytes)


def require_usable(url: str, oracle: OracleSettings) -> None:
    """InputError: there may be no picture at this address."""
    problem = addresses.picture_problem(url, oracle.endpoint, oracle.private_pictures)
    if problem:
        raise InputError(
            f"Zooniverse ({oracle.endpoint}) put a picture at {shown(addresses.origin(url) or url)}: {problem}, so"
            " nothing was sent there. If this is a private installation, set oracle.private_pictures=true."
        )
