"""How many votes a galaxy should get if volunteers' time is given: few galaxies with many votes, or many with few.

Simulations on fixed features, as in benchmarks/labels.py. A labelled galaxy gets V of its votes, a test galaxy keeps
all. Volunteers' time is the number of votes for the first question.

python -m benchmarks.votes_per_galaxy FUNCTION,FUNCTION,… SEEDS V,V,… FIRST:STEP:LAST [KEY=VALUE …]

FIRST:STEP:LAST are numbers of votes. KEY=VALUE are the settings of a finished simulation, as for run.py. Each V is
compared with each other V; prints all against the largest one, and the others against the best, and writes them as JSON
to votes_per_galaxy.json in $OUT or the current folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import labels
from benchmarks.labels import Floats, Galaxies
from zoobot import metrics
from zoobot.engine import seeds

Line = tuple[str, int, int]  # function, V, seed


def thin(galaxies: Galaxies, n_votes: int, seed: int) -> Floats:
    """The votes N × A of ``n_votes`` volunteers on each galaxy, or of all if there were fewer.

    Votes for the first question are drawn from the galaxy's own without replacement. A later question gets as many as
    the answers drawn lead to it, less the share of volunteers who did not answer it.
    """
    drawn_N_A = np.zeros(galaxies.counts_N_A.shape, np.int64)
    at_answer = {a: at for at, a in enumerate(a for group in galaxies.groups for a in group.answers)}
    for id_str, counts_A, drawn_A in zip(galaxies.ids_N, galaxies.counts_N_A.astype(np.int64), drawn_N_A, strict=True):
        random = seeds.stream(seed, "votes", id_str)
        for group, at in zip(galaxies.groups, metrics.columns(galaxies.groups), strict=True):
            before, total = [at_answer[answer] for answer in group.after], counts_A[at].sum()
            led, led_drawn = (counts_A[before].sum(), drawn_A[before].sum()) if before else (total, min(n_votes, total))
            n = random.hypergeometric(min(total, led), max(led - total, 0), led_drawn)
            drawn_A[at] = random.multivariate_hypergeometric(counts_A[at], n)
    return drawn_N_A.astype(np.float64)


def simulate(galaxies: Galaxies, votes: Sequence[int], line: Line) -> labels.Simulated:
    """One simulation, with a point at each number of votes. A galaxy costs the pool's mean of the votes drawn."""
    function, n_votes, seed = line
    test, pool = galaxies.split(seed)
    counts_N_A = thin(galaxies, n_votes, seed)
    counts_N_A[test] = galaxies.counts_N_A[test]
    first = next(iter(metrics.columns(galaxies.groups)))
    steps = [round(n / counts_N_A[pool, first].sum(axis=1).mean()) for n in votes]
    if steps[-1] > len(pool):
        raise SystemExit(f"{votes[-1]} votes, {n_votes} a galaxy: more than the {len(pool)} galaxies of the pool")
    return labels.simulate(replace(galaxies, counts_N_A=counts_N_A, expected_votes=n_votes), steps, (function, seed))


def main() -> None:
    """Run and print."""
    functions, n_seeds, each, text, *overrides = sys.argv[1:]
    numbers, votes, galaxies = [int(v) for v in each.split(",")], labels.points(text), labels.read(*overrides)
    print(" galaxies × ".join(map(str, galaxies.features_N_H.shape)), f"features, {n_seeds} seeds; votes", *votes)
    found = {}
    for function in functions.split(","):
        lines = [(function, v, seed) for v in numbers for seed in range(int(n_seeds))]
        every = labels.side_by_side(partial(simulate, galaxies, votes), lines)
        done = {str(v): every[i * int(n_seeds) : (i + 1) * int(n_seeds)] for i, v in enumerate(numbers)}
        against = {v: labels.compare(done, votes, v) for v in done}
        best = min(done, key=lambda v: np.mean([losses_T_N.mean() for _, losses_T_N, _ in done[v]]))
        for reference in dict.fromkeys([str(max(numbers)), best]):
            print(f"{function}, against {reference} votes a galaxy:")
            for v, of in against[reference].items():
                losses_T = " ".join(f"{loss:.3f}" for loss in of["loss"])  # type: ignore[attr-defined]
                print(f"  {v}: {losses_T} | lower {labels.percent(of['lower'])} | worst {labels.percent(of['worst'])}")
        found[function] = against
    Path(os.environ.get("OUT", "."), "votes_per_galaxy.json").write_text(json.dumps({"votes": votes, "lines": found}))


if __name__ == "__main__":
    main()
