"""Small files that would unpack into gigabytes, and blank ones: each is refused with its reason, in little memory."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tests.test_bitmaps import chunk, encoded, spiral
from zoobot.errors import InputError
from zoobot.galaxies.images import read_image
from zoobot.galaxies.pictures import Pixels, check_content
from zoobot.settings.schema import SurveySettings

MEGABYTE, GIGABYTE = 1 << 20, 1 << 30
MANY_TAGS = b"".join(struct.pack("<HHII", 1000 + k, 2, 9_000_000, 8) for k in range(3000))


def deflated(n_bytes: int) -> bytes:
    """A raw deflate stream of so many zeros, made without compressing them all."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(MEGABYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (n_bytes // MEGABYTE) + packer.flush()


def zlib_zeros(n_bytes: int) -> bytes:
    return b"\x78\xda" + deflated(n_bytes) + struct.pack(">I", 1)


def gzip_zeros(n_bytes: int, start: bytes = b"") -> bytes:
    """``start`` and zeros, in two members."""
    return gzip.compress(start) + b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated(n_bytes) + bytes(8)


def png(width: int, height: int, pixels: bytes, more: bytes = b"", bits: int = 8) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(
    side: int, pixels: bytes, more: list[tuple[int, int, int, int]], following: int = 0, end: bytes = b""
) -> bytes:
    """A grey TIFF of one strip, packed by deflate; ``more`` tags, and what follows the list of tags."""
    tags = sorted([(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8),
                   (277, 3, 1, 1), (278, 4, 1, 2**31 - 1), (279, 4, 1, len(pixels)), *more])  # fmt: skip
    start = b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags))
    return start + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", following) + end


def header(**cards: object) -> bytes:
    lines = [f"{key:<8}= {value!s:>20}".ljust(80) for key, value in cards.items()]
    text = "".join([*lines, "END".ljust(80)]).encode()
    return text + b" " * (-len(text) % 2880)


def compressed(codec: str, **cards: int) -> bytes:
    """A compressed FITS image of 64 × 64 whose header says otherwise."""
    file = io.BytesIO()
    data = np.arange(64 * 64, dtype="i2").reshape(64, 64) % 200
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, compression_type=codec, tile_shape=(64, 64))]).writeto(
        file
    )
    content = file.getvalue()
    for key, value in cards.items():
        at = content.index(f"{key:<8}=".encode())
        content = content[: at + 10] + f"{value:>20}".encode() + content[at + 30 :]
    return content


def packed_tile() -> bytes:
    """A compressed FITS image with one tile, which gzip unpacks into a gigabyte."""
    with fits.open(io.BytesIO(compressed("GZIP_1")), disable_image_compression=True) as units:
        tile = np.frombuffer(gzip_zeros(GIGABYTE), np.uint8)
        column = fits.Column("COMPRESSED_DATA", "1PB()", array=np.array([tile], dtype=object))
        table = fits.BinTableHDU.from_columns([column])
        table.header.update({key: units[1].header[key] for key in units[1].header if key.startswith("Z")})
        file = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(file)
    return file.getvalue()


def jpeg_of(side: int) -> bytes:
    content = bytearray(encoded(spiral(), "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(content)


def bombs() -> dict[str, bytes]:
    small = zlib.compress(b"".join(b"\0" + bytes(range(48)) for _ in range(16)))
    cube = header(SIMPLE="T", BITPIX=-32, NAXIS=3, NAXIS1=20000, NAXIS2=20000, NAXIS3=3)
    tiny = header(SIMPLE="T", BITPIX=-32, NAXIS=3, NAXIS1=16, NAXIS2=16, NAXIS3=3)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3000) + MANY_TAGS
    jpeg = encoded(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8), "JPEG", progressive=True)
    large = bytes(9_000_000)
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    grey = zlib.compress(bytes(range(256)) * 16)
    tags_end = 8 + len(grey) + 2 + 9 * 12 + 4
    chain = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 64, tags_end + 18 * k) for k in range(1, 100_000))
    return {
        "png of 16000 × 16000": png(16000, 16000, zlib_zeros(GIGABYTE)),
        "png of 12000 × 12000, 16 bits": png(12000, 12000, zlib_zeros(GIGABYTE), bits=16),
        "png with a long text": png(16, 16, small, chunk(b"zTXt", b"a\0\0" + zlib_zeros(GIGABYTE))),
        "png with many texts": png(16, 16, small, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MEGABYTE))) * 500),
        "png with a colour profile": png(16, 16, small, chunk(b"iCCP", b"a\0\0" + zlib_zeros(GIGABYTE))),
        "jpeg of 60000 × 60000": jpeg_of(60000),
        "jpeg with tags of 27 GB": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:],
        "jpeg with 1000 scans": jpeg[:-2] + last_scan * 1000 + b"\xff\xd9",
        "tiff with a strip of 1 GB": tiff(30000, zlib_zeros(GIGABYTE), []),
        "tiff with tiles of 30000 × 30000": tiff(
            64, zlib_zeros(GIGABYTE), [(322, 4, 1, 30000), (323, 4, 1, 30000), (324, 4, 1, 8), (325, 4, 1, 99999)]
        ),
        "tiff with tags of 27 GB": tiff(64, grey, [(2000 + k, 2, 9_000_000, 8) for k in range(3000)], end=large),
        "tiff with exif of 27 GB": tiff(64, grey, [(0x8769, 4, 1, 134 + len(grey))], end=exif[14:] + large),
        "tiff with 100,000 frames": tiff(64, grey, [], tags_end, chain),
        "fits of 5 GB in gzip": gzip_zeros(5 * GIGABYTE, cube),
        "fits of 3 kB and 5 GB more in gzip": gzip_zeros(5 * GIGABYTE, tiny + bytes(5760)),
        "gzip in gzip": gzip.compress(gzip_zeros(5 * GIGABYTE, cube)),
        "fits that says 20000 × 20000": cube + bytes(28800),
        "rice of 60000 × 60000": compressed("RICE_1", ZNAXIS1=60000, ZNAXIS2=60000, ZTILE1=60000, ZTILE2=1),
        "rice with tiles of 60000 × 60000": compressed("RICE_1", ZTILE1=60000, ZTILE2=60000),
        "a tile of 1 GB in gzip": packed_tile(),
        "fits with 10,000 extensions": header(SIMPLE="T", BITPIX=8, NAXIS=0)
        + header(XTENSION="'IMAGE   '", BITPIX=8, NAXIS=0, PCOUNT=0, GCOUNT=1) * 10_000,
        "fits with a header of 36 MB": tiny[:400] + (b"HISTORY a" + b" " * 71) * 450_000 + tiny,
    }  # fmt: skip


READ_ALL = r"""
import json, re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import zoobot.stages.shards
from zoobot.errors import InputError
from zoobot.galaxies.images import read_image

def read(path):
    try:
        return path.name, str(read_image(path).shape)
    except InputError as error:
        return path.name, str(error)

with ThreadPoolExecutor(4) as pool:
    said = dict(pool.map(read, sorted(Path(sys.argv[1]).iterdir())))
# Not ru_maxrss, which a process takes over from the one that started it.
peak_kb = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])
json.dump({"said": said, "peak_mb": peak_kb / 1024}, sys.stdout)
"""


def read_in_a_process(folder: Path) -> tuple[dict[str, str], float]:
    """What is said about each picture in a folder, read by four threads as for shards; and the memory needed, in MB."""
    done = subprocess.run([sys.executable, "-c", READ_ALL, str(folder)], capture_output=True, check=True, timeout=300)
    result = json.loads(done.stdout)
    return result["said"], result["peak_mb"]


def test_no_small_file_takes_much_memory(tmp_path: Path) -> None:
    made = bombs()
    for name, content in made.items():
        assert len(content) < 40_000_000, name
        (tmp_path / name).write_bytes(content)
    said, peak_mb = read_in_a_process(tmp_path)
    assert peak_mb < 1000
    expected = "survey.max_pixels|too large|Too much memory|tags hold|scans|frames|the end of the file|gzip holds gzip|"
    expected += "more than its header|extensions|header has no end"
    assert {name: text for name, text in said.items() if not any(part in text for part in expected.split("|"))} == {}
    assert len(said) == len(made) == 22


@pytest.mark.long
def test_large_pictures_are_read_one_at_a_time(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(3, 3000, 3000)).astype("f4") * np.float32(0.02)
    fits.PrimaryHDU(data).writeto(tmp_path / "1.fits")
    for name in ("2.fits", "3.fits", "4.fits"):
        (tmp_path / name).hardlink_to(tmp_path / "1.fits")
    said, peak_mb = read_in_a_process(tmp_path)
    assert set(said.values()) == {"(3000, 3000, 3)"} and peak_mb < 1000


def test_the_limits_are_those_of_the_setting(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(spiral(), "PNG"))
    fits.PrimaryHDU(np.random.default_rng(0).random((3, 40, 48)).astype("f4")).writeto(tmp_path / "a.fits")
    for name in ("a.png", "a.fits"):
        assert read_image(tmp_path / name, SurveySettings(max_pixels=1920)).shape == (40, 48, 3)
        with pytest.raises(InputError, match=r"survey\.max_pixels=1919: cut it out smaller, or raise that"):
            read_image(tmp_path / name, SurveySettings(max_pixels=1919))


# --------------------------------------------------------------- blank


def blank(level: int = 30, size: int = 48) -> Pixels:
    return np.full((size, size, 3), (level, 32, 40), np.uint8)


def with_hot_pixels() -> Pixels:
    pixels = blank(size=100)
    pixels[3, 5], pixels[40, 70], pixels[90, 2] = 255, 200, 0
    return pixels


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("level", [0, 30, 255])
@pytest.mark.parametrize("size", [8, 48, 424])
def test_one_colour_is_no_picture(tmp_path: Path, file_format: str, level: int, size: int) -> None:
    (tmp_path / "a").write_bytes(encoded(blank(level, size), file_format))
    with pytest.raises(InputError, match=r"^the picture is blank: all of it has the colour \(\d+, \d+, \d+\)$"):
        read_image(tmp_path / "a")


def test_nearly_one_colour_is_no_picture() -> None:
    noise = np.random.default_rng(0).integers(-2, 3, (424, 424, 3))
    for pixels in (with_hot_pixels(), (blank(size=424) + noise).astype(np.uint8)):
        with pytest.raises(InputError, match="the picture is blank"):
            check_content(pixels)


@pytest.mark.parametrize("side", [5, 13, 40])
@pytest.mark.parametrize("size", [48, 424])
def test_a_faint_galaxy_on_black_sky_is_a_picture(side: int, size: int) -> None:
    pixels = np.zeros((size, size, 3), np.uint8)
    side = side if size == 48 else 15 + side
    pixels[3 : 3 + side, 3 : 3 + side] = 6
    check_content(pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (7, 100)])
def test_a_picture_of_a_few_pixels(tmp_path: Path, shape: tuple[int, int]) -> None:
    for file_format in ("PNG", "TIFF"):
        (tmp_path / "a").write_bytes(encoded(np.zeros((*shape, 3), np.uint8), file_format))
        with pytest.raises(InputError, match="pixels show no galaxy: 8 × 8 are needed"):
            read_image(tmp_path / "a")
    fits.PrimaryHDU(np.ones((3, *shape))).writeto(tmp_path / "a.fits")
    with pytest.raises(InputError, match="pixels show no galaxy: 8 × 8 are needed"):
        read_image(tmp_path / "a.fits")
