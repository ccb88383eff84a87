"""FITS: which image, which bands, which unit. What the header names is found by its name, and gives one picture."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits

from zoobot.errors import InputError
from zoobot.galaxies.images import read_image, read_picture
from zoobot.galaxies.pictures import Pixels
from zoobot.settings.schema import SurveySettings

NOISE = {"u": 0.008, "g": 0.008, "r": 0.014, "i": 0.017, "z": 0.019, "y": 0.019}
Band = npt.NDArray[np.float64]


def band(name: str, size: int = 40) -> Band:
    """An asymmetric galaxy in nanomaggies: a disc off the centre, and an arm at the top left that is blue."""
    y, x = np.mgrid[size - 1 : -1 : -1, 0:size]  # the first row of FITS is the lowest
    brightness = {"u": 0.2, "g": 0.5, "r": 0.8, "i": 1.0, "z": 1.3, "y": 1.4}[name]
    disc = brightness * np.exp(-((x - 25) ** 2 + (y - 28) ** 2) / 50)
    arm = 0.9 / brightness * np.exp(-((x - 6) ** 2 + (y - 5) ** 2) / 12)
    noise = np.random.default_rng(ord(name)).normal(size=(size, size)) * NOISE[name]
    return np.asarray(disc + arm + noise)


def cube(names: str) -> Band:
    return np.stack([band(name) for name in names])


def primary(data: Any, **header: object) -> fits.PrimaryHDU:
    return fits.PrimaryHDU(data, fits.Header(list(header.items())))


def image(data: Any, name: str = "", **header: object) -> fits.ImageHDU:
    return fits.ImageHDU(data, fits.Header(list(header.items())), name or None)


def survey(**settings: Any) -> SurveySettings:
    return SurveySettings(**settings)


def read(tmp_path: Path, *units: Any, **settings: Any) -> Pixels:
    fits.HDUList(list(units)).writeto(tmp_path / "galaxy.fits", overwrite=True, output_verify="ignore")
    return read_image(tmp_path / "galaxy.fits", survey(**settings))


@pytest.fixture
def expected(tmp_path: Path) -> Pixels:
    """The picture of g, r, z in nanomaggies, as a header says that says nothing."""
    return read(tmp_path, primary(cube("grz")))


def differs(a: Pixels, b: Pixels) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


# --------------------------------------------------------------- orientation and bands


def test_the_galaxy_stays_where_it_is(expected: Pixels) -> None:
    assert expected[5, 6, 2] > expected[5, 6, 0] + 30  # the blue arm is at the upper left
    assert (
        expected[26:31, 23:28, 0].mean() > expected[26:31, 23:28, 1].mean() - 5 > 100
    )  # the disc is below and right of the centre
    assert expected[34, 6].max() < 100 and expected[5, 34].max() < 100


@pytest.mark.parametrize("order", ["grz", "zrg", "rgz", "griz", "ugrizy", "zgr"])
@pytest.mark.parametrize(
    "say",
    [
        lambda order: {"BANDS": order},
        lambda order: {"BANDS": ",".join(order)},
        lambda order: {"BANDS": " ".join(order).upper()},
        lambda order: {f"BAND{k}": name for k, name in enumerate(order)},
        lambda order: {f"BAND{k + 1}": f"DECam_{name}" for k, name in enumerate(order)},
        lambda order: {f"FILTER{k}": f"HSC-{name.upper()}" for k, name in enumerate(order)},
        lambda order: {"FILTER": order},
        lambda order: {"FILTERS": ";".join(order)},
    ],
)
def test_planes_are_found_by_their_names(tmp_path: Path, order: str, say: Any, expected: Pixels) -> None:
    assert np.array_equal(read(tmp_path, primary(cube(order), **say(order))), expected)
    in_extension = read(tmp_path, fits.PrimaryHDU(), image(cube(order), "SCI", **say(order)))
    assert np.array_equal(in_extension, expected)


def test_planes_without_names_are_in_the_order_of_the_setting(tmp_path: Path, expected: Pixels) -> None:
    assert np.array_equal(read(tmp_path, primary(cube("zgr")), bands=["z", "g", "r"]), expected)
    assert np.array_equal(read(tmp_path, primary(cube("griz")), bands=["g", "r", "skip", "z"]), expected)
    assert np.array_equal(read(tmp_path, primary(cube("zgr"), BANDS="zgr")), expected)  # the header's names come first
    with pytest.raises(InputError, match=r"4 planes and its header names no bands: list all in survey.bands.*skip"):
        read(tmp_path, primary(cube("griz")))


def test_other_bands_are_refused_until_they_are_set(tmp_path: Path) -> None:
    gri = primary(cube("gri"), BANDS="gri")
    with pytest.raises(
        InputError, match=r"bands are g, r, i, and survey.bands asks for g, r, z.*survey.bands=\[g, r, i\]"
    ):
        read(tmp_path, gri)
    shown = read(tmp_path, gri, bands=["g", "r", "i"])
    assert np.array_equal(shown, read(tmp_path, primary(cube("irg"), BANDS="irg"), bands=["r", "i", "g"]))
    assert np.array_equal(shown, read(tmp_path, primary(cube("gri")), bands=["g", "r", "i"]))


def test_bands_of_unknown_wavelength_are_blue_to_red_as_listed(tmp_path: Path) -> None:
    names = ["F435W", "F606W", "F814W"]
    shown = read(tmp_path, primary(cube("zrg"), BANDS="F814W F606W F435W"), bands=names)
    assert np.array_equal(shown, read(tmp_path, primary(cube("grz"))))
    with pytest.raises(InputError, match="bands are f814w, f606w, f435w"):
        read(tmp_path, primary(cube("zrg"), BANDS="F814W F606W F435W"))


@pytest.mark.parametrize("header", [{"BANDS": "grz", "BAND0": "z", "BAND1": "r", "BAND2": "g"}, {"BANDS": "gr"},
                                    {"BANDS": "grr"}, {"BANDS": "griz"}])  # fmt: skip
def test_a_header_that_contradicts_itself_or_the_image(tmp_path: Path, header: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"contradicts itself|the image has 3 planes, and BANDS in its header names"):
        read(tmp_path, primary(cube("grz"), **header))


@pytest.mark.parametrize("data", [band("r"), band("r")[None], band("r")[None, None]])
@pytest.mark.parametrize("header", [{}, {"FILTER": "r"}, {"FILTER": "clear"}])
def test_one_band_is_grey(tmp_path: Path, data: Band, header: dict[str, str]) -> None:
    pixels = read(tmp_path, primary(data, **header))
    assert np.array_equal(pixels, np.repeat(pixels[:, :, :1], 3, axis=2))
    assert np.array_equal(pixels[:, :, 1], read(tmp_path, primary(cube("grz")))[:, :, 1])
    assert read_picture(tmp_path / "galaxy.fits").notes == ()
    read(tmp_path, primary(data, **header))
    assert read_picture(tmp_path / "galaxy.fits").notes == ("the only band is shown grey",)


def test_one_band_of_several_by_its_name(tmp_path: Path) -> None:
    pixels = read(tmp_path, primary(cube("zrg"), BANDS="zrg"), bands=["r"])
    assert np.array_equal(pixels, read(tmp_path, primary(band("r"))))
    with pytest.raises(InputError, match=r"its bands are g, and survey\.bands asks for r"):
        read(tmp_path, primary(band("g"), FILTER="g"), bands=["r"])


# --------------------------------------------------------------- one band per extension, and what is no galaxy


@pytest.mark.parametrize(
    "extensions",
    [
        [image(band(b), b.upper()) for b in "grz"],
        [image(band(b), f"IMAGE_{b}") for b in "zgr"],
        [image(band(b), "SCI", FILTER=f"{b} DECam SDSS c0001 4720.0 1520.0") for b in "rzg"],
        [image(band(b), f"x{k}", BAND=b) for k, b in enumerate("griz")],
        [image(band(b)[None], b) for b in "grz"],
        [fits.CompImageHDU(band(b), name=b, compression_type="GZIP_2", quantize_level=0) for b in "zrg"],
        [*(image(band(b), b) for b in "grz"), image(band("u"), "MASK"), image(band("y"), "IVAR_G")],
        [unit for b in "grz" for unit in (image(band(b), f"SCI_{b}"), image(band("u"), f"WHT_{b}"))],
    ],
)
def test_one_band_per_extension(tmp_path: Path, extensions: list[Any], expected: Pixels) -> None:
    assert np.array_equal(read(tmp_path, fits.PrimaryHDU(), *extensions), expected)
    packed = gzip.compress((tmp_path / "galaxy.fits").read_bytes())
    (tmp_path / "galaxy.fits.gz").write_bytes(packed)
    assert np.array_equal(read_image(tmp_path / "galaxy.fits.gz"), expected)


def test_the_first_band_may_be_in_the_primary(tmp_path: Path, expected: Pixels) -> None:
    units = [primary(band("z"), FILTER="z"), image(band("g"), "G"), image(band("r"), "R")]
    assert np.array_equal(read(tmp_path, *units), expected)


OTHERS = [
    "MASK",
    "WHT",
    "INVVAR",
    "IVAR",
    "DQ",
    "ERR",
    "RMS",
    "VARIANCE",
    "SEGMENTATION",
    "psf",
    "Weight map",
    "MASK_1",
]


@pytest.mark.parametrize("other", OTHERS)
def test_masks_weights_and_errors_are_never_shown(tmp_path: Path, other: str, expected: Pixels) -> None:
    wrong = 5 * cube("yyy")
    for units in (
        [fits.PrimaryHDU(), image(wrong, other), image(cube("grz"), "SCI")],
        [fits.PrimaryHDU(), image(wrong, other), image(cube("grz"))],
        [primary(wrong, IMAGETYP=other.lower()), image(cube("grz"), "IMAGE")],
        [primary(cube("grz")), image(wrong, other), image(wrong, "unknown")],
        [
            fits.PrimaryHDU(),
            image(wrong, other),
            fits.CompImageHDU(cube("grz"), quantize_level=0, compression_type="GZIP_1"),
        ],
    ):
        assert np.array_equal(read(tmp_path, *units), expected)
    with pytest.raises(InputError, match=f"no image of the galaxy, only {other.upper()}"):
        read(tmp_path, fits.PrimaryHDU(), image(wrong, other))


def test_the_image_is_chosen_by_its_planes_or_not_at_all(tmp_path: Path, expected: Pixels) -> None:
    assert np.array_equal(read(tmp_path, fits.PrimaryHDU(), image(band("u")), image(cube("grz"))), expected)
    with pytest.raises(InputError, match=r"several images, and no name says which is the galaxy's: A \(40, 40\), B"):
        read(tmp_path, fits.PrimaryHDU(), image(band("u"), "A"), image(band("g"), "B"))
    with pytest.raises(InputError, match="several images of one band"):
        read(tmp_path, fits.PrimaryHDU(), *(image(band(b), b) for b in "grzr"))
    with pytest.raises(InputError, match="no image in the file"):
        read(tmp_path, fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])]))


# --------------------------------------------------------------- units

ADU_27 = 10 ** (0.4 * 4.5)  # counts per nanomaggy at a zero point of 27
PER_JY = 3.631e-6  # Jy per nanomaggy
HUBBLE = {"PHOTFLAM": 7.0e-20, "PHOTPLAM": 8045.0}
HUBBLE_ZP = -2.5 * np.log10(7.0e-20) - 5 * np.log10(8045.0) - 2.408


@pytest.mark.parametrize(
    ("values_per_nanomaggy", "header"),
    [
        (1, {"BUNIT": "nanomaggy"}), (1, {"BUNIT": "nanomaggies"}), (1, {"BUNIT": "nmgy/pixel"}),
        (1, {"BUNIT": "nanomaggy", "MAGZERO": 22.5}), (1e-9, {"BUNIT": "maggies"}),
        (PER_JY, {"BUNIT": "Jy"}), (PER_JY * 1e3, {"BUNIT": "mJy"}), (PER_JY * 1e6, {"BUNIT": "uJy"}),
        (PER_JY * 1e9, {"BUNIT": "nJy"}), (PER_JY * 1e9, {"BUNIT": "nJy", "ZP": 31.4}), (PER_JY, {"BUNIT": "Jy/pix"}),
        (PER_JY * 1e-6 / 2e-14, {"BUNIT": "MJy/sr", "PIXAR_SR": 2e-14}),
        (ADU_27, {"BUNIT": "adu", "MAGZERO": 27.0}), (ADU_27, {"MAGZPT": 27}),
        (ADU_27, {"BUNIT": "DN", "ZEROPT": 27.0}),
        (ADU_27, {"BUNIT": "electron/s", "ZP": 27.0}), (ADU_27, {"BUNIT": "counts", "PHOTZP": 27.0, "ZPT": 27.001}),
        (ADU_27, {"FLUXMAG0": 10 ** (0.4 * 27)}),
        (10 ** (0.4 * (HUBBLE_ZP - 22.5)), {"BUNIT": "ELECTRONS/S", **HUBBLE}),
    ],
)  # fmt: skip
def test_what_the_header_says_gives_nanomaggies(
    tmp_path: Path, values_per_nanomaggy: float, header: dict[str, Any], expected: Pixels
) -> None:
    data = cube("grz") * values_per_nanomaggy
    assert differs(read(tmp_path, primary(data, BANDS="grz", **header)), expected) <= 1
    parts = [image(data[k], name, **header) for k, name in enumerate("grz")]
    assert differs(read(tmp_path, fits.PrimaryHDU(), *parts), expected) <= 1
    assert (
        differs(read(tmp_path, primary(None, **header), image(data, "SCI")), expected) <= 1
    )  # said for the whole file


@pytest.mark.parametrize(
    "unit", ["adu", "counts", "electron", "electron/s", "DN", "nanomaggy/arcsec2", "MJy/sr", "mag"]
)
def test_a_unit_that_is_no_flux_is_refused_with_what_to_set(tmp_path: Path, unit: str, expected: Pixels) -> None:
    units = primary(cube("grz") * ADU_27, BUNIT=unit)
    with pytest.raises(InputError, match=rf"its unit is {unit} .*survey\.zero_point.*survey\.stretch=noise"):
        read(tmp_path, units)
    assert differs(read(tmp_path, units, zero_point=27.0), expected) <= 1
    assert read(tmp_path, units, stretch="noise").std() > 20


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"BUNIT": "nanomaggy", "MAGZERO": 27.0}, "do not fit"),
        ({"MAGZERO": 27.0, "ZP": 25.0}, "several zero points: MAGZERO=27, ZP=25"),
        ({"BUNIT": "adu", "MAGZERO": 0.0}, "MAGZERO=0 is no zero point"),
        ({"BUNIT": "adu", "MAGZERO": -99.0}, "MAGZERO=-99 is no zero point"),
        ({"BSOFTEN": 100.0}, "compressed"),
        ({"BUNIT": "ELECTRONS", **HUBBLE}, "its unit is ELECTRONS"),
    ],
)
def test_headers_that_cannot_be_followed(tmp_path: Path, header: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(tmp_path, primary(cube("grz"), **header))


def counts(kind: str) -> npt.NDArray[Any]:
    """Counts with a sky of 1000, as a camera writes them."""
    return np.rint(1000 + ADU_27 * cube("grz")).astype(kind)


@pytest.mark.parametrize("kind", ["u2", "i2", "i4", "u4"])
def test_whole_numbers_without_a_unit_are_counts(tmp_path: Path, kind: str) -> None:
    units = primary(counts(kind))
    with pytest.raises(InputError, match=r"whole numbers without a unit, so counts .*survey\.stretch=noise"):
        read(tmp_path, units)
    shown = read(tmp_path, units, stretch="noise")
    assert shown[5, 6, 2] > shown[5, 6, 0] + 30 and shown[34, 6].max() < 120
    assert differs(shown, read(tmp_path, primary(counts(kind).astype("f4")), stretch="noise")) == 0
    assert (
        differs(shown, read(tmp_path, primary(cube("grz") * 7e-5), stretch="noise")) <= 25
    )  # the unit is nothing to it


def test_scaled_whole_numbers_are_what_they_stand_for(tmp_path: Path, expected: Pixels) -> None:
    stored = primary(np.rint(cube("grz") / 1e-4).astype("i2"))
    stored.header["BSCALE"] = 1e-4
    assert differs(read(tmp_path, stored), expected) <= 1


def test_a_picture_that_would_be_white_is_an_error(tmp_path: Path) -> None:
    for zero_point in (0.0, 22.5):
        with pytest.raises(InputError, match=r"100% of the picture would be white.*survey\.zero_point"):
            read(tmp_path, primary(counts("f4")), zero_point=zero_point)


def test_a_picture_that_would_be_black_is_blank(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the picture is blank"):
        read(tmp_path, primary(1e-9 * cube("grz")))  # maggies, and no header says so


def test_without_noise_there_is_no_stretch_by_noise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its sky has no noise"):
        read(tmp_path, primary(np.ones((3, 20, 20))), stretch="noise")
    half_empty = cube("grz")
    half_empty[1, :20] = 0
    with pytest.raises(InputError, match="50% of the pixels of band r are missing"):
        read(tmp_path, primary(half_empty), stretch="noise")
