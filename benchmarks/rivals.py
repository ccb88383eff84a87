"""Acquisition functions that others published, written anew for our head: what benchmarks/peers.py compares with ours.

Those that reckon with the joint posterior take the head's log-odds of all galaxies of the pool as jointly normal. Then
the votes of a galaxy are an observation of its log-odds with the precision n p (1 - p), where n is the number of
independent votes that say the same, and seeing them is an update of rank one. Axes: P galaxies of the pool, first those
to choose from and then the labelled ones; N of them to choose from; L landmarks of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import expit

from benchmarks.labels import Floats, Moment, Rows, choose, predict
from zoobot.acquisition import Candidates
from zoobot.models.gaussian_process import Votes

TARGETS = 150  # galaxies whose log-odds ITL asks about
ENSEMBLE, ROUNDS, PART = ("badge", "mutual_information", "lcmd", "typiclust", "entropy"), 3, 0.5  # of Refine


@dataclass
class Belief:
    """What is believed about the log-odds of one split of a question's answers. It changes with what is seen."""

    covariance_P_P: Floats  # before anything is seen
    votes_P: Floats  # independent votes that are expected of each galaxy
    slope_P: Floats  # p (1 - p): how fast the probability changes with the log-odds
    reduces: bool = False  # whether anybody asks for ``reduction``

    def __post_init__(self) -> None:
        self.worth_P = self.votes_P * self.slope_P  # the precision of votes, as an observation of log-odds
        self.variance_P = np.diagonal(self.covariance_P_P).copy()
        self.seen_K_P = np.zeros((0, len(self.votes_P)))  # the covariance is now lower by size × their outer products
        self.size_K = np.zeros(0)
        if self.reduces:
            self.squares_P = np.einsum("p,pn,pn->n", self.worth_P, self.covariance_P_P, self.covariance_P_P)

    def times(self, vector_P: Floats) -> Floats:
        """The covariance times a vector."""
        return np.asarray(self.covariance_P_P @ vector_P - (self.size_K * (self.seen_K_P @ vector_P)) @ self.seen_K_P)

    def see(self, row: int, times: int = 1) -> None:
        """Learn of a galaxy's votes; ``times=-1`` forgets them."""
        column_P = self.covariance_P_P[row] - (self.size_K * self.seen_K_P[:, row]) @ self.seen_K_P
        size = times * self.worth_P[row] / (1 + times * self.worth_P[row] * column_P[row])
        if self.reduces:
            weighted_P = self.worth_P * column_P
            self.squares_P += size * column_P * (size * (weighted_P @ column_P) * column_P - 2 * self.times(weighted_P))
        self.variance_P -= size * column_P**2
        self.seen_K_P, self.size_K = np.vstack([self.seen_K_P, column_P]), np.append(self.size_K, size)

    def reduction(self, times: int = 1) -> Floats:
        """By how much seeing each galaxy's votes lowers the sum over galaxies of n p (1 - p) × the variance of
        log-odds: P. ``times=-1``: minus how much forgetting them raises it.
        """
        worth_P = times * self.worth_P
        return np.asarray(self.squares_P * worth_P / (1 + worth_P * self.variance_P))

    def knowing(self, rows: Rows) -> Belief:
        """The belief of somebody who knows the log-odds at these rows, before anything is seen."""
        among = self.covariance_P_P[np.ix_(rows, rows)] + 1e-6 * self.variance_P.mean() * np.eye(len(rows))
        root = solve_triangular(np.linalg.cholesky(among), self.covariance_P_P[rows], lower=True)
        return replace(self, covariance_P_P=self.covariance_P_P - root.T @ root)


def beliefs(moment: Moment, reduces: bool = False) -> list[Belief]:
    """Those of the head, for each process of each question."""
    galaxies, rows, found = moment.galaxies, np.concatenate([moment.left, moment.labelled]), []
    x_P_H = moment.fitted.scale.apply(galaxies.features_N_H[rows])
    predicted = predict(galaxies, moment.fitted, rows, moment.seed)
    questions = Candidates(galaxies.ids_N[rows], predicted, galaxies.expected_votes).questions()
    for asked, posterior in zip(questions, moment.fitted.questions, strict=True):
        votes_P = galaxies.expected_votes * asked.asked_N
        for process in posterior.processes:
            mean_P, _ = process.leave_one_out(x_P_H, Votes(np.zeros(len(rows)), np.zeros(len(rows))))
            chance_P = expit(posterior.slope * mean_P)
            independent_P = votes_P / (1 + np.maximum(votes_P - 1, 0) * posterior.rho)
            covariance_P_P = posterior.slope**2 * process.covariance(x_P_H, x_P_H)
            found.append(Belief(covariance_P_P, independent_P, chance_P * (1 - chance_P), reduces))
            votes_P = votes_P * (1 - chance_P)  # the next split is of those left
    return found


def greedy(seeing: Sequence[Belief], score: Callable[[], Floats], free_P: Rows, n: int) -> list[int]:
    """The free galaxy with the highest score, n times; all beliefs see its votes."""
    score_P, picks = np.full(len(seeing[0].votes_P), -np.inf), list[int]()
    for _ in range(n):
        score_P[free_P] = score()[free_P]
        score_P[picks] = -np.inf
        picks.append(int(np.argmax(score_P)))
        for belief in seeing:
            belief.see(picks[-1])
    return picks


# --------------------------------------------------------------- from the joint posterior


def itl(moment: Moment) -> Rows:
    """Information about targets (ITL, Hübotter et al. 2024, arXiv 2402.15898), which is EPIG (2304.08151) for a whole
    batch and normal log-odds: the information of the batch's votes about the log-odds of galaxies drawn from the pool.
    """
    targets = moment.random.permutation(len(moment.left) + len(moment.labelled))[:TARGETS]
    return most_informative(beliefs(moment), targets, len(moment.left), moment.n)


def most_informative(unknowing: Sequence[Belief], targets: Rows, n_free: int, n: int) -> Rows:
    """n of the first ``n_free`` galaxies: a galaxy's votes tell about the targets what they tell at all, minus what
    they tell somebody who knows the targets.
    """
    knowing = [belief.knowing(targets) for belief in unknowing]

    def information() -> Floats:
        each = [np.log1p(b.worth_P * np.maximum(b.variance_P, 0)) for b in (*unknowing, *knowing)]
        return np.asarray(sum(each[: len(unknowing)]) - sum(each[len(unknowing) :]))

    return np.array(greedy([*unknowing, *knowing], information, np.arange(n_free), n))


def loss_driven_log(moment: Moment) -> Rows:
    """The expected reduction of log loss, to second order: p (1 - p) times the variance of log-odds (loss-driven
    Bayesian active learning, arXiv 2604.11995). BAIT's way there without its way back. With squared loss it is
    ``variance_reduction`` of the program.
    """
    found = beliefs(moment, reduces=True)
    return np.array(greedy(found, lambda: _reduction(found), np.arange(len(moment.left)), moment.n))


def _reduction(found: Sequence[Belief], times: int = 1) -> Floats:
    return np.asarray(sum(belief.reduction(times) for belief in found))


def bait(moment: Moment) -> Rows:
    """BAIT (Ash et al. 2021, arXiv 2106.09675): pick twice as many as needed, then drop half, so that the trace of
    (Fisher information of the labelled and picked)⁻¹ × (Fisher information of the pool) is least. That trace is
    the sum over the pool of n p (1 - p) × the posterior variance, so it needs no coordinates.
    """
    found = beliefs(moment, reduces=True)
    n_forward = min(2 * moment.n, len(moment.left))
    picks = greedy(found, lambda: _reduction(found), np.arange(len(moment.left)), n_forward)
    while len(picks) > moment.n:
        row = picks.pop(int(np.argmax(_reduction(found, -1)[picks])))
        for belief in found:
            belief.see(row, -1)
    return np.array(picks)


# --------------------------------------------------------------- coverage


def max_herding(moment: Moment) -> Rows:
    """The galaxies that cover the pool best (MaxHerding, Bae et al. 2024, arXiv 2407.12212), kernel of width 1."""
    left, labelled = _unit(moment, moment.left), _unit(moment, moment.labelled)
    return cover(left, labelled, np.ones(len(left)), 1.0, moment.n)


def uherding(moment: Moment) -> Rows:
    """The galaxies that cover the uncertain ones best (UHerding, Bae et al. 2025, arXiv 2412.20644). The kernel is as
    wide as the smallest distance between labelled galaxies. The head's own calibration stands for a temperature.
    """
    left, labelled = _unit(moment, moment.left), _unit(moment, moment.labelled)
    apart = _distances(labelled, labelled) + np.where(np.eye(len(labelled)), np.inf, 0)
    unsure_N = np.zeros(len(left))
    for question in moment.candidates().questions():
        ranked_N_A = np.sort(question.predicted.probabilities_N_K_A.mean(axis=1), axis=1)
        unsure_N += question.asked_N * (1 - (ranked_N_A[:, -1] - ranked_N_A[:, -2]))
    return cover(left, labelled, unsure_N, float(np.sqrt(apart.min(initial=np.inf))), moment.n)


def cover(left_N_H: Floats, labelled_M_H: Floats, weight_N: Floats, width: float, n: int) -> Rows:
    """The rows whose largest kernel with each galaxy, exp(-(distance / width)²), is most above that of the labelled
    ones: greedily, summed over ``left`` with these weights.
    """
    width = width if 0 < width < np.inf else 1.0
    kernel_N_N = np.exp(-_distances(left_N_H, left_N_H) / width**2).astype(np.float32)
    best_N = np.exp(-_distances(left_N_H, labelled_M_H) / width**2).max(axis=1, initial=0).astype(np.float32)
    picks, weight_N = list[int](), weight_N.astype(np.float32)
    for _ in range(n):
        gain_N = weight_N @ np.maximum(kernel_N_N - best_N[:, None], 0)
        gain_N[picks] = -1
        picks.append(int(np.argmax(gain_N)))
        best_N = np.maximum(best_N, kernel_N_N[:, picks[-1]])
    return np.array(picks)


def _unit(moment: Moment, rows: Rows) -> Floats:
    x = moment.fitted.scale.apply(moment.galaxies.features_N_H[rows])
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def _distances(x_N_H: Floats, y_M_H: Floats) -> Floats:
    """Squared."""
    apart = (x_N_H**2).sum(axis=1)[:, None] + (y_M_H**2).sum(axis=1) - 2 * x_N_H @ y_M_H.T
    return np.asarray(np.maximum(apart, 0))


# --------------------------------------------------------------- several at once


def refine(last: Callable[[Moment], Rows], moment: Moment) -> Rows:
    """Refine (Huseljic et al. 2025, arXiv 2511.22344), as its abstract has it: in each of three rounds each of five
    functions keeps a batch of a random half of the pool, and the pool becomes what they kept. ``last`` chooses from it.
    """
    random, kept = moment.random, np.arange(len(moment.left))
    for _ in range(ROUNDS):
        of_each = []
        for name in ENSEMBLE:
            part = random.permutation(kept)[: max(moment.n, round(PART * len(kept)))]
            of_each.append(part[choose(name, replace(moment, left=moment.left[part]))])
        kept = np.unique(np.concatenate(of_each))
    return kept[last(replace(moment, left=moment.left[kept]))]
