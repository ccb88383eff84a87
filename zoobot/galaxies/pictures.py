"""What a picture is here: its pixels, what was changed on the way to them, and how large and how empty it may be."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from zoobot.errors import InputError

Pixels = npt.NDArray[np.uint8]  # height, width, 3
LARGE_PIXELS = 2_000_000  # larger pictures, and larger files than this many bytes, are decoded one at a time
LARGE_BYTES = 8_000_000
BYTES_PER_PIXEL = 16  # a file, unpacked, may have this many bytes for each pixel of survey.max_pixels
_MIN_SIDE_PX = 8
_BLANK_LEVELS = 4  # of 255: JPEG turns one colour into levels that differ by so much
_BLANK_FRACTION = 0.001  # so few pixels of another level are no galaxy: hot pixels
_SAMPLE_STEP = 7  # pixels
# The same for a JPEG that was reduced. There a single pixel changes at most its block of 8 × 8, so that a blank picture
# differs in at most 64 x _BLANK_FRACTION of it.
_REDUCED_STEP, _REDUCED_FRACTION = 3, 0.1
_ONE_LARGE = threading.RLock()


class Reduced(NamedTuple):
    """How a JPEG was read: at 1/``by`` of its height and width (2, 4 or 8), which are those of the file, in pixels."""

    by: int
    height: int
    width: int


@dataclass(frozen=True)
class Picture:
    """A galaxy's picture."""

    pixels: Pixels
    notes: tuple[str, ...] = ()  # what was changed, or chosen, that the file's own pixels do not show
    media_type: str = ""  # of the file, if a browser shows these pixels; empty: it must be converted
    reduced: Reduced | None = None  # None: the pixels are those of the file


def reduction(side_px: int, least_px: int) -> int:
    """By how much ``side_px`` can be reduced so that ``least_px`` are left: 1, 2, 4 or 8."""
    return next((by for by in (8, 4, 2) if side_px >= by * least_px), 1)


def one_at_a_time(large: bool) -> AbstractContextManager[object]:
    """Large pictures wait for one another, so that four threads need no more memory than one."""
    return _ONE_LARGE if large else nullcontext()


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise InputError if a picture of this size, in pixels, is not to be decoded."""
    if width * height > max_pixels:
        raise InputError(
            f"{width} × {height} pixels are more than survey.max_pixels={max_pixels}: cut it out smaller, or raise that"
        )
    if min(width, height) < _MIN_SIDE_PX:
        raise InputError(f"{width} × {height} pixels show no galaxy: {_MIN_SIDE_PX} × {_MIN_SIDE_PX} are needed")


def too_many_bytes(max_pixels: int) -> InputError:
    """The error for a file that is too large to be read."""
    return InputError(
        f"it has more than {BYTES_PER_PIXEL * max_pixels / 1e6:.0f} MB, {BYTES_PER_PIXEL} bytes for each pixel of"
        f" survey.max_pixels={max_pixels}: cut it out smaller, or raise that"
    )


def may_be_blank(reduced: Pixels) -> bool:
    """Whether a JPEG that was reduced must be looked at in full. Of most pictures it need not."""
    return _fraction_different(reduced[::_REDUCED_STEP, ::_REDUCED_STEP]) <= _REDUCED_FRACTION


def check_content(pixels: Pixels) -> None:
    """Raise InputError if a picture is blank: one colour, but for the noise of JPEG and a few single pixels."""
    sample = pixels[::_SAMPLE_STEP, ::_SAMPLE_STEP]
    if _fraction_different(sample) > 10 * _BLANK_FRACTION:
        return  # most pictures: no need to look at every pixel
    if _fraction_different(pixels) <= _BLANK_FRACTION:
        red, green, blue = (int(level) for level in np.median(pixels, axis=(0, 1)))
        raise InputError(f"the picture is blank: all of it has the colour ({red}, {green}, {blue})")


def _fraction_different(pixels: Pixels) -> float:
    """The fraction of pixels that differ from the most common level, in the colour in which most do."""
    fractions = []
    for colour in range(3):
        levels = np.ascontiguousarray(pixels[:, :, colour])
        common = int(np.bincount(levels.ravel(), minlength=256).argmax())
        low, high = max(common - _BLANK_LEVELS, 0), min(common + _BLANK_LEVELS, 255)
        fractions.append(1 - np.count_nonzero((levels >= low) & (levels <= high)) / levels.size)
    return max(fractions)
