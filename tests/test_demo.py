"""The galaxies drawn by the program: repeatable, of known truth, and with the truth visible in the picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from zoobot.galaxies import demo
from zoobot.galaxies.demo import DemoGalaxy, draw, survey
from zoobot.galaxies.questions import load_questions

Floats = npt.NDArray[np.float64]

QUESTIONS = load_questions("demo")
SIZE_PX = 64
# A galaxy seen face-on, large, bright and sharp, with neither arms nor bar.
CLEAR = demo._Latents(
    radius=0.14,
    log_brightness=1.3,
    axis_ratio=0.9,
    bulge_to_total=0.2,
    bulge_index=2.0,
    arm_contrast=0.0,
    bar_strength=0.0,
    companion=0.0,
    artifact=0.0,
    seeing=0.03,
    angle=0.5,
    bar_angle=1.0,
)


@pytest.fixture(scope="module")
def galaxies() -> list[DemoGalaxy]:
    return list(survey(600, seed=1, size_px=SIZE_PX))


def assert_same(a: DemoGalaxy, b: DemoGalaxy) -> None:
    assert (a.id_str, a.kind, a.fractions, a.votes) == (b.id_str, b.kind, b.fractions, b.votes)
    np.testing.assert_array_equal(a.image, b.image)


def light_above_sky(galaxy: DemoGalaxy) -> Floats:
    """Grey levels above the sky, shape (Y, X)."""
    light = galaxy.image.astype(np.float64).mean(axis=2)
    return np.asarray(light - np.median(light))


def centred_coordinates() -> tuple[Floats, Floats]:
    centres = np.arange(SIZE_PX) - (SIZE_PX - 1) / 2
    x, y = np.meshgrid(centres, centres)
    return x, y


def ellipticity(galaxy: DemoGalaxy) -> float:
    """(a² - b²) / (a² + b²) for the axes a and b of the second moments within 22 pixels."""
    x, y = centred_coordinates()
    weight = np.clip(light_above_sky(galaxy) - 10, 0, None) * (np.hypot(x, y) < 22)
    (xx, xy), (_, yy) = np.cov(np.stack([x.ravel(), y.ravel()]), aweights=weight.ravel() + 1e-9)
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def inner_quadrupole(galaxy: DemoGalaxy) -> float:
    """How much the light 1 to 5 pixels from the centre is drawn out along one direction."""
    x, y = centred_coordinates()
    ring = (np.hypot(x, y) > 1) & (np.hypot(x, y) < 5)
    return float(abs((light_above_sky(galaxy) * np.exp(2j * np.arctan2(y, x)))[ring].mean()))


def test_a_galaxy_depends_on_seed_and_index_alone() -> None:
    third_of_many = list(survey(4, seed=3, size_px=SIZE_PX))[3]
    assert third_of_many.id_str == "demo_000003"
    assert_same(third_of_many, draw(3, seed=3, size_px=SIZE_PX))
    assert_same(third_of_many, draw(3, seed=3, size_px=SIZE_PX))


def test_another_seed_or_index_gives_another_galaxy() -> None:
    galaxy = draw(3, seed=3, size_px=SIZE_PX)
    for other in (draw(3, seed=4, size_px=SIZE_PX), draw(4, seed=3, size_px=SIZE_PX)):
        assert (galaxy.image != other.image).mean() > 0.5
        assert galaxy.fractions != other.fractions


def test_the_size_changes_only_the_sampling() -> None:
    for index in range(20):
        small, large = (draw(index, seed=2, size_px=size_px) for size_px in (32, 128))
        assert (small.kind, small.fractions, small.votes) == (large.kind, large.fractions, large.votes)
        binned = large.image.astype(np.float64).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        assert abs(binned - small.image).mean() < 12


def test_columns_are_those_of_the_question_set(galaxies: list[DemoGalaxy]) -> None:
    columns = [column for question in QUESTIONS for column in question.columns]
    for galaxy in galaxies:
        assert list(galaxy.fractions) == columns
        assert list(galaxy.votes) == columns


def test_fractions_of_a_question_sum_to_one(galaxies: list[DemoGalaxy]) -> None:
    for galaxy in galaxies:
        assert all(0 <= fraction <= 1 for fraction in galaxy.fractions.values())
        for question in QUESTIONS:
            assert sum(galaxy.fractions[column] for column in question.columns) == pytest.approx(1, abs=1e-12)


def test_a_question_is_answered_by_those_who_gave_the_answer_before(galaxies: list[DemoGalaxy]) -> None:
    for galaxy in galaxies:
        for question in QUESTIONS.questions[1:]:
            n_votes = sum(galaxy.votes[column] for column in question.columns)
            assert n_votes == sum(galaxy.votes[column] for column in question.after)


def test_votes_of_a_galaxy_everybody_agrees_on() -> None:
    sure = {
        column: float(column.endswith(("featured-or-disk", "_no")))
        for question in QUESTIONS
        for column in question.columns
    }
    votes = demo._cast_votes(sure, np.random.default_rng(0))
    n_volunteers = votes["smooth-or-featured_featured-or-disk"]
    assert n_volunteers > 30
    assert votes == {column: n_volunteers * int(fraction) for column, fraction in sure.items()}


def test_votes_follow_the_fractions(galaxies: list[DemoGalaxy]) -> None:
    n_root = np.array([sum(g.votes[column] for column in QUESTIONS.root.columns) for g in galaxies])
    assert ((n_root >= 38) & (n_root <= 60)).mean() > 0.8
    for column in QUESTIONS.root.columns:
        expected = np.array([g.fractions[column] for g in galaxies]) * n_root
        assert sum(g.votes[column] for g in galaxies) == pytest.approx(expected.sum(), rel=0.1)


def test_common_and_rare_galaxies(galaxies: list[DemoGalaxy]) -> None:
    shares = {kind: count / len(galaxies) for kind, count in Counter(g.kind for g in galaxies).items()}
    assert shares == {kind: pytest.approx(share, abs=0.06) for kind, share in demo.KIND_SHARES.items()}

    def majority(column: str) -> float:
        return float(np.mean([g.fractions[column] > 0.5 for g in galaxies]))

    assert 0.50 < majority("smooth-or-featured_smooth") < 0.66
    assert 0.30 < majority("smooth-or-featured_featured-or-disk") < 0.46
    assert 0.005 < majority("smooth-or-featured_artifact") < 0.04
    assert 0.07 < majority("disk-edge-on_yes") < 0.16
    assert 0.15 < majority("has-spiral-arms_yes") < 0.27
    assert 0.04 < majority("bar_yes") < 0.10
    assert 0.01 < majority("merging_yes") < 0.06


def test_in_the_world_of_consensus_each_question_that_is_reached_has_one_vote(galaxies: list[DemoGalaxy]) -> None:
    questions = load_questions("demo")
    for galaxy in galaxies[:40]:
        agreed = draw(int(galaxy.id_str[-6:]), 1, 16, "consensus").votes
        for question in questions:
            most = max(question.columns, key=galaxy.votes.__getitem__)
            asked = not question.after or any(agreed[column] for column in question.after)
            assert {c: agreed[c] for c in question.columns} == {c: int(asked and c == most) for c in question.columns}


def test_some_galaxies_are_ambiguous(galaxies: list[DemoGalaxy]) -> None:
    smooth = np.array([g.fractions["smooth-or-featured_smooth"] for g in galaxies])
    assert 0.1 < ((smooth > 0.3) & (smooth < 0.7)).mean() < 0.35


def test_images_are_well_exposed(galaxies: list[DemoGalaxy]) -> None:
    for galaxy in galaxies:
        assert galaxy.image.dtype == np.uint8
        assert galaxy.image.shape == (SIZE_PX, SIZE_PX, 3)
        assert (galaxy.image == 255).mean() < 0.05
        assert (galaxy.image == 0).mean() < 0.25
        assert 10 < np.median(galaxy.image) < 80
        assert galaxy.image.max() > np.median(galaxy.image) + 30


@pytest.mark.parametrize(
    ("latent", "column"),
    [
        ("bar_strength", "bar_yes"),
        ("arm_contrast", "has-spiral-arms_yes"),
        ("companion", "merging_yes"),
        ("artifact", "smooth-or-featured_artifact"),
    ],
)
def test_a_stronger_feature_gets_more_votes_until_it_is_clear(latent: str, column: str) -> None:
    fractions = [demo._vote_fractions(replace(CLEAR, **{latent: s}))[column] for s in np.linspace(0, 1, 21)]
    assert all(low < high for low, high in pairwise(fractions))
    assert max(high - low for low, high in pairwise(fractions)) < 0.2
    assert fractions[0] < 0.15
    assert fractions[-1] > 0.9


def test_what_is_faint_or_small_looks_smooth() -> None:
    barred_spiral = replace(CLEAR, bar_strength=0.8, arm_contrast=0.8)
    faint, small = replace(barred_spiral, log_brightness=0.3), replace(barred_spiral, radius=0.055, seeing=0.045)
    clear_votes = demo._vote_fractions(barred_spiral)
    assert clear_votes["smooth-or-featured_smooth"] < 0.1
    assert clear_votes["bar_yes"] > 0.85
    for hard_to_see in (faint, small):
        votes = demo._vote_fractions(hard_to_see)
        assert votes["smooth-or-featured_smooth"] > 0.6
        assert votes["bar_yes"] < 0.3


def test_half_the_light_of_a_profile_is_within_its_radius() -> None:
    x, y = demo._pixel_centres(256)
    for index in (0.5, 1.0, 2.0):
        profile = demo._sersic(x, y, 0.08, index)
        assert profile.mean() == pytest.approx(1)
        assert profile[np.hypot(x, y) < 0.08].sum() / profile.sum() == pytest.approx(0.5, abs=0.03)


def test_blobs_have_their_flux_and_place() -> None:
    x, y = demo._pixel_centres(SIZE_PX)
    blobs = demo._blobs(x, y, np.array([-0.2, 0.2]), np.array([0.1, 0.1]), 0.03, np.array([1.0, 3.0]))
    assert blobs.mean() == pytest.approx(4)
    assert (blobs * x).mean() / blobs.mean() == pytest.approx((1 * -0.2 + 3 * 0.2) / 4)
    assert (blobs * y).mean() / blobs.mean() == pytest.approx(0.1)


def test_edge_on_galaxies_are_drawn_out(galaxies: list[DemoGalaxy]) -> None:
    mean = {kind: np.mean([ellipticity(g) for g in galaxies if g.kind == kind]) for kind in ("edge-on", "smooth")}
    assert mean["edge-on"] > mean["smooth"] + 0.2


def test_bars_show_in_the_inner_light(galaxies: list[DemoGalaxy]) -> None:
    face_on = [g for g in galaxies if g.fractions["disk-edge-on_no"] > 0.8]
    bar = [g.fractions["bar_yes"] for g in face_on]
    assert np.corrcoef(bar, [inner_quadrupole(g) for g in face_on])[0, 1] > 0.55


def test_every_prior_belongs_to_a_latent() -> None:
    assert list(demo._PRIORS) == list(demo._Latents.__dataclass_fields__)
    for priors in demo._PRIORS_OF_KIND.values():
        assert set(priors) <= set(demo._PRIORS)
