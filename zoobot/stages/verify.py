"""stage=verify: check that every file is unchanged since its folder was published.

Reads: a folder, and all that it was made from.
Writes: nothing; exit status 1 and a list if a file differs.
Needs: verify.path.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path

from zoobot import folders
from zoobot.errors import ChangedError, FolderError
from zoobot.iterations.files import ITERATION
from zoobot.settings import Settings

log = logging.getLogger("zoobot")


def run(settings: Settings) -> Path:
    """Check a folder, or every finished folder inside it, and everything that they were made from.

    Raises ChangedError, with all differences, if anything has changed.
    """
    path = Path(settings.verify.path)
    found, lost, problems = _look_through(path)
    if not found and not problems:
        raise FolderError(f"{path} holds no folder with a {folders.MANIFEST}.")
    chain = list(dict.fromkeys([*(folder.resolve() for folder in found), *folders.with_inputs(found)]))
    problems += [problem for folder in chain for problem in folders.verify(folder)]
    problems += [f"{folder}: has no {folders.MANIFEST}" for folder in lost]
    if problems:
        raise ChangedError("\n".join(dict.fromkeys(problems)))  # a folder may be met twice
    log.info("%s: %d folders verified, inputs included; nothing has changed", path, len(chain))
    return path


def _look_through(path: Path) -> tuple[list[Path], list[Path], list[str]]:
    """The finished folders below ``path``, the iterations without a manifest, and what cannot be looked into."""
    found, lost, unreadable = [], [], []

    def note(error: OSError) -> None:
        if not (error.errno == errno.ENOENT and Path(error.filename) == path):
            unreadable.append(f"{error.filename}: cannot be read: {error.strerror}")

    for name, names, files in os.walk(path, onerror=note):
        folder = Path(name)
        names[:] = [each for each in sorted(names) if not each.endswith(".staging")]  # being written, or of a crash
        if folders.MANIFEST in files:
            found.append(folder)
        elif re.fullmatch(rf"{ITERATION}_\d+", folder.name) and folder != path:
            lost.append(folder)
    return found, lost, unreadable
