"""Read a galaxy's picture, and resize it for the shards.

The first bytes of a file say whether it is PNG, JPEG, TIFF (bitmaps.py) or FITS (fits_images.py), not its name.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from zoobot.errors import InputError
from zoobot.galaxies import bitmaps, fits_images, pictures
from zoobot.galaxies.pictures import BYTES_PER_PIXEL, LARGE_BYTES, Picture, Pixels
from zoobot.settings.schema import SurveySettings

_DEFAULT = SurveySettings()


def read_image(path: Path, survey: SurveySettings = _DEFAULT) -> Pixels:
    """The picture at ``path`` as uint8 RGB, height × width × 3. Raises InputError, with the reason, if the
    picture cannot be used.
    """
    return read_picture(path, survey).pixels


def read_picture(path: Path, survey: SurveySettings = _DEFAULT) -> Picture:
    """The picture at ``path``, with what was changed. Raises InputError, with the reason, if it cannot be used."""
    if not path.is_file():
        raise InputError("no such file")
    n_bytes = path.stat().st_size
    if n_bytes > BYTES_PER_PIXEL * survey.max_pixels:
        raise pictures.too_many_bytes(survey.max_pixels)
    with pictures.one_at_a_time(n_bytes > LARGE_BYTES):
        picture = _read(_content(path), survey)
    pictures.check_content(picture.pixels)
    return picture


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"not a readable picture: {error.strerror}") from error


def _read(content: bytes, survey: SurveySettings) -> Picture:
    if content.startswith((bitmaps.PNG, bitmaps.JPEG, *bitmaps.TIFF)):
        return bitmaps.read(content, survey.max_pixels)
    if content.startswith((fits_images.FITS, fits_images.GZIP)):
        return fits_images.read(content, survey)
    start = content[:12].decode("ascii", "backslashreplace") or "nothing"
    raise InputError(f"not a readable picture: not PNG, JPEG, TIFF or FITS, but a file that begins with {start}")


def for_browsers(path: Path, survey: SurveySettings = _DEFAULT) -> tuple[bytes, str]:
    """A file that browsers show with the pixels of ``read_image``, and its media type: the galaxy's own, or a PNG."""
    picture = read_picture(path, survey)
    if picture.media_type:
        return path.read_bytes(), picture.media_type
    content = io.BytesIO()
    Image.fromarray(picture.pixels).save(content, "PNG")
    return content.getvalue(), "image/png"


def same_pictures(paths: Iterable[Path]) -> list[list[Path]]:
    """The files that are the same to the byte, each group in the order given. Only files of equal size are read."""
    by_size, by_digest = defaultdict(list), defaultdict(list)
    for path in dict.fromkeys(paths):
        if path.is_file():
            by_size[path.stat().st_size].append(path)
    for n_bytes, alike in by_size.items():
        for path in alike if len(alike) > 1 else ():
            with path.open("rb") as file:
                by_digest[n_bytes, hashlib.file_digest(file, "sha256").digest()].append(path)
    return [same for same in by_digest.values() if len(same) > 1]


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
