"""The Bayesian head: numbers by hand, an independent computation, the properties of a posterior, then faults."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax

from zoobot import metrics
from zoobot.errors import InputError
from zoobot.galaxies.tasks import Group
from zoobot.models import gaussian_process, head
from zoobot.models.gaussian_process import PriorDraws, Tuned, Votes

PAIR = (Group("bar", ("label", "not_label")),)
THREE = (Group("smooth", ("a", "b", "c")),)
Floats = npt.NDArray[np.float64]


def simulated(n: int, n_features: int, n_answers: int, n_votes: int, rho: float, seed: int) -> tuple[Floats, Floats]:
    """Features, and votes with correlation rho."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, n_features))
    weights = np.concatenate([random.normal(0, 0.7, (n_features, n_answers - 1)), np.zeros((n_features, 1))], axis=1)
    probabilities = softmax(features @ weights, axis=1)
    if rho:
        probabilities = np.stack([random.dirichlet(p * (1 - rho) / rho + 1e-9) for p in probabilities])
    return features, np.stack([random.multinomial(n_votes, p) for p in probabilities]).astype(float)


def fractions(samples_N_K_A: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = samples_N_K_A / samples_N_K_A.sum(axis=-1, keepdims=True)
    return found


def test_without_information_the_prediction_is_the_share_of_all_votes() -> None:
    counts = np.array([[3.0, 1.0]] * 50)  # 150 of 200
    fitted = head.fit(np.zeros((50, 2)), counts, PAIR)
    predicted = fractions(fitted.sample(np.zeros((1, 2)), 100, np.random.default_rng(0)))
    assert predicted[0, :, 0].mean() == pytest.approx(0.75, abs=0.02)


def test_one_vote_by_hand() -> None:
    """Galaxies at 0, where the prior variance of the log-odds is twice the amplitude, and one vote for the answer."""
    tuned = Tuned(log_amplitude=0.0, rho=0.0)
    process = gaussian_process.condition(np.zeros((1, 3)), Votes(np.ones(1), np.ones(1)), tuned)
    (mean,), (variance,) = process.leave_one_out(np.zeros((1, 3)), Votes(np.zeros(1), np.zeros(1)))
    prior_mean = np.log(2)  # one vote of one, and one more for each of two answers

    best = minimize_scalar(lambda f: (f - prior_mean) ** 2 / 4 + np.log1p(np.exp(-f)), tol=1e-9).x
    assert mean == pytest.approx(best, abs=1e-4)
    assert variance == pytest.approx(1 / (1 / 2 + expit(best) * expit(-best)), rel=1e-4)
    (without,), (prior,) = process.leave_one_out(np.zeros((1, 3)), Votes(np.ones(1), np.ones(1)))
    assert (without, prior) == pytest.approx((prior_mean, 2), abs=1e-3), "without its vote, a lone galaxy has the prior"


def test_agrees_with_the_textbook_on_a_process_without_landmarks() -> None:
    """Rasmussen & Williams, equations 3.17, 3.21 and 3.24, with dense matrices."""
    features, counts = simulated(40, 3, 2, 10, 0.1, seed=1)
    x, new = features[:30] / 3, features[30:] / 3
    tuned, votes = Tuned(1.0, 0.1), Votes(counts[:30, 0], counts[:30].sum(axis=1))
    process = gaussian_process.condition(x, votes, tuned)
    worth = votes.discounted(0.1)

    def covariance(a: Floats, b: Floats) -> Floats:
        distance = ((a[:, None] - b) ** 2).sum(axis=2)
        return np.asarray(np.e * (np.exp(-distance / 2) + np.e * a @ b.T + 1))

    prior = covariance(x, x)
    f: Floats = np.zeros(30)
    for _ in range(100):
        chance = expit(process.prior_mean + f)
        curvature = np.diag(worth.totals_N * chance * (1 - chance))
        gradient = worth.chosen_N - worth.totals_N * chance
        f = np.asarray(np.linalg.solve(np.linalg.inv(prior + 1e-9 * np.eye(30)) + curvature, curvature @ f + gradient))
    cross = covariance(new, x)
    mean = process.prior_mean + cross @ gradient
    inner = np.linalg.inv(prior + np.diag(1 / np.diag(curvature)))
    variance = covariance(new, new).diagonal() - np.einsum("ij,jk,ik->i", cross, inner, cross)
    got = process.leave_one_out(new, Votes(np.zeros(10), np.zeros(10)))
    assert got[0] == pytest.approx(mean, abs=1e-3) and got[1] == pytest.approx(variance, rel=1e-2)
    among_new = covariance(new, new) - cross @ inner @ cross.T
    assert process.covariance(new[:4], new) == pytest.approx(among_new[:4], abs=1e-2)


def test_leave_one_out_is_what_a_fit_without_the_galaxy_gives() -> None:
    features, counts = simulated(60, 3, 2, 5, 0.1, seed=2)
    x, votes, tuned = features / 3, Votes(counts[:, 0], counts.sum(axis=1)), Tuned(1.0, 0.1)
    means, variances = gaussian_process.condition(x, votes, tuned).leave_one_out(x, votes)
    for row in range(5):
        others = np.flatnonzero(np.arange(60) != row)
        without = gaussian_process.condition(x[others], votes.take(others), tuned)
        (mean,), (variance,) = without.leave_one_out(x[[row]], Votes(np.zeros(1), np.zeros(1)))
        assert means[row] == pytest.approx(mean, abs=0.1) and variances[row] == pytest.approx(variance, rel=0.1)


def test_landmarks_span_nearly_all_when_they_are_part_of_many_galaxies(monkeypatch: pytest.MonkeyPatch) -> None:
    features, counts = simulated(300, 2, 2, 20, 0.1, seed=3)
    samples = []
    for most in (1000, 80):
        monkeypatch.setattr(gaussian_process, "_LANDMARKS", most)
        fitted = head.fit(features, counts, PAIR)
        assert len(fitted.questions[0].processes[0].landmarks_L_H) == min(300, most)
        samples.append(fractions(fitted.sample(features, 30, np.random.default_rng(0))).mean(axis=1))
    assert np.abs(samples[0] - samples[1]).max() < 0.05


def test_single_votes_have_no_correlation_and_one_galaxy_is_enough() -> None:
    features, counts = simulated(200, 3, 2, 1, 0.0, seed=0)
    assert head.fit(features, counts, PAIR).questions[0].rho == 0
    assert np.isfinite(head.fit(features[:1], counts[:1], PAIR).sample(features, 5, np.random.default_rng(0))).all()


def test_a_question_nobody_was_asked_keeps_its_prior() -> None:
    fitted = head.fit(np.ones((4, 2)), np.array([[1.0, 2, 0, 0]] * 4), (*PAIR, Group("b", ("x", "y"))))
    samples = fitted.sample(np.ones((3, 2)), 50, np.random.default_rng(0))
    assert samples.shape == (3, 50, 4) and np.isfinite(samples).all()
    assert fractions(samples[..., 2:]).mean(axis=1) == pytest.approx(0.5, abs=1e-3)


def test_the_search_leaves_its_start() -> None:
    """Scipy's own first step from 0 is below any tolerance, so a slope of 1 would stay 1."""
    found = gaussian_process.search(lambda step: float(50 * ((step - [0.7, -0.4]) ** 2).sum()), np.zeros(2), 0.3)
    assert found == pytest.approx([0.7, -0.4], abs=0.1)
    features, counts = simulated(300, 4, 2, 1, 0.0, seed=5)
    features[150:] *= -1  # chosen galaxies that contradict the others
    slope = head.fit(features, counts, PAIR, np.arange(300) < 150).questions[0].slope
    assert abs(slope - 1) > 0.05


def test_the_loss_that_tunes_it_has_no_noise() -> None:
    """A mean over few random draws makes wide posteriors look good: 64 quantiles agree with 20,000."""
    random = np.random.default_rng(0)
    mean_N, variance_N = random.normal(0, 3, 50), random.uniform(1, 60, 50)
    counts_N_2 = np.stack([random.random(50) < expit(mean_N), random.random(50) < 0], axis=1).astype(float)
    counts_N_2[:, 1] = 1 - counts_N_2[:, 0]

    def loss(points_Q: Floats) -> float:
        chance = expit(mean_N[:, None] + np.sqrt(variance_N)[:, None] * points_Q)
        return float(gaussian_process.vote_losses(np.stack([chance, 1 - chance], axis=2), counts_N_2, 0.0).mean())

    assert loss(gaussian_process.normal_points(64)) == pytest.approx(
        loss(gaussian_process.normal_points(20_000)), abs=2e-3
    )


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.3])
def test_the_correlation_of_votes_is_found(rho: float) -> None:
    features, counts = simulated(500, 4, 3, 30, rho, seed=2)
    assert head.fit(features, counts, THREE).questions[0].rho == pytest.approx(rho, abs=0.02 + 0.15 * rho)


def test_galaxies_chosen_for_their_scatter_do_not_make_the_head_unsure_of_the_others() -> None:
    fair = simulated(600, 4, 2, 30, 0.02, seed=7)
    rng = np.random.default_rng(8)
    chosen = rng.normal(size=(150, 4))  # volunteers disagree about these, whatever the features
    counts = np.stack([rng.multinomial(30, p) for p in rng.dirichlet([0.6, 0.6], 150)])
    features, votes = np.concatenate([fair[0][:60], chosen]), np.concatenate([fair[1][:60], counts])
    losses = []
    for drawn in (np.arange(210) < 60, None):
        samples = head.fit(features, votes, PAIR, drawn).sample(fair[0][60:], 30, np.random.default_rng(0))
        losses.append(metrics.loss(metrics.PredictedVotes(samples, PAIR, "dirichlet_multinomial"), fair[1][60:]))
    assert losses[0] < losses[1] - 0.02
    none, everything = (head.fit(features, votes, PAIR, drawn).questions[0] for drawn in (np.zeros(210, bool), None))
    assert (none.slope, none.rho) == (everything.slope, everything.rho)


def test_a_few_galaxies_drawn_at_random_do_not_outweigh_all_others() -> None:
    features, votes = simulated(400, 4, 2, 20, 0.1, seed=7)
    odd = votes.copy()
    odd[:4] = odd[:4, ::-1]  # the other answer than their features say
    losses = []
    for drawn in (np.arange(200) < 4, None):
        samples = head.fit(features[:200], odd[:200], PAIR, drawn).sample(features[200:], 30, np.random.default_rng(0))
        losses.append(metrics.loss(metrics.PredictedVotes(samples, PAIR, "dirichlet_multinomial"), votes[200:]))
    assert losses[0] < losses[1] + 0.02


def test_few_samples_are_as_good_as_many() -> None:
    """Samples are quantiles of each galaxy's posterior, and each question is averaged by itself."""
    features, counts = simulated(60, 4, 2, 20, 0.1, seed=9)
    groups = tuple(Group(f"q{i}", ("a", "b")) for i in range(8))
    fitted = head.fit(features[:30], np.tile(counts[:30], 8), groups)
    few, many = (
        metrics.loss(
            metrics.PredictedVotes(
                fitted.sample(features[30:], k, np.random.default_rng(0)), groups, "dirichlet_multinomial"
            ),
            np.tile(counts[30:], 8),
        )
        for k in (30, 1000)
    )
    assert few == pytest.approx(many, abs=0.03 * 8)


@pytest.mark.long
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Simulation-based calibration (Talts et al. 2018): truths from the head's own prior, votes from the truths."""
    inside = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        x = random.normal(size=(60, 6)) / 6**0.5
        tuned = Tuned(float(random.normal(2.0, 0.6)), 0.0)
        truth = PriorDraws(6, 1, random).at(x, tuned)[:, 0]
        chosen = random.binomial(20, expit(truth)).astype(float)
        counts = np.stack([chosen, 20 - chosen], axis=1)
        fitted = head.fit(x[:40], counts[:40], PAIR, scale=head.Scale(np.zeros(6), 1.0))
        sign = 1 if fitted.questions[0].order[0] == 0 else -1
        process = fitted.questions[0].processes[0]
        samples = sign * fitted.questions[0].slope * process.sample(x[40:], 200, random)
        inside += list(np.abs((samples < truth[40:, None]).mean(axis=1) - 0.5) < 0.45)
    assert 0.85 < np.mean(inside) < 0.95


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_the_order_of_galaxies_and_of_answers_does_not_matter(seed: int, n_answers: int) -> None:
    features, counts = simulated(30, 2, n_answers, 8, 0.2, seed)
    groups = (Group("q", tuple("abcd"[:n_answers])),)
    random = np.random.default_rng(seed)
    order, answers = random.permutation(30), random.permutation(n_answers)
    scale = head.Scale.of(features)
    means = []
    for rows, columns in ((np.arange(30), np.arange(n_answers)), (order, answers)):
        fitted = head.fit(features[rows], counts[rows][:, columns], groups, scale=scale)
        found = fractions(fitted.sample(features, 50, np.random.default_rng(0))).mean(axis=1)
        means.append(found[:, np.argsort(columns)])
    different_totals = len(set(counts.sum(axis=0))) == n_answers
    assert np.abs(means[0] - means[1]).max() < (0.05 if different_totals else 0.5)


def test_covariances_are_those_of_the_samples() -> None:
    features, counts = simulated(100, 3, 3, 20, 0.2, seed=3)
    fitted, some = head.fit(features, counts, THREE), features[:4].astype(np.float32)
    probabilities = fractions(fitted.sample(some, 4000, np.random.default_rng(0))).astype(np.float64)
    left: Floats = np.ones(probabilities.shape[:2])
    for answer, covariance in zip(fitted.orders[0], fitted.covariances(some, some[:3]), strict=False):
        drawn = np.cov(logit(probabilities[:, :, answer] / left))
        assert covariance == pytest.approx(drawn[:, :3], abs=0.1 * drawn.max())
        left = left - probabilities[:, :, answer]


def test_samples_are_joint_over_galaxies_seeded_and_concentrations_say_rho() -> None:
    features, counts = simulated(100, 3, 3, 20, 0.2, seed=3)
    fitted = head.fit(features, counts, THREE)
    twice = [fitted.sample(features[[0, 0, 1]], 7, np.random.default_rng(5)) for _ in range(2)]
    assert (twice[0] == twice[1]).all() and (twice[0][0] == twice[0][1]).all()
    rho = fitted.questions[0].rho
    assert twice[0].sum(axis=-1) == pytest.approx((1 - rho) / rho, rel=1e-4)
    far, near = np.full((1, 3), 8.0), np.full((1, 3), 8.01)
    logits = (
        fitted.questions[0]
        .processes[0]
        .sample(fitted.scale.apply(np.concatenate([far, near])), 200, np.random.default_rng(0))
    )
    assert np.corrcoef(logits)[0, 1] > 0.99, "galaxies that look alike, far from all labels, are uncertain together"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="finite"):
        head.fit(np.array([[bad]]), np.array([[1.0, 1.0]]), PAIR)


def test_where_features_lie_how_they_are_turned_and_their_scale_do_not_matter() -> None:
    features, counts = simulated(60, 3, 2, 10, 0.1, seed=4)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    means = []
    for moved in (features, 9 + 4 * features @ turn, np.concatenate([features, np.full((60, 5), 7.0)], axis=1)):
        samples = head.fit(moved, counts, PAIR).sample(moved, 50, np.random.default_rng(0))
        means.append(fractions(samples).mean(axis=1))
    assert np.abs(means[0] - means[1]).max() < 2e-3 and np.abs(means[0] - means[2]).max() < 2e-3


def test_what_is_saved_comes_back_and_the_file_is_byte_stable(tmp_path: Path) -> None:
    features, counts = simulated(60, 3, 3, 10, 0.1, seed=5)
    fitted = head.fit(features, counts, THREE)
    for name in ("a.npz", "b.npz"):
        fitted.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    again = head.load(tmp_path / "a.npz")
    samples = [one.sample(features, 5, np.random.default_rng(0)) for one in (fitted, again)]
    assert (samples[0] == samples[1]).all() and again.questions[0].slope == fitted.questions[0].slope
