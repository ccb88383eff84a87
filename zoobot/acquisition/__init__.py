"""Acquisition functions: which galaxies' votes would teach the model most. numpy and scipy only.

``choose`` applies one by its name; ``ACQUISITIONS`` lists them; docs/acquisition.md explains them.
Axes: N galaxies.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from zoobot.acquisition.batches import badge, k_center, lcmd, typiclust
from zoobot.acquisition.candidates import (
    PART,
    Candidates,
    ExpectedVotes,
    Floats,
    Rows,
    Source,
    Strategy,
    by_own_score,
    by_score,
    check_finite,
    in_parts,
)
from zoobot.acquisition.coverage import uherding
from zoobot.acquisition.information import (
    binomial_mutual_information,
    dirichlet_multinomial_mutual_information,
    multinomial_mutual_information,
)
from zoobot.acquisition.joint import batch_mutual_information
from zoobot.acquisition.posterior_variance import variance_reduction
from zoobot.acquisition.scores import (
    confidence,
    ensemble_disagreement,
    entropy,
    mutual_information,
    power_mutual_information,
    softmax_mutual_information,
    uniform,
    variance,
)
from zoobot.errors import SettingsError

__all__ = [
    "ACQUISITIONS",
    "Candidates",
    "Choice",
    "ExpectedVotes",
    "Floats",
    "Rows",
    "Source",
    "Strategy",
    "binomial_mutual_information",
    "by_score",
    "choose",
    "confidence",
    "dirichlet_multinomial_mutual_information",
    "multinomial_mutual_information",
    "strategy",
]
MOST = 350_000  # galaxies that a function looks at together: bounds memory
log = logging.getLogger("zoobot")

_FRACTIONS, _GRADIENTS = "variance of vote fractions", "squared distance between gradients"
ACQUISITIONS: dict[str, Strategy] = {
    "random": by_score(uniform, "a random number"),
    "entropy": by_own_score(entropy, "nats"),
    "variance": by_own_score(variance, _FRACTIONS),
    "ensemble_disagreement": by_own_score(ensemble_disagreement, _FRACTIONS),
    "mutual_information": by_own_score(mutual_information, "nats"),
    "power_mutual_information": by_score(power_mutual_information, "nats, times a random number"),
    "softmax_mutual_information": by_score(softmax_mutual_information, "nats, plus a random number"),
    "batch_mutual_information": Strategy(batch_mutual_information, batch_aware=True, unit="nats"),
    "variance_reduction": Strategy(variance_reduction, batch_aware=True, unit="variance of votes, over all galaxies"),
    "badge": Strategy(badge, batch_aware=True, unit=_GRADIENTS),
    "mixture": Strategy(badge, batch_aware=True, unit=_GRADIENTS),  # its option sets acquisition.random_share
    "k_center": Strategy(k_center, True, needs_labelled_features=True, unit="squared distance between features"),
    "lcmd": Strategy(lcmd, True, needs_labelled_features=True, unit="squared distance between features × nats"),
    "uherding": Strategy(uherding, True, needs_labelled_features=True, unit="uncertainty of those it stands for"),
    "typiclust": Strategy(typiclust, True, needs_labelled_features=True, unit="1 / distance to the nearest features"),
}


@dataclass(frozen=True)
class Choice:
    """What to ask about, and how all candidates compare."""

    picks: Rows  # rows of the batch, in order: first those of the strategy, then those drawn at random
    scores_N: Floats
    rank_N: Rows  # 0 for the first: the batch in its order, then the others by falling score
    at_random_N: npt.NDArray[np.bool_]  # picked at random, whatever their score


def strategy(name: str) -> Strategy:
    """The acquisition function of this name. SettingsError: no function has it; the message lists the names."""
    if name not in ACQUISITIONS:
        raise SettingsError(f"acquisition.name={name}: choose one of {', '.join(ACQUISITIONS)}")
    return ACQUISITIONS[name]


def choose(
    name: str,
    candidates: Source,
    n: int,
    random: np.random.Generator,
    skip_confident: float = 1.0,
    random_share: float = 0.0,
) -> Choice:
    """The ``n`` galaxies to ask about, or all if there are fewer.

    The same seed gives the same picks, whatever the order of the candidates. The seed breaks ties. Of more than
    ``MOST`` candidates, a function that looks at the whole batch sees those with the highest mutual information; the
    others get the lowest of their scores. A function that scores each galaxy by itself sees all, in parts.

    Args:
        name: of the acquisition function.
        skip_confident: leave out galaxies about which at least 8 of 10 volunteers would agree with more than this
            probability; 1 leaves out none. If few are left, the batch is smaller, and the log says so.
        random_share: this share of the batch is drawn at random from all candidates.

    Raises:
        SettingsError: no function has this name.
        InputError: a score is not finite; the message names the galaxies.
    """
    function = strategy(name)
    # Sort, then shuffle, so that the result depends on the seed only, not on the order of the candidates.
    order = np.argsort(np.asarray(candidates.ids_N, dtype=np.str_), kind="stable")[random.permutation(len(candidates))]
    n_at_random = round(random_share * min(n, len(order)))
    at_random = np.arange(n_at_random)  # the order is random, so the first ones are a random draw
    free_N = np.arange(len(order)) >= n_at_random
    if skip_confident < 1 and len(order):
        free_N &= candidates.scores(confidence)[order] <= skip_confident
    n_picks = min(n - n_at_random, int(free_N.sum()))
    at_once = min(PART, MOST) if function.score else MOST
    look = _look_at_all if len(order) <= at_once else _look_at_best if function.batch_aware else _look_in_parts
    picks, scores_N = look(function, _Shuffled(candidates, order, free_N), n_picks, random)
    assert len(set(picks)) == n_picks and free_N[picks].all(), f"{name} must pick {n_picks} different free galaxies"
    check_finite(candidates.ids_N, scores_N, "scores", order)
    if n_picks + n_at_random < min(n, len(order)):
        log.warning("only %d of %d galaxies to ask about: the model is sure of the others", n_picks + n_at_random, n)
    batch = np.concatenate([picks, at_random])
    is_other_N = np.ones(len(order), np.bool_)
    is_other_N[batch] = False
    others = np.flatnonzero(is_other_N)
    others = others[np.argsort(-scores_N[others], kind="stable")]
    return _in_order_given(order, batch, others, scores_N, n_at_random)


@dataclass(frozen=True)
class _Shuffled:
    """The candidates in a random order: galaxy i is row ``order[i]`` of ``source``."""

    source: Source
    order: Rows
    free_N: npt.NDArray[np.bool_]

    def take(self, rows: Rows | slice) -> Candidates:
        """Those at these places of the order."""
        return replace(self.source.take(self.order[rows]), allowed_N=self.free_N[rows])


def _look_at_all(function: Strategy, all_N: _Shuffled, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    return function.choose(all_N.take(slice(None)), n, random)


def _look_in_parts(function: Strategy, all_N: _Shuffled, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """The highest scores, of galaxies that are scored one by one."""
    if function.score:
        scores_N = all_N.source.scores(function.score)[all_N.order]
    else:
        scores_N = in_parts(all_N.source, lambda part: function.choose(part, 0, random)[1])[all_N.order]
    by_score = np.argsort(-scores_N, kind="stable")
    return by_score[all_N.free_N[by_score]][:n], scores_N


def _look_at_best(function: Strategy, all_N: _Shuffled, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """The function's choice among those with the highest mutual information."""
    first_N, free = all_N.source.scores(mutual_information)[all_N.order], np.flatnonzero(all_N.free_N)
    best = np.sort(free[np.argsort(-first_N[free], kind="stable")][: max(MOST, n)])  # in the random order again
    picks, scores = function.choose(all_N.take(best), n, random)
    scores_N = np.full(len(first_N), scores.min(initial=0))
    scores_N[best] = scores
    return best[picks], scores_N


def _in_order_given(order: Rows, batch: Rows, others: Rows, scores_N: Floats, n_at_random: int) -> Choice:
    """The choice, in rows of the candidates in their original order: row i of the shuffled ones is row ``order[i]``."""
    given_N, rank_N, at_random_N = np.empty(len(order)), np.empty(len(order), np.int64), np.zeros(len(order), np.bool_)
    given_N[order] = scores_N
    rank_N[order[np.concatenate([batch, others])]] = np.arange(len(order))
    at_random_N[order[batch[len(batch) - n_at_random :]]] = True
    return Choice(order[batch], given_N, rank_N, at_random_N)
