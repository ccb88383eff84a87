"""Acquisition functions: each against a slow reference, then what holds for all of them, then faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import chi2

from zoobot import acquisition
from zoobot.acquisition import batches, posterior_variance, scores
from zoobot.acquisition.candidates import Candidates, Strategy, by_score
from zoobot.errors import InputError, SettingsError
from zoobot.galaxies.tasks import Group
from zoobot.iterations import oracle_batch
from zoobot.metrics import PredictedVotes

ROOT = Path(__file__).resolve().parents[1]
PAIR = (Group("bar", ("bar_yes", "bar_no")),)
TREE = (
    Group("smooth", ("smooth", "disc", "artifact")),
    Group("bar", ("bar_yes", "bar_no"), after=("disc",)),
)
Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
NAMES = sorted(acquisition.ACQUISITIONS)


def candidates(n: int = 60, seed: int = 0, groups: tuple[Group, ...] = TREE, n_labelled: int = 7) -> Candidates:
    """Galaxies with features that are exact in float32, so that squared distances are too."""
    random = np.random.default_rng(seed)
    parts = []
    for group in groups:
        logits = random.normal(0, 1.5, (n, 1, len(group.answers))) + random.normal(0, 0.7, (n, 6, len(group.answers)))
        parts.append(np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True))
    samples = np.concatenate(parts, axis=2).astype(np.float32)
    features = random.integers(-8, 9, (n, 5)).astype(np.float32)
    features[-1] = -features[:-1].sum(axis=0)  # mean 0, so that taking it off is exact
    labelled = random.integers(-8, 9, (n_labelled, 5)).astype(np.float32)
    return Candidates([f"galaxy{i:03d}" for i in range(n)], PredictedVotes(samples, groups), 40, features, labelled)


def pick(name: str, of: Candidates, n: int = 10, seed: int = 0) -> tuple[list[int], Floats]:
    picks, scores_N = acquisition.ACQUISITIONS[name].choose(of, n, np.random.default_rng(seed))
    return picks.tolist(), scores_N


def slow_asked(of: Candidates, row: int) -> list[float]:
    """TREE: the first question always, the second as often as a disc is expected."""
    return [1.0, float(np.mean(of.predicted.samples_N_K_A[row, :, 1], dtype=np.float64))]


def concentrations(of: Candidates, scale: float) -> Candidates:
    """The same candidates with Dirichlet concentrations instead of probabilities."""
    samples = of.predicted.samples_N_K_A * np.float32(scale)
    return replace(of, predicted=PredictedVotes(samples, of.predicted.groups, "dirichlet_multinomial"))


# --------------------------------------------------------------- scores


def test_a_tree_expects_a_child_question_its_share_of_the_votes() -> None:
    groups = (Group("disc", ("disc_yes", "disc_no")), Group("bar", ("bar_yes", "bar_no"), after=("disc_yes",)))
    yes, bar = np.array([0.2, 0.3]), np.array([0.1, 0.9])
    samples = np.stack([yes, 1 - yes, bar, 1 - bar], axis=1)[None]
    # a disc with 0.25 on average: 10 of 40 are asked about the bar
    expected = acquisition.binomial_mutual_information([yes], 40) + acquisition.binomial_mutual_information([bar], 10)
    assert scores.mutual_information(Candidates(["a"], PredictedVotes(samples, groups), 40)) == pytest.approx(expected)
    concentrations = replace(
        Candidates(["a"], PredictedVotes(samples * 8, groups, "dirichlet_multinomial"), 40), expected_votes=40
    )
    expected = acquisition.dirichlet_multinomial_mutual_information(samples[:, :, :2] * 8, 40)
    expected += acquisition.dirichlet_multinomial_mutual_information(samples[:, :, 2:] * 8, 10)
    assert scores.mutual_information(concentrations) == pytest.approx(expected)


def test_entropy_of_one_vote_by_hand() -> None:
    one = Candidates(["a", "b"], PredictedVotes(np.array([[[0.25, 0.75]], [[0.5, 0.5]]]), PAIR), 1)
    assert scores.entropy(one) == pytest.approx([0.562335, 0.693147], abs=1e-6)


def test_variance_by_hand() -> None:
    two = Candidates(["a"], PredictedVotes(np.array([[[0.2, 0.8], [0.6, 0.4]]]), PAIR), 1)
    assert scores.variance(two) == pytest.approx([2 * 0.04])  # 0.2² for each of the two answers


def test_variance_and_disagreement_agree_with_a_loop() -> None:
    of = replace(candidates(), member_K=np.array([0, 0, 0, 5, 5, 5]))
    all_samples, members = [], []
    for row in range(len(of)):
        asked = slow_asked(of, row)
        weight = [asked[0]] * 3 + [asked[1]] * 2
        columns = of.predicted.samples_N_K_A[row].astype(np.float64).T
        all_samples.append(sum(w * np.var(column) for w, column in zip(weight, columns, strict=True)))
        members.append(sum(w * np.var([c[:3].mean(), c[3:].mean()]) for w, c in zip(weight, columns, strict=True)))
    assert scores.variance(of) == pytest.approx(all_samples, abs=1e-6)
    assert scores.ensemble_disagreement(of) == pytest.approx(members, abs=1e-6)
    assert scores.ensemble_disagreement(replace(of, member_K=None)) == pytest.approx(all_samples, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("power_mutual_information", lambda information: information**2.0),
        ("softmax_mutual_information", lambda information: np.exp(2.0 * information)),
    ],
)
def test_noise_draws_in_proportion(name: str, weight: Callable[[Floats], Floats]) -> None:
    of = replace(candidates(4), coldness=2.0)
    expected = weight(scores.mutual_information(of))
    repeated = replace(of.take(np.tile(np.arange(4), 3000)), ids_N=[str(i) for i in range(12_000)])
    first = pick(name, repeated)[1].reshape(3000, 4).argmax(axis=1)
    drawn = np.bincount(first, minlength=4) / len(first)
    assert drawn == pytest.approx(expected / expected.sum(), abs=0.04)  # 4 standard errors


def test_random_does_not_look_at_the_samples() -> None:
    of = candidates()
    other = replace(of, predicted=of.predicted.take(slice(None, None, -1)), features_N_H=of.features_N_H * 0)
    assert pick("random", of, seed=7)[0] == pick("random", other, seed=7)[0] != pick("random", of, seed=8)[0]


# --------------------------------------------------------------- batches


def slow_distance(a: Floats, b: Floats) -> float:
    return sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def slow_spread(of: Candidates, n: int, weight: Floats, largest_cluster: bool) -> tuple[list[int], list[float]]:
    """k-center and LCMD: every distance to every centre is computed anew for each pick."""
    centres = list(of.labelled_features_M_H) or [of.features_N_H.mean(axis=0)]
    picks: list[int] = []
    gains = []
    for _ in range(n):
        distances = [[slow_distance(f, c) for c in centres] for f in of.features_N_H]
        score = [w * min(d) for w, d in zip(weight, distances, strict=True)]
        owner = [int(np.argmin(d)) for d in distances]
        free = [row for row in range(len(of)) if row not in picks]
        if largest_cluster:
            size = [sum(score[row] for row in free if owner[row] == c) for c in range(len(centres))]
            free = [row for row in free if owner[row] == int(np.argmax(size))]
        best = max(free, key=lambda row: score[row])
        picks.append(best)
        gains.append(score[best])
        centres.append(of.features_N_H[best])
    return picks, gains


@pytest.mark.parametrize("n_labelled", [0, 7])
@pytest.mark.parametrize("name", ["k_center", "lcmd"])
def test_spread_agrees_with_a_slow_reference(name: str, n_labelled: int) -> None:
    of = candidates(n_labelled=n_labelled)
    weight = scores.mutual_information(of) if name == "lcmd" else np.ones(len(of))
    expected, gains = slow_spread(of, 12, weight, largest_cluster=name == "lcmd")
    picks, scores_N = pick(name, of, 12)
    assert picks == expected
    assert scores_N[picks] == pytest.approx(gains, rel=1e-6)


def test_farthest_galaxies_by_hand() -> None:
    samples = np.full((4, 2, 2), 0.5, np.float32)
    features = np.array([[0.0], [1], [5], [9]], np.float32)
    of = Candidates(list("abcd"), PredictedVotes(samples, PAIR), 40, features, np.array([[0.0]], np.float32))
    picks, scores_N = pick("k_center", of, 2)
    assert picks == [3, 2] and scores_N == pytest.approx([0, 1, 16, 81])


def slow_gradients(of: Candidates) -> Floats:
    """V (p - 1[likeliest]) ⊗ features, written out."""
    rows = []
    for row in range(len(of)):
        mean = of.predicted.samples_N_K_A[row].astype(np.float64).mean(axis=0)
        gradient = []
        for part, asked in zip((mean[:3], mean[3:]), slow_asked(of, row), strict=True):
            gradient += [round(40 * asked) * (p - (a == np.argmax(part))) for a, p in enumerate(part)]
        rows.append(np.outer(gradient, of.features_N_H[row]).ravel())
    return np.array(rows)


def squared_distances(of: Candidates) -> tuple[Floats, Floats]:
    """Between all gradients, N × N, and their squared lengths, N."""
    gradients = slow_gradients(of)
    return ((gradients[:, None] - gradients) ** 2).sum(axis=2), (gradients**2).sum(axis=1)


def test_badge_agrees_with_the_complete_gradients() -> None:
    of = candidates(300)
    distances, lengths = squared_distances(of)
    picks, scores_N = pick("badge", of, 150)  # several rounds of draws
    assert picks[0] == np.argmax(lengths) and len(set(picks)) == 150
    before = [lengths[picks[0]], *(distances[row, picks[:at]].min() for at, row in enumerate(picks) if at)]
    assert scores_N[picks] / lengths.max() == pytest.approx(np.array(before) / lengths.max(), abs=1e-6)
    others = np.setdiff1d(np.arange(300), picks)
    nearest = distances[np.ix_(others, picks)].min(axis=1)
    assert scores_N[others] / lengths.max() == pytest.approx(nearest / lengths.max(), abs=1e-6)


def test_badge_draws_each_galaxy_as_often_as_k_means_plus_plus() -> None:
    """The second and third pick of many seeds, against the probability of each pair, in proportion to the squared
    distance from those picked before.
    """
    of, seeds = candidates(9), 3000
    distances, lengths = squared_distances(of)
    first = int(np.argmax(lengths))
    expected = np.zeros((9, 9))
    for second, chance in enumerate(distances[first] / distances[first].sum()):
        nearest = np.minimum(distances[first], distances[second])
        expected[second] = chance * nearest / nearest.sum()
    drawn = np.zeros((9, 9))
    for seed in range(seeds):
        picks, _ = pick("badge", of, 3, seed)
        assert picks[0] == first
        drawn[picks[1], picks[2]] += 1
    assert (drawn[expected == 0] == 0).all()
    likely = expected > 5 / seeds
    squares = (drawn - seeds * expected)[likely] ** 2 / (seeds * expected[likely])
    assert squares.sum() < chi2.ppf(0.999, likely.sum() - 1)


def greedily(n: int, n_candidates: int, worth: Callable[[list[int]], float]) -> list[int]:
    """n rows; each next one makes all so far worth most."""
    picks: list[int] = []
    for _ in range(n):
        others = [row for row in range(n_candidates) if row not in picks]
        picks.append(max(others, key=lambda row: worth([*picks, row])))
    return picks


def slow_joint_information(of: Candidates, rows: list[int]) -> float:
    """½ log det of the covariance of the votes of some galaxies in units of their noise, as one dense matrix."""
    columns, noise = [], []
    for row in rows:
        samples = of.predicted.samples_N_K_A[row].astype(np.float64)
        for at, asked in zip((slice(0, 3), slice(3, 5)), slow_asked(of, row), strict=True):
            votes = round(40 * asked)
            free = samples[:, at][:, :-1]  # the last answer's votes follow from the others'
            mean = free.mean(axis=0)
            columns.append(votes * (free - mean))
            noise.append(votes * (np.diag(mean) - np.outer(mean, mean)) if votes else np.eye(len(mean)))
    deviations = np.concatenate(columns, axis=1)
    covariance = deviations.T @ deviations / len(deviations)
    size = sum(len(block) for block in noise)
    whole, start = np.zeros((size, size)), 0
    for block in noise:
        whole[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return float(np.linalg.slogdet(np.eye(size) + np.linalg.solve(whole, covariance))[1] / 2)


def test_batch_mutual_information_agrees_with_one_dense_matrix() -> None:
    of = candidates(25)
    expected = greedily(6, 25, lambda rows: slow_joint_information(of, rows))
    picks, scores_N = pick("batch_mutual_information", of, 6)
    assert picks == expected
    assert np.cumsum(scores_N[picks]) == pytest.approx(
        [slow_joint_information(of, expected[: i + 1]) for i in range(6)], abs=1e-6
    )
    whole = slow_joint_information(of, expected)
    others = [row for row in range(25) if row not in picks]
    added = [slow_joint_information(of, [*expected, row]) - whole for row in others]
    assert scores_N[others] == pytest.approx(added, abs=1e-6)


def test_a_galaxy_twice_adds_little_to_a_batch() -> None:
    of = candidates(40)
    twice = of.take(np.repeat(np.arange(20), 2))
    assert len({row // 2 for row in pick("batch_mutual_information", twice, 4)[0]}) == 4
    assert len({row // 2 for row in pick("mutual_information", twice, 4)[0]}) == 2


def test_few_votes_of_concentrated_galaxies_count_as_independent() -> None:
    of = candidates(20)
    concentrated = concentrations(of, 1e5)
    scattered = concentrations(of, 2)
    gains = [pick("batch_mutual_information", c, 5)[1].sum() for c in (of, concentrated, scattered)]
    assert gains[1] == pytest.approx(gains[0], rel=1e-2) and gains[2] < gains[0] / 2


class Known:
    """The covariance of log-odds between two galaxies, whose feature is their number."""

    orders: ClassVar = [(0, 1)]

    def covariances(self, a_N_H: Floats32, b_M_H: Floats32) -> Iterator[Floats32]:
        matrix = np.array([[4.0, 2.0], [2.0, 1.0]], np.float32)
        yield matrix[a_N_H[:, 0].astype(int)[:, None], b_M_H[:, 0].astype(int)]


def test_variance_reduction_of_two_galaxies_by_hand() -> None:
    even = PredictedVotes(np.full((2, 3, 2), 0.5, np.float32), PAIR)
    of = Candidates(["a", "b"], even, 1, np.array([[0.0], [1.0]], np.float32), joint=Known())
    # One vote each: p (1 - p) = 1/4, so the weight is 1/16. The first: (4² + 2²) / 16 / (4 + 4); the second:
    # (2² + 1²) / 16 / (1 + 4). The first says all about the second: 2² / (4 + 4) is half of its variance.
    assert pick("variance_reduction", of, 0)[1] == pytest.approx([20 / 16 / 8, 5 / 16 / 5])
    picks, scores_N = pick("variance_reduction", of, 1)
    left = np.array([[4.0, 2.0], [2.0, 1.0]]) - np.outer([4, 2], [4, 2]) / 8
    assert picks == [0] and scores_N[1] == pytest.approx((left[:, 1] ** 2).sum() / 16 / (left[1, 1] + 4))


def slow_variance(of: Candidates, seen: list[int]) -> float:
    """The variance of all expected votes once the votes of some galaxies are seen, with dense matrices."""
    total = 0.0
    samples = of.predicted.samples_N_K_A.astype(np.float64)
    asked = np.array([slow_asked(of, row) for row in range(len(of))])
    for question, at in enumerate((slice(0, 3), slice(3, 5))):
        probabilities = samples[:, :, at]
        order = np.argsort(-probabilities.mean(axis=(0, 1)))
        left: Floats = np.ones(probabilities.shape[:2])
        votes = np.rint(40 * asked[:, question])
        mean_left = np.ones(len(of))
        for answer in order[:-1]:
            covariance = np.cov(logit(probabilities[:, :, answer] / left))
            chance = probabilities[:, :, answer].mean(axis=1) / mean_left
            noise = np.diag(1 / np.maximum(votes * chance * (1 - chance), 1e-9)[seen])
            among, across = covariance[np.ix_(seen, seen)], covariance[:, seen]
            after = covariance - across @ np.linalg.solve(among + noise, across.T)
            total += float((votes * (chance * (1 - chance)) ** 2) @ after.diagonal())
            votes = votes * (1 - chance)
            left, mean_left = left - probabilities[:, :, answer], mean_left - probabilities[:, :, answer].mean(axis=1)
    return total


def test_variance_reduction_picks_what_leaves_least_variance() -> None:
    of = candidates(25)
    expected = greedily(4, 25, lambda rows: -slow_variance(of, rows))
    picks, scores_N = pick("variance_reduction", of, 4)
    assert picks == expected
    less = [slow_variance(of, expected[:i]) - slow_variance(of, expected[: i + 1]) for i in range(4)]
    assert scores_N[picks] == pytest.approx(less, rel=1e-3)
    others = [row for row in range(25) if row not in picks]
    less = [slow_variance(of, expected) - slow_variance(of, [*expected, row]) for row in others]
    assert scores_N[others] == pytest.approx(less, rel=1e-2, abs=1e-3)


def test_variance_reduction_of_a_large_pool_reckons_with_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posterior_variance, "_MOST", 20)
    of = candidates(60)
    picks, scores_N = pick("variance_reduction", of, 5)
    least_certain = np.argsort(-scores.variance(of), kind="stable")[:20]
    assert set(picks) <= set(least_certain.tolist()) and (np.flatnonzero(scores_N) == np.sort(least_certain)).all()


def slow_herding(of: Candidates, picked: list[int]) -> float:
    """How much of the pool's uncertainty the labelled and picked galaxies stand for, galaxy by galaxy."""
    centre = of.features_N_H.mean(axis=0, dtype=np.float64)

    def direction(features: npt.NDArray[np.float32]) -> Floats:
        moved = features.astype(np.float64) - centre
        return np.asarray(moved / np.linalg.norm(moved))

    labelled = [direction(features) for features in of.labelled_features_M_H]
    apart = [min(float(np.linalg.norm(a - b)) for b in labelled if b is not a) for a in labelled]
    radius, total = np.mean(apart), 0.0
    for row in range(len(of)):
        probabilities = np.sort(of.predicted.samples_N_K_A[row].mean(axis=0, dtype=np.float64))
        own = direction(of.features_N_H[row])
        near = [*labelled, *(direction(of.features_N_H[p]) for p in picked)]
        similar = max(np.exp(-(((own - other) ** 2).sum()) / radius**2) for other in near)
        total += (1 - probabilities[-1] + probabilities[-2]) * similar
    return float(total)


def test_herding_picks_what_stands_for_most_uncertainty() -> None:
    of = candidates(30, groups=PAIR)
    expected = greedily(4, 30, lambda rows: slow_herding(of, rows))
    picks, scores_N = pick("uherding", of, 4)
    assert picks == expected
    gained = [slow_herding(of, expected[: i + 1]) - slow_herding(of, expected[:i]) for i in range(4)]
    assert scores_N[picks] == pytest.approx(gained, abs=1e-4)
    whole = slow_herding(of, expected)
    added = [slow_herding(of, [*expected, row]) - whole for row in range(5) if row not in picks]
    assert scores_N[[row for row in range(5) if row not in picks]] == pytest.approx(added, abs=1e-4)


def test_herding_starts_without_labels_and_spreads_over_clusters() -> None:
    clusters = np.repeat([0, 1, 2], [60, 30, 15])[pick("uherding", three_clusters(), 3)[0]]
    assert sorted(clusters.tolist()) == [0, 1, 2]


def three_clusters() -> Candidates:
    random = np.random.default_rng(3)
    centres = np.array([[0, 0], [20, 0], [0, 20]])
    features = np.concatenate([random.normal(c, 1, (size, 2)) for c, size in zip(centres, (60, 30, 15), strict=True)])
    samples = np.full((105, 2, 2), 0.5, np.float32)
    return Candidates([f"{i:03d}" for i in range(105)], PredictedVotes(samples, PAIR), 40, features.astype(np.float32))


def test_typical_galaxies_of_large_clusters_come_first() -> None:
    of = three_clusters()
    picks, scores_N = pick("typiclust", of, 3)
    cluster_N = np.repeat([0, 1, 2], [60, 30, 15])
    assert cluster_N[picks].tolist() == [0, 1, 2]
    for row, scored in enumerate(scores_N):  # 1 / mean distance to the 20 nearest of the cluster
        own = of.features_N_H[cluster_N == cluster_N[row]].astype(np.float64)
        distances = np.sort(np.sqrt(((own - of.features_N_H[row]) ** 2).sum(axis=1)))[1:21]
        assert scored == pytest.approx(1 / distances.mean(), rel=1e-4)
    assert all(scores_N[p] == scores_N[cluster_N == c].max() for c, p in enumerate(picks))


def test_a_cluster_with_a_label_waits() -> None:
    of = replace(three_clusters(), labelled_features_M_H=np.array([[0.0, 0.0]], np.float32))
    clusters = np.repeat([0, 1, 2], [60, 30, 15])[pick("typiclust", of, 2)[0]]
    assert clusters.tolist() == [1, 2]


def test_k_means_ends_where_no_galaxy_changes_its_cluster() -> None:
    features = three_clusters().features_N_H
    centres = batches._k_means(features, 3, np.random.default_rng(0))
    owner = np.array([np.argmin([slow_distance(f, c) for c in centres]) for f in features])
    for cluster in range(3):
        assert centres[cluster] == pytest.approx(features[owner == cluster].mean(axis=0), abs=1e-4)


# --------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_picks_in_any_order(name: str) -> None:
    of = candidates()
    first = acquisition.choose(name, of, 10, np.random.default_rng(4))
    again = acquisition.choose(name, of, 10, np.random.default_rng(4))
    assert first.picks.tolist() == again.picks.tolist() and first.scores_N.tolist() == again.scores_N.tolist()
    order = np.random.default_rng(0).permutation(len(of))
    shuffled = acquisition.choose(name, of.take(order), 10, np.random.default_rng(4))
    assert order[shuffled.picks].tolist() == first.picks.tolist()
    assert shuffled.rank_N.tolist() == first.rank_N[order].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_ranks_are_the_batch_and_then_the_rest_by_score(name: str) -> None:
    choice = acquisition.choose(name, candidates(), 10, np.random.default_rng(0), random_share=0.3)
    assert sorted(choice.rank_N) == list(range(60)) and choice.rank_N[choice.picks].tolist() == list(range(10))
    assert choice.at_random_N.sum() == 3 and (choice.rank_N[choice.at_random_N] >= 7).all()
    rest = np.argsort(choice.rank_N)[10:]
    assert (np.diff(choice.scores_N[rest]) <= 0).all()
    if not acquisition.ACQUISITIONS[name].batch_aware:
        assert (np.diff(choice.scores_N[choice.picks[:7]]) <= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_equal_galaxies_are_taken_in_a_seeded_order(name: str) -> None:
    one = candidates(1)
    equal = replace(one.take(np.zeros(30, np.int64)), ids_N=[f"{i:02d}" for i in range(30)])
    batches_picked = {tuple(acquisition.choose(name, equal, 3, np.random.default_rng(s)).picks) for s in range(8)}
    assert len(batches_picked) > 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_small_pools_are_asked_completely(name: str, n: int) -> None:
    choice = acquisition.choose(name, candidates(5).take(np.arange(n)), 4, np.random.default_rng(0))
    assert sorted(choice.picks) == list(range(n)) and sorted(choice.rank_N) == list(range(n))
    assert acquisition.choose(name, candidates(5), 0, np.random.default_rng(0)).picks.tolist() == []


@hypothesis_settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from(NAMES), st.floats(0, 1), st.integers(0, 40))
def test_control_galaxies_and_picks_are_different_galaxies(seed: int, name: str, share: float, n: int) -> None:
    of = candidates(30, seed % 5)
    choice = acquisition.choose(name, of, n, np.random.default_rng(seed), random_share=share)
    assert len(set(choice.picks)) == len(choice.picks) == min(n, 30)
    assert choice.at_random_N.sum() == round(share * min(n, 30))
    assert set(np.flatnonzero(choice.at_random_N)) <= set(choice.picks)


def test_control_galaxies_are_a_fair_draw_of_all() -> None:
    of = candidates(20)
    drawn = np.sum(
        [
            acquisition.choose("variance", of, 4, np.random.default_rng(s), random_share=0.5).at_random_N
            for s in range(600)
        ],
        axis=0,
    )
    assert drawn.sum() == 1200 and np.abs(drawn - 60).max() < 4.5 * 60**0.5


def sure_and_unsure() -> Candidates:
    """First three galaxies sure of their answers, the fourth of the first question only, the others of none."""
    sure, open_ = [0.98, 0.01, 0.01], [0.4, 0.3, 0.3]
    bar, no_bar = [0.5, 0.5], [0.01, 0.99]
    disc = [0.01, 0.98, 0.01]
    rows = [sure + bar, sure + bar, disc + no_bar, disc + bar, open_ + bar, open_ + no_bar]
    samples = np.repeat(np.array(rows, np.float32)[:, None], 4, axis=1)
    return Candidates(list("abcdef"), PredictedVotes(samples, TREE), 40)


@pytest.mark.parametrize("name", ["random", "entropy", "mutual_information"])
def test_galaxies_whose_answers_are_sure_are_left_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    of = sure_and_unsure()  # a smooth galaxy is not asked about its bar
    assert scores.confidence(of)[:3].min() > 0.98 and scores.confidence(of)[3:].max() < 0.2
    choice = acquisition.choose(name, of, 5, np.random.default_rng(0), skip_confident=0.9)
    assert sorted(choice.picks) == [3, 4, 5] and sorted(choice.rank_N) == list(range(6))
    assert "only 3 of 5 galaxies" in caplog.text
    with_controls = acquisition.choose(name, of, 5, np.random.default_rng(0), skip_confident=0.9, random_share=0.4)
    assert with_controls.at_random_N.sum() == 2
    assert {3, 4, 5} <= set(with_controls.picks)


@pytest.mark.parametrize("name", [n for n in NAMES if acquisition.ACQUISITIONS[n].batch_aware])
def test_batch_functions_pick_only_what_is_free(name: str) -> None:
    of = candidates(30)
    free_N = np.arange(30) % 3 == 0
    picks, _ = pick(name, replace(of, allowed_N=free_N), 10)
    assert sorted(picks) == np.flatnonzero(free_N).tolist()


def test_each_function_has_a_config_and_a_name_in_the_guide() -> None:
    guide = (ROOT / "docs" / "acquisition.md").read_text(encoding="utf-8")
    files = {path.stem: path for path in (ROOT / "configs" / "acquisition").glob("*.yaml")}
    assert set(files) == {*NAMES, oracle_batch.NAME}
    for name, path in files.items():
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["name"] == name
        assert f"`{name}`" in guide, name


def test_one_of_your_own_in_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def smallest_id_first(candidates: Candidates, random: np.random.Generator) -> Floats:
        return -np.array([int(id_str[-3:]) for id_str in candidates.ids_N], dtype=np.float64)

    monkeypatch.setitem(acquisition.ACQUISITIONS, "oldest", by_score(smallest_id_first))
    choice = acquisition.choose("oldest", candidates(), 4, np.random.default_rng(0))
    assert choice.picks.tolist() == [0, 1, 2, 3] and choice.scores_N[5] == -5


# --------------------------------------------------------------- faults


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(SettingsError, match=r"acquisition\.name=bald: choose one of random, .*lcmd"):
        acquisition.choose("bald", candidates(), 1, np.random.default_rng(0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_an_error_naming_the_galaxies(value: float) -> None:
    of = candidates()
    for values in (of.features_N_H, of.predicted.samples_N_K_A):
        values[3, ..., 0] = values[8, ..., 0] = value
    with pytest.raises(InputError, match="2 galaxies: galaxy003, galaxy008"):
        replace(of, predicted=candidates().predicted)
    with pytest.raises(InputError, match="2 galaxies: galaxy003, galaxy008"):
        replace(of, features_N_H=candidates().features_N_H)


def test_a_score_that_is_nan_names_the_galaxy(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Strategy(lambda c, n, random: (np.arange(n), np.where(c.ids_N == "galaxy003", np.nan, 1.0)), True)
    monkeypatch.setitem(acquisition.ACQUISITIONS, "broken", broken)
    with pytest.raises(InputError, match="1 galaxies: galaxy003"):
        acquisition.choose("broken", candidates(), 3, np.random.default_rng(0))


def test_what_does_not_fit_together_is_refused() -> None:
    of = candidates()
    with pytest.raises(InputError, match=r"samples N × K × 5 answers, got shape \(60, 6, 3\)"):
        of.predicted.with_samples(of.predicted.samples_N_K_A[:, :, :3])
    with pytest.raises(InputError, match=r"features of 60 galaxies, got shape \(59, 5\)"):
        replace(of, features_N_H=of.features_N_H[1:])
    with pytest.raises(InputError, match="features of labelled galaxies have shape"):
        replace(of, labelled_features_M_H=np.ones((2, 3), np.float32))
    with pytest.raises(InputError, match=r"1 labelled galaxies are not finite, at rows \[1\]"):
        replace(of, labelled_features_M_H=np.array([[0.0] * 5, [np.nan] * 5], np.float32))
    with pytest.raises(InputError, match="likelihood poisson: choose one of multinomial"):
        replace(of.predicted, likelihood="poisson")
    with pytest.raises(InputError, match="needs the features"):
        pick("lcmd", Candidates(of.ids_N, of.predicted, 40))
    with pytest.raises(InputError, match="expected_votes"):
        scores.entropy(replace(of, expected_votes=1000))
