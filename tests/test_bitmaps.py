"""PNG, JPEG and TIFF: bit depth, transparency, orientation, frames, and what is not read at all."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from zoobot.errors import InputError
from zoobot.galaxies.images import for_browsers, read_image, read_picture
from zoobot.galaxies.picture_paths import same_pictures
from zoobot.galaxies.pictures import Pixels
from zoobot.settings import Settings, SurveySettings

TRANSPARENT = ("transparent parts are shown black",)
Values = npt.NDArray[np.uint16]  # height, width, colours


def spiral(height: int = 40, width: int = 48) -> Pixels:
    """An asymmetric galaxy: a bright disc off the centre, a blue arm to its upper left."""
    y, x = np.mgrid[0:height, 0:width]
    disc = np.exp(-((x - 30) ** 2 + (y - 26) ** 2) / 60)
    arm = np.exp(-((x - 8) ** 2 + (y - 6) ** 2) / 20)
    return (np.dstack([disc, 0.8 * disc + 0.2 * arm, 0.5 * disc + arm]).clip(0, 1) * 235 + 9).astype(np.uint8)


def in_16_bits(pixels: Pixels, bits: int) -> Values:
    values: Values = np.rint(pixels * ((2**bits - 1) / 255)).astype(np.uint16)
    return values


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_16(values: Values, more: bytes = b"") -> bytes:
    """A PNG of 16 bits per colour, its rows filtered in turn by none, by the pixel to the left, by the row above."""
    height, width, colours = values.shape
    rows = values.astype(">u2").tobytes()
    stride, pixel = width * colours * 2, colours * 2
    lines, above = [], np.zeros(stride, np.uint8)
    for y in range(height):
        row = np.frombuffer(rows, np.uint8)[y * stride : (y + 1) * stride]
        left = np.concatenate([np.zeros(pixel, np.uint8), row[:-pixel]])
        lines.append(bytes([y % 3]) + [row, row - left, row - above][y % 3].tobytes())
        above = row
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[colours]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")


def tiff_16(values: Values, order: str, rows_per_strip: int, packed: bool, photometric: int | None = None) -> bytes:
    """A TIFF of 16 bits per colour, in strips; ``packed``: by deflate."""
    height, width, colours = values.shape
    raw = [values[y : y + rows_per_strip].astype(order + "u2").tobytes() for y in range(0, height, rows_per_strip)]
    strips = [zlib.compress(strip) for strip in raw] if packed else raw
    n, data = len(strips), b"".join(strips)
    lists = struct.pack(f"{order}{n}I", *(8 + sum(map(len, strips[:k])) for k in range(n)))
    sizes, bits = struct.pack(f"{order}{n}I", *map(len, strips)), struct.pack(f"{order}4H", 16, 16, 16, 16)
    at = 8 + len(data)
    where = {273: at, 279: at + len(lists), 258: at + len(lists) + len(sizes)}
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, colours, where[258]), (259, 3, 1, 8 if packed else 1),
            (262, 3, 1, (2 if colours > 1 else 1) if photometric is None else photometric), (273, 4, n, where[273]),
            (277, 3, 1, colours), (278, 4, 1, rows_per_strip), (279, 4, n, where[279])]  # fmt: skip
    if n == 1:
        tags = [(t, k, c, {273: 8, 279: len(data)}.get(t, v)) for t, k, c, v in tags]
    if colours == 1:
        tags = [(t, k, c, 16 if t == 258 else v) for t, k, c, v in tags]
    wide = {tag for tag, kind, count, _ in tags if kind == 4 or count > 2}  # others hold their value in two bytes
    entries = b"".join(
        struct.pack(order + "HHI", t, k, c) + struct.pack(order + ("I" if t in wide else "H2x"), v)
        for t, k, c, v in tags
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at + len(lists) + len(sizes) + 8)
    return start + data + lists + sizes + bits + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def written(tmp_path: Path, content: bytes, name: str = "galaxy") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def encoded(pixels: Pixels, file_format: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, file_format, **options)
    return file.getvalue()


# --------------------------------------------------------------- orientation


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_the_galaxy_stays_where_it_is(tmp_path: Path, file_format: str) -> None:
    quality = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    picture = read_picture(written(tmp_path, encoded(spiral(), file_format, **quality)))
    assert picture.notes == () and np.abs(picture.pixels.astype(int) - spiral()).max() <= (12 if quality else 0)
    assert picture.pixels[6, 8, 2] > picture.pixels[6, 8, 0] + 100  # the blue arm is at the upper left


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_jpeg_is_turned_as_its_exif_says(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    picture = read_picture(written(tmp_path, encoded(spiral(), "JPEG", quality=95, subsampling=0, exif=exif)))
    flipped = spiral()[:, ::-1] if turn in (2, 4, 5, 7) else spiral()
    expected = np.rot90(flipped, {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[turn])
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 12
    assert picture.notes == (() if turn == 1 else ("turned as EXIF says",))
    assert for_browsers(tmp_path / "galaxy")[1] == ("image/jpeg" if turn == 1 else "image/png")


def test_a_tiff_is_turned_and_a_png_is_not(tmp_path: Path) -> None:
    tiff = written(tmp_path, encoded(spiral(), "TIFF", tiffinfo={0x0112: 3}), "a.tif")
    assert np.array_equal(read_image(tiff), spiral()[::-1, ::-1])
    exif = Image.Exif()
    exif[0x0112] = 3
    png = written(tmp_path, encoded(spiral(), "PNG", exif=exif), "a.png")
    assert np.array_equal(read_image(png), spiral())
    content, _ = for_browsers(png)
    assert content != png.read_bytes() and b"eXIf" not in content  # browsers would turn it


# --------------------------------------------------------------- 16 bits


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("colours", [1, 3, 4])
def test_16_bits_become_8_by_the_range_that_is_used(tmp_path: Path, bits: int, colours: int) -> None:
    pixels = spiral()
    pixels[0, 0] = 255
    pixels = pixels[:, :, 1:2].repeat(3, axis=2) if colours == 1 else pixels
    values = in_16_bits(pixels[:, :, :1] if colours == 1 else pixels, bits)
    if colours == 4:
        values = np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)])
    picture = read_picture(written(tmp_path, png_16(values)))
    assert picture.notes == (f"{bits} of 16 bits are used: {2**bits - 1} is shown white",)
    assert np.array_equal(picture.pixels, pixels)
    content, media_type = for_browsers(tmp_path / "galaxy")
    assert media_type == "image/png" and np.array_equal(read_image(written(tmp_path, content, "sent")), pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("rows_per_strip", [7, 40])
def test_16_bit_tiff(tmp_path: Path, order: str, packed: bool, colours: int, rows_per_strip: int) -> None:
    values = in_16_bits(spiral(), 12)[:, :, :colours]
    picture = read_picture(written(tmp_path, tiff_16(values, order, rows_per_strip, packed)))
    assert np.array_equal(picture.pixels, np.broadcast_to(spiral()[:, :, :colours], (40, 48, 3)))
    assert picture.notes == ("12 of 16 bits are used: 4095 is shown white",)


def test_16_bits_of_other_kinds_are_refused_with_what_to_do(tmp_path: Path) -> None:
    values = in_16_bits(spiral(), 16)
    inverted = tiff_16(values[:, :, :1], "<", 40, packed=False, photometric=0)
    for content in (png_16(values[:, :, :2]), png_16(values, chunk(b"tRNS", bytes(6))), inverted):
        with pytest.raises(
            InputError, match=r"16-bit pixels of type .*: save the picture with 8 bits, scaled by its own"
        ):
            read_image(written(tmp_path, content))


@pytest.mark.parametrize("mode", ["F", "I", "CMYK", "1"])
def test_pixels_that_are_no_8_or_16_bit_colours_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(InputError, match=f"pixels of type {mode}: grey or colour of 8 or 16 bits is needed"):
        read_image(written(tmp_path, encoded(spiral(), "TIFF", mode)))


# --------------------------------------------------------------- transparency, frames, formats


def half_transparent() -> Pixels:
    alpha = np.full((40, 48, 1), 255, np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 0, 51
    return np.concatenate([spiral(), alpha], axis=2)


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_parts_are_black(tmp_path: Path, bits: int) -> None:
    rgba = half_transparent()
    content = encoded(rgba, "PNG", "RGBA") if bits == 8 else png_16(in_16_bits(rgba, 16))
    path = written(tmp_path, content)
    picture = read_picture(path)
    assert picture.notes[:1] == TRANSPARENT
    assert (picture.pixels[:, :10] == 0).all()
    assert bits == 16 or np.abs(picture.pixels[:, 10:20] - spiral()[:, 10:20] / 5).max() <= 1
    assert for_browsers(path) != (content, "image/png")  # on the page of Zooniverse they would not be black


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_picture_that_could_be_transparent_and_is_not_stays_as_it_is(tmp_path: Path, mode: str) -> None:
    content = encoded(spiral(), "PNG", mode)
    assert read_picture(written(tmp_path, content)).notes == ()
    assert for_browsers(tmp_path / "galaxy") == (content, "image/png")


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[10:, 10:] = np.arange(38)[:, None] * 5
    pixels[:10] = 250
    transparent: object = {"RGB": (250, 250, 250), "L": 250}.get(mode)
    image = Image.fromarray(pixels).quantize() if mode == "P" else Image.fromarray(pixels).convert(mode)
    transparent = image.getpixel((0, 0)) if mode == "P" else transparent
    image.save(tmp_path / "a.png", transparency=transparent)
    picture = read_picture(tmp_path / "a.png")
    assert picture.notes == TRANSPARENT and (picture.pixels[:10] == 0).all() and picture.pixels[20:].max() > 100


@pytest.mark.parametrize("file_format", ["TIFF", "PNG"])
def test_several_frames_are_refused(tmp_path: Path, file_format: str) -> None:
    frames = [Image.fromarray(spiral()), Image.fromarray(spiral()[::-1]), Image.fromarray(spiral())]
    frames[0].save(tmp_path / "a", file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"^3 frames: one picture per galaxy is needed$"):
        read_image(tmp_path / "a")


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "WEBP", "EPS", "PPM", "TGA", "PDF", "JPEG2000"])
@pytest.mark.parametrize("name", ["a.png", "a.fits", "a"])
def test_no_other_format_is_read_whatever_its_name(tmp_path: Path, file_format: str, name: str) -> None:
    content = encoded(spiral(), file_format)
    with pytest.raises(InputError, match="not a readable picture: not PNG, JPEG, TIFF or FITS, but a file that begins"):
        read_image(written(tmp_path, content, name))


def test_an_eps_inside_a_tiff_or_after_a_png_starts_no_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("a program was started"))
    for start in (b"II*\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xc5\xd0\xd3\xc6", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(InputError):
            read_image(written(tmp_path, start + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"))


# --------------------------------------------------------------- the same picture twice


def test_the_same_picture_twice(tmp_path: Path) -> None:
    a, b = encoded(spiral(), "PNG"), encoded(spiral()[::-1], "PNG")
    names = {"1": a, "2": b, "3": a, "4": b[:-1] + b"x", "5": a, "6": encoded(spiral(), "JPEG")}
    paths = {name: written(tmp_path, content, name) for name, content in names.items()}
    listed = pd.Series([*paths, "absent", "../outside"])
    mine = Settings(survey=SurveySettings(folder=str(tmp_path)))
    assert [same.tolist() for same in same_pictures(mine, listed)] == [[0, 2, 4]]
    assert same_pictures(mine, listed.iloc[:0]) == []
