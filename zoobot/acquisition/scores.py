"""Acquisition functions that score each galaxy by itself. Formulas, sources and limits: docs/acquisition.md. Axes:
N galaxies, K posterior samples, A answers of a question.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zoobot.acquisition.candidates import Candidates, Floats
from zoobot.acquisition.information import agreement_probability

_SURE_VOTES, _OF_VOTES = 8, 10  # a galaxy is sure if this many of this many volunteers give the same answer
_ASKED = 0.5  # a question counts only if at least this fraction is expected to be asked


def uniform(candidates: Candidates, random: np.random.Generator) -> Floats:
    """A uniform number for each galaxy."""
    return random.random(len(candidates))


def entropy(candidates: Candidates) -> Floats:
    """Entropy of the votes on all questions, nats: the expected information, including the noise of volunteers."""
    scores_N = np.zeros(len(candidates))
    for question in candidates.questions():
        scores_N += question.information()[0]
    return scores_N


def mutual_information(candidates: Candidates) -> Floats:
    """Mutual information of the votes with the model, nats, the sum over all questions.

    Each question gets the share of ``expected_votes`` of the answers that lead to it (rounded), which weights it by
    the probability that it is asked.
    """
    scores_N = np.zeros(len(candidates))
    for question in candidates.questions():
        scores_N += question.information()[1]
    return scores_N


def variance(candidates: Candidates) -> Floats:
    """Variance of the answers' probabilities over samples, summed over answers, weighted by the probability that
    the question is asked.
    """
    return _sum_of_variances(candidates, np.arange(candidates.n_samples))


def ensemble_disagreement(candidates: Candidates) -> Floats:
    """Variance between the members of an ensemble, each the mean of its samples; without one, like ``variance``."""
    n_samples = candidates.n_samples
    return _sum_of_variances(candidates, np.arange(n_samples) if candidates.member_K is None else candidates.member_K)


def _sum_of_variances(candidates: Candidates, member_K: npt.NDArray[np.int64]) -> Floats:
    scores_N = np.zeros(len(candidates))
    member_K_E = np.unique(member_K)[None, :] == member_K[:, None]
    mean_K_E = (member_K_E / member_K_E.sum(axis=0)).astype(np.float32)  # samples → means of the members
    for question in candidates.questions():
        members_N_A_E = question.predicted.probabilities_N_K_A.transpose(0, 2, 1) @ mean_K_E
        scores_N += question.asked_N * members_N_A_E.var(axis=2, dtype=np.float64).sum(axis=1)
    return scores_N


def power_mutual_information(candidates: Candidates, random: np.random.Generator) -> Floats:
    """Mutual information times exp(Gumbel noise / coldness): the top n are a sample without replacement, with
    probabilities proportional to mutual information ** coldness (Kirsch et al. 2021, arXiv 2106.12059).
    """
    noise_N = random.gumbel(size=len(candidates)) / candidates.coldness
    return np.maximum(mutual_information(candidates), 0) * np.exp(noise_N)


def softmax_mutual_information(candidates: Candidates, random: np.random.Generator) -> Floats:
    """Mutual information plus Gumbel noise / coldness: a sample with probabilities proportional to
    exp(coldness × mutual information) (Kirsch et al. 2021).
    """
    return mutual_information(candidates) + random.gumbel(size=len(candidates)) / candidates.coldness


def confidence(candidates: Candidates) -> Floats:
    """The probability N that at least 8 of 10 volunteers would give the same answer: the lowest value over
    the questions that at least half of them are expected to be asked.
    """
    least_N = np.ones(len(candidates))
    for question in candidates.questions():
        agreed_N = agreement_probability(
            question.predicted.samples_N_K_A, question.predicted.has_concentrations, _SURE_VOTES, _OF_VOTES
        )
        least_N = np.where(question.asked_N >= _ASKED, np.minimum(least_N, agreed_N), least_N)
    return least_N
