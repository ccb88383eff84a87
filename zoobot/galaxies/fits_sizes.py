"""What a FITS file would unpack into, read from its headers and its tiles before anything is unpacked."""

from __future__ import annotations

import gzip
import io
import math
import re
from collections.abc import Iterator
from typing import Any

from zoobot.errors import InputError
from zoobot.galaxies.pictures import BYTES_PER_PIXEL, too_many_bytes

MAX_UNITS = 100  # images and tables in a file
_MAX_HEADER_BYTES = 2_000_000
_BLOCK_BYTES, _CARD_BYTES = 2880, 80
_GZIP = b"\x1f\x8b\x08"
_HCOMPRESS = b"\xdd\x99"
_WHOLE_NUMBER = re.compile(rb"([A-Za-z0-9_-]{1,8}) *= *([+-]?\d+) *(?:/|$)")
_TILE_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA")


def check_headers(content: bytes) -> None:
    """Raise InputError or ValueError if the headers promise more than there is, or are too many."""
    for number, end in enumerate(_ends(content)):
        if number == MAX_UNITS:
            raise InputError(f"more than {MAX_UNITS} extensions: leave only the galaxy's image")
        if end > len(content):
            raise ValueError("the end of the file is missing")
    if len(content) % _BLOCK_BYTES:  # astropy would only warn
        raise ValueError("the end of the file is missing")


def _ends(content: bytes) -> Iterator[int]:
    """Where each image or table ends in the file, as its header says."""
    at = 0
    while content[at : at + 8] in (b"SIMPLE  ", b"XTENSION"):
        header: dict[str, int] = {}
        for card_at in range(at, min(at + _MAX_HEADER_BYTES, len(content)), _CARD_BYTES):
            card = content[card_at : card_at + _CARD_BYTES]
            if card.rstrip() == b"END":
                break
            if whole := _WHOLE_NUMBER.match(card):
                header.setdefault(whole[1].decode().upper(), int(whole[2]))
        else:
            raise ValueError("a header has no end")
        axes = [header.get(f"NAXIS{n}", 0) for n in range(1, min(header.get("NAXIS", 0), 999) + 1)]
        values = header.get("PCOUNT", 0) + (math.prod(axes) if axes else 0)
        size = abs(header["BITPIX"]) // 8 * header.get("GCOUNT", 1) * values
        at = sum(-(-n // _BLOCK_BYTES) * _BLOCK_BYTES for n in (card_at + _CARD_BYTES, size))
        yield at


def check_compressed(content: bytes, unit: Any, number: int, max_pixels: int) -> None:
    """Raise InputError if a compressed image, ``number`` in the file, or a tile of it unpacks into more than it may."""
    from astropy.io import fits

    n_bytes = abs(unit.header["BITPIX"]) // 8
    tile = math.prod(unit.tile_shape)
    if max(math.prod(unit.shape), tile) * n_bytes > BYTES_PER_PIXEL * max_pixels:
        raise too_many_bytes(max_pixels)
    if _GZIP not in content and _HCOMPRESS not in content:
        return
    with fits.open(io.BytesIO(content), disable_image_compression=True) as units:
        table = units[number].data
        for column in _TILE_COLUMNS:
            for packed in table[column] if column in table.names else ():
                if _unpacked_size(packed.tobytes(), 8 * tile) > 8 * tile:
                    raise InputError("a tile of the compressed image holds more than its header says")


def _unpacked_size(packed: bytes, most: int) -> int:
    """How many bytes a tile unpacks into, counted up to one more than ``most``."""
    if packed.startswith(_GZIP):
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            return len(file.read(most + 1))
    if packed.startswith(_HCOMPRESS):
        return 8 * int.from_bytes(packed[2:6], "big") * int.from_bytes(packed[6:10], "big")
    return 0
