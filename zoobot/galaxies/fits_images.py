"""Read a galaxy's picture from FITS: which of the file's images it is, which planes are which bands, in which unit.

What the header names is found by its name, never by its place. What it does not say, the settings ``survey.bands``,
``survey.zero_point`` and ``survey.stretch`` do.
"""

from __future__ import annotations

import gzip
import io
import re
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zoobot.errors import InputError
from zoobot.galaxies import fits_sizes, fluxes, pictures
from zoobot.galaxies.pictures import BYTES_PER_PIXEL, LARGE_BYTES, LARGE_PIXELS, Picture, Pixels, one_at_a_time
from zoobot.settings.schema import SurveySettings

FITS, GZIP = b"SIMPLE  =", b"\x1f\x8b"
SKIP = "skip"  # in survey.bands: a plane that is not shown
_WAVELENGTHS = tuple("ugrizy")  # bands by wavelength, blue to red
_SCIENCE = {"SCI", "SCIENCE", "IMAGE", "DATA", "FLUX"}
_NOT_SCIENCE = {
    "MASK", "MSK", "MASKBITS", "ALLMASK", "ANYMASK", "DQ", "FLAG", "FLAGS", "QUALITY", "BAD", "BADPIX", "WEIGHT",
    "WEIGHTS", "WHT", "WGT", "IVAR", "INVVAR", "INVVARIANCE", "VAR", "VARIANCE", "ERR", "ERROR", "ERRORS", "RMS",
    "SIGMA", "STD", "UNC", "UNCERT", "UNCERTAINTY", "NOISE", "EXPMAP", "EXPTIME", "EXPOSURE", "NEXP", "COVERAGE", "COV",
    "CTX", "CON", "CONTEXT", "AREA", "DEPTH", "GALDEPTH", "PSF", "PSFSIZE", "KERNEL", "MODEL", "BLOBMODEL", "RESID",
    "RESIDUAL", "CHI", "BKG", "BACKGROUND", "SKY", "SEG", "SEGM", "SEGMAP", "SEGMENTATION", "NIMAGE", "THUMBNAIL",
    "PREVIEW",
}  # fmt: skip


def read(content: bytes, survey: SurveySettings) -> Picture:
    """The picture in a FITS file, packed by gzip or not. Raises InputError, with the reason, if it cannot be used."""
    try:
        if not content.startswith(GZIP):
            return _read(content, survey)
        unpacked = _unpack(content, LARGE_BYTES)
        if len(unpacked) <= LARGE_BYTES:
            return _read(unpacked, survey)
        with one_at_a_time(True):
            return _read(_unpack(content, BYTES_PER_PIXEL * survey.max_pixels), survey)
    except InputError:
        raise
    except Exception as error:  # astropy raises nearly anything on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"not a readable FITS file: {reason}") from error


def _unpack(content: bytes, most: int) -> bytes:
    """What gzip packed, up to one byte more than ``most``."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        return file.read(most + 1)


def _read(content: bytes, survey: SurveySettings) -> Picture:
    from astropy.io import fits

    if len(content) > BYTES_PER_PIXEL * survey.max_pixels:
        raise pictures.too_many_bytes(survey.max_pixels)
    if not content.startswith(FITS):
        raise ValueError("gzip holds gzip" if content.startswith(GZIP) else "gzip holds no FITS file")
    fits_sizes.check_headers(content)
    with fits.open(io.BytesIO(content)) as units:
        numbered = enumerate(islice(units, fits_sizes.MAX_UNITS))
        images = [_Image(unit, units[0], number) for number, unit in numbered if unit.is_image and len(unit.shape) > 1]
        planes = _choose(images, survey)
        height, width = planes[0].image.unit.shape[-2:]
        pictures.check_size(width, height, survey.max_pixels)
        for image in {plane.image.number: plane.image for plane in planes}.values():
            if isinstance(image.unit, fits.CompImageHDU):
                fits_sizes.check_compressed(content, image.unit, image.number, survey.max_pixels)
        with one_at_a_time(width * height > LARGE_PIXELS):
            pixels = _pixels(planes, survey)
    grey = len(planes) == 1 < len(_wanted(survey))
    return Picture(pixels, ("the only band is shown grey",) if grey else ())


def _pixels(planes: Sequence[_Plane], survey: SurveySettings) -> Pixels:
    """RGB pixels of one plane, or of three, blue to red."""
    own = survey.stretch == "noise"
    noise = fluxes.BAND_NOISE if len(planes) == 3 else fluxes.BAND_NOISE[1:2]
    images = {} if own else {plane.image.number: plane.image for plane in planes}
    in_nanomaggies = {n: fluxes.nanomaggies_per_value(i.header, survey.zero_point) for n, i in images.items()}
    bands = (plane.values() for plane in planes)  # one at a time, because a large one is many bytes
    units = (in_nanomaggies.get(plane.image.number, 1.0) for plane in planes)
    shown = (fluxes.in_noise(band) if own else band * unit for band, unit in zip(bands, units, strict=True))
    return fluxes.grz_to_rgb(shown, [plane.band for plane in planes], (1.0,) * len(planes) if own else noise)


# ----------------------------------------------------------- which image


@dataclass(frozen=True)
class _Image:
    """One of the images in a FITS file."""

    unit: Any  # of astropy
    primary: Any  # the file's first unit: its header speaks for the others too
    number: int  # of the unit in the file

    @property
    def header(self) -> fluxes.Header:
        own, file = self.unit.header, self.primary.header
        header: fluxes.Header = own if own is file else ChainMap(own, file)
        return header

    @property
    def words(self) -> set[str]:
        """What its header calls it, e.g. ``{"IMAGE", "G"}``."""
        said = [str(self.unit.header.get(key, "")) for key in ("EXTNAME", "IMAGETYP", "IMTYPE", "DES_EXT")]
        return {word.rstrip("0123456789") for text in said for word in re.findall("[A-Z0-9]+", text.upper())}

    @property
    def name(self) -> str:
        return str(self.unit.name) or f"number {self.number}"

    @property
    def n_planes(self) -> int:
        *others, _, _ = (n for n in self.unit.shape)
        while others and others[0] == 1:
            others.pop(0)
        if len(others) > 1 or (others and self.unit.shape[-1] < 5 < others[0]):
            raise InputError(f"image {self.name} has the shape {self.unit.shape}: bands × height × width is needed")
        return others[0] if others else 1


@dataclass(frozen=True)
class _Plane:
    """One band of a picture: a plane of an image."""

    band: str
    image: _Image
    number: int

    def values(self) -> fluxes.Band:
        shape = self.image.unit.shape[-2:]
        plane: fluxes.Band = self.image.unit.data.reshape(-1, *shape)[self.number].astype(float)
        return plane


def _choose(images: Sequence[_Image], survey: SurveySettings) -> list[_Plane]:
    """The planes to show, blue to red: one, or three."""
    science = [image for image in images if not image.words & _NOT_SCIENCE]
    if not science:
        names = ", ".join(image.name for image in images)
        raise InputError(f"no image of the galaxy, only {names}" if names else "no image in the file")
    wanted = _wanted(survey)
    if len(science) > 1:
        single = [(_band_of(image), image) for image in science if image.n_planes == 1]
        named = {band: image for band, image in reversed(single) if band}
        if set(wanted) <= set(named):
            if len(named) < sum(band in named for band, _ in single):
                raise InputError(f"several images of one band: {_names(science)}. Leave one of each")
            return _colours([_Plane(band, named[band], 0) for band in wanted])
    image = _the_one(science, len(survey.bands))
    bands = _bands_of(image, survey)
    if len(bands) == 1 < len(wanted):
        return [_Plane(bands[0] or "1", image, 0)]
    if not set(wanted) <= set(bands):
        suggestion = ", ".join(bands if len(bands) in (1, 3) else [*bands][:3])
        raise InputError(
            f"its bands are {', '.join(bands)}, and survey.bands asks for {', '.join(wanted)}."
            f" Set survey.bands to those to show, e.g. survey.bands=[{suggestion}]"
        )
    return _colours([_Plane(band, image, bands.index(band)) for band in wanted])


def _the_one(science: Sequence[_Image], n_bands: int) -> _Image:
    """The image that shows the galaxy, by its name, by its planes, or because the file begins with it."""
    by_name = [image for image in science if image.words & _SCIENCE]
    by_planes = [image for image in science if image.n_planes == n_bands]
    for found in (science, by_name, by_planes, [image for image in science if image.number == 0]):
        if len(found) == 1:
            return found[0]
    raise InputError(
        f"several images, and no name says which is the galaxy's: {_names(science)}. Leave one, name it SCI, or name"
        " each band's image as in survey.bands"
    )


def _names(images: Sequence[_Image]) -> str:
    return ", ".join(f"{image.name} {image.unit.shape}" for image in images)


# ----------------------------------------------------------- which bands


def _wanted(survey: SurveySettings) -> list[str]:
    return [_band(name) for name in survey.bands if name != SKIP]


def _colours(planes: list[_Plane]) -> list[_Plane]:
    """Blue to red: by wavelength if all are known, otherwise as they are listed in survey.bands."""
    if all(plane.band in _WAVELENGTHS for plane in planes):
        return sorted(planes, key=lambda plane: _WAVELENGTHS.index(plane.band))
    return planes


def _band(name: str) -> str:
    """A filter's name in one form: ``HSC-G``, ``g DECam SDSS c0001`` and ``SDSS_g`` are g, ``F814W`` is f814w."""
    short = {
        word.lower() for word in re.findall("[A-Za-z0-9]+", name) if len(word) == 1 and word.lower() in _WAVELENGTHS
    }
    return short.pop() if len(short) == 1 else name.strip().lower()


def _band_of(image: _Image) -> str:
    """The band of an image of one plane; empty if its header names none."""
    for key in ("BAND", "BANDS", "FILTER"):
        if isinstance(image.unit.header.get(key), str):
            return _band(image.unit.header[key])
    if _band(image.unit.name) in _WAVELENGTHS:
        return _band(image.unit.name)
    return next((_band(image.header[key]) for key in ("BAND", "FILTER") if isinstance(image.header.get(key), str)), "")


def _bands_of(image: _Image, survey: SurveySettings) -> list[str]:
    """The band of each plane: as the header says; if it says nothing, as survey.bands does."""
    if image.n_planes == 1:
        return [_band_of(image)]
    said = {key: names for key in ("BANDS", "BAND", "FILTERS", "FILTER") if (names := _split(image, key))}
    said |= {f"{stem}n": names for stem in ("BAND", "FILTER", "FILT") if (names := _numbered(image, stem))}
    if not said:
        if image.n_planes == len(survey.bands):
            return [_band(name) for name in survey.bands]
        raise InputError(
            f"the image has {image.n_planes} planes and its header names no bands: list all in survey.bands, in their"
            f" order, with {SKIP} for a plane that is not to be shown"
        )
    if len({tuple(names) for names in said.values()}) > 1:
        raise InputError(
            "the header contradicts itself: " + ", ".join(f"{k} is {' '.join(n)}" for k, n in said.items())
        )
    (key, names), *_ = said.items()
    if len(names) != image.n_planes or len(set(names)) != len(names):
        raise InputError(f"the image has {image.n_planes} planes, and {key} in its header names {' '.join(names)}")
    return names


def _split(image: _Image, key: str) -> list[str]:
    """The bands in one value: ``grz``, ``g,r,z`` or ``F435W F606W F814W``."""
    value = image.header.get(key)
    words = re.findall(r"[^\s,;/|+]+", value) if isinstance(value, str) else []
    if len(words) == 1 and (len(words[0]) == image.n_planes or key == "BANDS"):
        words = list(words[0])
    return [_band(word) for word in words] if key == "BANDS" or len(words) == image.n_planes else []


def _numbered(image: _Image, stem: str) -> list[str]:
    """The bands in ``BAND0``, ``BAND1``, … or ``BAND1``, ``BAND2``, …"""
    first = 0 if f"{stem}0" in image.header else 1
    values = [image.header.get(f"{stem}{first + plane}") for plane in range(image.n_planes)]
    return [_band(value) for value in values if isinstance(value, str)] if all(values) else []
