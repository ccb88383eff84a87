"""What ran: versions of Python and packages, git commit, processor threads. It is part of what is digested."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = ("numpy", "pandas", "astropy", "scipy", "pillow", "pyarrow", "keras", "tensorflow-cpu", "tensorflow",
             "hydra-core")  # fmt: skip


def provenance() -> dict[str, Any]:
    """What a result depends on besides settings and inputs: sums of floats may differ with the number of threads."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = f"{sys.platform} {platform.machine()}"
    return {"versions": versions, "git": _git_state(), "platform": here, "threads": threads}


@cache
def _git_state() -> dict[str, Any] | None:
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout, or no git: an installed copy
