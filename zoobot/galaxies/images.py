"""Read a galaxy's picture from PNG, JPEG or FITS, and resize it for the shards."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoobot.errors import InputError

Pixels = npt.NDArray[np.uint8]  # height, width, 3
_PICTURE_MODES = ("L", "LA", "P", "RGB", "RGBA")
_FITS_SUFFIXES = (".fits", ".fit", ".fz")
_FITS_BLOCK_BYTES = 2880
# Sky noise of the DECam Legacy Survey in nanomaggies for g, r, z, and the limits of the stretch in units of it: the
# values that the survey's public viewer used for its DR2 pictures, which are what volunteers saw.
_BAND_NOISE = np.array([0.008, 0.014, 0.019])
_STRETCH_LIMITS = (-0.5, 300.0)
_MAX_MISSING_FRACTION = 0.2  # of the pixels of one band (DECaLS: fits_filled)


def read_image(path: Path) -> Pixels:
    """The picture at ``path`` as uint8 RGB, height × width × 3. Raises InputError, with the reason, if the
    picture cannot be used.
    """
    if not path.is_file():
        raise InputError("no such file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and (suffixes[-1] in _FITS_SUFFIXES or suffixes[-2:] == [".fits", ".gz"]):
        return _read_fits(path)
    try:
        with Image.open(path) as picture:
            if picture.mode not in _PICTURE_MODES:
                raise InputError(f"pixels of type {picture.mode}: 8-bit grey or colour is needed")
            return np.asarray(picture.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        raise InputError(f"not a readable picture: {_reason(error).replace(str(path), path.name)}") from error


def resize(pixels: Pixels, size_px: int, channels: int, crop: float = 1.0) -> Pixels:
    """The central square of a picture, cut to ``crop`` (a fraction of its side) and resized to ``size_px`` ×
    ``size_px`` × ``channels`` (3: colour; 1: grey, the mean of the colours).
    """
    height, width, _ = pixels.shape
    side = max(1, round(crop * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side != size_px:
        square = np.asarray(Image.fromarray(square).resize((size_px, size_px), Image.Resampling.LANCZOS))
    if channels == 1:
        square = np.rint(square.mean(axis=2, keepdims=True)).astype(np.uint8)
    return square


def _read_fits(path: Path) -> Pixels:
    from astropy.io import fits

    try:
        content = path.read_bytes()  # astropy would leave a damaged file open
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        if content.startswith(b"SIMPLE") and len(content) % _FITS_BLOCK_BYTES:  # astropy would only warn
            raise ValueError("the end of the file is missing")
        with fits.open(io.BytesIO(content)) as units:
            images = [unit.data for unit in units if getattr(unit, "data", None) is not None]
    except Exception as error:  # astropy raises nearly anything on damaged bytes
        raise InputError(f"not a readable FITS file: {_reason(error)}") from error
    if not images or images[0].ndim != 3 or images[0].shape[0] != 3:
        shape = images[0].shape if images else "nothing"
        raise InputError(f"expected an image of 3 bands (g, r, z) × height × width, got {shape}")
    return grz_to_rgb(images[0].astype(float))


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def grz_to_rgb(bands: npt.NDArray[np.float64]) -> Pixels:
    """g, r, z images in nanomaggies (3 × height × width) as RGB with an arcsinh stretch (Lupton et al. 2004).

    Raises InputError if more than a fifth of a band's pixels are missing (not finite, or exactly 0); fewer are shown
    as empty sky.
    """
    for band, pixels in zip("grz", bands, strict=True):
        missing = float(np.mean(~np.isfinite(pixels) | (pixels == 0)))
        if missing > _MAX_MISSING_FRACTION:
            raise InputError(
                f"{missing:.0%} of the pixels of band {band} are missing; at most {_MAX_MISSING_FRACTION:.0%} may be"
            )
    low, high = np.arcsinh(_STRETCH_LIMITS)
    signal_to_noise = np.where(np.isfinite(bands), bands, 0) / _BAND_NOISE[:, None, None]
    stretched = (np.arcsinh(signal_to_noise) - low) / (high - low)
    rgb = np.moveaxis(stretched[::-1], 0, 2)  # z is red; FITS rows start at the bottom
    eight_bit: Pixels = np.rint(255 * np.clip(rgb[::-1], 0, 1)).astype(np.uint8)
    return eight_bit
