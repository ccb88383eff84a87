"""What ran: versions of Python and packages, git commit, processor threads. It is part of what is digested."""

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
    """The commit of the program, and whether files differed from it."""

    commit: str
    dirty: bool


@dataclass(frozen=True)
class Provenance:
    """What a result depends on besides settings and inputs: sums of floats may differ with the number of threads."""

    versions: dict[str, str]
    git: Git | None  # None: not a checkout, or no git
    platform: str
    threads: int | None


def provenance() -> Provenance:
    """What runs now."""
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
        done = subprocess.run(["git", *args], cwd=REPOSITORY, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        return Git(git("rev-parse", "HEAD"), bool(git("status", "--porcelain")))
    except (OSError, subprocess.CalledProcessError):
        return None
