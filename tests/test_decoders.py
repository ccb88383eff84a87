"""Fast decoding: the pixels of shards against Pillow's, on any machine, with and without the faster decoders."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from tests.test_bitmaps import chunk, encoded, in_16_bits, png_16
from zoobot.errors import InputError
from zoobot.galaxies import decoders
from zoobot.galaxies.images import read_for_shards, read_image, resize
from zoobot.galaxies.pictures import Pixels, Reduced, reduction
from zoobot.settings import SurveySettings
from zoobot.settings.schema import ShardsSettings

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")
Floats = npt.NDArray[np.float64]
# Of pixels at 64, 128 and 224 px, from PNG and JPEG: the same with and without vector instructions (JSIMD_FORCENONE=1).
DIGESTS = ["ebd0dc0a", "a7691d9a", "da719798", "ab4b94c6", "d3dfb568", "97a73eb4"]


def stored(path: Path, size_px: int, channels: int = 3, crop: float = 1.0) -> Pixels:
    shards = ShardsSettings(name="x", image_size_px=size_px, channels=channels, crop=crop)
    return read_for_shards(path, SurveySettings(), shards)[0]


@cache
def galaxy(height: int = 424, width: int = 424, seed: int = 0) -> Pixels:
    """A disc with two arms, some stars, and the noise of the sky."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] - np.array([height / 2 + 7, width / 2 - 11])[:, None, None]
    radius, angle = np.hypot(x, y) + 1, np.arctan2(y, x)
    light = np.exp(-radius / 50) * (1 + 0.6 * np.cos(2 * angle - 5 * np.log(radius)))
    for star_y, star_x in random.uniform(-0.45, 0.45, (6, 2)) * [height, width]:
        light += 0.8 * np.exp(-((x - star_x) ** 2 + (y - star_y) ** 2) / 6)
    colours = np.stack([light, 0.9 * light, 0.6 * light + 0.02], axis=2) * 180 + 25
    return (colours + random.normal(scale=2, size=colours.shape)).clip(0, 255).astype(np.uint8)


def write(path: Path, pixels: Pixels, file_format: str, **options: object) -> Path:
    path.write_bytes(encoded(pixels, file_format, **options))
    return path


def by_lanczos(path: Path, size_px: int, crop: float = 1.0) -> Floats:
    """Pillow's full picture, its central square, resized in one step: how shards were made before."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    side = round(crop * min(pixels.shape[:2]))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(square.resize((size_px, size_px), Image.Resampling.LANCZOS)).astype(float)


# --------------------------------------------------------------- how much is left out


def test_a_picture_is_halved_while_its_square_keeps_the_size() -> None:
    assert [reduction(424, least) for least in (64, 106, 107, 212, 213, 424, 500)] == [4, 4, 2, 2, 1, 1, 1]
    assert reduction(4000, 64) == 8, "an eighth is the least that JPEG gives"


def test_means_by_hand(tmp_path: Path) -> None:
    """A PNG of 48 px with 8 stored: halved twice, then resized from 12."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 52, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    means = np.rint(pixels[:, 2:50].reshape(12, 4, 12, 4, 3).mean(axis=(1, 3))).astype(np.uint8)
    expected = np.asarray(Image.fromarray(means).resize((8, 8), Image.Resampling.HAMMING)).astype(int)
    assert np.abs(stored(tmp_path / "a.png", 8) - expected).max() <= 1


def test_a_jpeg_is_halved_by_its_cosines(tmp_path: Path) -> None:
    """Blocks of one colour each: their reduced pixels have that colour."""
    levels = np.random.default_rng(0).integers(30, 220, (16, 16), dtype=np.uint8)
    pixels = np.repeat(np.kron(levels, np.ones((8, 8), np.uint8))[:, :, None], 3, axis=2)
    path = write(tmp_path / "a.jpg", pixels, "JPEG", quality=100, subsampling=0)
    for by in (1, 2, 4, 8):
        with Image.open(path) as picture:
            small = decoders.jpeg(picture, path.read_bytes(), by)
        assert np.abs(small - np.kron(levels, np.ones((8 // by, 8 // by)))[:, :, None]).max() <= 2


@given(st.integers(120, 250), st.integers(120, 250), st.sampled_from([0.4, 0.5, 0.83, 1.0]), st.sampled_from([20, 60]))
@hypothesis_settings(max_examples=40)
def test_the_square_is_the_same_one(height: int, width: int, crop: float, size_px: int) -> None:
    """On a slope of 1, a shift by a pixel of the file is a difference of 1; rounding makes less."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([y, x, np.zeros_like(x)], axis=2).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=100, subsampling=0)
    with Image.open(file) as picture:
        by = reduction(height if height < width else width, int(np.ceil(1.5 * size_px / crop)))
        small = decoders.jpeg(picture, file.getvalue(), by)
    with Image.open(file) as picture:
        full = np.asarray(picture)
    found = resize(small, size_px, 3, crop, Reduced(by, height, width) if by > 1 else None).astype(float)
    expected = resize(full, size_px, 3, crop).astype(float)
    assert np.abs((found - expected)[2:-2, 2:-2].mean(axis=(0, 1))).max() < 0.75


# --------------------------------------------------------------- against Pillow's full picture


@pytest.mark.parametrize("crop", [1.0, 0.5])
@pytest.mark.parametrize("size_px", [64, 128, 224])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_pixels_are_near_those_of_one_step_by_lanczos(
    tmp_path: Path, file_format: str, size_px: int, crop: float
) -> None:
    differences = []
    for seed in range(3):
        path = write(tmp_path / "a", galaxy(seed=seed), file_format)
        differences.append(np.abs(stored(path, size_px, crop=crop) - by_lanczos(path, size_px, crop)))
    assert np.mean(differences) < 1 and np.max(differences) < 40


@needs_real_data
@pytest.mark.parametrize(
    ("folder", "pattern", "mean"), [("decals/png_native", "*.png", 1.3), ("gz2/png", "*.jpg", 0.8)]
)
@pytest.mark.parametrize("size_px", [64, 128, 224])
def test_real_pixels_are_near_those_of_one_step_by_lanczos(
    folder: str, pattern: str, mean: float, size_px: int
) -> None:
    paths = sorted((SHARED / "realdata" / folder).glob(pattern))[:20]
    differences = [np.abs(stored(path, size_px) - by_lanczos(path, size_px)) for path in paths]
    assert len(paths) == 20 and np.mean(differences) < mean and np.max(differences) < 45


def test_pixels_are_the_same_on_every_machine(tmp_path: Path) -> None:
    """Written in integers alone, so that numpy's and the machine's rounding do not matter."""
    y, x = np.mgrid[0:424, 0:424]
    pixels = np.stack([(x * y) // 7 % 256, (x + 3 * y) % 256, (x * x + y) // 11 % 256], axis=2).astype(np.uint8)
    digests = []
    for file_format, quality in (("PNG", {}), ("JPEG", {"quality": 90})):
        path = write(tmp_path / "a", pixels, file_format, **quality)
        digests += [hashlib.sha256(stored(path, size).tobytes()).hexdigest()[:8] for size in (64, 128, 224)]
    assert digests == DIGESTS


# --------------------------------------------------------------- with and without the faster decoders


def without(monkeypatch: pytest.MonkeyPatch, read: Callable[[], Pixels]) -> Pixels:
    with monkeypatch.context() as patch:
        patch.setattr(decoders, "simplejpeg", None)
        patch.setattr(decoders, "pyspng", None)
        return read()


@pytest.mark.parametrize("size", [(424, 424), (425, 423), (97, 64)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}])
def test_simplejpeg_gives_the_pixels_of_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], options: dict[str, object]
) -> None:
    pytest.importorskip("simplejpeg")
    path = write(tmp_path / "a.jpg", galaxy(*size), "JPEG", quality=90, **options)
    for size_px in (8, 30, 60, 128, 224):
        assert np.array_equal(stored(path, size_px), without(monkeypatch, partial(stored, path, size_px)))


def test_pyspng_gives_the_pixels_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspng")
    path = write(tmp_path / "a.png", galaxy(), "PNG")
    assert np.array_equal(read_image(path), galaxy())
    assert np.array_equal(without(monkeypatch, lambda: read_image(path)), galaxy())


@pytest.mark.parametrize("installed", [True, False])
def test_a_damaged_png_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    if installed:
        pytest.importorskip("pyspng")
    else:
        monkeypatch.setattr(decoders, "pyspng", None)
    content = bytearray(encoded(galaxy(), "PNG"))
    content[len(content) // 2] ^= 1  # one bit: only a checksum shows it
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="not a readable picture"):
        read_image(tmp_path / "a.png")


# --------------------------------------------------------------- unusual pictures


def interlaced() -> bytes:
    """The same PNG in another order of its rows is made by hand: a picture of 8 x 8 in seven passes."""
    pixels, rows = galaxy(8, 8), b""
    for top, left, down, right in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
                                   (1, 0, 2, 1)):  # fmt: skip
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::right])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_exif(turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(galaxy(90, 120), "JPEG", quality=90, exif=exif)


def transparent() -> bytes:
    picture, file = Image.fromarray(galaxy(90, 120)), io.BytesIO()
    picture.putalpha(Image.fromarray(galaxy(90, 120, 1)[:, :, 0]))
    picture.save(file, "PNG")
    return file.getvalue()


UNUSUAL = {
    "grey JPEG": encoded(galaxy(90, 120), "JPEG", "L", quality=90),
    "turned JPEG": with_exif(6),
    "mirrored JPEG": with_exif(2),
    "palette": encoded(galaxy(90, 120), "PNG", "P"),
    "grey PNG": encoded(galaxy(90, 120), "PNG", "L"),
    "alpha": transparent(),
    "16 bits": png_16(in_16_bits(galaxy(90, 120), 16)),
    "interlaced": interlaced(),
    "TIFF": encoded(galaxy(90, 120), "TIFF"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.parametrize("channels", [1, 3])
def test_unusual_pictures_are_those_that_read_image_gives(tmp_path: Path, kind: str, channels: int) -> None:
    (tmp_path / "a").write_bytes(UNUSUAL[kind])
    full = resize(read_image(tmp_path / "a"), 8, channels)
    difference = np.abs(stored(tmp_path / "a", 8, channels).astype(int) - full)
    assert difference.max() <= (12 if kind == "grey JPEG" else 0)  # which is halved while it is read


def test_cmyk_is_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (200, 200)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="pixels of type CMYK"):
        stored(tmp_path / "a.jpg", 16)


@pytest.mark.parametrize("size_px", [32, 64, 128])
def test_a_blank_jpeg_with_hot_pixels_is_blank_at_any_size(tmp_path: Path, size_px: int) -> None:
    pixels = np.full((424, 424, 3), 90, np.uint8)
    pixels[5::60, 5::60] = 255  # 49 of 179,776
    path = write(tmp_path / "a.jpg", pixels, "JPEG", quality=100, subsampling=0)
    (tmp_path / "b.png").write_bytes(encoded(pixels, "PNG"))
    for name in ("a.jpg", "b.png"):
        with pytest.raises(InputError, match="blank"):
            stored(tmp_path / name, size_px)
    assert stored(write(path, galaxy(), "JPEG"), size_px).std() > 5
