"""What an experiment has cost, the expected gain from more labels, and when to stop.

The expectation is a power law fitted to the eval loss: loss = floor + scale × labels^-slope, the usual shape of a
learning curve (Viering & Loog 2023, arXiv 2103.10948).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeWarning, curve_fit

from zoobot.iterations.files import IterationFolder
from zoobot.settings import StopSettings

MIN_POINTS = 4  # to fit a curve with three parameters
NEXT_LABELS = 100


@dataclass(frozen=True)
class Costs:
    """What an experiment has cost so far, for iteration.json.

    ``votes_spent``: classifications received; ``volunteer_minutes``: the time they took; ``next_100_labels_buy``: how
    much the next labels are expected to lower the eval loss, in nats per galaxy; None before there are four iterations
    with different numbers of labels.
    """

    votes_spent: int
    volunteer_minutes: float
    next_100_labels_buy: float | None


def costs(
    before: Sequence[IterationFolder], votes_received: int, train_galaxies: int, eval_loss: float, stop: StopSettings
) -> Costs:
    """The cost of the iterations ``before`` and of this one."""
    summaries = [folder.summary() for folder in before]
    votes = sum(summary.classifications_received for summary in summaries) + votes_received
    labels = [summary.train_galaxies for summary in summaries] + [train_galaxies]
    losses = [folder.loss("eval") for folder in before] + [eval_loss]
    return Costs(votes, round(votes * stop.minutes_per_vote, 1), expected_gain(labels, losses))


def expected_gain(labels: Sequence[int], losses: Sequence[float]) -> float | None:
    """How much the fitted curve falls with ``NEXT_LABELS`` more labels; None if no curve can be fitted."""
    if len(set(labels)) < MIN_POINTS:
        return None
    x, y = np.asarray(labels, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    unit = x[0]

    def curve(n: npt.NDArray[np.float64], floor: float, scale: float, slope: float) -> npt.NDArray[np.float64]:
        return np.asarray(floor + scale * (n / unit) ** -slope)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
            found, _ = curve_fit(
                curve, x, y, [y.min(), max(np.ptp(y), 1e-6), 0.5], bounds=([-np.inf, 0, 0.05], [np.inf, np.inf, 3])
            )
    except RuntimeError:
        return None
    now, then = curve(np.array([x[-1], x[-1] + NEXT_LABELS]), *found)
    return float(now - then)


def reason(before: Sequence[IterationFolder], stop: StopSettings) -> str | None:
    """Why the experiment should stop: the first rule of ``stop`` that holds. None if no rule holds."""
    if not before:
        return None
    summary, eval_loss = before[-1].summary(), before[-1].loss("eval")
    buys = summary.next_100_labels_buy
    if stop.votes and summary.votes_spent >= stop.votes:
        return f"{summary.votes_spent} votes were spent (stop.votes={stop.votes})"
    if stop.labels and summary.train_galaxies >= stop.labels:
        return f"{summary.train_galaxies} galaxies are labelled (stop.labels={stop.labels})"
    if stop.eval_loss and eval_loss <= stop.eval_loss:
        return f"the eval loss is {eval_loss:.3f} (stop.eval_loss={stop.eval_loss})"
    if stop.next_100_labels_buy and buys is not None and buys < stop.next_100_labels_buy:
        return (
            f"the next {NEXT_LABELS} labels are expected to lower the eval loss by {buys:.4f}"
            f" (stop.next_100_labels_buy={stop.next_100_labels_buy})"
        )
    return None
