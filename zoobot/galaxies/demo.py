"""The ``demo`` survey: galaxies drawn by the program, whose true vote fractions are known.

A galaxy starts as latent parameters (size, brightness, inclination, bar strength, ...). The picture is rendered from
them, and the vote fractions are smooth functions of the same parameters: faint or small galaxies look smooth.

Axes: C colour (r, g, b), Y and X pixels, K blobs. Lengths are fractions of the frame's side. Light is surface
brightness in units of the sky noise in one pixel of a 64-pixel frame, whatever size is drawn; flux is its mean over
the frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from zoobot.galaxies.questions import QuestionTree, load_questions

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Kind = Literal["smooth", "edge-on", "spiral", "barred", "merging", "artifact"]

KIND_SHARES: Mapping[Kind, float] = {
    "smooth": 0.50,
    "edge-on": 0.12,
    "spiral": 0.22,
    "barred": 0.11,
    "merging": 0.03,
    "artifact": 0.02,
}

_SKY_LEVEL = 1.5  # keeps most of the noise of an empty sky above black
_SKY_ELECTRONS = 100.0  # sets how fast photon noise grows with brightness
_SOFTENING, _WHITE = 3.5, 260.0  # the stretch is linear below the first, logarithmic above, and full at the second

# Colours (r, g, b) of stars, by age.
_OLD_C, _DISC_C, _YOUNG_C = np.array([[1.26, 0.97, 0.66], [1.02, 1.00, 0.95], [0.70, 0.98, 1.30]])


@dataclass(frozen=True)
class DemoGalaxy:
    """A galaxy whose truth is known.

    ``image`` has shape (size, size, 3). ``fractions`` has the true vote fraction of every answer column, in [0, 1],
    given that its question is asked: they sum to 1 per question. ``votes`` are drawn from these fractions.
    """

    id_str: str
    kind: Kind
    image: Image
    fractions: dict[str, float]
    votes: dict[str, int]


@dataclass(frozen=True)
class _Latents:
    """The parameters of a galaxy. Each is drawn independently, from the prior of its name."""

    radius: float  # half-light radius along the major axis
    log_brightness: float  # log10 of the mean surface brightness within that radius
    axis_ratio: float  # minor over major axis, in (0, 1]
    bulge_to_total: float  # share of the light, in [0, 1]
    bulge_index: float  # Sersic index
    arm_contrast: float  # in [0, 1]
    bar_strength: float  # in [0, 1]
    companion: float  # 0: none; 1: nearly equal, with long tidal tails
    artifact: float  # 0: none; 1: hides the galaxy
    seeing: float  # full width at half maximum of a point source
    angle: float  # of the major axis, radians
    bar_angle: float  # in the plane of the disc, from the major axis, radians


# Scaled beta distributions: (a, b, lowest, highest).
_Prior = tuple[float, float, float, float]
_PRIORS: dict[str, _Prior] = {
    "radius": (2, 2, 0.055, 0.16),
    "log_brightness": (2, 2, 0.25, 1.5),
    "axis_ratio": (1.5, 1.2, 0.4, 1),
    "bulge_to_total": (2, 4, 0, 0.6),
    "bulge_index": (2, 2, 1.5, 4),
    "arm_contrast": (1.2, 5, 0, 0.5),
    "bar_strength": (1, 5, 0, 0.6),
    "companion": (0.4, 5.5, 0, 0.9),
    "artifact": (0.3, 8, 0, 0.6),
    "seeing": (2, 3, 0.026, 0.05),
    "angle": (1, 1, 0, np.pi),
    "bar_angle": (1, 1, 0, np.pi),
}
# Priors that differ for a kind. Ranges overlap: a spiral with weak arms looks like a smooth galaxy, also to volunteers.
_PRIORS_OF_KIND: dict[Kind, dict[str, _Prior]] = {
    "smooth": {"axis_ratio": (2, 1.2, 0.42, 1), "radius": (2, 2, 0.05, 0.155), "bulge_to_total": (2.5, 1.1, 0.15, 1)},
    "edge-on": {"axis_ratio": (1.3, 2.8, 0.12, 0.45), "radius": (2, 2, 0.07, 0.18)},
    "spiral": {"arm_contrast": (2.5, 1.3, 0.1, 1), "radius": (2.5, 2, 0.065, 0.17)},
    "barred": {"arm_contrast": (1.5, 1.5, 0, 1), "radius": (2.5, 1.5, 0.075, 0.17), "bar_strength": (3, 1.3, 0.2, 1)},
    "merging": {"arm_contrast": (1, 2, 0, 0.8), "radius": (2, 3, 0.06, 0.13), "companion": (2.2, 1.2, 0.2, 1)},
    "artifact": {"artifact": (1.8, 1, 0.15, 1), "log_brightness": (2, 3, 0.25, 1.2), "bulge_to_total": (2, 2, 0, 1)},
}


@dataclass(frozen=True)
class World:
    """A variant of the survey, where acquisition functions succeed or fail for a known reason."""

    shares: Mapping[Kind, float] = field(default_factory=lambda: KIND_SHARES)
    priors: Mapping[str, _Prior] = field(default_factory=dict)  # these replace the priors of every kind
    copied: float = 0.0  # share of galaxies that repeat one of ORIGINALS, rotated, with other noise and votes
    unpredictable: tuple[Kind, ...] = ()  # the votes on these say nothing about the galaxy: nothing can be learnt
    consensus: bool = False  # each galaxy has one vote, for what most of its volunteers said


ORIGINALS = 12
WORLDS: Mapping[str, World] = {
    "standard": World(),
    "rare_bars": World({"spiral": 0.92, "barred": 0.08}, {"log_brightness": (2, 2, 0.7, 1.5)}),
    "duplicates": World(copied=0.6),
    "artifacts": World({**{kind: 0.6 * share for kind, share in KIND_SHARES.items()}, "artifact": 0.412}),
    "faint": World(priors={"log_brightness": (2, 3, 0.1, 1.2), "seeing": (2, 2, 0.04, 0.07)}),
    "unpredictable": World(unpredictable=("edge-on", "spiral")),
    "consensus": World(consensus=True),
}


def draw(index: int, seed: int, size_px: int, world: str = "standard") -> DemoGalaxy:
    """Galaxy ``index`` (0, 1, ...) of the survey with this ``seed`` (0, 1, ...); it does not depend on other galaxies.

    Votes, fractions and layout are the same at every size; only the sampling and the noise of the pixels differ.
    """
    of_world = WORLDS[world]
    streams = np.random.SeedSequence([seed, index]).spawn(5)
    latents_rng, votes_rng, layout_rng, noise_rng, world_rng = (np.random.default_rng(stream) for stream in streams)
    if world_rng.random() < of_world.copied:
        original = np.random.SeedSequence([seed, index % ORIGINALS]).spawn(4)
        latents_rng, layout_rng = np.random.default_rng(original[0]), np.random.default_rng(original[2])
        kind, latents = _draw_latents(latents_rng, of_world)
        latents = replace(latents, angle=float(world_rng.uniform(0, np.pi)))
    else:
        kind, latents = _draw_latents(latents_rng, of_world)
    answered = _draw_latents(world_rng, WORLDS["standard"])[1] if kind in of_world.unpredictable else latents
    fractions = _vote_fractions(answered)
    image = _expose(_scene(latents, size_px, layout_rng), latents.seeing, noise_rng)
    votes = _cast_votes(fractions, votes_rng)
    return DemoGalaxy(
        f"demo_{index:06d}", kind, image, fractions, _most_frequent(votes) if of_world.consensus else votes
    )


def survey(n_galaxies: int, seed: int, size_px: int, world: str = "standard") -> Iterator[DemoGalaxy]:
    """Galaxies 0 to ``n_galaxies - 1``, drawn one at a time."""
    return (draw(index, seed, size_px, world) for index in range(n_galaxies))


def _draw_latents(rng: np.random.Generator, world: World) -> tuple[Kind, _Latents]:
    kinds = list(world.shares)
    kind = kinds[rng.choice(len(kinds), p=list(world.shares.values()))]
    priors = {**_PRIORS, **_PRIORS_OF_KIND[kind], **world.priors}
    return kind, _Latents(**{n: low + (high - low) * float(rng.beta(a, b)) for n, (a, b, low, high) in priors.items()})


# The answers of volunteers.


def _vote_fractions(latents: _Latents) -> dict[str, float]:
    """The true fraction of each answer column, in [0, 1]; a feature that is hard to see counts for less."""
    bright = _sigmoid(4.5 * (latents.log_brightness - 0.62))
    seen = bright * _sigmoid(1.4 * (latents.radius / latents.seeing - 2.1))  # 0: a faint smudge; 1: every detail shows
    face_on = _sigmoid(14 * (latents.axis_ratio - 0.42))
    blurred_axis_ratio = float(np.hypot(latents.axis_ratio, 0.35 * latents.seeing / latents.radius))
    disc = 0.3 * seen * (1 - latents.bulge_to_total)
    arms = seen * face_on * latents.arm_contrast
    bar = seen * face_on * latents.bar_strength
    edge = _sigmoid(18 * (0.41 - blurred_axis_ratio))
    merging = latents.companion * (0.45 + 0.55 * bright)

    plain = (1 - disc) * (1 - arms) * (1 - 0.9 * bar) * (1 - 0.9 * edge * (0.2 + 0.8 * seen)) * (1 - 0.5 * merging)
    p_featured = 0.04 + 0.92 * _sigmoid(8 * (0.6 - plain))
    p_artifact = 0.01 + 0.96 * _sigmoid(11 * (latents.artifact - 0.45))
    p_yes = {
        "disk-edge-on": 0.02 + 0.95 * edge * (0.5 + 0.5 * seen),
        "has-spiral-arms": 0.07 + 0.90 * _sigmoid(10 * (arms - 0.28)),
        "bar": 0.04 + 0.92 * _sigmoid(10 * (bar - 0.38)),
        "merging": 0.02 + 0.95 * _sigmoid(10 * (merging - 0.42)),
    }
    return {
        "smooth-or-featured_smooth": (1 - p_artifact) * (1 - p_featured),
        "smooth-or-featured_featured-or-disk": (1 - p_artifact) * p_featured,
        "smooth-or-featured_artifact": p_artifact,
        **{f"{question}_{a}": value for question, p in p_yes.items() for a, value in (("yes", p), ("no", 1 - p))},
    }


def _cast_votes(fractions: Mapping[str, float], rng: np.random.Generator) -> dict[str, int]:
    """Counts per answer column. A question is asked of the volunteers whose answer led to it; the first of about 48."""
    votes: dict[str, int] = {}
    n_volunteers = max(5, int(rng.poisson(48)))
    for question in _questions():
        n_asked = sum(votes[column] for column in question.after) if question.after else n_volunteers
        counts = rng.multinomial(n_asked, [fractions[column] for column in question.columns])
        votes |= dict(zip(question.columns, counts.tolist(), strict=True))
    return votes


def _most_frequent(votes: Mapping[str, int]) -> dict[str, int]:
    """One vote for the most frequent answer to each question that this leads to."""
    agreed: dict[str, int] = {}
    for question in _questions():
        asked = not question.after or any(agreed[column] for column in question.after)
        first = max(question.columns, key=votes.__getitem__)
        agreed |= {column: int(asked and column == first) for column in question.columns}
    return agreed


@cache
def _questions() -> QuestionTree:
    return load_questions("demo")


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


# What is in the sky. These functions return light, of shape (Y, X) or (C, Y, X), at pixel centres x, y of shape (Y, X).


@cache
def _pixel_centres(size_px: int) -> tuple[Floats, Floats]:
    """x and y, in (-0.5, 0.5)."""
    centres = (np.arange(size_px) + 0.5) / size_px - 0.5
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return x, y


def _scene(latents: _Latents, size_px: int, rng: np.random.Generator) -> Floats:
    """The galaxy, its companion, unrelated neighbours and an artifact. Draws from ``rng`` do not depend on the size."""
    x, y = _pixel_centres(size_px)
    x0, y0 = rng.normal(0, 0.008, 2)
    winding = rng.choice([-1.0, 1.0])
    scene_C_Y_X = _galaxy(latents, x - x0, winding * (y - y0), rng)
    if latents.companion > 0.08:
        scene_C_Y_X += _companion(latents, x - x0, y - y0, rng)
    for _ in range(rng.poisson(0.7)):
        youth, distance, width = rng.uniform([0, 0.2, 0.004], [1, 0.6, 0.02])
        direction_K, flux_K = rng.uniform(0, 2 * np.pi, 1), 10 ** rng.uniform(-2.6, -1.3, 1)
        x_K, y_K = distance * np.cos(direction_K), distance * np.sin(direction_K)
        scene_C_Y_X += _tint((1 - youth) * _OLD_C + youth * _YOUNG_C, _blobs(x, y, x_K, y_K, width, flux_K))
    if latents.artifact > 0.05:
        scene_C_Y_X += _artifact(latents.artifact, x, y, rng)
    return scene_C_Y_X


def _galaxy(latents: _Latents, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Bulge, bar, and disc with arms; x and y are relative to the galaxy's centre."""
    radius, bulge = latents.radius, latents.bulge_to_total
    cos, sin = np.cos(latents.angle), np.sin(latents.angle)
    major, minor = x * cos + y * sin, y * cos - x * sin
    depth = minor / latents.axis_ratio  # with `major`, the coordinates in the plane of the disc
    bar = 0.42 * latents.bar_strength * (1 - bulge)
    disc_Y_X = (1 - bulge - bar) * _sersic(major, depth, 1.1 * radius, 1.0)
    bulge_radius, flattening = radius * (0.22 + 0.78 * bulge**1.5), (1 - latents.axis_ratio) * bulge**0.7
    old_Y_X = bulge * _sersic(major, minor, bulge_radius, latents.bulge_index, flattening)
    if bar > 0.02:
        flattening = 0.68 + 0.1 * latents.bar_strength
        old_Y_X += bar * _sersic(major, depth, 0.52 * radius, 0.55, flattening, latents.bar_angle)

    youth = np.clip(latents.arm_contrast, 0.15, 0.8) * (1 - 0.8 * bulge)
    disc_C = bulge * _OLD_C + (1 - bulge) * _DISC_C
    between_arms_C, arms_C = (disc_C + share * youth * (_YOUNG_C - disc_C) for share in (0.4, 1.0))
    arms_Y_X = disc_Y_X * _arms(latents, major, depth, rng)
    light_C_Y_X = _tint(_OLD_C, old_Y_X) + _tint(between_arms_C, disc_Y_X) + _tint(arms_C, arms_Y_X)
    redness = rng.normal(0, 0.09)
    flux = 2 * np.pi * radius**2 * latents.axis_ratio * 10**latents.log_brightness
    return _tint(flux * np.array([1 + redness, 1, 1 - redness]), light_C_Y_X)


def _tint(colour_C: Floats, light: Floats) -> Floats:
    return np.asarray(colour_C[:, None, None] * light)


def _sersic(x: Floats, y: Floats, radius: float, index: float, flattening: float = 0.0, angle: float = 0.0) -> Floats:
    """A Sersic profile of flux 1; its cusp, which no pixel resolves, is cut off."""
    from astropy.modeling.models import Sersic2D  # late: it takes 0.4 s, and most runs draw nothing

    cusp = Sersic2D.evaluate(0.06 * radius, 0.0, 1.0, radius, index, 0.0, 0.0, 0.0, 0.0)
    profile_Y_X = np.minimum(Sersic2D.evaluate(x, y, 1.0, radius, index, 0.0, 0.0, flattening, angle), cusp)
    return np.asarray(profile_Y_X / profile_Y_X.mean())


def _arms(latents: _Latents, major: Floats, depth: Floats, rng: np.random.Generator) -> Floats:
    """What logarithmic spiral arms from the ends of the bar add to a disc of light 1; below 0 between the arms."""
    n_arms = rng.choice([2, 2, 2, 3, 4])
    pitch_deg, clumpiness, phase = rng.uniform([12, 0, 0], [28, 0.35, 2 * np.pi])
    if latents.arm_contrast < 0.06:
        return np.zeros_like(major)
    radius = np.hypot(major, depth) / latents.radius + 1e-3
    azimuth = np.arctan2(depth, major) - latents.bar_angle
    turn = np.log(radius / 0.7) / np.tan(np.radians(pitch_deg))
    ridge = (0.5 + 0.5 * np.cos(n_arms * (azimuth - turn))) ** 2
    clumps = 1 + clumpiness * np.sin(5 * azimuth + 7 * radius + phase)
    squared = radius**2
    extent = squared / (squared + 0.3) * np.exp(-((squared / 10) ** 2))  # no arms in the bulge or far outside
    return np.asarray(latents.arm_contrast * extent * (2.8 * ridge * clumps - 0.75))


def _blobs(x: Floats, y: Floats, x_K: Floats, y_K: Floats, width: float, flux_K: Floats) -> Floats:
    """The sum of K round gaussians with standard deviation ``width``."""
    across_K_X = np.exp(-0.5 * ((x[0] - x_K[:, None]) / width) ** 2)
    down_K_Y = np.exp(-0.5 * ((y[:, 0] - y_K[:, None]) / width) ** 2)
    return np.asarray((down_K_Y * flux_K[:, None]).T @ across_K_X / (2 * np.pi * width**2))


def _companion(latents: _Latents, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """A second galaxy, and a tidal tail on the far side of each; a weaker companion has less of both."""
    strength, radius = latents.companion, latents.radius
    direction, distance = rng.uniform([0, 1.3 * radius], [2 * np.pi, 2.3 * radius])
    x0, y0 = distance * np.cos(direction), distance * np.sin(direction)
    log_brightness = latents.log_brightness - 1.1 * (1 - strength)
    companion = replace(latents, radius=radius * (0.4 + 0.5 * strength), log_brightness=log_brightness)
    axis_ratio, angle, bulge = rng.uniform([0.5, 0, 0.1], [1, np.pi, 0.9])
    companion = replace(
        companion, axis_ratio=axis_ratio, angle=angle, bulge_to_total=bulge, arm_contrast=0, bar_strength=0
    )
    light_C_Y_X = _galaxy(companion, x - x0, y - y0, rng)
    t_K = np.linspace(0, 1, 24)
    flux_K = 0.5 * strength**2 * np.pi * radius**2 * 10**latents.log_brightness * (1.2 - t_K) / t_K.size
    for x_start, y_start, away in ((0.0, 0.0, direction + np.pi), (x0, y0, direction)):
        reach, bend = rng.uniform([1.2, -1.8], [2.6, 1.8])
        out_K, turn_K = radius * (0.5 + reach * t_K), away + bend * t_K
        x_K, y_K = x_start + out_K * np.cos(turn_K), y_start + out_K * np.sin(turn_K)
        light_C_Y_X += _tint(0.5 * (_DISC_C + _YOUNG_C), _blobs(x, y, x_K, y_K, 0.22 * radius, flux_K))
    return light_C_Y_X


def _artifact(strength: float, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """A bright star with halo and spikes, or the trail of a satellite that passed while one colour was exposed."""
    x0, y0, angle, youth, width = rng.uniform([-0.2, -0.2, 0, 0, 0.006], [0.2, 0.2, np.pi, 1, 0.016])
    cos, sin = np.cos(angle), np.sin(angle)
    along, across = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
    if rng.uniform() < 0.4:
        trail_Y_X = 10 ** (2 * strength) * np.exp(-0.5 * (across / width) ** 2)
        return _tint(0.08 + np.eye(3)[rng.integers(3)], trail_Y_X)
    flux = 10 ** (3 * strength - 1.2)
    at_K = np.zeros(1)
    core_Y_X = _blobs(x - x0, y - y0, at_K, at_K, 0.008, np.array([0.8 * flux]))
    halo_Y_X = _blobs(x - x0, y - y0, at_K, at_K, 0.07, np.array([0.1 * flux]))
    spikes_Y_X = sum(np.exp(-np.abs(a) / 0.11 - 0.5 * (b / 0.005) ** 2) for a, b in ((along, across), (across, along)))
    return _tint(0.5 * (1 + (1 - youth) * _OLD_C + youth * _YOUNG_C), core_Y_X + halo_Y_X + 6 * flux * spikes_Y_X)


# What the camera records.


def _expose(scene_C_Y_X: Floats, seeing: float, rng: np.random.Generator) -> Image:
    """Atmosphere, sky, photon and read noise, then the stretch of Lupton et al. (2004) to uint8, shape (Y, X, C)."""
    size_px = scene_C_Y_X.shape[-1]
    sigma_px = seeing * size_px / 2.355
    light_C_Y_X = gaussian_filter(scene_C_Y_X, (0, sigma_px, sigma_px), mode="nearest", truncate=3.5)
    noise_C_Y_X = np.sqrt(1 + light_C_Y_X / np.sqrt(_SKY_ELECTRONS)) * size_px / 64
    light_C_Y_X += _SKY_LEVEL + noise_C_Y_X * rng.standard_normal(light_C_Y_X.shape)
    mean_Y_X = np.maximum(light_C_Y_X.mean(axis=0), 1e-3)
    stretch_Y_X = np.arcsinh(mean_Y_X / _SOFTENING) / np.arcsinh(_WHITE / _SOFTENING) / mean_Y_X
    rgb_C_Y_X = np.maximum(light_C_Y_X, 0) * stretch_Y_X  # one factor for all three keeps the colour
    rgb_C_Y_X /= np.maximum(rgb_C_Y_X.max(axis=0), 1)
    return np.ascontiguousarray(np.moveaxis(np.rint(255 * rgb_C_Y_X), 0, -1), dtype=np.uint8)
