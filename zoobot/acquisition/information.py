"""Information in the votes on one question: their entropy, and their mutual information with the model.

Both are exact over all possible vote counts if these are few (``EXACT_OUTCOMES``: 4 answers and 40 votes), otherwise an
estimate from drawn counts. numpy and scipy only. Axes: N galaxies, K posterior samples, A answers, V the votes
0 … n_votes for one answer, X vote counts for several answers, M drawn counts, P parts: each answer, then all answers
but that one.

The probability of counts x is a product of one weight per answer, both for votes that are independent (multinomial)
and for votes that scatter more (Dirichlet-multinomial):

    f(x) = prod_a w_a(x_a) / z,   w_a(x) = prod_{j<x} c_j p_a             z = prod_{j<n} c_j
                                  w_a(x) = prod_{j<x} c_j (α_a+j)/(S+n)   z = prod_{j<n} c_j (S+j)/(S+n)

with S = sum_a α_a and c_j = n / (j+1). Both c_j and S + n only keep all numbers within the range of floats. Answers can
be joined: the weight of their sum is that of the sum of their p or α.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, gammaln

from zoobot.errors import InputError

Floats = npt.NDArray[np.float64]
EXACT_OUTCOMES = 12_341  # 4 answers and 40 votes
MAX_VOTES = 500  # with more, weights would leave the range of floats
_DRAWS = 12  # drawn counts per posterior sample, if there are too many to list
_CHUNK_ELEMENTS = 400_000  # numbers in the largest array of a chunk of galaxies: stays in the cache
_TINY = 1e-300  # log(0 + _TINY) is finite, and 0 times it is 0


def binomial_mutual_information(probabilities_N_K: npt.ArrayLike, expected_votes: npt.ArrayLike) -> Floats:
    """Mutual information between the votes k of ``expected_votes`` and the model, exact: BALD over vote counts.

    I = H[ mean_K Binom(k | V, p_K) ] - mean_K H[ Binom(k | V, p_K) ]  (Walmsley et al. 2020, MNRAS 491, 1554, eq. 7
    to 9; Houlsby et al. 2011, arXiv 1112.5745).

    Args:
        probabilities_N_K: the probability of the answer in each posterior sample, in [0, 1].
        expected_votes: how many votes the galaxy will get: a whole number from 0 to 500, or an array of N.

    Returns:
        scores_N in nats, ≥ 0 up to rounding; 0 where all samples agree or no vote is expected.

    Raises:
        InputError: a probability is NaN or outside [0, 1], or a number of votes is not a whole number from 0 to 500.
    """
    p_N_K: npt.NDArray[np.floating] = np.asarray(probabilities_N_K)
    if p_N_K.ndim != 2 or p_N_K.shape[1] == 0:
        raise InputError(f"expected probabilities N galaxies × K samples, got shape {p_N_K.shape}")
    _refuse(~((p_N_K >= 0) & (p_N_K <= 1)).all(axis=1), "probabilities outside [0, 1] or NaN")
    scores_N: Floats = _by_votes(_binomial, p_N_K, expected_votes)[1]
    return scores_N


def multinomial_mutual_information(probabilities_N_K_A: npt.ArrayLike, expected_votes: npt.ArrayLike) -> Floats:
    """As ``binomial_mutual_information``, for votes over A ≥ 2 answers whose probabilities sum to 1."""
    scores_N: Floats = multinomial_information(probabilities_N_K_A, expected_votes)[1]
    return scores_N


def dirichlet_multinomial_mutual_information(
    concentrations_N_K_A: npt.ArrayLike, expected_votes: npt.ArrayLike
) -> Floats:
    """As ``binomial_mutual_information``, for votes over A ≥ 2 answers, Dirichlet-multinomial with concentrations > 0
    (Walmsley et al. 2022, MNRAS 509, 3966, section 4).

    Exact up to ``EXACT_OUTCOMES`` possible counts. With more (5 answers: from 21 votes; 6: from 15) it is an estimate
    from 12 counts drawn for each sample, with a standard error of about 0.01 nats for 20 samples. The random numbers
    are the same for all galaxies.

    Returns:
        scores_N in nats.

    Raises:
        InputError: a concentration is not finite and > 0, or a number of votes is not a whole number from 0 to 500.
    """
    scores_N: Floats = dirichlet_multinomial_information(concentrations_N_K_A, expected_votes)[1]
    return scores_N


def multinomial_information(probabilities_N_K_A: npt.ArrayLike, expected_votes: npt.ArrayLike) -> Floats:
    """Entropy of the votes and their mutual information with the model, 2 × N in nats, for multinomial votes.

    Raises InputError if a probability is NaN or outside [0, 1], or the answers' sum is not 1.
    """
    p_N_K_A = _three_axes(probabilities_N_K_A)
    wrong_N_K = ~((p_N_K_A >= 0).all(axis=2) & (np.abs(p_N_K_A.sum(axis=2) - 1) < 1e-3))
    _refuse(wrong_N_K.any(axis=1), "probabilities that are negative, NaN or do not sum to 1")
    if p_N_K_A.shape[2] == 2:
        return _by_votes(_binomial, np.clip(p_N_K_A[:, :, 0], 0, 1), expected_votes)
    return _by_votes(
        lambda p, n_votes: _information(p / p.sum(axis=2, keepdims=True), n_votes), p_N_K_A, expected_votes
    )


def dirichlet_multinomial_information(concentrations_N_K_A: npt.ArrayLike, expected_votes: npt.ArrayLike) -> Floats:
    """Entropy of the votes and their mutual information with the model, 2 × N in nats: see
    ``dirichlet_multinomial_mutual_information``.
    """
    alpha_N_K_A = _three_axes(concentrations_N_K_A)
    wrong_N = ~((alpha_N_K_A > 0) & np.isfinite(alpha_N_K_A)).all(axis=(1, 2))
    _refuse(wrong_N, "concentrations that are not finite and above 0")
    return _by_votes(lambda alpha, n_votes: _information(alpha, n_votes, dirichlet=True), alpha_N_K_A, expected_votes)


def _three_axes(values: npt.ArrayLike) -> npt.NDArray[np.floating]:
    array = np.asarray(values)
    if array.ndim != 3 or array.shape[1] == 0 or array.shape[2] < 2:
        raise InputError(f"expected N galaxies × K samples × A answers (at least 2), got shape {array.shape}")
    return array


def _refuse(wrong: np.bool_ | npt.NDArray[np.bool_], what: str) -> None:
    if wrong.any():
        raise InputError(f"{what} for {wrong.sum()} galaxies, at rows {np.flatnonzero(wrong)[:10].tolist()}")


def _by_votes(
    function: Callable[[Floats, int], Floats], values: npt.NDArray[np.floating], expected_votes: npt.ArrayLike
) -> Floats:
    """Apply a function that gives 2 × N to the galaxies of each number of votes, in chunks that fit the cache,
    on all cores.
    """
    votes_N = np.broadcast_to(np.asarray(expected_votes), len(values))
    if not ((votes_N >= 0) & (votes_N <= MAX_VOTES) & (votes_N % 1 == 0)).all():
        raise InputError(f"expected_votes must be whole numbers from 0 to {MAX_VOTES}")
    jobs: list[tuple[npt.NDArray[np.int64], int]] = []
    for n_votes in np.unique(votes_N[votes_N > 0]):
        rows = np.flatnonzero(votes_N == n_votes)
        step = max(1, _CHUNK_ELEMENTS // (int(np.prod(values.shape[1:])) * (int(n_votes) + 1)))
        jobs += [(rows[start : start + step], int(n_votes)) for start in range(0, len(rows), step)]
    result_2_N = np.zeros((2, len(values)))
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numpy releases the interpreter's lock
        results = threads.map(lambda job: function(values[job[0]].astype(np.float64), job[1]), jobs)
        for (rows, _), result in zip(jobs, results, strict=True):
            result_2_N[:, rows] = result
    return result_2_N


def _binomial(p_N_K: Floats, n_votes: int) -> Floats:
    """Entropy and mutual information for two answers: like ``_information``, but several times faster.

    The number of ways to get k, C(n, k), does not depend on p. So one ordered sequence with k yes has the probability
    s_k = mean_K p^k (1-p)^(n-k), and H[votes] = -sum_k C s log(C s), I = -sum_k C s log s - n mean_K h(p).
    """
    sequence_N_V = _sequence_probability(p_N_K, n_votes)
    k_V = np.arange(n_votes + 1)
    log_ways_V = gammaln(n_votes + 1) - gammaln(k_V + 1) - gammaln(n_votes - k_V + 1)
    counts_N_V = np.exp(log_ways_V) * sequence_N_V
    sequence_entropy_N = -np.einsum("nv,nv->n", counts_N_V, np.log(sequence_N_V + _TINY))
    no_N_K = 1 - p_N_K
    one_vote_N = -(p_N_K * np.log(p_N_K + _TINY) + no_N_K * np.log(no_N_K + _TINY)).mean(axis=1)
    return np.stack([sequence_entropy_N - counts_N_V @ log_ways_V, sequence_entropy_N - n_votes * one_vote_N])


def _sequence_probability(p_N_K: Floats, n_votes: int) -> Floats:
    """mean_K p^k (1-p)^(n-k), N × V, as a product of two small matrices per galaxy: with k = i + size j,

    p^k (1-p)^(n-k) = p^i (1-p)^(size-1-i) × (p^size)^j ((1-p)^size)^(blocks-1-j)   where n + 1 = size × blocks.
    """
    size = math.ceil((n_votes + 1) ** 0.5)
    blocks = math.ceil((n_votes + 1) / size)
    yes, no = _powers(p_N_K, size), _powers(1 - p_N_K, size)
    inner = yes[:size] * no[size - 1 :: -1]
    outer = _powers(yes[size], blocks - 1) * _powers(no[size], blocks - 1)[::-1]
    table = outer.transpose(1, 0, 2) @ inner.transpose(1, 2, 0)
    sequence_N_V: Floats = table.reshape(len(p_N_K), size * blocks) / p_N_K.shape[1]
    for _ in range(size * blocks - 1 - n_votes):  # one vote less, which may have been yes or no
        sequence_N_V = sequence_N_V[:, :-1] + sequence_N_V[:, 1:]
    return sequence_N_V


def _powers(base: Floats, highest: int) -> Floats:
    powers = np.empty((highest + 1, *base.shape))
    powers[0] = 1
    for k in range(highest):
        np.multiply(powers[k], base, out=powers[k + 1])
    return powers


def _information(values_N_K_A: Floats, n_votes: int, dirichlet: bool = False) -> Floats:
    """Entropy and mutual information, 2 × N, of probabilities or, if ``dirichlet``, concentrations."""
    n_answers = values_N_K_A.shape[2]
    each_N_A_K = np.ascontiguousarray(values_N_K_A.transpose(0, 2, 1))
    weights_N_A_V_K, marginal_N_A_V_K, z_N_K = _distribution(each_N_A_K, n_votes, dirichlet)
    log_weights = np.log(weights_N_A_V_K + _TINY)
    component_N_K = np.log(z_N_K) - np.einsum("navk,navk->nk", marginal_N_A_V_K, log_weights)
    if _n_outcomes(n_answers, n_votes) <= EXACT_OUTCOMES:
        weights_N_A_V_K[:, 0] /= z_N_K[:, None]
        entropy_N = _mixture_entropy(weights_N_A_V_K)
        return np.stack([entropy_N, entropy_N - component_N_K.mean(axis=1)])
    information_N = _drawn_information(each_N_A_K, log_weights, np.log(z_N_K), n_votes, dirichlet)
    return np.stack([information_N + component_N_K.mean(axis=1), information_N])


def agreement_probability(values_N_K_A: npt.NDArray[np.floating], dirichlet: bool, agreed: int, n_votes: int) -> Floats:
    """The probability N that at least ``agreed`` of the votes, more than half of them, are for one answer.

    ``values_N_K_A`` are probabilities or, if ``dirichlet``, concentrations.
    """
    assert 2 * agreed > n_votes, "otherwise two answers could both reach it"

    def probability(values: Floats, n: int) -> Floats:
        marginal_N_A_V_K = _distribution(np.ascontiguousarray(values.transpose(0, 2, 1)), n, dirichlet)[1]
        one_N = marginal_N_A_V_K[:, :, agreed:].sum(axis=(1, 2)).mean(axis=1)
        return np.stack([one_N, 1 - one_N])

    agreement_N: Floats = _by_votes(probability, values_N_K_A, n_votes)[0]
    return agreement_N


def _n_outcomes(n_answers: int, n_votes: int) -> float:
    return float(np.exp(gammaln(n_votes + n_answers) - gammaln(n_votes + 1) - gammaln(n_answers)).round())


def _distribution(each_N_A_K: Floats, n_votes: int, dirichlet: bool) -> tuple[Floats, Floats, Floats]:
    """The weights w, the probabilities of each answer's own count, N × A × V × K, and z, N × K."""
    n_answers = each_N_A_K.shape[1]
    sum_N_1_K = each_N_A_K.sum(axis=1, keepdims=True)
    parts_N_P_K = np.concatenate([each_N_A_K, np.maximum(sum_N_1_K - each_N_A_K, 0)], axis=1)
    weights_N_P_V_K, z_N_K = _weights(parts_N_P_K, sum_N_1_K[:, 0], n_votes, dirichlet)
    weights_N_A_V_K, others_N_A_V_K = weights_N_P_V_K[:, :n_answers], weights_N_P_V_K[:, n_answers:]
    return weights_N_A_V_K, weights_N_A_V_K * others_N_A_V_K[:, :, ::-1] / z_N_K[:, None, None], z_N_K


def _weights(parts_N_P_K: Floats, sum_N_K: Floats, n_votes: int, dirichlet: bool) -> tuple[Floats, Floats]:
    """w (N × P × V × K) of each part and z (N × K), as at the top of this file."""
    n_galaxies, n_parts, n_samples = parts_N_P_K.shape
    weights = np.empty((n_galaxies, n_parts, n_votes + 1, n_samples))
    weights[:, :, 0] = 1
    z_N_K = np.ones_like(sum_N_K)
    scale_N_K = 1 / (sum_N_K + n_votes) if dirichlet else np.ones_like(sum_N_K)
    for j in range(n_votes):
        c = n_votes / (j + 1)
        step = (parts_N_P_K + j) if dirichlet else parts_N_P_K
        np.multiply(weights[:, :, j], step * (c * scale_N_K[:, None]), out=weights[:, :, j + 1])
        z_N_K *= c * scale_N_K * (sum_N_K + j if dirichlet else 1)
    return weights, z_N_K


def _mixture_entropy(weights_N_A_V_K: Floats) -> Floats:
    """Entropy N of the mean over samples of f, summed over all counts.

    The answers are split into two halves. If one half gets t votes, the mean is a product of matrices, for each t.
    """
    n_answers, n_votes, n_samples = weights_N_A_V_K.shape[1], weights_N_A_V_K.shape[2] - 1, weights_N_A_V_K.shape[3]
    left, right = weights_N_A_V_K[:, : n_answers // 2], weights_N_A_V_K[:, n_answers // 2 :]
    entropy_N = np.zeros(len(weights_N_A_V_K))
    for t in range(n_votes + 1):
        left_N_X_K, right_N_X_K = _products(left, t), _products(right, n_votes - t)
        mixture_N_X = (left_N_X_K @ right_N_X_K.transpose(0, 2, 1)).reshape(len(entropy_N), -1) / n_samples
        entropy_N -= np.einsum("nx,nx->n", mixture_N_X, np.log(mixture_N_X + _TINY))
    return entropy_N


def _products(weights_N_A_V_K: Floats, total: int) -> Floats:
    """The product of weights N × X × K for all counts whose sum is ``total``."""
    first, others = weights_N_A_V_K[:, 0], weights_N_A_V_K[:, 1:]
    if others.shape[1] == 0:
        return first[:, total : total + 1]
    if others.shape[1] == 1:
        product: Floats = first[:, : total + 1] * others[:, 0, total::-1][:, : total + 1]
        return product
    return np.concatenate([first[:, x : x + 1] * _products(others, total - x) for x in range(total + 1)], axis=1)


def _drawn_information(
    each_N_A_K: Floats, log_weights_N_A_V_K: Floats, log_z_N_K: Floats, n_votes: int, dirichlet: bool
) -> Floats:
    """Mutual information N as the mean of log f_k(x) / mean_j f_j(x) over counts x drawn from each sample's f_k."""
    counts_N_A_M = _draw_counts(each_N_A_K, n_votes, dirichlet)
    n_galaxies, _, n_draws = counts_N_A_M.shape
    n_samples = each_N_A_K.shape[2]
    log_f_N_M_K = np.repeat(-log_z_N_K[:, None], n_draws, axis=1)
    galaxy = np.arange(n_galaxies)[:, None]
    for a in range(each_N_A_K.shape[1]):
        log_f_N_M_K += log_weights_N_A_V_K[galaxy, a, counts_N_A_M[:, a]]
    own_N_M = log_f_N_M_K[:, np.arange(n_draws), np.arange(n_draws) % n_samples]
    with np.errstate(under="ignore"):
        ratio_N_M = np.exp(log_f_N_M_K - own_N_M[:, :, None]).mean(axis=2)
    information_N: Floats = -np.log(ratio_N_M).mean(axis=1)
    return information_N


def _draw_counts(each_N_A_K: Floats, n_votes: int, dirichlet: bool) -> npt.NDArray[np.int64]:
    """Counts N × A × M, draw m from sample m % K: one answer after the other by its inverse distribution function.

    The uniform numbers are the same for all galaxies, and stratified over the draws from one sample. Both lower the
    noise.
    """
    n_galaxies, n_answers, n_samples = each_N_A_K.shape
    random = np.random.default_rng(0)
    strata = np.stack([random.permuted(np.tile(np.arange(_DRAWS), (n_samples, 1)), axis=1) for _ in range(n_answers)])
    uniform_A_M = ((strata + random.random(strata.shape)) / _DRAWS).transpose(0, 2, 1).reshape(n_answers, -1)
    later_N_A_K = each_N_A_K[:, ::-1].cumsum(axis=1)[:, ::-1]  # the answer and all after it
    left_N_M = np.full((n_galaxies, _DRAWS * n_samples), n_votes)
    counts_N_A_M = np.zeros((n_galaxies, n_answers, _DRAWS * n_samples), dtype=np.int64)
    for a in range(n_answers - 1):
        yes_N_M, no_N_M = np.tile(each_N_A_K[:, a], _DRAWS), np.tile(later_N_A_K[:, a + 1], _DRAWS)
        counts_N_A_M[:, a] = _draw_yes(yes_N_M, no_N_M, left_N_M, uniform_A_M[a], dirichlet)
        left_N_M = left_N_M - counts_N_A_M[:, a]
    counts_N_A_M[:, -1] = left_N_M
    return counts_N_A_M


def _draw_yes(
    yes_N_M: Floats, no_N_M: Floats, n_votes_N_M: npt.NDArray[np.int64], uniform_M: Floats, dirichlet: bool
) -> npt.NDArray[np.int64]:
    """How many of the votes are yes: the inverse (beta-)binomial distribution function at ``uniform_M``.

    It counts the rarer answer, because its probability of no vote does not vanish.
    """
    swapped = yes_N_M > no_N_M
    rare, common = np.minimum(yes_N_M, no_N_M), np.maximum(yes_N_M, no_N_M)
    uniform = np.where(swapped, 1 - uniform_M, uniform_M)
    if dirichlet:
        probability = np.exp(betaln(rare, common + n_votes_N_M) - betaln(rare, common))
    else:
        probability = (common / np.maximum(rare + common, _TINY)) ** n_votes_N_M
    below, n_rare = probability.copy(), np.zeros_like(n_votes_N_M)
    for v in range(int(n_votes_N_M.max())):
        n_rare += below < uniform
        odds = (rare + v) / (common + np.maximum(n_votes_N_M - v - 1, 0)) if dirichlet else rare / (common + _TINY)
        probability = probability * odds * (np.maximum(n_votes_N_M - v, 0) / (v + 1))
        below += probability
    n_rare = np.minimum(n_rare, n_votes_N_M)
    return np.where(swapped, n_votes_N_M - n_rare, n_rare)
