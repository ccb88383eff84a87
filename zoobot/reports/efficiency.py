"""How well acquisition functions do: curves, and the comparison with random.

The two experiments of a pair share start, pool and test galaxies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from statistics import fmean, median, median_low, stdev
from typing import Any

import numpy as np

from zoobot.reports import hindsight, intervals
from zoobot.reports.encoders import of_section
from zoobot.reports.experiments import BASELINE, CEILING, Experiment, Section
from zoobot.reports.gains import Pair, gain, labels_to_reach, last_losses

# The rule on the page: a difference counts if there are at least this many pairs, and the corrected p-value is no
# higher than this.
MIN_SEEDS, SIGNIFICANT = 3, 0.05


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
        "comparisons": _comparisons(lines),
        "random_against_random": against_itself(lines.get(BASELINE, [])),
        "encoder": of_section(section),
    }


def _comparisons(lines: Mapping[str, Sequence[Experiment]]) -> list[dict[str, Any]]:
    """Every line compared with random. The verdicts allow for their number; the ceiling is none of them."""
    if BASELINE not in lines:
        return []
    ceilings = [e for of in lines.values() for e in of if e.acquisition == CEILING]
    ceilings.sort(key=lambda e: e.instructions.acquisition.candidate_batches)
    ceiling = {e.pair: e for e in ceilings}  # the highest of each pair
    found = {name: compare(name, of, lines[BASELINE], ceiling) for name, of in lines.items() if name != BASELINE}
    choices = [c for name, c in found.items() if lines[name][0].acquisition != CEILING]
    tested = [c for c in choices if c.get("p_value") is not None]
    for c, p in zip(tested, intervals.holm([c["p_value"] for c in tested]), strict=True):
        c |= {"p_corrected": p, "comparisons": len(tested), "verdict": verdict(c["mean_difference"], p)}
    for c in found.values():
        if c not in choices:
            c["verdict"] = "a ceiling, found with the true votes: no way of choosing"
    return list(found.values())


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
            "eval_galaxies_mean": fmean(i.eval_galaxies for i in at),
            "votes_mean": fmean(i.summary.votes_spent for i in at),
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


def compare(
    name: str,
    line: Sequence[Experiment],
    baseline: Sequence[Experiment],
    ceiling: Mapping[tuple[int, str], Experiment],
) -> dict[str, Any]:
    """The test loss compared with random's, pair by pair, at the last iteration that most pairs have finished."""
    pairs = [Pair(a, b, ceiling.get(a.pair)) for a in line for b in baseline if a.pair == b.pair]
    last = median_low(pair.iterations for pair in pairs) - 1 if pairs else 0
    used = [pair for pair in pairs if pair.iterations > last]
    result: dict[str, Any] = {
        "acquisition": name, "baseline": BASELINE, "seeds": [pair.seed for pair in used], "iterations": last + 1
    }  # fmt: skip
    if last == 0:  # no pair, or no choice has had an effect yet
        return result | {"verdict": "too early to tell" if pairs else "no seed in common with random"}
    points, random = (
        [(p["labels_mean"], p["test_loss_mean"]) for p in curve(side)[: last + 1]]
        for side in ([pair.chosen for pair in used], [pair.random for pair in used])
    )
    reached = labels_to_reach(points, random[-1][1])
    return result | {
        "seeds_unfinished": [pair.seed for pair in pairs if pair.iterations <= last],
        "test_galaxies": used[0].chosen.iterations[last].test_galaxies,
        **_difference(used, last),
        "labels": points[-1][0],
        "baseline_labels": random[-1][0],
        "baseline_new_labels": random[-1][0] - random[0][0],
        "baseline_improved": random[-1][1] < points[0][1],
        "labels_at_equal_loss": reached,
        "labels_saved": None if reached is None else random[-1][0] - reached,
        "gain": gain(used, last + 1) if len(used) > 1 else None,
    }


def _difference(used: Sequence[Pair], last: int) -> dict[str, Any]:
    """The paired difference of the loss, its standard error, and the p-value before the correction."""
    differences = [pair.chosen.iterations[last].loss - pair.random.iterations[last].loss for pair in used]
    mean, sd = mean_sd(differences)
    error = None if sd is None else sd / len(used) ** 0.5
    if error is not None and all(pair.has_test_losses for pair in used):
        error = intervals.crossed_error([last_losses(pair, last) for pair in used])
    enough = error is not None and len(used) >= MIN_SEEDS
    return {
        "mean_difference": mean,
        "standard_error": error,
        "lower_in": sum(difference < 0 for difference in differences),
        "p_value": intervals.p_value(mean, error, len(used)) if error is not None and enough else None,
        "verdict": "too few seeds to tell",  # replaced where there is a p-value
    }


def verdict(mean_difference: float, p_corrected: float) -> str:
    """What the paired differences of the loss show, by the rule on the page."""
    if p_corrected > SIGNIFICANT:
        return "no difference that these seeds can show"
    return "better than random" if mean_difference < 0 else "worse than random"


def against_itself(line: Sequence[Experiment]) -> dict[str, Any] | None:
    """How few labels random seems to need for random's own final loss, because curves are noisy: the null of the
    median over seeds. None with fewer than two seeds.

    For each two seeds a and b: labels at which a's curve first falls to b's final loss, divided by b's labels. The mean
    difference of the two curves is taken off b's first, because the seeds' test galaxies are not equally hard.

    Returns:
        median_labels_ratio, reached: the median over all ordered pairs of seeds, and the share that reached it.
        pairs: how many there are.
    """
    last = median_low(len(e.iterations) for e in line) - 1 if line else 0
    done = [e.iterations[: last + 1] for e in line if len(e.iterations) > last]
    if last == 0 or len(done) < 2:
        return None
    ratios = []
    for a, b in permutations(done, 2):
        harder = fmean(i.loss for i in a) - fmean(i.loss for i in b)
        reached = labels_to_reach([(i.labels, i.loss) for i in a], b[-1].loss + harder)
        ratios.append(np.inf if reached is None else reached / b[-1].labels)
    return {
        "median_labels_ratio": intervals.finite(median(ratios)),
        "reached": float(np.isfinite(ratios).mean()),
        "pairs": len(ratios),
    }
