"""Acquisition functions: how much the votes about a galaxy would teach the model. numpy only.

Axes: N galaxies, K posterior samples, A answers, V possible vote counts. Scores are in nats; the higher, the sooner a
galaxy is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlogy

from zoobot.errors import InputError
from zoobot.tasks import Group, asked_probability

Floats = npt.NDArray[np.float64]
_CHUNK_ELEMENTS = 4_000_000  # of N × K × V at once: bounds the memory


def binomial_mutual_information(probabilities_N_K: npt.ArrayLike, expected_votes: npt.ArrayLike) -> Floats:
    """Mutual information between the votes k of ``expected_votes`` and the model, exact: BALD over vote counts.

    I = H[ mean_K Binom(k | V, p_K) ] - mean_K H[ Binom(k | V, p_K) ]  (Walmsley et al. 2020, MNRAS 491, 1554, eq. 7
    to 9; Houlsby et al. 2011, arXiv 1112.5745).

    Args:
        probabilities_N_K: the probability of the answer in each posterior sample, in [0, 1].
        expected_votes: how many votes the galaxy will get: a whole number ≥ 0, or an array of N.

    Returns:
        scores_N in nats, ≥ 0 up to rounding; 0 where all samples agree or no vote is expected.

    Raises:
        InputError: a probability is NaN or outside [0, 1], or a number of votes is negative.
    """
    probabilities = np.asarray(probabilities_N_K, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] == 0:
        raise InputError(f"expected probabilities N galaxies × K samples, got shape {probabilities.shape}")
    bad = ~((probabilities >= 0) & (probabilities <= 1)).all(axis=1)
    if bad.any():
        raise InputError(
            f"probabilities outside [0, 1] or NaN for {bad.sum()} galaxies, at rows {np.flatnonzero(bad)[:10].tolist()}"
        )
    votes_N = np.broadcast_to(np.asarray(expected_votes), len(probabilities))
    if (votes_N < 0).any() or (votes_N % 1 != 0).any():
        raise InputError("expected_votes must be whole numbers of at least 0")
    scores_N = np.zeros(len(probabilities))
    for n_votes in np.unique(votes_N):
        rows = np.flatnonzero(votes_N == n_votes)
        step = max(1, _CHUNK_ELEMENTS // (probabilities.shape[1] * (int(n_votes) + 1)))
        for start in range(0, len(rows), step):
            chunk = rows[start : start + step]
            scores_N[chunk] = _binomial_mutual_information(probabilities[chunk], int(n_votes))
    return scores_N


def _binomial_mutual_information(p_N_K: Floats, n_votes: int) -> Floats:
    k_V = np.arange(n_votes + 1)
    log_choose_V = gammaln(n_votes + 1) - gammaln(k_V + 1) - gammaln(n_votes - k_V + 1)
    p_N_K_1 = p_N_K[:, :, None]
    pmf_N_K_V = np.exp(log_choose_V + xlogy(k_V, p_N_K_1) + xlogy(n_votes - k_V, 1 - p_N_K_1))
    scores_N: Floats = _entropy(pmf_N_K_V.mean(axis=1)) - _entropy(pmf_N_K_V).mean(axis=1)
    return scores_N


def _entropy(probabilities: Floats) -> Floats:
    """Entropy over the last axis, in nats."""
    entropy: Floats = -xlogy(probabilities, probabilities).sum(axis=-1)
    return entropy


def mutual_information(samples_N_K_A: Floats, groups: Sequence[Group], expected_votes: int) -> Floats:
    """Mutual information of the votes for all questions: scores_N in nats.

    Each question is expected to get the share of the votes that the answers leading to it get (rounded), which
    weights it by the probability that it is asked. For a question of two answers the value is exact. For more it is
    that of the answer which says most, against all others together: a lower bound of the question's own, by the
    data-processing inequality.

    Args:
        samples_N_K_A: the probability of each answer, given that its question is asked, in each posterior sample.
        groups: the answers of each question, in the order of A.
        expected_votes: votes for the first question.
    """
    columns = {answer: position for position, answer in enumerate(a for group in groups for a in group.answers)}
    mean: Mapping[str, Floats] = {answer: samples_N_K_A[:, :, at].mean(axis=1) for answer, at in columns.items()}
    asked = asked_probability(groups, mean)
    scores_N = np.zeros(len(samples_N_K_A))
    for group in groups:
        votes_N = np.rint(expected_votes * asked[group.question]).astype(np.int64)
        answers = group.answers[:1] if len(group.answers) == 2 else group.answers
        per_answer = [binomial_mutual_information(samples_N_K_A[:, :, columns[a]], votes_N) for a in answers]
        scores_N += np.max(per_answer, axis=0)
    return scores_N


def score(
    name: str, samples_N_K_A: Floats, groups: Sequence[Group], expected_votes: int, random: np.random.Generator
) -> Floats:
    """The scores of N galaxies under the acquisition function ``name``."""
    if name == "random":
        return random.random(len(samples_N_K_A))
    return mutual_information(samples_N_K_A, groups, expected_votes)


def rank(scores_N: Floats, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """The rank of each galaxy, 0 for the highest score; ties are broken in a seeded order."""
    if not np.isfinite(scores_N).all():
        raise InputError(f"scores are not finite at rows {np.flatnonzero(~np.isfinite(scores_N))[:10].tolist()}")
    tie_break_N = random.permutation(len(scores_N))
    order = np.lexsort((tie_break_N, -scores_N))
    ranks = np.empty(len(scores_N), dtype=np.int64)
    ranks[order] = np.arange(len(scores_N))
    return ranks
