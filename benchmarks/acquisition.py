"""How fast acquisition functions are, compared with a loop in Python as in 2020.

Other programs on the machine slow everything down: the last line says how much of the cores this one had.

python -m benchmarks.acquisition [galaxies in the pool]
"""

from __future__ import annotations

import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from benchmarks import ratios
from zoobot import acquisition
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import Group, build_task
from zoobot.metrics import PredictedVotes
from zoobot.settings import ModelSettings, TaskSettings

ROOT = Path(__file__).resolve().parents[1]
POOL, BATCH, LABELLED, FEATURES, SAMPLES, VOTES = 350_000, 1000, 1000, 128, 20, 40
REPETITIONS = 5
Floats = npt.NDArray[np.float64]


def loop_of_2020(probabilities_N_K: Floats, n_votes: int, pmf: Callable[[float, int], Floats]) -> list[float]:
    """Mutual information as the code of 2020 computed it: galaxy by galaxy, sample by sample, with a logarithm for each
    number. Its probabilities came from scipy, at first exact, later from a cache with p rounded to 3 digits.
    """
    scores = []
    for samples in probabilities_N_K:
        pmfs = np.array([pmf(float(p), n_votes) for p in samples])
        entropies = [_entropy_number_by_number(pmf) for pmf in (pmfs.mean(axis=0), *pmfs)]
        scores.append(entropies[0] - sum(entropies[1:]) / len(pmfs))
    return scores


def exact_pmf(p: float, n_votes: int) -> Floats:
    """scipy's binomial."""
    return np.asarray(binom.pmf(k=np.arange(n_votes + 1), p=p, n=n_votes))


@lru_cache(16384)
def _cached_pmf(thousandths: int, n_votes: int) -> Floats:
    return exact_pmf(thousandths / 1000, n_votes)


def cached_pmf(p: float, n_votes: int) -> Floats:
    """The same for p rounded to 3 digits."""
    return _cached_pmf(round(1000 * p), n_votes)


def _entropy_number_by_number(probabilities: Floats) -> float:
    return float(sum(-p * np.log(p + 1e-12) for p in probabilities))


def plain_loop(probabilities_N_K: list[list[float]], n_votes: int) -> list[float]:
    """The same without numpy and without a cache: about the best that a loop in Python can do."""
    ways = [math.comb(n_votes, k) for k in range(n_votes + 1)]
    scores = []
    for samples in probabilities_N_K:
        pmfs = [[w * p**k * (1 - p) ** (n_votes - k) for k, w in enumerate(ways)] for p in samples]
        mixture = [sum(pmf[k] for pmf in pmfs) / len(pmfs) for k in range(n_votes + 1)]
        entropies = [-sum(p * math.log(p + 1e-300) for p in pmf) for pmf in (mixture, *pmfs)]
        scores.append(entropies[0] - sum(entropies[1:]) / len(pmfs))
    return scores


def rates(function: Callable[[], object], n_galaxies: int, repetitions: int = REPETITIONS) -> list[float]:
    """Galaxies per second in each repetition, sorted."""
    measured = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        measured.append(n_galaxies / (time.perf_counter() - start))
    return sorted(measured)


def show(name: str, measured: list[float], needed: float) -> float:
    """Print median and spread. Returns the median."""
    middle = median(measured)
    print(f"{name}: {middle:,.0f} galaxies/s ({measured[0]:,.0f} to {measured[-1]:,.0f}), needed {needed:,.0f}")
    return middle


def softmax_samples(n: int, groups: tuple[Group, ...], random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Probabilities N × K × A as a network gives them."""
    parts = []
    for group in groups:
        shape = (n, 1, len(group.answers))
        logits = random.normal(0, 1.5, shape) + random.normal(0, 0.5, (n, SAMPLES, len(group.answers)))
        exponentials = np.exp(logits.astype(np.float32))
        parts.append(exponentials / exponentials.sum(axis=2, keepdims=True))
    return np.concatenate(parts, axis=2)


def binomial(random: np.random.Generator) -> None:
    """Mutual information of 40 votes on one question, and how many times faster it is than loops."""
    few, many = random.random((100, SAMPLES)).round(3), random.random((100_000, SAMPLES))
    scores = acquisition.binomial_mutual_information(few, VOTES)
    loop_of_2020(few, VOTES, cached_pmf)  # fills the cache
    loops: dict[str, Callable[[], list[float]]] = {
        "the loop of 2020, needed 500": lambda: loop_of_2020(few, VOTES, exact_pmf),
        "the loop of 2020, rounded and its cache full": lambda: loop_of_2020(few, VOTES, cached_pmf),
        "a loop of today without numpy": lambda: plain_loop(few.tolist(), VOTES),
    }
    ours = show(
        "binomial mutual information, 20 samples, 40 votes",
        rates(lambda: acquisition.binomial_mutual_information(many, VOTES), len(many)),
        150_000,
    )
    for name, loop in loops.items():
        theirs = median(rates(loop, len(few)))
        difference = np.abs(scores - np.array(loop())).max()
        print(f"  {ours / theirs:,.0f} x {name} ({theirs:,.0f} galaxies/s; scores differ by {difference:.0e})")
        ratios.record("binomial mutual information", name, ours / theirs)


def tree(random: np.random.Generator) -> None:
    """Mutual information over the ten questions of GZ DECaLS, Dirichlet-multinomial and multinomial."""
    questions = load_questions(str(ROOT / "configs" / "questions" / "decals.yaml"))
    groups = build_task(TaskSettings(name="tree", questions=[q.name for q in questions]), questions).groups
    samples = softmax_samples(2000, groups, random)
    ids = [str(i) for i in range(len(samples))]
    score = acquisition.ACQUISITIONS["mutual_information"].choose
    for likelihood, values in (("dirichlet_multinomial", samples * np.float32(20)), ("multinomial", samples)):
        of = acquisition.Candidates(ids, PredictedVotes(values, groups, likelihood), VOTES)
        measured = rates(lambda of=of: score(of, 100, random), len(ids), 3)  # type: ignore[misc]
        show(f"{likelihood} mutual information, {len(groups)} questions, 40 votes", measured, 1000)


def batches(pool: int, random: np.random.Generator) -> None:
    """Choose 1,000 galaxies from half the pool and from the complete pool."""
    groups = (Group("bar", ("label", "not_label")),)
    features = np.maximum(random.standard_normal((pool, FEATURES), dtype=np.float32), 0)
    labelled = np.maximum(random.standard_normal((LABELLED, FEATURES), dtype=np.float32), 0)
    samples = softmax_samples(pool, groups, random)
    ids = np.char.mod("%08d", np.arange(pool))
    for name in acquisition.ACQUISITIONS:
        seconds = []
        for n in (pool // 2, pool):
            of = acquisition.Candidates(ids[:n], PredictedVotes(samples[:n], groups), VOTES, features[:n], labelled)
            start = time.perf_counter()
            acquisition.choose(name, of, BATCH, np.random.default_rng(0))
            seconds.append(time.perf_counter() - start)
        needed = ", needed 60 s" if name in ("lcmd", "k_center") else ""
        print(
            f"{name}: {BATCH} of {pool:,} with {FEATURES} features in {seconds[1]:.1f} s{needed};"
            f" of half as many in {seconds[0]:.1f} s: {seconds[1] / seconds[0]:.1f} times as long for twice as many"
        )


def end_to_end(pool: int, random: np.random.Generator) -> None:
    """From features to the choice: the network's head under 20 dropout masks, then mutual information."""
    from zoobot.models import mc_dropout

    chosen = ModelSettings(name="bench", blocks=[[4]], hidden=FEATURES, final_size_px=16)
    groups = (Group("bar", ("label", "not_label")),)
    network = mc_dropout.build(chosen, groups, 16, 3, seed=0)
    features = np.maximum(random.standard_normal((pool, FEATURES), dtype=np.float32), 0)
    ids = np.char.mod("%08d", np.arange(pool))
    start = time.perf_counter()
    samples = mc_dropout.sample([network], features, SAMPLES, random)
    of = acquisition.Candidates(ids, PredictedVotes(samples, groups), VOTES, features)
    acquisition.choose("mutual_information", of, BATCH, random)
    print(f"{pool:,} galaxies from features to choice: {time.perf_counter() - start:.1f} s, needed 60 s")


def main() -> None:
    """Print each figure and its target. The parts with a pool also print their peak memory."""
    pool = int(sys.argv[1]) if len(sys.argv) > 1 else POOL
    print(f"acquisition: {platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}")
    random = np.random.default_rng(0)
    wall, cpu = time.perf_counter(), time.process_time()
    binomial(random)
    tree(random)
    for part, needed in ((end_to_end, ", needed 2"), (batches, "")):
        part(pool, random)
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"  peak memory so far {peak_gib:.2f} GiB{needed}")
    cores = (time.process_time() - cpu) / (time.perf_counter() - wall)
    print(f"CPU seconds per second: {cores:.2f}; load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
