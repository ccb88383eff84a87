"""Read a galaxy's picture, and resize it for the shards.

The first bytes of a file say whether it is PNG, JPEG, TIFF (bitmaps.py) or FITS (fits_images.py), not its name.

The pixels of a shard are made in two steps, whose results are the same on every machine (``PIXELS``). The picture is
halved, once to three times, as long as its central square keeps 1.5 times the size that is stored: a JPEG while it is
read (decoders.py), any other by the means of its pixels. Then Pillow resizes the square, in integers: by Hamming's
window, or by Lanczos' if it is smaller than that, where Hamming's would move details. Against one step from the full
picture by Lanczos, pixels of galaxies differ by 1 of 255 in the mean.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from zoobot.errors import InputError
from zoobot.galaxies import bitmaps, fits_images, pictures
from zoobot.galaxies.pictures import BYTES_PER_PIXEL, LARGE_BYTES, Picture, Pixels, Reduced
from zoobot.settings.schema import ShardsSettings, SurveySettings

PIXELS = "halved to 1.5 times the size, then Hamming"  # with other words, shards were made in another way
_DEFAULT = SurveySettings()
_SPARE = 1.5  # how many times the size that is stored must be left


def read_image(source: Path | bytes, survey: SurveySettings = _DEFAULT) -> Pixels:
    """The picture in a file, or in its content, as uint8 RGB, height × width × 3. Raises InputError, with the reason,
    if it cannot be used.
    """
    return read_picture(source, survey).pixels


def read_picture(source: Path | bytes, survey: SurveySettings = _DEFAULT, least_px: int = 0) -> Picture:
    """The picture, with what was changed. Raises InputError, with the reason, if it cannot be used. With ``least_px``,
    a JPEG may be read at a fraction of its size, as long as its shorter side keeps so many pixels.
    """
    if isinstance(source, Path) and not source.is_file():
        raise InputError("no such file")
    n_bytes = source.stat().st_size if isinstance(source, Path) else len(source)
    if n_bytes > BYTES_PER_PIXEL * survey.max_pixels:
        raise pictures.too_many_bytes(survey.max_pixels)
    with pictures.one_at_a_time(n_bytes > LARGE_BYTES):
        content = _content(source)
        picture = _read(content, survey, least_px)
        if not picture.reduced:
            pictures.check_content(picture.pixels)
        elif pictures.may_be_blank(picture.pixels):
            pictures.check_content(_read(content, survey).pixels)
    return picture


def read_for_shards(
    source: Path | bytes, survey: SurveySettings, stored: ShardsSettings
) -> tuple[Pixels, tuple[str, ...]]:
    """The pixels of a picture as shards hold them, and what was changed in it. Raises InputError, with the reason, if
    it cannot be used.
    """
    picture = read_picture(source, survey, math.ceil(_SPARE * stored.image_size_px / stored.crop))
    pixels = resize(picture.pixels, stored.image_size_px, stored.channels, stored.crop, picture.reduced)
    return pixels, picture.notes


def _content(source: Path | bytes) -> bytes:
    try:
        return source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise InputError(f"not a readable picture: {error.strerror}") from error


def _read(content: bytes, survey: SurveySettings, least_px: int = 0) -> Picture:
    if content.startswith((bitmaps.PNG, bitmaps.JPEG, *bitmaps.TIFF)):
        return bitmaps.read(content, survey.max_pixels, least_px)
    if content.startswith((fits_images.FITS, fits_images.GZIP)):
        return fits_images.read(content, survey)
    start = content[:12].decode("ascii", "backslashreplace") or "nothing"
    raise InputError(f"not a readable picture: not PNG, JPEG, TIFF or FITS, but a file that begins with {start}")


def for_browsers(source: Path | bytes, survey: SurveySettings = _DEFAULT) -> tuple[bytes, str]:
    """A file that browsers show with the pixels of ``read_image``, and its media type: the galaxy's own, or a PNG."""
    picture = read_picture(source, survey)
    if picture.media_type:
        return _content(source), picture.media_type
    content = io.BytesIO()
    Image.fromarray(picture.pixels).save(content, "PNG")
    return content.getvalue(), "image/png"


def resize(pixels: Pixels, size_px: int, channels: int, crop: float = 1.0, reduced: Reduced | None = None) -> Pixels:
    """The central square of a picture, cut to ``crop`` (a fraction of its side) and resized to ``size_px`` ×
    ``size_px`` × ``channels`` (3: colour; 1: grey, the mean of the colours). ``reduced`` says how it was read.
    """
    by, height, width = reduced or (1, *pixels.shape[:2])
    side = max(1, round(crop * min(height, width)))
    left, top = (width - side) // 2, (height - side) // 2
    if side == size_px and not reduced:
        pixels = pixels[top : top + side, left : left + side]
    else:
        if reduced:
            square = Image.fromarray(pixels)
        else:
            by = pictures.reduction(side, math.ceil(_SPARE * size_px))
            end = math.ceil(side / by) * by  # what lies behind the square belongs to the mean at its edge
            square = Image.fromarray(pixels[top : top + end, left : left + end])
            square, left, top = square.reduce(by) if by > 1 else square, 0, 0
        box = (left / by, top / by, (left + side) / by, (top + side) / by)
        window = Image.Resampling.HAMMING if side >= _SPARE * size_px else Image.Resampling.LANCZOS
        pixels = np.asarray(square.resize((size_px, size_px), window, box))
    if channels == 1:
        pixels = np.rint(pixels.mean(axis=2, keepdims=True)).astype(np.uint8)
    return pixels
