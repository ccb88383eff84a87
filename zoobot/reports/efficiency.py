"""How well acquisition functions do: curves, and the gain over random with intervals over seeds and test galaxies.

The two experiments of a pair share start, pool and test galaxies. Axes: P pairs, T iterations, N test galaxies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median_low, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from zoobot.reports import hindsight
from zoobot.reports.experiments import BASELINE, Experiment, Section

Floats = npt.NDArray[np.float64]
REPLICATES, LEVEL = 1000, 0.95
# The rule on the page: a difference counts if there are at least this many pairs and it exceeds this many errors.
MIN_SEEDS, MIN_ERRORS = 3, 2.0


def describe(section: Section) -> dict[str, Any]:
    """The numbers of a section, as in summary.json."""
    lines = section.lines
    return {
        **dict(zip(("survey", "task", "model"), section.title, strict=True)),
        "apart": section.apart,
        "acquisitions": {
            name: {"seeds": [e.pair[0] for e in of], "curve": curve(of), "chosen": _mean_chosen(of)}
            for name, of in lines.items()
        },
        "comparisons": [
            compare(n, of, lines[BASELINE]) for n, of in lines.items() if BASELINE in lines and n != BASELINE
        ],
    }


def curve(line: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Mean and standard deviation at each iteration, over the seeds that have finished it."""
    points = []
    for number in range(max(len(e.iterations) for e in line)):
        at = [e.iterations[number] for e in line if len(e.iterations) > number]
        errors = {q: [i.rmse[q] for i in at if q in i.rmse] for q in questions_of(line)}
        coverage_errors = {q: [i.coverage_error[q] for i in at if q in i.coverage_error] for q in questions_of(line)}
        loss = mean_sd([i.loss for i in at])
        point = {
            "iteration": number,
            "seeds": len(at),
            "labels_mean": fmean(i.labels for i in at),
            "test_loss_mean": loss[0],
            "test_loss_sd": loss[1],
            "rmse_mean": {question: mean_sd(values)[0] for question, values in errors.items() if values},
            "rmse_sd": {question: mean_sd(values)[1] for question, values in errors.items() if values},
            "coverage_error_mean": {question: fmean(values) for question, values in coverage_errors.items() if values},
            "seconds_mean": {s: fmean(i.summary.timings_s[s] for i in at) for s in at[0].summary.timings_s},
        }
        points.append(point)
    return points


def _mean_chosen(line: Sequence[Experiment]) -> dict[str, float | None]:
    """What was chosen: means over the seeds for which it is known."""
    found = [hindsight.of(e) for e in line]
    known = {name: [value for of in found if (value := of[name]) is not None] for name in found[0]}
    return {name: fmean(values) if values else None for name, values in known.items()}


def questions_of(experiments: Sequence[Experiment]) -> list[str]:
    """The questions that have votes, in the order of the tree."""
    return list(dict.fromkeys(question for e in experiments for i in e.iterations for question in i.rmse))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the deviation of a single value."""
    return fmean(values), stdev(values) if len(values) > 1 else None


def compare(name: str, line: Sequence[Experiment], baseline: Sequence[Experiment]) -> dict[str, Any]:
    """The test loss compared with random's, pair by pair, at the last iteration that most pairs have finished."""
    pairs = [(a, b, min(len(a.iterations), len(b.iterations))) for a in line for b in baseline if a.pair == b.pair]
    last = median_low(n for _, _, n in pairs) - 1 if pairs else 0
    used = [(a, b) for a, b, n in pairs if n > last]
    result = {"acquisition": name, "baseline": BASELINE, "seeds": [a.pair[0] for a, _ in used], "iterations": last + 1}
    if last == 0:  # no pair, or no choice has had an effect yet
        return result | {"verdict": "too early to tell" if pairs else "no seed in common with random"}
    differences = [a.iterations[last].loss - b.iterations[last].loss for a, b in used]
    mean, sd = mean_sd(differences)
    points, random = (
        [(p["labels_mean"], p["test_loss_mean"]) for p in curve(side)[: last + 1]] for side in zip(*used, strict=True)
    )
    reached = labels_to_reach(points, random[-1][1])
    return result | {
        "seeds_unfinished": [a.pair[0] for a, _, n in pairs if n <= last],
        "test_galaxies": used[0][0].iterations[last].test_galaxies,
        "mean_difference": mean,
        "standard_error": None if sd is None else sd / len(used) ** 0.5,
        "lower_in": sum(difference < 0 for difference in differences),
        "verdict": verdict(differences),
        "labels": points[-1][0],
        "baseline_labels": random[-1][0],
        "baseline_new_labels": random[-1][0] - random[0][0],
        "baseline_improved": random[-1][1] < points[0][1],
        "labels_at_equal_loss": reached,
        "labels_saved": None if reached is None else random[-1][0] - reached,
        "gain": gain(used, last + 1) if len(used) > 1 else None,
    }


def verdict(differences: Sequence[float]) -> str:
    """What the paired differences of the loss show, by the rule on the page."""
    mean, sd = mean_sd(differences)
    if sd is None or len(differences) < MIN_SEEDS:
        return "too few seeds to tell"
    if abs(mean) <= MIN_ERRORS * sd / len(differences) ** 0.5:
        return "no difference that these seeds can show"
    return "better than random" if mean < 0 else "worse than random"


# --------------------------------------------------------------- intervals


def gain(pairs: Sequence[tuple[Experiment, Experiment]], n_iterations: int) -> dict[str, Any] | None:
    """What the first of each pair gains over the second, its random baseline. None if test losses were not kept.

    Each replicate draws pairs with replacement, and test galaxies within each pair. All numbers are computed again from
    its mean curves (a two-level bootstrap, Davison & Hinkley 1997, section 3.8).

    Values with an interval are ``{"value", "low", "high"}``; ``low`` and ``high`` span 95 % of the replicates.

    Returns:
        labels_ratio: labels at which the mean curve first falls to random's final loss, divided by random's labels
            (infinite, written as None, if it never does).
        median_labels_ratio, reached: the median of this ratio over pairs, each on its own curves, and how many pairs
            reached random's final loss.
        area: how much lower the loss is, averaged over the labels, as a fraction of random's.
        worst: how much higher the loss is than random's, as a fraction, at the worst iteration.
    """
    if not all(e.iterations[0].folder.has_test_losses for pair in pairs for e in pair):
        return None
    losses = [np.stack([_losses(e, n_iterations) for e in pair]) for pair in pairs]  # P × (2, T, N)
    labels = np.array([[[i.labels for i in e.iterations[:n_iterations]] for e in pair] for pair in pairs], np.float64)
    random = np.random.default_rng(0)
    replicates = [_numbers(*_drawn(losses, labels, random)) for _ in range(REPLICATES)]
    means = np.stack([of_pair.mean(axis=2) for of_pair in losses])
    values = _numbers(means.mean(axis=0), labels.mean(axis=0))
    single = [_labels_ratio(mean, of) for mean, of in zip(means, labels, strict=True)]
    found: dict[str, Any] = {
        name: {"value": _finite(values[name]), **_interval([r[name] for r in replicates])} for name in values
    }
    found |= {"median_labels_ratio": _finite(float(np.median(single))), "reached": int(np.isfinite(single).sum())}
    return found


def _losses(e: Experiment, n_iterations: int) -> Floats:
    """The loss of each test galaxy, T × N, in the order of the shards."""
    tables = [i.folder.test_losses() for i in e.iterations[:n_iterations]]
    assert all(table["id_str"].equals(tables[0]["id_str"]) for table in tables)
    return np.stack([table["loss"].to_numpy() for table in tables])


def _drawn(losses: Sequence[Floats], labels: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """The mean curves of one replicate: losses and labels, 2 × T each."""
    drawn = random.integers(len(losses), size=len(losses))
    curves = []
    for pair in drawn:
        n = losses[pair].shape[2]
        curves.append(losses[pair] @ random.multinomial(n, np.full(n, 1 / n)) / n)
    return np.mean(curves, axis=0), labels[drawn].mean(axis=0)


def _numbers(loss_2_T: Floats, labels_2_T: Floats) -> dict[str, float]:
    ours, random = loss_2_T
    widths = np.gradient(labels_2_T[1]) if len(ours) > 1 else np.ones(1)
    return {
        "labels_ratio": _labels_ratio(loss_2_T, labels_2_T),
        "area": float(((random - ours) * widths).sum() / (np.abs(random) * widths).sum()),
        "worst": float(((ours - random) / np.abs(random)).max()),
    }


def _labels_ratio(loss_2_T: Floats, labels_2_T: Floats) -> float:
    reached = labels_to_reach(list(zip(labels_2_T[0], loss_2_T[0], strict=True)), float(loss_2_T[1, -1]))
    return float("inf") if reached is None else reached / float(labels_2_T[1, -1])


def labels_to_reach(points: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Labels at which a curve of (labels, loss), linear between its points, first falls to ``loss``.

    None if it never does, or if it starts there, since then there is nothing to save.
    """
    for (labels_0, loss_0), (labels_1, loss_1) in pairwise(points):
        if points[0][1] > loss >= loss_1:
            return float(labels_0 + (labels_1 - labels_0) * (loss_0 - loss) / (loss_0 - loss_1))
    return None


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="closest_observation")
    return {"low": _finite(float(low)), "high": _finite(float(high))}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
