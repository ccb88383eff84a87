"""stage=verify: check that every file is unchanged since its folder was published."""

from __future__ import annotations

import logging
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
    found = sorted(manifest.parent for manifest in path.rglob(folders.MANIFEST))
    found = [folder for folder in found if not folder.name.endswith(".staging")]  # being written, or left by a crash
    if not found:
        raise FolderError(f"{path} holds no folder with a {folders.MANIFEST}.")
    chain = folders.with_inputs(found)
    problems = [problem for folder in chain for problem in folders.verify(folder)]
    lost = {folder for folder in path.rglob(f"{ITERATION}_*") if folder.is_dir()} - set(found)
    problems += [f"{folder}: has no {folders.MANIFEST}" for folder in sorted(lost)]
    if problems:
        raise ChangedError("\n".join(problems))
    log.info("%s: %d folders verified, inputs included; nothing has changed", path, len(chain))
    return path
