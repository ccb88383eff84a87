"""Decode the commonest pictures faster than Pillow alone: JPEG, at a fraction of its size if that is enough, and PNG.

Pixels are Pillow's to the bit, on any machine: both use libjpeg-turbo in exact integers, and PNG loses nothing. So
simplejpeg and pyspng only save time. Where they are absent or refuse a picture, Pillow reads it or says why not.
"""

from __future__ import annotations

import io
import logging
import math

import numpy as np
from PIL import Image

from zoobot.galaxies.pictures import Pixels

log = logging.getLogger("zoobot")
try:
    import simplejpeg
except ImportError:
    simplejpeg = None
try:
    import pyspng
except ImportError:  # it has no wheel for Linux on ARM
    pyspng = None


def jpeg(picture: Image.Image, content: bytes, by: int) -> Pixels:
    """RGB pixels of a JPEG at 1/``by`` (1, 2, 4 or 8) of its height and width, rounded up: the means of ``by`` × ``by``
    pixels, but sharper, because they are taken from the cosines that the file holds (DCT scaling).
    """
    width, height = picture.size
    if simplejpeg and picture.mode == "RGB":
        least = {"min_height": math.ceil(height / by), "min_width": math.ceil(width / by), "min_factor": 1}
        try:
            return np.asarray(simplejpeg.decode_jpeg(content, "RGB", **least))
        except ValueError:
            pass
    if by > 1:
        picture.draft(picture.mode, (width // by, height // by))
    return np.asarray(picture.convert("RGB"))


def png(picture: Image.Image, content: bytes) -> Pixels:
    """The pixels of a PNG of RGB, 8 bits, without transparent parts."""
    if pyspng:
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as checked:
                checked.verify()  # the checksums, which pyspng does not look at
            return np.asarray(pyspng.load(content, "RGB"))
        except Exception as error:  # Pillow raises nearly anything on damaged bytes
            log.debug("pyspng did not read a picture: %s", error)
    return np.asarray(picture)
