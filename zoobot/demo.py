"""The ``demo`` survey: galaxies drawn by the program, whose true vote fractions are known.

A galaxy starts as latent parameters (size, brightness, inclination, bar strength, ...). The picture is rendered from them, and the
fractions of ``configs/questions/demo.yaml`` are smooth functions of the same parameters; what is faint or small looks smooth.

Axes: C colour (r, g, b), Y and X pixels, K blobs. Lengths are fractions of the frame's side and the frame's centre is (0, 0).
Surface brightness is in units of the sky noise in one pixel of a 64-pixel frame, whatever the size that is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
from astropy.modeling.models import Sersic2D  # type: ignore[import-untyped]
from scipy.ndimage import gaussian_filter

from zoobot.questions import QuestionTree, load_questions

Kind = Literal["smooth", "edge-on", "spiral", "barred", "merging", "artifact"]
Floats = npt.NDArray[np.float64]

# Share of each kind among the galaxies.
KIND_SHARES: Mapping[Kind, float] = MappingProxyType(
    {"smooth": 0.50, "edge-on": 0.12, "spiral": 0.22, "barred": 0.11, "merging": 0.03, "artifact": 0.02}
)
QUESTIONS = "demo"

_SKY_LEVEL = 1.5  # keeps the noise of an empty sky above black
_SOFTENING = 3.5  # the stretch is linear below, logarithmic above
_WHITE = 260.0
_SKY_ELECTRONS = 100.0  # per pixel of a 64-pixel frame: sets how fast photon noise grows with brightness

_OLD_RGB = np.array([1.26, 0.97, 0.66])
_DISC_RGB = np.array([1.02, 1.00, 0.95])
_YOUNG_RGB = np.array([0.70, 0.98, 1.30])


@dataclass(frozen=True)
class DemoGalaxy:
    """A galaxy of known truth.

    ``image`` is uint8 of shape (size, size, 3). ``fractions`` has the true vote fraction of every answer column, in [0, 1], given
    that its question is asked, so they sum to 1 per question. ``votes`` counts simulated volunteers drawn from these fractions.
    """

    id_str: str
    kind: Kind
    image: npt.NDArray[np.uint8]
    fractions: dict[str, float]
    votes: dict[str, int]


@dataclass(frozen=True)
class _Latents:
    """What a galaxy is; each value is drawn from a beta distribution, scaled: (a, b, lowest, highest) in ``_PRIORS``."""

    radius: float  # half-light radius on the major axis
    log_brightness: float  # log10 of the mean surface brightness within the half-light radius
    axis_ratio: float  # minor over major axis
    bulge_to_total: float
    bulge_index: float  # Sersic index
    arm_contrast: float
    bar_strength: float
    companion: float  # 0: none; 1: an equal, disturbed one
    artifact: float  # 0: none; 1: it hides the galaxy
    seeing: float  # full width at half maximum of the point spread function
    angle: float  # of the major axis, radians
    bar_angle: float  # within the disc, radians


_Prior = tuple[float, float, float, float]

_PRIORS: dict[str, _Prior] = {
    "radius": (2, 2, 0.055, 0.160),
    "log_brightness": (2, 2, 0.25, 1.5),
    "axis_ratio": (1.5, 1.2, 0.40, 1.0),
    "bulge_to_total": (2, 4, 0.0, 0.6),
    "bulge_index": (2, 2, 1.5, 4.0),
    "arm_contrast": (1.2, 5, 0.0, 0.5),
    "bar_strength": (1, 5, 0.0, 0.6),
    "companion": (0.4, 5.5, 0.0, 0.9),
    "artifact": (0.3, 8, 0.0, 0.6),
    "seeing": (2, 3, 0.026, 0.050),
    "angle": (1, 1, 0.0, np.pi),
    "bar_angle": (1, 1, 0.0, np.pi),
}

_PRIORS_OF_KIND: dict[Kind, dict[str, _Prior]] = {
    "smooth": {
        "axis_ratio": (2, 1.2, 0.42, 1.0),
        "bulge_to_total": (2.5, 1.1, 0.15, 1.0),
        "radius": (2, 2, 0.050, 0.155),
    },
    "edge-on": {"axis_ratio": (1.3, 2.8, 0.12, 0.45), "radius": (2, 2, 0.07, 0.18), "bulge_to_total": (1.5, 4, 0.0, 0.6)},
    "spiral": {"arm_contrast": (2.5, 1.3, 0.1, 1.0), "radius": (2.5, 2, 0.065, 0.17), "bulge_to_total": (2, 4, 0.0, 0.5)},
    "barred": {
        "arm_contrast": (1.5, 1.5, 0.0, 1.0),
        "bar_strength": (3, 1.3, 0.2, 1.0),
        "radius": (2.5, 1.5, 0.075, 0.17),
        "bulge_to_total": (2, 5, 0.0, 0.4),
    },
    "merging": {
        "arm_contrast": (1, 2, 0.0, 0.8),
        "companion": (2.2, 1.2, 0.2, 1.0),
        "radius": (2, 3, 0.06, 0.13),
        "log_brightness": (2.5, 2, 0.5, 1.5),
    },
    "artifact": {"artifact": (1.8, 1, 0.15, 1.0), "log_brightness": (2, 3, 0.25, 1.2), "bulge_to_total": (2, 2, 0.0, 1.0)},
}


def draw(index: int, seed: int, size_px: int) -> DemoGalaxy:
    """Galaxy ``index`` (0, 1, ...) of the survey with this seed (0, 1, ...); it depends on no other galaxy.

    Votes, fractions and layout are the same at every ``size_px`` (32 or more); only the sampling and the noise of pixels differ.
    """
    streams = np.random.SeedSequence([seed, index]).spawn(4)
    latents_rng, votes_rng, layout_rng, pixels_rng = (np.random.default_rng(s) for s in streams)
    kind, latents = _draw_latents(latents_rng)
    fractions = _vote_fractions(latents)
    return DemoGalaxy(
        id_str=f"demo_{index:06d}",
        kind=kind,
        image=_expose(_render_scene(latents, size_px, layout_rng), latents.seeing, pixels_rng),
        fractions=fractions,
        votes=_cast_votes(fractions, votes_rng),
    )


def survey(n_galaxies: int, seed: int, size_px: int) -> Iterator[DemoGalaxy]:
    """Galaxies 0 to ``n_galaxies - 1``, drawn one at a time."""
    return (draw(index, seed, size_px) for index in range(n_galaxies))


def _draw_latents(rng: np.random.Generator) -> tuple[Kind, _Latents]:
    kinds = list(KIND_SHARES)
    kind = kinds[rng.choice(len(kinds), p=list(KIND_SHARES.values()))]
    priors = {**_PRIORS, **_PRIORS_OF_KIND[kind]}
    return kind, _Latents(**{name: low + (high - low) * float(rng.beta(a, b)) for name, (a, b, low, high) in priors.items()})


# What volunteers say.


def _vote_fractions(latents: _Latents) -> dict[str, float]:
    """The true fraction of each answer column, in [0, 1]; a feature that is hard to see counts for less."""
    resolved = _sigmoid(1.4 * (latents.radius / latents.seeing - 2.1))
    seen = resolved * _sigmoid(4.5 * (latents.log_brightness - 0.62))  # 0: a faint smudge; 1: every detail shows
    face_on = _sigmoid(14 * (latents.axis_ratio - 0.42))
    blurred_ratio = float(np.hypot(latents.axis_ratio, 0.35 * latents.seeing / latents.radius))
    arms = seen * face_on * latents.arm_contrast
    bar = seen * face_on * latents.bar_strength
    edge = _sigmoid(18 * (0.41 - blurred_ratio))
    merging = latents.companion * (0.45 + 0.55 * _sigmoid(4.5 * (latents.log_brightness - 0.62)))

    disc = 0.4 * seen * (1 - latents.bulge_to_total)
    features = 1 - (1 - disc) * (1 - arms) * (1 - 0.9 * bar) * (1 - 0.9 * edge * (0.2 + 0.8 * seen)) * (1 - 0.5 * merging)
    p_artifact = 0.01 + 0.96 * _sigmoid(11 * (latents.artifact - 0.45))
    p_featured = 0.04 + 0.92 * _sigmoid(8 * (features - 0.42))
    yes = {
        "disk-edge-on": 0.02 + 0.95 * edge * (0.5 + 0.5 * seen),
        "has-spiral-arms": 0.07 + 0.90 * _sigmoid(10 * (arms - 0.28)),
        "bar": 0.04 + 0.92 * _sigmoid(10 * (bar - 0.38)),
        "merging": 0.02 + 0.95 * _sigmoid(10 * (merging - 0.42)),
    }
    fractions = {
        "smooth-or-featured_smooth": (1 - p_artifact) * (1 - p_featured),
        "smooth-or-featured_featured-or-disk": (1 - p_artifact) * p_featured,
        "smooth-or-featured_artifact": p_artifact,
    }
    return fractions | {f"{question}_{a}": p for question, y in yes.items() for a, p in (("yes", y), ("no", 1 - y))}


def _cast_votes(fractions: Mapping[str, float], rng: np.random.Generator) -> dict[str, int]:
    """Counts per answer column: each question is asked of the volunteers whose answer led to it, the first of about 48."""
    votes: dict[str, int] = {}
    n_volunteers = max(5, int(rng.poisson(48)))
    for question in _questions():
        n_asked = sum(votes[c] for c in question.after) if question.after else n_volunteers
        counts = rng.multinomial(n_asked, [fractions[c] for c in question.columns])
        votes |= dict(zip(question.columns, counts.tolist(), strict=True))
    return votes


@cache
def _questions() -> QuestionTree:
    return load_questions(QUESTIONS)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


# What the telescope sees: surface brightness of shape (C, Y, X), before the atmosphere and the detector.


@cache
def _grid(size_px: int) -> tuple[Floats, Floats]:
    """x and y of the pixel centres, each of shape (Y, X)."""
    centres = (np.arange(size_px) + 0.5) / size_px - 0.5
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return x, y


def _render_scene(latents: _Latents, size_px: int, rng: np.random.Generator) -> Floats:
    """The galaxy with its companion, chance neighbours and artifact. Draws from ``rng`` do not depend on ``size_px``."""
    x, y = _grid(size_px)
    x0, y0 = rng.normal(0, 0.008, 2)
    winding = rng.choice([-1.0, 1.0])
    scene_C_Y_X = _render_galaxy(latents, x - x0, winding * (y - y0), rng)
    if latents.companion > 0.05:
        scene_C_Y_X += _render_companion(latents, x - x0, y - y0, rng)
    for _ in range(rng.poisson(0.7)):
        colour = _OLD_RGB + rng.uniform(0, 1) * (_YOUNG_RGB - _OLD_RGB)
        distance, direction, width = rng.uniform(0.2, 0.6), rng.uniform(0, 2 * np.pi), rng.uniform(0.004, 0.02)
        x_K, y_K, flux_K = distance * np.cos([direction]), distance * np.sin([direction]), 10 ** rng.uniform(-2.6, -1.3, 1)
        scene_C_Y_X += colour[:, None, None] * _blobs(x, y, x_K, y_K, width, flux_K)
    if latents.artifact > 0.05:
        scene_C_Y_X += _render_artifact(latents.artifact, x, y, rng)
    return scene_C_Y_X


def _render_galaxy(latents: _Latents, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """Bulge, disc with arms, and bar; ``x`` and ``y`` (Y, X) are relative to the galaxy's centre."""
    q, radius, bulge_share = latents.axis_ratio, latents.radius, latents.bulge_to_total
    cos, sin = np.cos(latents.angle), np.sin(latents.angle)
    major, minor = x * cos + y * sin, y * cos - x * sin
    flux = 2 * np.pi * radius**2 * q * 10**latents.log_brightness

    bulge_radius = radius * (0.22 + 0.78 * bulge_share**1.5)
    bulge_flattening = (1 - q) * bulge_share**0.7
    old_Y_X = bulge_share * _sersic(major, minor, bulge_radius, latents.bulge_index, bulge_flattening)
    disc_share = 1 - bulge_share
    bar_share = 0.42 * latents.bar_strength
    depth = minor / q  # in the plane of the disc
    if bar_share > 0.02:
        bar_Y_X = _sersic(major, depth, 0.52 * radius, 0.55, 0.68 + 0.1 * latents.bar_strength, latents.bar_angle)
        old_Y_X += disc_share * bar_share * bar_Y_X
    disc_Y_X = disc_share * (1 - bar_share) * _sersic(major, depth, 1.1 * radius, 1.0)
    arms_Y_X = _arms(latents, major, depth, rng)

    young_share = np.clip(latents.arm_contrast, 0.15, 0.8) * (1 - 0.8 * bulge_share)
    disc_rgb = _OLD_RGB + (1 - bulge_share) * (_DISC_RGB - _OLD_RGB)
    disc_C_Y_X = (disc_rgb + young_share * (_YOUNG_RGB - disc_rgb) * 0.4)[:, None, None] * disc_Y_X
    arm_C_Y_X = ((1 - young_share) * disc_rgb + young_share * _YOUNG_RGB)[:, None, None] * (disc_Y_X * arms_Y_X)
    galaxy_C_Y_X: Floats = flux * (_OLD_RGB[:, None, None] * old_Y_X + disc_C_Y_X + arm_C_Y_X)
    return galaxy_C_Y_X * (1 + rng.normal(0, 0.09) * np.array([1.0, 0.0, -1.0]))[:, None, None]


def _sersic(x: Floats, y: Floats, radius: float, index: float, flattening: float = 0.0, angle: float = 0.0) -> Floats:
    """A Sersic profile of mean 1 over the frame, shape (Y, X); its cusp, which no pixel resolves, is cut off."""
    profile_Y_X: Floats = Sersic2D.evaluate(x, y, 1.0, radius, index, 0.0, 0.0, flattening, angle)
    np.minimum(profile_Y_X, Sersic2D.evaluate(0.06 * radius, 0.0, 1.0, radius, index, 0.0, 0.0, 0.0, 0.0), out=profile_Y_X)
    return profile_Y_X / profile_Y_X.mean()


def _arms(latents: _Latents, major: Floats, depth: Floats, rng: np.random.Generator) -> Floats:
    """Brightening (or, below 0, darkening) of the disc by logarithmic spiral arms that start at the ends of the bar, (Y, X)."""
    n_arms = rng.choice([2, 2, 2, 3, 4])
    pitch = np.radians(rng.uniform(12, 28))
    clumpiness, phase = rng.uniform(0.0, 0.35), rng.uniform(0, 2 * np.pi)
    if latents.arm_contrast < 0.04:
        return np.zeros_like(major)
    radius = np.hypot(major, depth) / latents.radius + 1e-3
    azimuth = np.arctan2(depth, major) - latents.bar_angle
    turn = np.log(radius / 0.7) / np.tan(pitch)
    ridge = (0.5 + 0.5 * np.cos(n_arms * (azimuth - turn))) ** 2
    clumps = 1 + clumpiness * np.sin(5 * azimuth + 7 * radius + phase)
    squared = radius**2
    extent = squared / (squared + 0.3) * np.exp(-((squared / 10) ** 2))
    brightening: Floats = latents.arm_contrast * extent * (2.8 * ridge * clumps - 0.75)
    return brightening


def _blobs(x: Floats, y: Floats, x_K: Floats, y_K: Floats, width: float, flux_K: Floats) -> Floats:
    """Sum of K round gaussians, shape (Y, X); ``flux_K`` is what each adds to the mean over the frame."""
    across_K_X = np.exp(-0.5 * ((x[0] - x_K[:, None]) / width) ** 2)
    down_K_Y = np.exp(-0.5 * ((y[:, 0] - y_K[:, None]) / width) ** 2)
    blobs_Y_X: Floats = (down_K_Y * flux_K[:, None]).T @ across_K_X
    return blobs_Y_X / (2 * np.pi * width**2)


def _render_companion(latents: _Latents, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """The second galaxy, and a tidal tail on the far side of each; the weaker the companion, the less of either."""
    strength, radius = latents.companion, latents.radius
    direction, bends = rng.uniform(0, 2 * np.pi), rng.uniform(-1.8, 1.8, 2)
    distance = radius * rng.uniform(1.3, 2.3)
    x0, y0 = distance * np.cos(direction), distance * np.sin(direction)
    companion = replace(
        latents,
        radius=radius * (0.4 + 0.5 * strength),
        log_brightness=latents.log_brightness - 1.1 * (1 - strength),
        axis_ratio=rng.uniform(0.5, 1),
        angle=rng.uniform(0, np.pi),
        bulge_to_total=rng.uniform(0.1, 0.9),
        arm_contrast=0.0,
        bar_strength=0.0,
    )
    light_C_Y_X = _render_galaxy(companion, x - x0, y - y0, rng)
    t_K = np.linspace(0, 1, 24)
    flux_K = 0.5 * strength**2 * np.pi * radius**2 * 10**latents.log_brightness * (1.2 - t_K) / t_K.size
    for x_start, y_start, away, bend in ((0.0, 0.0, direction + np.pi, bends[0]), (x0, y0, direction, bends[1])):
        reach_K, turn_K = radius * (0.5 + rng.uniform(1.2, 2.6) * t_K), away + bend * t_K
        tail_Y_X = _blobs(x, y, x_start + reach_K * np.cos(turn_K), y_start + reach_K * np.sin(turn_K), 0.22 * radius, flux_K)
        light_C_Y_X += (0.5 * (_DISC_RGB + _YOUNG_RGB))[:, None, None] * tail_Y_X
    return light_C_Y_X


def _render_artifact(strength: float, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """A bright star with halo and diffraction spikes, or the trail of a satellite, which passes while one colour is exposed."""
    x0, y0 = rng.uniform(-0.2, 0.2, 2)
    angle = rng.uniform(0, np.pi)
    along, across = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle), (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    if rng.uniform() < 0.4:
        trail_rgb = np.full(3, 0.08) + np.eye(3)[rng.integers(3)]
        trail_Y_X = 10 ** (2.0 * strength) * np.exp(-0.5 * (across / rng.uniform(0.006, 0.016)) ** 2)
        return np.asarray(trail_rgb[:, None, None] * trail_Y_X)
    flux = 10 ** (3.0 * strength - 1.2)
    star_rgb = 0.5 * (1 + _OLD_RGB + rng.uniform() * (_YOUNG_RGB - _OLD_RGB))
    core_Y_X, halo_Y_X = (_blobs(x, y, np.array([x0]), np.array([y0]), w, np.array([f * flux])) for w, f in ((0.008, 0.8), (0.07, 0.1)))
    spikes_Y_X = sum(np.exp(-np.abs(a) / 0.11 - 0.5 * (b / 0.005) ** 2) for a, b in ((along, across), (across, along)))
    return np.asarray(star_rgb[:, None, None] * (core_Y_X + halo_Y_X + 6 * flux * spikes_Y_X))


def _expose(scene_C_Y_X: Floats, seeing: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Atmosphere, sky, photon and read noise, then the stretch to uint8, shape (Y, X, C)."""
    size_px = scene_C_Y_X.shape[-1]
    sigma_px = seeing * size_px / 2.355
    core_C_Y_X = gaussian_filter(scene_C_Y_X, (0, sigma_px, sigma_px), mode="nearest", truncate=3.0)
    wings_C_Y_X = gaussian_filter(core_C_Y_X, (0, 2 * sigma_px, 2 * sigma_px), mode="nearest", truncate=3.0)
    light_C_Y_X = 0.8 * core_C_Y_X + 0.2 * wings_C_Y_X  # close to a Moffat profile, and separable
    noise_C_Y_X = np.sqrt(1 + light_C_Y_X / np.sqrt(_SKY_ELECTRONS)) * size_px / 64
    light_C_Y_X += _SKY_LEVEL + noise_C_Y_X * rng.standard_normal(light_C_Y_X.shape)
    mean_Y_X = np.maximum(light_C_Y_X.mean(axis=0), 1e-3)
    stretch_Y_X = np.arcsinh(mean_Y_X / _SOFTENING) / (np.arcsinh(_WHITE / _SOFTENING) * mean_Y_X)
    rgb_C_Y_X = np.maximum(light_C_Y_X, 0) * stretch_Y_X  # one factor for all colours keeps their ratios (Lupton et al. 2004)
    rgb_C_Y_X /= np.maximum(rgb_C_Y_X.max(axis=0), 1)
    return (255 * rgb_C_Y_X).round().astype(np.uint8).transpose(1, 2, 0).copy()
