"""Pictures: what is read exactly, what is refused and why, and what shards get to see."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from zoobot.errors import InputError
from zoobot.galaxies.fluxes import grz_to_rgb
from zoobot.galaxies.images import read_image, resize
from zoobot.galaxies.pictures import Pixels

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")
NOISE = np.array([0.008, 0.014, 0.019])  # of g, r, z


def colours(height: int = 24, width: int = 20, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sky(height: int = 24, width: int = 20, seed: int = 0) -> npt.NDArray[np.float32]:
    """g, r, z of blank sky with its noise: no pixel is exactly 0."""
    unit = np.random.default_rng(seed).normal(size=(3, height, width)).astype("float32")
    return np.asarray(unit * NOISE[:, None, None].astype("float32"))


def fits_bytes(bands: npt.NDArray[np.float32], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    units = [fits.PrimaryHDU(), fits.CompImageHDU(bands)] if compressed else [fits.PrimaryHDU(bands)]
    fits.HDUList(units).writeto(file)
    return file.getvalue()


# --------------------------------------------------------------- PNG and JPEG


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "J085828.59+000124.5.png", "a.jpg", "a.fits", "no_suffix"])
def test_lossless_colour_comes_back_exactly(tmp_path: Path, name: str) -> None:
    pixels = colours()
    Image.fromarray(pixels).save(tmp_path / name, "png")  # the content says what it is, not the name
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint8 and np.array_equal(read, pixels)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA"])
def test_other_8_bit_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    ramp = np.repeat(np.arange(16, dtype=np.uint8)[:, None], 8, axis=1)
    Image.fromarray(ramp).convert(mode).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == mode
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(ramp[:, :, None], 3, axis=2))


def test_jpeg_comes_back_nearly(tmp_path: Path) -> None:
    y, x = np.mgrid[0:32, 0:40]
    pixels = np.stack([4 * y, 3 * x, 255 - 2 * (x + y)], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    read = read_image(tmp_path / "a.jpg")
    assert read.shape == (32, 40, 3)
    assert np.abs(read.astype(int) - pixels).mean() < 2


def test_modes_that_mean_something_else_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="pixels of type CMYK"):
        read_image(tmp_path / "a.jpg")
    Image.new("1", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="pixels of type 1"):
        read_image(tmp_path / "a.png")


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path / "absent.fits", tmp_path):
        with pytest.raises(InputError, match=r"^no such file$"):
            read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".fits", ".fits.gz", ".fits.fz"])
@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"SIMPLE  =", bytes(5000)])
def test_what_is_not_a_picture(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^not a readable (picture|FITS file): \S") as refused:
        read_image(path)
    assert str(tmp_path) not in str(refused.value)  # the reason is listed with the galaxy's own file_loc


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.95])
def test_a_picture_that_was_cut_off(tmp_path: Path, suffix: str, fraction: float) -> None:
    Image.fromarray(colours(60, 60)).save(tmp_path / f"a{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match="not a readable picture: "):
        read_image(tmp_path / f"a{suffix}")


# --------------------------------------------------------------- FITS


def test_the_stretch_by_hand() -> None:
    """R is z, G is r, B is g; arcsinh from -0.5 to 300 times the noise; the first row of a FITS image is the lowest."""
    bands = np.empty((3, 2, 1))
    bands[:, 0, 0] = NOISE * [-0.5, 300, 10]  # g, r, z of the lower pixel
    bands[:, 1, 0] = NOISE * [-5, 5000, 1]
    span = np.arcsinh(300) + np.arcsinh(0.5)
    ten, one = ((np.arcsinh(level) + np.arcsinh(0.5)) / span * 255 for level in (10, 1))
    assert (round(ten), round(one)) == (129, 51)
    assert grz_to_rgb(bands).tolist() == [[[51, 255, 0]], [[129, 255, 0]]]


def test_a_few_missing_pixels_look_like_empty_sky() -> None:
    bands = sky().astype(float) + 1
    bands[0, 0, 0], bands[1, 0, 1], bands[2, 0, 2], bands[2, 0, 3] = np.nan, np.inf, 0, -np.inf
    empty = round(255 * np.arcsinh(0.5) / (np.arcsinh(300) + np.arcsinh(0.5)))
    bottom = grz_to_rgb(bands)[-1]
    assert [bottom[0, 2], bottom[1, 1], bottom[2, 0], bottom[3, 0]] == [empty] * 4 == [18] * 4
    assert (bottom[4] > 100).all()


@pytest.mark.parametrize("missing", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("band", [0, 1, 2])
def test_many_missing_pixels_are_refused(missing: float, band: int) -> None:
    bands = np.ones((3, 10, 10))
    bands[band].flat[:20] = missing
    assert grz_to_rgb(bands).shape == (10, 10, 3)  # a fifth may be missing
    bands[band].flat[20] = missing
    with pytest.raises(InputError, match=f"21% of the pixels of band {'grz'[band]} are missing; at most 20% may be"):
        grz_to_rgb(bands)


@pytest.mark.parametrize("name", ["a.fits", "A.FITS", "J1.5+0.1.fit", "a.fits.gz", "a.fits.fz"])
def test_fits_is_read_in_each_packing(tmp_path: Path, name: str) -> None:
    bands = sky()
    content = fits_bytes(bands, compressed=name.endswith("fz"))
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    expected = grz_to_rgb(bands.astype(float))
    tolerance = 4 if name.endswith("fz") else 0  # which stores fewer bits
    assert np.abs(read_image(tmp_path / name).astype(int) - expected).max() <= tolerance


def test_fits_that_is_nan_everywhere(tmp_path: Path) -> None:
    (tmp_path / "a.fits").write_bytes(fits_bytes(np.full((3, 8, 8), np.nan, dtype="float32")))
    with pytest.raises(InputError, match="100% of the pixels of band g are missing"):
        read_image(tmp_path / "a.fits")


@pytest.mark.parametrize("shape", [(20, 24, 3), (2, 3, 20, 24)])
def test_fits_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "a.fits").write_bytes(fits_bytes(np.ones(shape, dtype="float32")))
    with pytest.raises(InputError, match=re.escape(f"the shape {shape}: bands × height × width is needed")):
        read_image(tmp_path / "a.fits")


def test_fits_without_an_image(tmp_path: Path) -> None:
    fits.PrimaryHDU().writeto(tmp_path / "a.fits")
    with pytest.raises(InputError, match="no image in the file"):
        read_image(tmp_path / "a.fits")


@pytest.mark.parametrize("lost", [1, 2000, 2880, 3000, 8000])
@pytest.mark.filterwarnings("ignore:File may have been truncated")  # astropy's own line about it
def test_fits_that_was_cut_off(tmp_path: Path, lost: int) -> None:
    content = fits_bytes(sky(40, 40))
    (tmp_path / "a.fits").write_bytes(content[:-lost])
    with pytest.raises(InputError, match="not a readable FITS file: "):
        read_image(tmp_path / "a.fits")


def picture_bytes(file_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(colours(8, 8)).save(file, file_format)
    return file.getvalue()


PICTURES = {
    ".png": picture_bytes("PNG"),
    ".jpg": picture_bytes("JPEG"),
    ".gif": picture_bytes("GIF"),
    ".fits": fits_bytes(sky(8, 8)),
    ".fits.fz": fits_bytes(sky(8, 8), compressed=True),
    ".fits.gz": gzip.compress(fits_bytes(sky(8, 8))),
}


@given(st.sampled_from(sorted(PICTURES)), st.data())
@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")  # of damaged bytes, astropy and numpy warn
def test_damaged_bytes_give_a_picture_or_a_reason(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    """Nothing else may come out: one bad file among thousands must not stop a stage."""
    content = bytearray(PICTURES[suffix])
    for place in data.draw(st.lists(st.integers(0, min(len(content), 600) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content[:end])
    try:
        pixels = read_image(path)
    except InputError as refused:
        assert len(str(refused)) > 5
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


# --------------------------------------------------------------- resize


def test_the_central_square_is_kept() -> None:
    pixels = colours(6, 10)
    assert np.array_equal(resize(pixels, 6, 3), pixels[:, 2:8])
    assert np.array_equal(resize(pixels.swapaxes(0, 1), 6, 3), pixels.swapaxes(0, 1)[2:8])
    assert np.array_equal(resize(pixels[:, :7], 6, 3), pixels[:, :6])  # an odd pixel too many goes from the end


def test_grey_is_the_mean_of_the_colours() -> None:
    pixels = np.array([[[10, 20, 31], [255, 255, 255]], [[0, 0, 1], [1, 1, 0]]], dtype=np.uint8)
    assert resize(pixels, 2, 1).tolist() == [[[20], [255]], [[0], [1]]]


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 8, 32, 50]), st.sampled_from([1, 3]))
def test_shape_and_type_are_always_those_asked_for(height: int, width: int, size_px: int, channels: int) -> None:
    resized = resize(colours(height, width), size_px, channels)
    assert resized.shape == (size_px, size_px, channels) and resized.dtype == np.uint8


@given(st.integers(0, 255), st.integers(8, 40), st.integers(8, 40))
def test_a_flat_picture_stays_flat(level: int, height: int, size_px: int) -> None:
    flat = np.full((height, height + 3, 3), level, dtype=np.uint8)
    assert (resize(flat, size_px, 3) == level).all() and (resize(flat, size_px, 1) == level).all()


def test_halving_averages() -> None:
    halves = np.zeros((8, 8, 3), dtype=np.uint8)
    halves[:, 4:] = 200
    small = resize(halves, 4, 3)
    assert (small[:, 0] < 10).all() and (small[:, 3] > 190).all() and abs(float(small.mean()) - 100) < 3


# --------------------------------------------------------------- real pictures


@needs_real_data
def test_real_fits_cut_outs() -> None:
    folder = SHARED / "realdata" / "decals" / "fits_native"
    good = read_image(folder / "example_a.fits")
    assert good.shape == (424, 424, 3)
    centre, corners = good[182:242, 182:242].mean(), good[:60, :60].mean()
    assert centre > corners + 30  # the galaxy is in the middle, on a dark sky
    with pytest.raises(InputError, match=r"76% of the pixels of band g are missing; at most 20% may be"):
        read_image(folder / "example_bad_pix.fits")
    with pytest.raises(InputError, match="not a readable FITS file: the end of the file is missing"):
        read_image(folder / "example_incomplete.fits")


@needs_real_data
@pytest.mark.parametrize(("folder", "pattern"), [("decals/png_native", "*.png"), ("gz2/png", "*.jpg")])
def test_real_pictures(folder: str, pattern: str) -> None:
    paths = sorted((SHARED / "realdata" / folder).glob(pattern))[:20]
    assert len(paths) == 20
    for path in paths:
        pixels = read_image(path)
        assert pixels.shape == (424, 424, 3), path
        assert pixels.std() > 5, path
        assert resize(pixels, 64, 1).shape == (64, 64, 1)
