"""Credentials for Zooniverse, from the environment or from a file that nobody else can read.

Credentials are never a setting, because settings are written to logs and manifests. No message shows them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoobot.errors import InputError
from zoobot.settings.paths import REPOSITORY

_PAIRS = (("client_id", "client_secret"), ("username", "password"))
_HOW = (
    "Set PANOPTES_CLIENT_ID and PANOPTES_CLIENT_SECRET (or PANOPTES_USERNAME and PANOPTES_PASSWORD) in the environment,"
    " or name a file with oracle.credentials_file=/path/to/zooniverse_login.json."
)


@dataclass(frozen=True)
class Credentials:
    """An application's id and secret, or a user's name and password; the other pair is empty."""

    origin: str  # where they were found, for messages
    client_id: str = field(default="", repr=False)
    client_secret: str = field(default="", repr=False)
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    def secrets(self) -> tuple[str, ...]:
        """What no message may show."""
        return tuple(secret for secret in (self.client_secret, self.password) if secret)


def load(file: str) -> Credentials:
    """The credentials in ``file``, or, if it is empty, in the environment (``PANOPTES_…``).

    The file is JSON, ``{"client_id": …, "client_secret": …}`` or ``{"username": …, "password": …}``. Raises InputError
    if it finds no credentials, if others can read the file (its mode must be 600), or if the file is in the repository,
    which may be published.
    """
    if file:
        return _choose(_read(Path(file).expanduser()), file)
    names = [name for pair in _PAIRS for name in pair]
    return _choose({name: os.environ.get(f"PANOPTES_{name.upper()}", "") for name in names}, "the environment")


def _choose(found: Mapping[str, object], origin: str) -> Credentials:
    for pair in _PAIRS:
        given = {name: found.get(name) for name in pair}
        if all(isinstance(value, str) and value for value in given.values()):
            return Credentials(origin, **{name: str(value) for name, value in given.items()})
    raise InputError(f"No credentials for Zooniverse in {origin}. {_HOW}")


def _read(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        raise InputError(f"oracle.credentials_file: {path} does not exist. {_HOW}")
    if path.resolve().is_relative_to(REPOSITORY):
        raise InputError(
            f"{path} is inside the repository, so the password in it could be committed."
            " Move it out, for example to your home folder."
        )
    with path.open(encoding="utf-8") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise InputError(f"Other users can read {path} (mode {mode:o}). Run: chmod 600 {path}")
        try:
            content = json.load(file)
        except ValueError:
            content = None  # the parser's error would show the text of the file
    if not isinstance(content, Mapping):
        raise InputError(f'{path} is not JSON like {{"client_id": "…", "client_secret": "…"}}.')
    return content
