"""Fluxes: from the numbers of a FITS image to nanomaggies, and from those to what volunteers see.

1 nanomaggy is the flux of an AB magnitude of 22.5: 3.631 µJy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zoobot.errors import InputError
from zoobot.galaxies.pictures import Pixels

# Sky noise of the DECam Legacy Survey in nanomaggies for g, r, z, and the limits of the stretch in units of it: the
# values that the survey's public viewer used for its DR2 pictures, which are what volunteers saw. For other bands
# they are those of the same colour; for a single band those of r.
BAND_NOISE = (0.008, 0.014, 0.019)
_STRETCH_LIMITS = (-0.5, 300.0)
_MAX_MISSING_FRACTION = 0.2  # of the pixels of one band (DECaLS: fits_filled)
_MAX_WHITE_FRACTION = 0.5  # of a picture
_NANOMAGGIES_PER_JY = 1e9 / 3631
_FLUX_UNITS = {  # in nanomaggies
    **dict.fromkeys(("nanomaggy", "nanomaggies", "nanomaggie", "nmgy", "nmgys"), 1.0),
    **dict.fromkeys(("maggy", "maggies", "mgy", "mgys"), 1e9),
    **{f"{prefix}Jy": scale * _NANOMAGGIES_PER_JY for prefix, scale in
       {"": 1, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9, "M": 1e6}.items()},
    "jy": _NANOMAGGIES_PER_JY, "ujy": 1e-6 * _NANOMAGGIES_PER_JY, "njy": 1e-9 * _NANOMAGGIES_PER_JY,
}  # fmt: skip
_ZERO_POINTS = ("MAGZERO", "MAGZPT", "MAGZP", "MAG_ZP", "MAG0", "ZEROPT", "ZEROPNT", "ZEROPOIN", "ZPT", "ZP", "PHOTZP",
                "ABMAGZP", "ZP_AB", "ZPAB")  # fmt: skip
_PLAUSIBLE_ZERO_POINTS = (5.0, 45.0)  # AB magnitudes; others are placeholders, as 0 and -99
_SAME_MAG = 0.02
WHAT_TO_SET = (
    "Set survey.zero_point to the AB magnitude of a pixel value of 1 (22.5 for nanomaggies), or survey.stretch=noise"
)

Band = npt.NDArray[np.float64]  # height, width
Header = Mapping[str, Any]


def nanomaggies_per_value(header: Header, zero_point: float) -> float:
    """How many nanomaggies a pixel value of 1 is, as the header says; or as ``zero_point`` (AB mag) does, if it is not
    0. Raises InputError if neither does, or the header contradicts itself.
    """
    if "BSOFTEN" in header:
        raise InputError("its values are compressed (BSOFTEN in the header): convert them to fluxes")
    if zero_point:
        return _from_zero_point(zero_point)
    unit = _unit(header)
    by_unit, by_zero_point = _from_unit(unit, header), _zero_point(header)
    if by_unit and by_zero_point is not None and abs(2.5 * math.log10(by_unit) + by_zero_point - 22.5) > _SAME_MAG:
        raise InputError(
            f"the header says BUNIT={unit} and a zero point of {by_zero_point:g} mag, which do not fit. {WHAT_TO_SET}"
        )
    if by_unit or by_zero_point is not None:
        return by_unit or _from_zero_point(by_zero_point or 0)
    if unit:
        raise InputError(f"its unit is {unit} and the header has no zero point. {WHAT_TO_SET}")
    if header["BITPIX"] > 0 and header.get("BSCALE", 1) == 1:
        raise InputError(f"its values are whole numbers without a unit, so counts and not fluxes. {WHAT_TO_SET}")
    return 1.0


def _unit(header: Header) -> str:
    unit = header.get("BUNIT")
    return unit.strip() if isinstance(unit, str) else ""


def _from_zero_point(zero_point: float) -> float:
    return float(10 ** (0.4 * (22.5 - zero_point)))


def _from_unit(unit: str, header: Header) -> float:
    """The nanomaggies in a unit of flux; 0 for any other unit."""
    per_pixel = "".join(unit.split()).removesuffix("/pixel").removesuffix("/pix").removesuffix("pix-1")
    if per_pixel in ("MJy/sr", "MJysr-1", "MJy.sr-1", "MJysr^-1", "MJysr**-1") and header.get("PIXAR_SR"):
        return _FLUX_UNITS["MJy"] * float(header["PIXAR_SR"])
    return _FLUX_UNITS.get(per_pixel) or _FLUX_UNITS.get(per_pixel.lower(), 0.0)


def _zero_point(header: Header) -> float | None:
    """The AB magnitude of a pixel value of 1, as the header says."""
    found = {key: header[key] for key in _ZERO_POINTS if isinstance(header.get(key), int | float)}
    if _positive(header, "FLUXMAG0"):
        found["FLUXMAG0"] = 2.5 * math.log10(header["FLUXMAG0"])
    if _positive(header, "PHOTFLAM") and _positive(header, "PHOTPLAM"):  # Hubble: per second
        unit = _unit(header).lower()
        if not unit or "/s" in unit or "s-1" in unit:
            found["PHOTFLAM"] = -2.5 * math.log10(header["PHOTFLAM"]) - 5 * math.log10(header["PHOTPLAM"]) - 2.408
    if not found:
        return None
    said = ", ".join(f"{key}={value:g}" for key, value in found.items())
    low, high = _PLAUSIBLE_ZERO_POINTS
    if not all(low <= value <= high for value in found.values()):
        raise InputError(f"{said} is no zero point of AB magnitudes ({low:g} to {high:g}). {WHAT_TO_SET}")
    if max(found.values()) - min(found.values()) > _SAME_MAG:
        raise InputError(f"the header has several zero points: {said}. {WHAT_TO_SET}")
    return float(next(iter(found.values())))


def _positive(header: Header, key: str) -> bool:
    value = header.get(key)
    return isinstance(value, int | float) and value > 0


# ----------------------------------------------------------- stretches


def grz_to_rgb(bands: Iterable[Band], names: Sequence[str] = "grz", noise: Sequence[float] = BAND_NOISE) -> Pixels:
    """Images in nanomaggies, blue to red (3 × height × width), as RGB with an arcsinh stretch (Lupton et al. 2004).

    ``noise``: the sky noise of each, in nanomaggies. A single image becomes grey. Raises InputError if more than a
    fifth of a band's pixels are missing (not finite, or exactly 0), or most of the picture is white; other missing
    pixels are shown as empty sky.
    """
    low, high = np.arcsinh(_STRETCH_LIMITS)
    levels = []
    for band, name, unit in zip(bands, names, noise, strict=True):
        _check_missing(band, name)
        level = np.arcsinh(np.where(np.isfinite(band), band, 0) / unit)
        level -= low  # in place: a large picture is many bytes
        level /= high - low
        level = 255 * np.clip(level, 0, 1, out=level)
        levels.append(np.rint(level[::-1], out=level[::-1]).astype(np.uint8))  # FITS rows start at the bottom
    rgb: Pixels = np.stack(levels[::-1] if len(levels) == 3 else levels * 3, axis=2)
    white = float((rgb == 255).all(axis=2).mean())
    if white > _MAX_WHITE_FRACTION:
        raise InputError(f"{white:.0%} of the picture would be white: its values are not in nanomaggies. {WHAT_TO_SET}")
    return rgb


def in_noise(band: Band) -> Band:
    """An image in units of its own sky noise, above its own sky: the median and the scatter without outliers."""
    from astropy.stats import sigma_clipped_stats

    present = np.isfinite(band) & (band != 0)
    _, sky, noise = sigma_clipped_stats(band[present], sigma=3.0) if present.any() else (0.0, 0.0, 1.0)
    if not noise > 0:
        raise InputError("its sky has no noise, which survey.stretch=noise needs")
    scaled: Band = np.where(present, (band - sky) / noise, np.nan)
    return np.where(scaled == 0, np.finfo(float).tiny, scaled)  # exactly 0 would be a missing pixel


def _check_missing(band: Band, name: str) -> None:
    missing = float(np.mean(~np.isfinite(band) | (band == 0)))
    if missing > _MAX_MISSING_FRACTION:
        raise InputError(
            f"{missing:.0%} of the pixels of band {name} are missing; at most {_MAX_MISSING_FRACTION:.0%} may be"
        )
