"""What a FITS file would unpack into, read from its headers and its tiles before anything is unpacked."""

from __future__ import annotations

import io
import math
import re
import zlib
from collections.abc import Iterator

from zoobot.errors import InputError
from zoobot.galaxies.pictures import BYTES_PER_PIXEL, too_many_bytes

MAX_UNITS = 100  # images and tables in a file
_MAX_HEADER_BYTES = 2_000_000
_BLOCK_BYTES, _CARD_BYTES = 2880, 80
_GZIP = b"\x1f\x8b\x08"
_HCOMPRESS = b"\xdd\x99"
_TILE_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA")


def check_headers(content: bytes, max_pixels: int) -> None:
    """Raise InputError or ValueError if the headers promise more than there is, or than may be unpacked."""
    for number, (header, end) in enumerate(_headers(content)):
        if number == MAX_UNITS:
            raise InputError(f"more than {MAX_UNITS} extensions: leave only the galaxy's image")
        if end > len(content):
            raise ValueError("the end of the file is missing")
        image, tile = (
            math.prod(header.get(f"{stem}{axis}", 1) for axis in range(1, 6)) for stem in ("ZNAXIS", "ZTILE")
        )
        if max(image, tile) * abs(header.get("ZBITPIX", 8)) // 8 > BYTES_PER_PIXEL * max_pixels:
            raise too_many_bytes(max_pixels)
    if len(content) % _BLOCK_BYTES:  # astropy would only warn
        raise ValueError("the end of the file is missing")


def _headers(content: bytes) -> Iterator[tuple[dict[str, int], int]]:
    """The whole numbers in each header, and where its data ends in the file."""
    at = 0
    while content[at : at + 8] in (b"SIMPLE  ", b"XTENSION"):
        header: dict[str, int] = {}
        for card_at in range(at, min(at + _MAX_HEADER_BYTES, len(content)), _CARD_BYTES):
            key, value = content[card_at : card_at + 8].rstrip(), content[card_at + 10 : card_at + 30]
            if key == b"END":
                break
            if content[card_at + 8 : card_at + 9] == b"=" and re.fullmatch(rb" *-?\d+ *", value):
                header.setdefault(key.decode("ascii", "replace"), int(value))
        else:
            raise ValueError("a header has no end")
        axes = [header.get(f"NAXIS{n}", 0) for n in range(1, min(header.get("NAXIS", 0), 999) + 1)]
        values = header.get("PCOUNT", 0) + (math.prod(axes) if axes else 0)
        size = abs(header["BITPIX"]) // 8 * header.get("GCOUNT", 1) * values
        at = sum(-(-n // _BLOCK_BYTES) * _BLOCK_BYTES for n in (card_at + _CARD_BYTES, size))
        yield header, at


def check_tiles(content: bytes, number: int) -> None:
    """Raise InputError if a tile of the compressed image in unit ``number`` holds more than its header says."""
    from astropy.io import fits

    if _GZIP not in content and _HCOMPRESS not in content:
        return
    with fits.open(io.BytesIO(content), disable_image_compression=True) as units:
        header, table = units[number].header, units[number].data
        tile = math.prod(
            header.get(f"ZTILE{n}", header["ZNAXIS1"] if n == 1 else 1) for n in range(1, header["ZNAXIS"] + 1)
        )
        for column in _TILE_COLUMNS:
            for packed in table[column] if column in table.names else ():
                if _unpacked_size(packed.tobytes(), 8 * tile) > 8 * tile:
                    raise InputError("a tile of the compressed image holds more than its header says")


def _unpacked_size(packed: bytes, most: int) -> int:
    """How many bytes a tile unpacks into, counted up to one more than ``most``."""
    if packed.startswith(_GZIP):
        return len(zlib.decompressobj(wbits=31).decompress(packed, most + 1))
    if packed.startswith(_HCOMPRESS):
        return 8 * int.from_bytes(packed[2:6], "big") * int.from_bytes(packed[6:10], "big")
    return 0
