"""The Bayesian head on fixed features: Gaussian processes, fitted to votes in about a second with numpy and scipy.

A question with A answers is A - 1 splits: votes for its commonest answer against all others, then for the next one
against those that are left (sequential logits, Tutz 1991, Computational Statistics & Data Analysis 11, 275). Each split
is a Gaussian process of the features. Features keep the spread they have in the pool: they are brought to its mean, and
all axes are divided by one number, so a rotation changes nothing and a wide encoder's small axes matter little.

Chosen galaxies are harder than most, so a head that is confident enough about them is not confident enough about the
others. A last step therefore fits the slope of all log-odds, and the correlation of predicted votes, to all galaxies,
and then once more to those drawn at random, which are few. Axes: N galaxies, H features, A answers, K posterior
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from zoobot import metrics
from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group
from zoobot.models import gaussian_process, saved
from zoobot.models.gaussian_process import (
    SMALLEST_RHO,
    Process,
    Tuned,
    Votes,
    concentrations,
    rho_of,
    search,
    vote_losses,
)

Floats = npt.NDArray[np.float64]
# Widths of the last step's normal priors, of the log slope and of the log-odds of rho: on all galaxies around 0 and the
# fit, and then on galaxies drawn at random around that.
_WIDTHS, _NEAR = np.array([0.5, 1.0]), np.array([0.12, 0.25])


@dataclass(frozen=True)
class Scale:
    """The mean of the pool's features, and the square root of their total variance."""

    centre_H: Floats
    width: float

    @classmethod
    def of(cls, features_N_H: npt.NDArray[np.floating]) -> Scale:
        """That of these features."""
        features_N_H = features_N_H.astype(np.float64)
        width = float(np.sqrt(features_N_H.var(axis=0).sum()))
        return cls(features_N_H.mean(axis=0), width or 1.0)

    def apply(self, features_N_H: npt.ArrayLike) -> Floats:
        """Features without their mean, in units of the width."""
        return np.asarray((np.asarray(features_N_H, dtype=np.float64) - self.centre_H) / self.width)


@dataclass(frozen=True)
class QuestionPosterior:
    """One question: a process for each of its answers but the last, from the commonest on; what multiplies all
    log-odds; and how the votes that it predicts correlate.
    """

    order: tuple[int, ...]  # its answers by falling number of votes
    processes: tuple[Process, ...]
    slope: float = 1.0
    rho: float = 0.0

    def sample(self, x_N_H: Floats, n_samples: int, random: np.random.Generator) -> Floats:
        """Dirichlet concentrations N × K × A of the question's answers."""
        logits = [process.sample(x_N_H, n_samples, random) for process in self.processes]
        return np.asarray(concentrations(self.probabilities(logits), self.rho))

    def sample_alone(self, x_N_H: Floats, n_samples: int, random: np.random.Generator) -> Floats:
        """Like ``sample``, of each galaxy by itself."""
        logits, points_K = [], gaussian_process.normal_points(n_samples)
        for process in self.processes:
            mean_N, variance_N = process.alone(x_N_H)
            logits.append(mean_N[:, None] + np.sqrt(variance_N)[:, None] * random.permutation(points_K))
        return np.asarray(concentrations(self.probabilities(logits), self.rho))

    def probabilities(self, logits: Sequence[Floats]) -> Floats:
        """Of the question's answers, N × K × A, from the log-odds of its processes, N × K each."""
        found = np.empty((*logits[0].shape, len(self.order)))
        left_N_K = np.ones(logits[0].shape)
        for answer, logit_N_K in zip(self.order[:-1], logits, strict=True):
            found[:, :, answer] = left_N_K * expit(self.slope * logit_N_K)
            left_N_K = left_N_K * expit(-self.slope * logit_N_K)
        found[:, :, self.order[-1]] = left_N_K
        return found


@dataclass(frozen=True)
class Head:
    """The labelled galaxies, and the posterior given their votes."""

    scale: Scale
    features_N_H: npt.NDArray[np.float32]
    counts_N_A: Floats
    questions: tuple[QuestionPosterior, ...]

    def sample(
        self, features_N_H: npt.ArrayLike, n_samples: int, random: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """Dirichlet concentrations N × K × A over all questions. Sample k of one galaxy goes with k of every other."""
        return self._sample(QuestionPosterior.sample, features_N_H, n_samples, random)

    def sample_alone(
        self, features_N_H: npt.ArrayLike, n_samples: int, random: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """Like ``sample``, but samples of different galaxies have nothing to do with each other: several times faster,
        and all that a catalogue needs.
        """
        return self._sample(QuestionPosterior.sample_alone, features_N_H, n_samples, random)

    def _sample(
        self,
        of_question: Callable[[QuestionPosterior, Floats, int, np.random.Generator], Floats],
        features_N_H: npt.ArrayLike,
        n_samples: int,
        random: np.random.Generator,
    ) -> npt.NDArray[np.float32]:
        x_N_H = self.scale.apply(features_N_H)
        with threadpool_limits(1, "blas"):  # the same bits in any process, however many threads it has
            parts = [of_question(question, x_N_H, n_samples, random).astype(np.float32) for question in self.questions]
        return np.concatenate(parts, axis=-1)

    @property
    def orders(self) -> list[tuple[int, ...]]:
        """The answers of each question, in the order in which its splits take them off."""
        return [question.order for question in self.questions]

    def covariances(
        self, a_N_H: npt.NDArray[np.float32], b_M_H: npt.NDArray[np.float32]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """The posterior covariance N × M of log-odds between galaxies with these features, for each split in turn."""
        x_N_H, y_M_H = self.scale.apply(a_N_H), self.scale.apply(b_M_H)
        for question in self.questions:
            for process in question.processes:
                yield (question.slope**2 * process.covariance(x_N_H, y_M_H)).astype(np.float32)

    def given(self, features_N_H: npt.NDArray[np.float32], counts_N_A: Floats) -> Head:
        """The posterior given the votes of these galaxies instead, with all that was chosen for this one."""
        chosen = [(q.order, [p.tuned for p in q.processes], q.slope, q.rho) for q in self.questions]
        return _given(self.scale, features_N_H, counts_N_A, chosen)

    def history(self, groups: Sequence[Group]) -> dict[str, dict[str, object]]:
        """What the fit chose for each question, for people to read."""
        return {
            group.question: {
                "log_amplitudes": [process.tuned.log_amplitude for process in question.processes],
                "slope": question.slope, "votes_correlation": question.rho,
            }
            for group, question in zip(groups, self.questions, strict=True)
        }  # fmt: skip

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All values by name, as ``load`` needs them: the posterior follows from them."""
        found: dict[str, npt.NDArray[np.generic]] = {
            "centre_H": self.scale.centre_H, "width": np.array(self.scale.width),
            "features_N_H": self.features_N_H, "counts_N_A": self.counts_N_A,
        }  # fmt: skip
        for i, question in enumerate(self.questions):
            found[f"order_{i}"] = np.array(question.order)
            found[f"tuned_{i}"] = np.array([[p.tuned.log_amplitude, p.tuned.rho] for p in question.processes])
            found[f"calibrated_{i}"] = np.array([question.slope, question.rho])
        return found

    def save(self, path: Path) -> None:
        """Write a ``.npz`` file; the same head gives the same bytes."""
        np.savez(path, **self.arrays())  # type: ignore[arg-type]  # allow_pickle is a bool, and no array's name

    def digest(self) -> str:
        """SHA-256 over all values."""
        return saved.digest_arrays([*self.arrays().values()])


def load(path: Path) -> Head:
    """The head in a file that ``Head.save`` wrote."""
    with np.load(path) as stored:
        scale = Scale(stored["centre_H"], float(stored["width"]))
        chosen: list[Any] = []
        while f"order_{len(chosen)}" in stored:
            i = len(chosen)
            tuned = [Tuned(*values) for values in stored[f"tuned_{i}"].tolist()]
            chosen.append((tuple(stored[f"order_{i}"].tolist()), tuned, *stored[f"calibrated_{i}"].tolist()))
        return _given(scale, stored["features_N_H"], stored["counts_N_A"], chosen)


def fit(
    features_N_H: npt.ArrayLike,
    counts_N_A: npt.ArrayLike,
    groups: Sequence[Group],
    at_random_N: npt.ArrayLike | None = None,
    scale: Scale | None = None,
) -> Head:
    """The posterior of each question given the votes of labelled galaxies.

    Args:
        features_N_H: of labelled galaxies.
        counts_N_A: their votes, for the answers of all groups in order; a question that nobody was asked has no votes.
        at_random_N: which of them were drawn at random, and so show what most galaxies are like; None: all of them.
        scale: of the pool's features; None: of the labelled galaxies'.

    Raises:
        InputError: features or votes are not finite, or votes are negative.
    """
    features, counts = np.asarray(features_N_H, dtype=np.float32), np.asarray(counts_N_A, dtype=np.float64)
    if not (np.isfinite(features).all() and np.isfinite(counts).all() and (counts >= 0).all()):
        raise InputError("cannot fit the head: features and votes must be finite, and votes at least 0")
    at_random_N = np.ones(len(features), bool) if at_random_N is None else np.asarray(at_random_N, dtype=bool)
    scale = scale or Scale.of(features)
    x_N_H, questions = scale.apply(features), []
    with threadpool_limits(1, "blas"):  # the matrices are so small that two threads would mostly wait for each other
        for at in metrics.columns(groups):
            order = tuple(map(int, np.argsort(-counts[:, at].sum(axis=0), kind="stable")))
            fitted = QuestionPosterior(order, _processes(x_N_H, counts[:, at], order, gaussian_process.tune))
            questions.append(_calibrate(fitted, x_N_H, counts[:, at], at_random_N))
    return Head(scale, features, counts, tuple(questions))


def _given(
    scale: Scale,
    features_N_H: npt.NDArray[np.float32],
    counts_N_A: Floats,
    chosen: Sequence[tuple[tuple[int, ...], Sequence[Tuned], float, float]],
) -> Head:
    """The posterior given votes, where order, amplitudes, slope and correlation of each question are known."""
    x_N_H, questions, start = scale.apply(features_N_H), [], 0
    with threadpool_limits(1, "blas"):
        for order, tuned, slope, rho in chosen:
            of_question = counts_N_A[:, start : start + len(order)]
            each = iter(tuned)
            processes = _processes(x_N_H, of_question, order, lambda *_, each=each: next(each))
            questions.append(QuestionPosterior(order, processes, slope, rho))
            start += len(order)
    return Head(scale, features_N_H, counts_N_A, tuple(questions))


def _processes(
    x_N_H: Floats, counts_N_A: Floats, order: Sequence[int], tune: Callable[[Floats, Votes], Tuned]
) -> tuple[Process, ...]:
    found = []
    for votes in _splits(counts_N_A, order):
        rows = np.flatnonzero(votes.totals_N)
        x, votes = x_N_H[rows], votes.take(rows)
        found.append(gaussian_process.condition(x, votes, tune(x, votes)))
    return tuple(found)


def _splits(counts_N_A: Floats, order: Sequence[int]) -> Iterator[Votes]:
    """The votes for each answer but the last, among those for it and for the answers after it."""
    for place, answer in enumerate(order[:-1]):
        yield Votes(counts_N_A[:, answer], counts_N_A[:, list(order[place:])].sum(axis=1), len(order) - place - 1)


def _calibrate(
    fitted: QuestionPosterior, x_N_H: Floats, counts_N_A: Floats, at_random_N: npt.NDArray[np.bool_]
) -> QuestionPosterior:
    """The slope and the correlation of predicted votes: first those of all galaxies that were asked, then, near these,
    those of the galaxies drawn at random.
    """
    asked_N = counts_N_A.sum(axis=1) > 0
    first_rho = max((process.tuned.rho for process in fitted.processes), default=0.0)
    found = replace(fitted, rho=first_rho)
    if asked_N.any():
        found = _calibrate_on(found, x_N_H[asked_N], counts_N_A[asked_N], _WIDTHS)
    at_random_N = at_random_N & asked_N
    if at_random_N.any() and at_random_N.sum() < asked_N.sum():
        found = _calibrate_on(found, x_N_H[at_random_N], counts_N_A[at_random_N], _NEAR)
    return found


def _calibrate_on(fitted: QuestionPosterior, x_N_H: Floats, counts_N_A: Floats, widths: Floats) -> QuestionPosterior:
    """The slope and the correlation with the lowest leave-one-out loss on these galaxies, given normal priors around
    those it has, of the log slope and of the log-odds of the correlation.
    """
    random = np.random.default_rng(0)  # pairs the points of one process with those of another
    logits = [
        random.permuted(gaussian_process.quadrature(*process.leave_one_out(x_N_H, votes)), axis=1)
        for process, votes in zip(fitted.processes, _splits(counts_N_A, fitted.order), strict=True)
    ]
    n = 2 if fitted.rho else 1  # single votes show no correlation
    start = np.array([np.log(fitted.slope), logit(max(fitted.rho, SMALLEST_RHO))])[:n]

    def calibrated(step: Floats) -> QuestionPosterior:
        point = start + widths[:n] * step
        return replace(fitted, slope=float(np.exp(point[0])), rho=rho_of(point[1]) if n == 2 else 0.0)

    def evaluate(step: Floats) -> float:
        question = calibrated(step)
        losses_N = vote_losses(question.probabilities(logits), counts_N_A, question.rho)
        return float(losses_N.sum() + (step**2).sum() / 2)

    return calibrated(search(evaluate, np.zeros(n), 0.3))
