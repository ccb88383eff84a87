"""What choosing gains over random, with intervals: labels and votes saved, the share of the gap to the ceiling, and the
loss in excess of a fit to all labels.

Axes: R replicates (the first is the data themselves), P pairs, T iterations, N test galaxies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from zoobot.iterations.files import IterationFolder
from zoobot.reports import intervals
from zoobot.reports.experiments import Experiment
from zoobot.reports.intervals import Floats, Tested, finite, with_interval


@dataclass(frozen=True)
class Pair:
    """An experiment, and its random baseline: one start, one pool, the same test galaxies. And the ceiling of these."""

    chosen: Experiment
    random: Experiment
    ceiling: Experiment | None = None  # it chose batches with their true votes

    @property
    def seed(self) -> int:
        """The seed of both."""
        return self.chosen.pair[0]

    @property
    def iterations(self) -> int:
        """How many both have finished."""
        return min(len(self.chosen.iterations), len(self.random.iterations))

    @property
    def has_test_losses(self) -> bool:
        """Whether the loss of each test galaxy was kept."""
        return all(e.iterations[0].folder.has_test_losses for e in (self.chosen, self.random))


def last_losses(pair: Pair, last: int) -> tuple[list[str], Floats]:
    """The test galaxies, and how much higher the loss of each is than random's after iteration ``last``."""
    ours, random = (_tested([e.iterations[last].folder]) for e in (pair.chosen, pair.random))
    return list(ours.ids_N), ours.losses_T_N[0] - random.losses_T_N[0]


def gain(pairs: Sequence[Pair], n_iterations: int) -> dict[str, Any] | None:
    """What the first of each pair gains over its random baseline. None if test losses were not kept.

    All numbers are computed again from the mean curves of each replicate. Values with an interval are ``{"value",
    "low", "high"}``; ``low`` and ``high`` span 95 % of the replicates. "Over the curve" is a mean over random's labels.

    Returns:
        labels_ratio: labels at which the mean curve first falls to random's final loss, divided by random's labels
            (infinite, written as None, if it never does); votes_ratio: the same for the votes spent since the start,
            None if no votes were counted.
        median_labels_ratio, reached: the median of this ratio over pairs, each on its own curves, and how many pairs
            reached random's final loss.
        lower: how much lower the loss is than random's over the curve, in nats per galaxy; area: as a fraction of
            random's loss.
        worst: how much higher the loss is than random's, as a fraction, at the worst iteration.
        gap_closed: ``lower`` as a fraction of the ceiling's, over the pairs that have one; None without a ceiling.
        excess: how far the last loss is above that of a fit to all labels, as a fraction of random's; None without such
            a fit. worst_excess: the same at the worst iteration, 1 if it is never worse than random.
    """
    if not all(pair.has_test_losses for pair in pairs):
        return None
    curves = _curves(pairs, n_iterations)
    labels = {role: _x(pairs, role, n_iterations, "labels") for role in ("chosen", "random")}
    votes = {role: _x(pairs, role, n_iterations, "votes") for role in ("chosen", "random")}
    everyone = list(range(len(pairs)))
    ours_R_T, random_R_T = _mean(curves["chosen"], everyone), _mean(curves["random"], everyone)
    x_R_T, random_x_R_T = _mean(labels["chosen"], everyone), _mean(labels["random"], everyone)
    widths_R_T = np.gradient(random_x_R_T, axis=1) if n_iterations > 1 else np.ones_like(random_x_R_T)
    lower_R = ((random_R_T - ours_R_T) * widths_R_T).sum(axis=1)
    return {
        "labels_ratio": with_interval(_ratios(x_R_T, ours_R_T, random_x_R_T, random_R_T)),
        "votes_ratio": _votes_ratio(votes, ours_R_T, random_R_T),
        "lower": with_interval(lower_R / widths_R_T.sum(axis=1)),
        "area": with_interval(lower_R / (np.abs(random_R_T) * widths_R_T).sum(axis=1)),
        "worst": with_interval(((ours_R_T - random_R_T) / np.abs(random_R_T)).max(axis=1)),
        "gap_closed": _gap_closed(curves, widths_R_T),
        **_excess(curves),
        **_single(curves, labels),
    }


Curves = dict[str, dict[int, Floats]]  # {role: {number of the pair: R × T}}


def _curves(pairs: Sequence[Pair], n: int) -> Curves:
    """The mean curves of each pair in every replicate: chosen, random, and, of those that have it, ceiling and all."""
    tested: dict[str, dict[int, Tested]] = {"chosen": {}, "random": {}, "ceiling": {}, "all": {}}
    for p, pair in enumerate(pairs):
        for role, e in (("chosen", pair.chosen), ("random", pair.random), ("ceiling", pair.ceiling)):
            if e and len(e.iterations) >= n and e.iterations[0].folder.has_test_losses:
                tested[role][p] = _tested([i.folder for i in e.iterations[:n]])
        if pair.random.folder.all_labels.has_test_losses:
            tested["all"][p] = _tested([pair.random.folder.all_labels])
    means = intervals.mean_losses({f"{role} {p}": of for role, each in tested.items() for p, of in each.items()})
    return {role: {p: means[f"{role} {p}"] for p in each} for role, each in tested.items()}


def _tested(at: Sequence[IterationFolder]) -> Tested:
    """The loss of each test galaxy, T × N, in the order of the shards."""
    tables = [folder.test_losses() for folder in at]
    assert all(table["id_str"].equals(tables[0]["id_str"]) for table in tables)
    return Tested(tables[0]["id_str"].to_pylist(), np.stack([table["loss"].to_numpy() for table in tables]))


def _x(pairs: Sequence[Pair], role: str, n: int, of: str) -> dict[int, Floats]:
    """The labels, or the votes spent, of one side at each iteration: 1 × T for each pair."""
    sides = [pair.chosen if role == "chosen" else pair.random for pair in pairs]
    return {
        p: np.array([[i.labels if of == "labels" else i.summary.votes_spent for i in e.iterations[:n]]], np.float64)
        for p, e in enumerate(sides)
    }


def _mean(of: dict[int, Floats], wanted: Sequence[int]) -> Floats:
    """The mean over these pairs in every replicate, R × T."""
    weights_R_P = intervals.seed_weights(len(wanted))
    mean_R_T = sum(weights_R_P[:, [column]] * of[p] for column, p in enumerate(wanted))
    return np.asarray(mean_R_T / weights_R_P.sum(axis=1, keepdims=True))


def _ratios(x_R_T: Floats, loss_R_T: Floats, random_x_R_T: Floats, random_R_T: Floats) -> Floats:
    """The x at which a curve first falls to random's final loss, divided by random's x; infinite if it never does."""
    found = np.full(len(loss_R_T), np.inf)
    for row, (x_T, loss_T) in enumerate(zip(x_R_T, loss_R_T, strict=True)):
        reached = labels_to_reach(list(zip(x_T, loss_T, strict=True)), float(random_R_T[row, -1]))
        if reached is not None:
            found[row] = reached / random_x_R_T[row, -1]
    return found


def _single(curves: Curves, labels: Curves) -> dict[str, float | None]:
    """The median over pairs of the labels' ratio, and how many pairs reached random's final loss."""
    sides = (labels["chosen"], curves["chosen"], labels["random"], curves["random"])
    ratios = [_ratios(*(of[p][:1] for of in sides))[0] for p in labels["random"]]
    return {"median_labels_ratio": finite(float(np.median(ratios))), "reached": int(np.isfinite(ratios).sum())}


def _votes_ratio(votes: Curves, ours_R_T: Floats, random_R_T: Floats) -> dict[str, float | None] | None:
    if any(of[0, -1] == 0 for side in votes.values() for of in side.values()):
        return None  # the oracle gives votes without classifications
    wanted = list(votes["random"])
    return with_interval(_ratios(_mean(votes["chosen"], wanted), ours_R_T, _mean(votes["random"], wanted), random_R_T))


def _gap_closed(curves: Curves, widths_R_T: Floats) -> dict[str, float | None] | None:
    wanted = sorted(curves["ceiling"])
    if not wanted:
        return None
    ours, random, ceiling = (_mean(curves[role], wanted) for role in ("chosen", "random", "ceiling"))
    return with_interval(
        _over(((random - ours) * widths_R_T).sum(axis=1), ((random - ceiling) * widths_R_T).sum(axis=1))
    )


def _excess(curves: Curves) -> dict[str, dict[str, float | None] | None]:
    wanted = sorted(curves["all"])
    if not wanted:
        return {"excess": None, "worst_excess": None}
    ours, random, floor = (_mean(curves[role], wanted) for role in ("chosen", "random", "all"))
    excess_R_T = _over(ours - floor, random - floor)
    return {"excess": with_interval(excess_R_T[:, -1]), "worst_excess": with_interval(excess_R_T.max(axis=1))}


def _over(part: Floats, whole: Floats) -> Floats:
    """The ratio; NaN where the whole is not above 0, since there is nothing to take a share of."""
    return np.asarray(np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0))


def labels_to_reach(points: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Labels at which a curve of (labels, loss), linear between its points, first falls to ``loss``.

    None if it never does, or if it starts there, since then there is nothing to save.
    """
    for (labels_0, loss_0), (labels_1, loss_1) in pairwise(points):
        if points[0][1] > loss >= loss_1:
            return float(labels_0 + (labels_1 - labels_0) * (loss_0 - loss) / (loss_0 - loss_1))
    return None
