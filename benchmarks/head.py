"""How long the head takes to fit with one BLAS thread and with all, on a quiet machine and on a busy one.

python -m benchmarks.head
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import numpy as np

from benchmarks import ratios
from zoobot.galaxies.tasks import Group
from zoobot.models import head

GALAXIES, FEATURES, VOTES, REPETITIONS = 100, 256, 40, 3


def work() -> None:
    """Keep a core busy with small products of matrices, as another simulation does."""
    matrix = np.random.default_rng(0).normal(size=(200, 200))
    while True:
        np.dot(matrix, matrix)


@contextmanager
def busy(n: int) -> Iterator[None]:
    """``n`` other processes at work."""
    others = [multiprocessing.get_context("spawn").Process(target=work, daemon=True) for _ in range(n)]
    for other in others:
        other.start()
    time.sleep(2 if n else 0)
    try:
        yield
    finally:
        for other in others:
            other.kill()


def seconds(limited: bool) -> float:
    """One fit."""
    random = np.random.default_rng(1)
    features_N_H = random.normal(size=(GALAXIES, FEATURES))
    yes_N = random.binomial(VOTES, 1 / (1 + np.exp(-features_N_H[:, 0])))
    counts_N_A = np.stack([yes_N, VOTES - yes_N], axis=1)
    unlimited = patch.object(head, "threadpool_limits", lambda *_: nullcontext())
    with nullcontext() if limited else unlimited:
        start = time.perf_counter()
        head.fit(features_N_H, counts_N_A, (Group("q", ("yes", "no")),))
        return time.perf_counter() - start


def main() -> None:
    """Print the median and the spread of each, measured in turn."""
    print(f"head: {platform.machine()}, {os.cpu_count()} cores; {GALAXIES} galaxies x {FEATURES} features")
    for n in (0, os.cpu_count() or 1):
        with busy(n):
            pairs = [(seconds(True), seconds(False)) for _ in range(REPETITIONS)]
        one, every = (sorted(values) for values in zip(*pairs, strict=True))
        ratio = np.median(every) / np.median(one)
        print(f"beside {n} busy processes: {ratio:.1f} x faster with one thread")
        ratios.record(f"head.fit beside {'busy' if n else 'no'} processes", "all BLAS threads", float(ratio))
        for name, values in (("one thread", one), ("all threads", every)):
            print(f"  {name}: {np.median(values):.2f} s ({values[0]:.2f} to {values[-1]:.2f})")


if __name__ == "__main__":
    main()
