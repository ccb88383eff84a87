"""How many labels acquisition functions need, on fixed features: simulations without pictures, many at once.

The galaxies are those of a finished simulation's shards, all of them labelled anew: a seed draws test galaxies, first
labels and pool from them. So seeds share an encoder, which has seen the pictures of its own pool (and no votes). Fits,
choices and losses are those of the program.

python -m benchmarks.labels FUNCTION,FUNCTION,… SEEDS FIRST:STEP:LAST[,STEP:LAST] [KEY=VALUE …]

FUNCTION is an acquisition function, or two with a + between: the first until the first LAST, then the second. KEY=VALUE
are the settings of the simulation, as for run.py. Prints mean losses with random's null, and writes them as JSON to
labels.json in $OUT or the current folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from benchmarks.networks import settings_of, task_of
from zoobot import acquisition, metrics
from zoobot.acquisition import Candidates
from zoobot.galaxies import cells, database, tfrecords
from zoobot.galaxies.tables import read_table, read_votes
from zoobot.galaxies.tasks import Group
from zoobot.metrics import PredictedVotes
from zoobot.models import features, head
from zoobot.reports import intervals
from zoobot.reports.gains import labels_to_reach

Floats = npt.NDArray[np.float64]
Simulated = tuple[list[str], Floats, list[float]]
Line = TypeVar("Line")
TESTED, SAMPLES = 0.3, 30  # share of the galaxies that only test; posterior samples to choose by


@dataclass(frozen=True)
class Galaxies:
    """All galaxies of a simulation, with their features and votes."""

    ids_N: npt.NDArray[np.str_]
    features_N_H: npt.NDArray[np.float32]
    counts_N_A: Floats
    groups: tuple[Group, ...]
    expected_votes: int

    def take(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], Floats]:
        """Features and votes of some."""
        return self.features_N_H[rows], self.counts_N_A[rows]

    def split(self, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The rows of those that test, and of those that are labelled or in the pool."""
        order = np.random.default_rng(seed).permutation(len(self.ids_N))
        n_test = round(TESTED * len(order))
        return order[:n_test], order[n_test:]


def read(*overrides: str) -> Galaxies:
    """The galaxies of the simulation with these settings, whose shards and encoder exist."""
    settings = settings_of(*overrides)
    config, task = tfrecords.load_config(settings.shard_dir), task_of(settings)
    features_of = features.frozen_features(settings, config).of
    names = [name for split in ("train", "eval", "test", "pool") for name in config.splits[split]]
    features_N_H = np.concatenate([features_of(settings.shard_dir / name) for name in names])
    with database.connect(settings.shard_dir / config.database) as connection:
        of_shard = {s: ids for split in config.splits for s, ids in database.ids_by_shard(connection, split).items()}
    ids = [id_str for name in names for id_str in of_shard[name]]
    hidden = read_votes(settings.catalog_dir / "oracle.csv")
    first = read_table(settings.catalog_dir / "mock_labelled.csv").set_index("id_str")[list(hidden)]
    votes = task.add_label(pd.concat([hidden, first.apply(cells.numbers).astype("int64")]).loc[ids])
    counts_N_A = task.counts({name: votes[name].to_numpy() for name in task.stored_columns})
    asked = counts_N_A.sum(axis=1) > 0
    return Galaxies(
        np.array(ids)[asked], features_N_H[asked], counts_N_A[asked].astype(np.float64), task.groups,
        settings.acquisition.expected_votes,
    )  # fmt: skip


def simulate(galaxies: Galaxies, steps: Sequence[int], line: tuple[str, int]) -> Simulated:
    """One simulation of (functions, seed): ids and losses T × N of its test galaxies, and the seconds of each choice.

    ``steps`` are the numbers of labels at each point, of which the first are drawn at random.
    """
    name, seed = line
    test, pool = galaxies.split(seed)
    labelled, left = pool[: steps[0]], pool[steps[0] :]
    scale = head.Scale.of(galaxies.features_N_H[pool])
    losses, seconds = [], []
    for point, n_labels in enumerate(steps):
        drawn = np.ones(len(labelled), bool) if name == "random" else np.arange(len(labelled)) < steps[0]
        fitted = head.fit(*galaxies.take(labelled), galaxies.groups, drawn, scale)
        losses.append(metrics.losses(_predict(galaxies, fitted, test, seed), galaxies.counts_N_A[test]))
        if n_labels == steps[-1]:
            break
        start = time.perf_counter()
        picks = _choose(galaxies, fitted, _function(name, steps, point), (labelled, left), steps[point + 1], seed)
        seconds.append(time.perf_counter() - start)
        labelled, left = np.concatenate([labelled, left[picks]]), np.delete(left, picks)
    return list(galaxies.ids_N[test]), np.array(losses), seconds


def _function(name: str, steps: Sequence[int], point: int) -> str:
    first, _, then = name.partition("+")
    widths = np.diff(steps)
    return then if then and widths[point] > widths[0] else first


def _predict(galaxies: Galaxies, fitted: head.Head, rows: npt.NDArray[np.int64], seed: int) -> PredictedVotes:
    samples = fitted.sample(galaxies.features_N_H[rows], SAMPLES, np.random.default_rng(seed))
    return PredictedVotes(samples, galaxies.groups, "dirichlet_multinomial")


def _choose(
    galaxies: Galaxies, fitted: head.Head, function: str, rows: tuple[npt.NDArray[np.int64], ...], n: int, seed: int
) -> npt.NDArray[np.int64]:
    labelled, left = rows
    candidates = Candidates(
        galaxies.ids_N[left], _predict(galaxies, fitted, left, seed), galaxies.expected_votes,
        galaxies.features_N_H[left], galaxies.features_N_H[labelled],
    )  # fmt: skip
    share = 0.2 if function == "mixture" else 0.0
    random = np.random.default_rng([seed, n])
    return acquisition.choose(function, candidates, n - len(labelled), random, random_share=share).picks


def side_by_side(simulate: Callable[[Line], Simulated], lines: Sequence[Line]) -> dict[Line, Simulated]:
    """What ``simulate`` returns for each of the lines; as many at once as there are cores."""
    with (
        threadpool_limits(1),
        ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), threadpool_limits, (1,)) as pool,
    ):
        return dict(zip(lines, pool.map(simulate, lines), strict=True))


def points(text: str) -> list[int]:
    """FIRST:STEP:LAST,STEP:LAST as numbers of labels."""
    first, _, rest = text.partition(":")
    points = [int(first)]
    for part in rest.split(","):
        step, last = map(int, part.split(":"))
        points += range(points[-1] + step, last + 1, step)
    return points


def compare(
    losses: dict[str, list[intervals.Tested]], steps: Sequence[int], reference: str = "random"
) -> dict[str, dict[str, object]]:
    """Of each line: mean losses, labels for the reference's final loss, how much lower the loss is over all points."""
    flat = {f"{name} {i}": of for name, tested in losses.items() for i, of in enumerate(tested)}
    curves = intervals.mean_losses(flat)
    weights = intervals.seed_weights(len(next(iter(losses.values()))))
    mean = {
        name: np.average(np.stack([curves[f"{name} {i}"] for i in range(len(tested))], axis=2),
                         axis=2, weights=np.broadcast_to(weights[:, None], (*curves[f"{name} 0"].shape, len(tested))))
        for name, tested in losses.items()
    }  # fmt: skip
    known = mean[reference]
    widths = np.gradient(np.asarray(steps, float)) if len(steps) > 1 else np.ones(1)
    found: dict[str, dict[str, object]] = {}
    for name, of in mean.items():
        reached = [
            labels_to_reach(list(zip(steps, ours, strict=True)), target)
            for ours, target in zip(of, known[:, -1], strict=True)
        ]
        found[name] = {
            "loss": of[0].tolist(),
            "labels": intervals.with_interval(np.array([np.inf if r is None else r / steps[-1] for r in reached])),
            "lower": intervals.with_interval((known - of) @ widths / (known @ widths)),
            "worst": intervals.with_interval(((of - known) / known).max(axis=1)),
        }
    return found


def main() -> None:
    """Run and print."""
    names, n_seeds, text, *overrides = sys.argv[1:]
    lines, steps = list(dict.fromkeys(["random", *names.split(",")])), points(text)
    first, _, last = n_seeds.partition(":")
    seeds = range(int(first), int(last)) if last else range(int(first))
    galaxies = read(*overrides)
    shape = " galaxies × ".join(map(str, galaxies.features_N_H.shape))
    print(f"{shape} features, {len(seeds)} seeds, {os.cpu_count()} cores")
    start = time.perf_counter()
    work = [(name, seed) for seed in seeds for name in lines]
    done = side_by_side(partial(simulate, galaxies, steps), work)
    losses = {name: [intervals.Tested(*done[name, seed][:2]) for seed in seeds] for name in lines}
    found = compare(losses, steps)
    shown = np.unique(np.linspace(0, len(steps) - 1, 7).round().astype(int))
    print("labels", *(steps[i] for i in shown))
    for name, of in found.items():
        numbers = " ".join(f"{of['loss'][i]:.3f}" for i in shown)  # type: ignore[index]
        chosen_s = np.mean([np.sum(done[name, seed][2]) for seed in seeds])
        print(f"{name}: {numbers} | {ranges(of)} | {chosen_s:.1f} s to choose", flush=True)
    Path(os.environ.get("OUT", "."), "labels.json").write_text(json.dumps({"steps": steps, "lines": found}))
    print(f"{time.perf_counter() - start:.0f} s")


def ranges(of: dict[str, object], keys: Sequence[str] = ("labels", "lower", "worst")) -> str:
    """The percentages that ``compare`` found for a line, with their intervals."""
    return " | ".join(
        f"{key} {_percent(of[key]['value'])} ({_percent(of[key]['low'])} to {_percent(of[key]['high'])})"  # type: ignore[index]
        for key in keys
    )


def _percent(value: float | None) -> str:
    return "∞" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
