"""Acquisition functions that pick a batch whose galaxies differ. Formulas, sources and limits: docs/acquisition.md.

All pick one galaxy after the other. Distances are squared, and in float32: their error is about 1e-6 of the features'
own squared length. Axes: N galaxies, K posterior samples, A answers of all questions, H features, M labelled galaxies,
C centres.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from zoobot.acquisition.candidates import PART, Candidates, Floats, Floats32, Rows
from zoobot.acquisition.scores import mutual_information
from zoobot.errors import InputError

Bools = npt.NDArray[np.bool_]
Pick = Callable[[Floats32, Rows, Bools], int]  # nearest_N, owner_N, free_N → row
Distances = Callable[[Rows | slice, Rows], Floats32]  # rows N, rows C → squared distances N × C
_CHUNK_ELEMENTS = 8_000_000  # numbers in a table of distances
_DRAWS = 64  # of k-means++ in a round
_TYPICLUST_CLUSTERS, _TYPICLUST_NEIGHBOURS, _LLOYD_STEPS = 500, 20, 10


# --------------------------------------------------------------- spread over the features


def k_center(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """Repeatedly pick the galaxy farthest from all that are labelled or picked; scores are squared distances."""
    features_N_H, nearest_N, owner_N = _from_labelled(candidates)

    def farthest(nearest_N: Floats32, owner_N: Rows, free_N: Bools) -> int:
        return int(np.argmax(np.where(free_N, nearest_N, -1)))

    return _spread(_distances(features_N_H), nearest_N, owner_N, n, candidates.free_N, farthest)


def lcmd(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """Repeatedly pick the largest cluster's most distant galaxy; scores are squared distances × mutual information.

    A cluster is all galaxies whose nearest labelled or picked one is the same; its size is the sum of their scores.
    """
    features_N_H, nearest_N, owner_N = _from_labelled(candidates)
    weight_N = np.maximum(mutual_information(candidates), 0).astype(np.float32)

    def from_largest(nearest_N: Floats32, owner_N: Rows, free_N: Bools) -> int:
        weighted_N = np.where(free_N, weight_N * nearest_N, -1)
        size_C = np.bincount(owner_N, np.maximum(weighted_N, 0))
        if size_C.max() == 0:
            return int(np.argmax(weighted_N))
        return int(np.argmax(np.where(owner_N == np.argmax(size_C), weighted_N, -1)))

    free_N = candidates.free_N
    return _spread(_distances(features_N_H), nearest_N, owner_N, n, free_N, from_largest, weight_N)


def badge(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """Galaxies whose gradients are large and differ: k-means++ on gradients of the vote likelihood.

    The gradient with respect to the last layer, if all votes went to the likeliest answer of each question:
    V (p - 1[likeliest]) ⊗ features. Scores are squared distances of gradients from those picked.
    """
    features_N_H = _features(candidates)
    parts = []
    for question in candidates.questions():
        mean_N_A = question.predicted.probabilities_N_K_A.mean(axis=1)
        likeliest_N_A = np.eye(mean_N_A.shape[1], dtype=np.float32)[mean_N_A.argmax(axis=1)]
        parts.append(question.votes_N[:, None].astype(np.float32) * (mean_N_A - likeliest_N_A))
    gradient_N_A = np.concatenate(parts, axis=1)
    length_N = (gradient_N_A**2).sum(axis=1) * _squared_lengths(features_N_H)

    def distances(rows_N: Rows | slice, rows_C: Rows) -> Floats32:
        with np.errstate(invalid="ignore"):  # a BLAS may set it for numbers that it only fills up with
            product_N_C = gradient_N_A[rows_N] @ gradient_N_A[rows_C].T
            product_N_C *= features_N_H[rows_N] @ features_N_H[rows_C].T
        distance_N_C: Floats32 = np.maximum(length_N[rows_N, None] + length_N[rows_C] - 2 * product_N_C, 0)
        return distance_N_C

    picks, scores_N = _plus_plus(distances, length_N, n, candidates.free_N, random)
    return picks, np.where(np.isinf(scores_N), length_N, scores_N)


def _plus_plus(
    distances: Distances, length_N: Floats32, n: int, free_N: Bools, random: np.random.Generator
) -> tuple[Rows, Floats]:
    """k-means++: first the longest, then draws in proportion to the squared distance from those picked. Their rows in
    the order of the picks, and scores as of ``_spread``; infinite for all before the first.

    A round of draws uses the distances from its beginning. A draw is kept with the probability by which its own has
    shrunk since (rejection sampling), so it is as likely as if all were brought up to date after each pick: that is
    done once a round instead, by one product of matrices.
    """
    nearest_N, picks, gains = np.full(len(length_N), np.inf, np.float32), np.zeros(0, np.int64), np.zeros(0)
    new = np.array([np.argmax(np.where(free_N, length_N, -1))] if n else [], np.int64)
    new_gains = np.full(len(new), np.inf)
    while len(new):
        picks, gains = np.append(picks, new), np.append(gains, new_gains)
        free_N[new] = False
        for start in range(0, len(nearest_N), PART):
            part = slice(start, start + PART)
            nearest_N[part] = np.minimum(nearest_N[part], distances(part, new).min(axis=1))
        nearest_N[new] = 0  # exactly, despite rounding
        new, new_gains = _draws(distances, nearest_N, free_N, min(n - len(picks), _DRAWS), random)
    scores_N = nearest_N.astype(np.float64)
    scores_N[picks] = gains
    return picks, scores_N


def _draws(
    distances: Distances, nearest_N: Floats32, free_N: Bools, n: int, random: np.random.Generator
) -> tuple[Rows, Floats]:
    """Up to n different rows, at least one if n > 0, drawn in turn in proportion to the squared distance from all
    before; and these distances.
    """
    sums_N = np.cumsum(np.where(free_N, nearest_N, 0), dtype=np.float64)
    if n and sums_N[-1] == 0:
        return np.flatnonzero(free_N)[:n], np.zeros(n)
    rows_C = np.searchsorted(sums_N, random.random(n) * sums_N[-1], side="right")
    between_C_C, now_C, kept_C = distances(rows_C, rows_C), nearest_N[rows_C], np.zeros(n, np.bool_)
    np.copyto(between_C_C, 0, where=rows_C == rows_C[:, None])  # exactly, despite rounding
    for draw, chance in enumerate(random.random(n)):
        now = between_C_C[draw, kept_C].min(initial=now_C[draw])
        kept_C[draw] = chance * now_C[draw] < now
        now_C[draw] = now
    return rows_C[kept_C], now_C[kept_C].astype(np.float64)


def _spread(
    distances: Distances,
    nearest_N: Floats32,
    owner_N: Rows,
    n: int,
    free_N: Bools,
    pick: Pick,
    weight_N: Floats32 | None = None,
) -> tuple[Rows, Floats]:
    """Pick n galaxies one by one, each of which becomes a centre: their rows, and weighted distances as scores.

    ``nearest_N`` is the squared distance to the nearest centre, ``owner_N`` its number; both are updated after
    each pick. A picked galaxy's score is that at its pick; another galaxy's is that at the end.
    """
    n_centres = int(owner_N.max(initial=-1)) + 1
    picks, gains = np.zeros(n, dtype=np.int64), np.zeros(n)
    for number in range(n):
        row = picks[number] = pick(nearest_N, owner_N, free_N)
        gains[number], free_N[row] = nearest_N[row], False
        new_N = distances(slice(None), np.array([row]))[:, 0]
        new_N[row] = 0  # exactly, despite rounding
        closer = np.flatnonzero(new_N < nearest_N)
        owner_N[closer] = n_centres + number
        nearest_N[closer] = new_N[closer]
    scores_N = nearest_N.astype(np.float64)
    scores_N[picks] = gains
    return picks, scores_N if weight_N is None else scores_N * weight_N


def _features(candidates: Candidates) -> Floats32:
    if len(candidates) and not candidates.features_N_H.size:
        raise InputError("this acquisition function needs the features of the candidates: give features_N_H")
    return candidates.features_N_H.astype(np.float32, copy=False)


def _squared_lengths(features_N_H: Floats32) -> Floats32:
    """Part by part: the squares of all would take as much memory as the features."""
    parts = [(features_N_H[at : at + PART] ** 2).sum(axis=1) for at in range(0, len(features_N_H), PART)]
    return np.concatenate([np.zeros(0, np.float32), *parts])


def _from_labelled(candidates: Candidates) -> tuple[Floats32, Floats32, Rows]:
    """Features, squared distance to the nearest labelled galaxy, and which that is; to the mean if none is labelled."""
    features_N_H, labelled_M_H = _centred(candidates)
    centres_C_H = labelled_M_H if len(labelled_M_H) else np.zeros((1, features_N_H.shape[1]), np.float32)
    return features_N_H, *_nearest(features_N_H, centres_C_H)


def _centred(candidates: Candidates) -> tuple[Floats32, Floats32]:
    """The features of the candidates and of labelled galaxies, minus the candidates' mean, because squared distances
    between small numbers lose fewer digits.
    """
    features_N_H, labelled_M_H = _features(candidates), candidates.labelled_features_M_H
    mean_H = features_N_H.sum(axis=0, dtype=np.float64).astype(np.float32) / np.float32(max(len(features_N_H), 1))
    return features_N_H - mean_H, (labelled_M_H - mean_H if labelled_M_H.size else np.zeros((0, len(mean_H)), "f4"))


def _distances(features_N_H: Floats32) -> Distances:
    length_N = np.einsum("nh,nh->n", features_N_H, features_N_H)

    def distances(rows_N: Rows | slice, rows_C: Rows) -> Floats32:
        distance_N_C: Floats32 = features_N_H[rows_N] @ (-2 * features_N_H[rows_C].T)
        distance_N_C += length_N[rows_N, None] + length_N[rows_C]
        np.maximum(distance_N_C, 0, out=distance_N_C)
        return distance_N_C

    return distances


def _nearest(features_N_H: Floats32, centres_C_H: Floats32) -> tuple[Floats32, Rows]:
    """Squared distance to the nearest centre, and its number."""
    nearest_N, owner_N = np.empty(len(features_N_H), np.float32), np.empty(len(features_N_H), np.int64)
    length_C = (centres_C_H**2).sum(axis=1)
    step = max(1, _CHUNK_ELEMENTS // len(centres_C_H))
    for start in range(0, len(features_N_H), step):
        part = features_N_H[start : start + step]
        distance = length_C - 2 * (part @ centres_C_H.T)
        owner = distance.argmin(axis=1)
        owner_N[start : start + step] = owner
        nearest_N[start : start + step] = distance[np.arange(len(part)), owner] + (part**2).sum(axis=1)
    return np.maximum(nearest_N, 0), owner_N


# --------------------------------------------------------------- typical galaxies


def typiclust(candidates: Candidates, n: int, random: np.random.Generator) -> tuple[Rows, Floats]:
    """The most typical galaxy of each cluster, clusters without labelled galaxies and large ones first; scores are
    typicality, 1 / mean distance to the 20 nearest of the same cluster.
    """
    features_N_H, labelled_M_H = _centred(candidates)
    if not len(features_N_H):
        return np.zeros(0, np.int64), np.zeros(0)
    n_clusters = min(max(n + len(labelled_M_H), 1), _TYPICLUST_CLUSTERS, len(features_N_H))
    centres_C_H = _k_means(features_N_H, n_clusters, random)
    cluster_N = _nearest(features_N_H, centres_C_H)[1]
    n_labelled_C = np.bincount(_nearest(labelled_M_H, centres_C_H)[1], minlength=n_clusters)
    typicality_N = np.zeros(len(candidates))
    for cluster in range(n_clusters):
        members = np.flatnonzero(cluster_N == cluster)
        typicality_N[members] = _typicality(features_N_H[members])
    return _from_clusters(typicality_N, cluster_N, n_labelled_C, n, candidates.free_N), typicality_N


def _k_means(features_N_H: Floats32, n_clusters: int, random: np.random.Generator) -> Floats32:
    """Centres C × H by k-means++ and a few of Lloyd's steps; a cluster that loses all its galaxies keeps its centre."""
    free_N = np.ones(len(features_N_H), dtype=np.bool_)
    length_N = np.einsum("nh,nh->n", features_N_H, features_N_H)
    rows, _ = _plus_plus(_distances(features_N_H), length_N, n_clusters, free_N, random)
    centres_C_H = features_N_H[rows]
    for _ in range(_LLOYD_STEPS):
        owner_N = _nearest(features_N_H, centres_C_H)[1]
        ones = np.ones(len(owner_N), np.float32)
        members_C_N = sparse.csr_matrix((ones, (owner_N, np.arange(len(owner_N)))), (n_clusters, len(owner_N)))
        size_C = np.bincount(owner_N, minlength=n_clusters)[:, None]
        centres_C_H = np.where(size_C > 0, (members_C_N @ features_N_H) / np.maximum(size_C, 1), centres_C_H)
        centres_C_H = centres_C_H.astype(np.float32)
    return centres_C_H


def _typicality(features_N_H: Floats32) -> Floats:
    """1 / mean distance to the nearest neighbours, for the galaxies of one cluster; 0 for a lone one."""
    n = len(features_N_H)
    n_near = min(_TYPICLUST_NEIGHBOURS, n - 1)
    typicality_N = np.zeros(n)
    if n_near < 1:
        return typicality_N
    length_N = (features_N_H**2).sum(axis=1)
    step = max(1, _CHUNK_ELEMENTS // n)
    for start in range(0, n, step):
        part = features_N_H[start : start + step]
        distance = np.maximum(length_N[start : start + step, None] + length_N - 2 * (part @ features_N_H.T), 0)
        distance[np.arange(len(part)), start + np.arange(len(part))] = np.inf  # itself
        near = np.partition(distance, n_near - 1, axis=1)[:, :n_near]
        typicality_N[start : start + step] = 1 / (np.sqrt(near).mean(axis=1, dtype=np.float64) + 1e-12)
    return typicality_N


def _from_clusters(typicality_N: Floats, cluster_N: Rows, n_labelled_C: Rows, n: int, free_N: Bools) -> Rows:
    """n galaxies. Each is the most typical free one of the cluster with the fewest labelled or picked ones; of several
    such clusters the largest.
    """
    size_C = np.bincount(cluster_N, minlength=len(n_labelled_C))
    by_typicality = np.argsort(-typicality_N, kind="stable")
    by_typicality = by_typicality[free_N[by_typicality]]
    waiting = [list(by_typicality[cluster_N[by_typicality] == c][::-1]) for c in range(len(n_labelled_C))]
    n_known_C = n_labelled_C.copy()
    picks = np.zeros(n, dtype=np.int64)
    for number in range(n):
        open_C = [c for c, rows in enumerate(waiting) if rows]
        cluster = min(open_C, key=lambda c: (n_known_C[c], -size_C[c]))
        picks[number] = waiting[cluster].pop()
        n_known_C[cluster] += 1
    return picks
