"""How fast stage=verify reads, compared with as many sha256sum at once on the same files.

    python -m benchmarks.verify

Both read 2 GB of files from the system's memory, in turn, five times; the best time of each counts.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import ratios
from zoobot import folders
from zoobot.folders import disk

TARGET = 0.8  # of the speed of sha256sum
SIZES_MB = [64] * 28 + [4] * 32 + [0.02] * 400  # shards, models and tables, many small files


def main() -> None:
    """Print the speed of each and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "folder"
        with folders.create(path, {}, {}) as staging:
            for number, size in enumerate(SIZES_MB):
                (staging / f"{number:05d}.bin").write_bytes(random.Random(number).randbytes(int(size * 1e6)))
        gigabytes = sum(SIZES_MB) / 1e3
        (verify_s, reference_s) = best_of(5, lambda: verify(path), lambda: sha256sum(path))
        disk.make_writable(path)
    ratios.record("stage=verify", "sha256sum on all cores", reference_s / verify_s)
    print(f"verify: {gigabytes / verify_s:.2f} GB/s; sha256sum, {os.cpu_count()} at once: {gigabytes / reference_s:.2f}"
          f" GB/s; ratio {reference_s / verify_s:.2f} (target {TARGET})")  # fmt: skip


def best_of(n: int, *works: Callable[[], None]) -> list[float]:
    """The shortest time of each, in seconds; they take turns."""
    best = [float("inf")] * len(works)
    for _ in range(n):
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def verify(path: Path) -> None:
    """Verify a folder as the stage does."""
    problems = folders.verify(path)
    assert problems == [], problems


def sha256sum(path: Path) -> None:
    """The reference: sha256sum of GNU coreutils, one process per processor."""
    if not shutil.which("sha256sum"):
        raise SystemExit("sha256sum is not installed: nothing to compare with")
    names = "\0".join(sorted(str(file) for file in path.iterdir()))
    command = ["xargs", "-0", "-P", str(os.cpu_count()), "-n", "8", "sha256sum"]
    subprocess.run(command, input=names.encode(), stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
