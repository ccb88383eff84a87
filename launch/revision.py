"""What `revision` is: a commit. A branch or tag is looked up once, by `setup`, and the machines get the commit."""

from __future__ import annotations

import os
import re
import subprocess

from launch.config import Config
from launch.errors import Away, LaunchError

COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 60
# https only, no helper that knows passwords, and nobody is asked for one
_GIT = ("git", "-c", "credential.helper=", "-c", "core.askPass=true", "ls-remote", "--quiet", "--")
_ALONE = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "GIT_ALLOW_PROTOCOL": "https", "GIT_CONFIG_NOSYSTEM": "1"}


def commit_of(config: Config) -> str:
    """The 40 hexadecimal digits of the commit that ``revision`` is now. LaunchError if it is none, or two."""
    if COMMIT.fullmatch(config.revision):
        return config.revision
    names = (f"refs/heads/{config.revision}", f"refs/tags/{config.revision}", f"refs/tags/{config.revision}^{{}}")
    found = dict(line.split("\t")[::-1] for line in _ls_remote(config.repository, *names).splitlines())
    branch, tag = found.get(names[0]), found.get(names[2]) or found.get(names[1])  # ^{}: what an annotated tag is on
    if branch and tag and branch != tag:
        raise LaunchError(f"revision: {config.revision} is a branch and a tag, of different commits. Give the commit.")
    if not (branch or tag):
        raise LaunchError(
            f"revision: {config.repository} has no branch or tag {config.revision}. Give one, or a commit's 40 digits."
        )
    return str(branch or tag)


def _ls_remote(repository: str, *names: str) -> str:
    try:
        asked = subprocess.run(
            [*_GIT, repository, *names], env=os.environ | _ALONE, capture_output=True, text=True, timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Away(f"repository: {repository} did not answer in {_TIMEOUT_S} s. Try again later.") from error
    except OSError as error:
        raise LaunchError(
            f"revision: git cannot be run ({error}). Install it, or give a commit's 40 digits."
        ) from error
    if asked.returncode:
        raise LaunchError(
            f"repository: {repository} cannot be read without a password: {asked.stderr.strip()[-300:]}."
            " Machines clone it in the same way. Correct the address, or make it public."
        )
    return asked.stdout
