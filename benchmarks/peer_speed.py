"""How many times as fast as scikit-activeml, bmdal_reg and batchbald_redux we choose batches, from the same numbers.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install scikit-activeml==1.0.1 bmdal_reg==3.0.2 batchbald_redux==2.0.5
    PEERS=/tmp/peers/bin/python python -m benchmarks.peer_speed

Each side chooses three times in turn, in one thread; the ratio is the median of those of CPU seconds. For distances the
largest distance of a galaxy to its nearest chosen or labelled one is printed too: as good a choice has about the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import ratios
from zoobot import acquisition
from zoobot.galaxies.tasks import Group
from zoobot.metrics import PredictedVotes

FEATURES, LABELLED, SAMPLES, REPETITIONS = 128, 1000, 20, 3
QUESTION = (Group("bar", ("yes", "no")),)


@dataclass(frozen=True)
class Comparison:
    """Choose ``n`` of ``pool`` galaxies by our function and by theirs."""

    ours: str
    theirs: str
    n: int
    pool: int


COMPARISONS = (
    Comparison("k_center", "scikit-activeml:CoreSet", 100, 10_000),
    Comparison("badge", "scikit-activeml:Badge", 100, 10_000),
    Comparison("typiclust", "scikit-activeml:TypiClust", 100, 10_000),
    Comparison("k_center", "bmdal_reg:maxdist", 1000, 100_000),
    Comparison("lcmd", "bmdal_reg:lcmd", 1000, 100_000),
    Comparison("batch_mutual_information", "batchbald_redux:", 20, 2_000),
)


def draw(pool: int) -> dict[str, np.ndarray]:
    """Features as a network gives them, labels, and posterior samples of one question."""
    random = np.random.default_rng(0)
    features = {
        name: np.maximum(random.standard_normal((n, FEATURES), dtype=np.float32), 0)
        for name, n in (("pool_N_H", pool), ("labelled_M_H", LABELLED))
    }
    logit_N_K = random.normal(0, 1.5, (pool, 1)) + random.normal(0, 0.5, (pool, SAMPLES))
    yes_N_K = 1 / (1 + np.exp(-logit_N_K))
    label_M = random.integers(0, 2, LABELLED).astype(float)
    return features | {"label_M": label_M, "probabilities_N_K_A": np.stack([yes_N_K, 1 - yes_N_K], axis=2)}


def ours(name: str, n: int, given: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """CPU seconds, and the chosen rows."""
    ids_N = np.char.mod("%08d", np.arange(len(given["pool_N_H"])))
    predicted = PredictedVotes(given["probabilities_N_K_A"].astype(np.float32), QUESTION)
    votes = 1 if name == "batch_mutual_information" else 40
    of = acquisition.Candidates(ids_N, predicted, votes, given["pool_N_H"], given["labelled_M_H"])
    start = time.process_time()
    with threadpool_limits(1):
        choice = acquisition.choose(name, of, n, np.random.default_rng(0))
    return time.process_time() - start, choice.picks


def theirs(name: str, n: int, path: Path) -> tuple[float, np.ndarray]:
    """The same in the environment of the others."""
    command = [os.environ["PEERS"], str(Path(__file__).with_name("peer_strategies.py")), name, str(n), str(path)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | one_thread)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["cpu"], np.array(found["rows"])


def radius(given: dict[str, np.ndarray], rows: np.ndarray) -> float:
    """The largest distance of a galaxy of the pool to the nearest that is chosen or labelled."""
    pool_N_H, centres = given["pool_N_H"], np.concatenate([given["pool_N_H"][rows], given["labelled_M_H"]])
    square_C = (centres**2).sum(axis=1)
    parts = np.array_split(pool_N_H, max(1, len(pool_N_H) // 5000))
    nearest = [((part**2).sum(axis=1)[:, None] + square_C - 2 * part @ centres.T).min(axis=1) for part in parts]
    return float(np.sqrt(np.concatenate(nearest).max()))


def compare(comparison: Comparison, folder: Path) -> None:
    """Print both times, the ratio and both radii."""
    given, path = draw(comparison.pool), folder / "given.npz"
    np.savez(path, **given)  # type: ignore[arg-type]
    seconds: list[tuple[float, float]] = []
    for _ in range(REPETITIONS):
        mine, rows = ours(comparison.ours, comparison.n, given)
        other, their_rows = theirs(comparison.theirs, comparison.n, path)
        seconds.append((mine, other))
    found = sorted(other / mine for mine, other in seconds)
    name = f"{comparison.ours}, {comparison.n:,} of {comparison.pool:,}"
    print(
        f"{name}: {median(mine for mine, _ in seconds):.2f} CPU s; {comparison.theirs}"
        f" {median(other for _, other in seconds):.2f}; {median(found):.1f} x as fast ({found[0]:.1f} to"
        f" {found[-1]:.1f}); radius {radius(given, rows):.2f} and {radius(given, their_rows):.2f}",
        flush=True,
    )
    ratios.record(name, comparison.theirs.strip(":"), median(found))


def main() -> None:
    """Compare with each that is there."""
    if "PEERS" not in os.environ:
        print(
            "PEERS is not set, so no other library is timed; the top of benchmarks/peer_speed.py says how to get them"
        )
        return
    for comparison in COMPARISONS:
        with TemporaryDirectory() as folder:
            try:
                compare(comparison, Path(folder))
            except subprocess.CalledProcessError as error:
                print(f"{comparison.theirs} is left out: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)


if __name__ == "__main__":
    main()
