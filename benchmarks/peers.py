"""Rivals of our acquisition functions in one run: those of benchmarks/rivals.py and of scikit-activeml, all on the same
features and labels, with our head refitted after each batch.

python -m benchmarks.peers [KEY=VALUE …]

KEY=VALUE are the settings of a finished simulation, as for benchmarks.labels. Prints the tables of
docs/results/peers.md. scikit-activeml has an environment of its own; without SKACTIVEML its lines are left out:

python -m venv /tmp/activeml && /tmp/activeml/bin/pip install scikit-activeml==1.0.1
SKACTIVEML=/tmp/activeml/bin/python python -m benchmarks.peers [KEY=VALUE …]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import rivals
from benchmarks.labels import (
    Chooser,
    Moment,
    Rows,
    Simulated,
    about,
    choose,
    compare,
    percent,
    points,
    read,
    run,
    seconds_to_choose,
    seeds_of,
)
from zoobot import metrics
from zoobot.reports import intervals

TABLES = {"From 60 labels": ("10", "60:120:660"), "A cold start": ("10", "8:8:104")}  # seeds, numbers of labels
OURS = ("random", "badge", "variance_reduction", "mutual_information", "batch_mutual_information", "lcmd", "typiclust")
RIVALS: dict[str, Chooser] = {
    "ITL": rivals.itl,
    "BAIT": rivals.bait,
    "loss-driven, log loss": rivals.loss_driven_log,
    "MaxHerding": rivals.max_herding,
    "UHerding": rivals.uherding,
    "Refine, then UHerding": partial(rivals.refine, rivals.uherding),
    "Refine, then badge": partial(rivals.refine, partial(choose, "badge")),
}
THEIRS = ("Badge", "TypiClust", "CoreSet", "MaxHerding", "DropQuery", "Falcun")


def theirs(strategy: str, moment: Moment) -> Rows:
    """What a query strategy of scikit-activeml chooses. It gets the answer with the most votes of each galaxy."""
    galaxies, rows = moment.galaxies, np.concatenate([moment.left, moment.labelled])
    features_P_H = galaxies.features_N_H[rows].astype(np.float64)
    spread_H = features_P_H.std(axis=0)
    counts_P_A = galaxies.counts_N_A[rows][:, next(metrics.columns(galaxies.groups))]
    known_P = (np.arange(len(rows)) >= len(moment.left)) & (counts_P_A.sum(axis=1) > 0)
    with TemporaryDirectory() as folder:
        path = Path(folder, "given.npz")
        np.savez(
            path, X=(features_P_H - features_P_H.mean(axis=0)) / np.where(spread_H > 0, spread_H, 1),
            y=np.where(known_P, counts_P_A.argmax(axis=1), np.nan), classes=np.arange(counts_P_A.shape[1]),
        )  # fmt: skip
        asked, answered = _process()
        asked.write(f"{strategy} {moment.n} {moment.seed} {path}\n")
        asked.flush()
        if not answered.readline():
            sys.exit(f"scikit-activeml ended while {strategy} chose; its message is above")
        return np.asarray(np.load(f"{path}.rows.npy"))


@cache
def _process():  # type: ignore[no-untyped-def]  # two text streams, which typing.IO would only repeat
    """The input and output of a process with scikit-activeml, which ends with this one."""
    command = [os.environ["SKACTIVEML"], "-I", str(Path(__file__).with_name("activeml.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process.stdin, process.stdout


def p_values(done: Mapping[str, list[Simulated]], steps: Sequence[int]) -> dict[str, float]:
    """How often a mean loss over all points would differ this much from badge's if both were equal, by Holm."""
    weights = np.gradient(np.asarray(steps, float))
    found = {}
    for name in done.keys() - {"random", "badge"}:
        pairs = [
            (ids, weights @ (badge - losses) / weights.sum())
            for (ids, badge, _), (_, losses, _) in zip(done["badge"], done[name], strict=True)
        ]
        mean = float(np.mean([apart.mean() for _, apart in pairs]))
        found[name] = intervals.p_value(mean, intervals.crossed_error(pairs), len(pairs))
    return dict(zip(found, intervals.holm(list(found.values())), strict=True))


def table(done: Mapping[str, list[Simulated]], steps: Sequence[int]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    to_random, to_badge, p = compare(done, steps), compare(done, steps, "badge"), p_values(done, steps)
    shown = np.unique(np.linspace(0, len(steps) - 1, 6).round().astype(int))
    at = ", ".join(str(steps[i]) for i in shown)
    yield f"| function | loss at {at} labels | labels | lower than random | lower than badge | p | seconds to choose |"
    yield "|---|---|---|---|---|---|---|"
    for name, of in to_random.items():
        losses = " ".join(f"{of['loss'][i]:.3f}" for i in shown)  # type: ignore[index]
        chance = f"{p[name]:.2f}" if name in p else ""
        lower = percent(to_badge[name]["lower"]) if name != "badge" else ""
        against = f"{percent(of['labels'])} | {percent(of['lower'])} | {lower} | {chance}"
        yield f"| {name} | {losses} | {against} | {seconds_to_choose(done[name]):.1f} |"


def main() -> None:
    """Run and print."""
    galaxies = read(*sys.argv[1:])
    lines: dict[str, Chooser] = {f"`{name}`" if name not in ("random", "badge") else name: name for name in OURS}
    lines |= RIVALS
    if "SKACTIVEML" in os.environ:
        lines |= {f"scikit-activeml: {name}": partial(theirs, name) for name in THEIRS}
    else:
        print(
            "SKACTIVEML is not set, so scikit-activeml is left out; the top of benchmarks/peers.py says how to get it"
        )
    for title, (seeds, text) in TABLES.items():
        start, steps = time.perf_counter(), points(text)
        done = run(galaxies, lines, seeds_of(seeds), steps)
        print(
            f"## {title}\n\n{about(galaxies, seeds)}, {time.perf_counter() - start:.0f} s\n",
            *table(done, steps),
            sep="\n",
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
