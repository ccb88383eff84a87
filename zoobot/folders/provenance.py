"""What ran: versions of Python and packages, git commit, processor threads. A folder's digest covers it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from zoobot.settings.paths import REPOSITORY

_PACKAGES = ("numpy", "pandas", "astropy", "scipy", "pillow", "pyarrow", "duckdb", "h5py", "keras", "tensorflow-cpu",
             "tensorflow", "hydra-core")  # fmt: skip


@dataclass(frozen=True)
class Git:
    """The git commit of the program, and whether any file differed from it."""

    commit: str
    dirty: bool


@dataclass(frozen=True)
class Provenance:
    """What a result depends on besides settings and inputs. The number of threads can change sums of floats."""

    versions: dict[str, str]
    git: Git | None  # None: the program is not a git checkout, or git is missing
    platform: str
    threads: int | None


def provenance() -> Provenance:
    """The provenance of the running program."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Provenance(versions, _git_state(), f"{sys.platform} {platform.machine()}", threads)


@cache
def _git_state() -> Git | None:
    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", *args], cwd=REPOSITORY, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    try:
        return Git(git("rev-parse", "HEAD"), bool(git("status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return None
