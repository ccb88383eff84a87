"""Write and read galaxies as TFRecord files of tf.train.Example, without TensorFlow.

A file is a sequence of records: length, checksum of the length, content, checksum of the content (TensorFlow's
lib/io/record_writer.h). The content is an Example, a map from names to lists of bytes, of floats or of whole numbers
(tensorflow/core/example/feature.proto), in the protocol buffers' wire format. A galaxy has an image, or features that
were published (``FEATURES``). Axes: H W C pixels; N galaxies, F features.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import google_crc32c
import numpy as np
import numpy.typing as npt
from PIL import Image

from zoobot import folders
from zoobot.errors import FolderError

Pixels = npt.NDArray[np.uint8]
Floats32 = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]
ENCODINGS = ("raw", "png", "jpeg")  # of pixels
FEATURES = "features"  # the encoding of shards with features instead of images, and the name of these in a record
SHARD_CONFIG = "shard_config.json"
_JPEG_QUALITY = 95
_SHAPE = ("height", "width", "channels")  # the other numbers are votes
_HEADER = 12  # bytes before a record: its length, and the checksum of that
_VARINT, _BYTES = 0, 2  # wire types
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # fields of a Feature


@dataclass(frozen=True)
class Dropped:
    """A galaxy of the catalog that is in no shard."""

    id_str: str
    reason: str


@dataclass(frozen=True)
class ShardConfig:
    """shard_config.json: what the shards of a folder hold. File names are relative to the folder. With ``encoding``
    ``features`` there are no images: their size and channels are 0.
    """

    FORMAT: ClassVar = ("version", 1)
    survey: str
    task: str
    image_size_px: int
    channels: int
    encoding: str
    shard_size: int
    seed: int
    splits: dict[str, list[str]]
    galaxies: dict[str, int]
    dropped: list[Dropped]
    database: str


def load_config(folder: Path) -> ShardConfig:
    """The shard_config.json of a finished folder."""
    return folders.read_record(folder / SHARD_CONFIG, ShardConfig)


def first_shards(counts: Mapping[str, int], at_most: int) -> list[str]:
    """The first shards, in order, enough for ``at_most`` galaxies; 0: all of them. ``counts`` has the galaxies of each,
    which may be fewer than ``shard_size``.
    """
    names, total = list[str](), 0
    for name in sorted(counts):
        if at_most and total >= at_most:
            break
        names.append(name)
        total += counts[name]
    return names


# --------------------------------------------------------------- galaxies


def encode(id_str: str, content: Pixels | Floats32, votes: Mapping[str, int], encoding: str) -> bytes:
    """One galaxy as a serialised Example. ``content`` is its pixels, uint8 H × W × C, or its features, F; ``votes``
    empty for an unlabelled galaxy.
    """
    if encoding == FEATURES:
        return _to_example({"id_str": id_str.encode(), FEATURES: content.astype("<f4").tobytes()}, votes)
    shape = dict(zip(_SHAPE, content.shape, strict=True))
    return _to_example({"id_str": id_str.encode(), "image": _encode_pixels(content, encoding)}, {**shape, **votes})


def add_votes(record: bytes, votes: Mapping[str, int]) -> bytes:
    """The record of an unlabelled galaxy, with its votes; its image or features stay as they are."""
    texts, numbers = _from_example(record)
    return _to_example(texts, {**numbers, **votes})


def decode(record: bytes, encoding: str) -> tuple[str, Any, dict[str, int]]:
    """``id_str``, pixels H × W × C (or features F) and votes of one record."""
    texts, numbers = _from_example(record)
    if encoding == FEATURES:
        return texts["id_str"].decode(), np.frombuffer(texts[FEATURES], "<f4"), numbers
    shape = tuple(numbers[name] for name in _SHAPE)
    if encoding == "raw":
        pixels = np.frombuffer(texts["image"], np.uint8)
    else:
        with Image.open(io.BytesIO(texts["image"])) as picture:
            pixels = np.asarray(picture)
    votes = {name: number for name, number in numbers.items() if name not in _SHAPE}
    return texts["id_str"].decode(), pixels.reshape(shape), votes


def read_ids(path: Path) -> list[str]:
    """The ids in one file, in order."""
    return [_from_example(record)[0]["id_str"].decode() for record in read(path)]


def read_contents(path: Path, encoding: str) -> Any:
    """The images in one file, N × H × W × C, or the features, N × F."""
    return np.stack([decode(record, encoding)[1] for record in read(path)])


def _encode_pixels(pixels: Pixels | Floats32, encoding: str) -> bytes:
    if encoding == "raw":
        return pixels.tobytes()
    content = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(content, encoding.upper(), quality=_JPEG_QUALITY)
    return content.getvalue()


# --------------------------------------------------------------- files


def write(path: Path, records: Sequence[bytes]) -> None:
    """Write one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + _checksum(length) + record + _checksum(record))


def read(path: Path) -> Iterator[bytes]:
    """The records of one file, in order. FolderError: it cannot be read, or a checksum does not match."""
    try:
        with path.open("rb") as file:
            for at, length in _lengths(path, file):
                yield _content(path, file, at, length)
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}.") from error


def find_records(path: Path) -> Offsets:
    """Where each record of a file begins, in bytes. Of the records only the lengths are read."""
    try:
        with path.open("rb", buffering=0) as file:
            return np.array([at - _HEADER for at, _ in _lengths(path, file)], "<i8")
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}.") from error


def read_at(path: Path, offsets: Offsets) -> Iterator[bytes]:
    """The records that begin at these places (``find_records``), and nothing else of the file."""
    try:
        with path.open("rb", buffering=0) as file:
            for offset in offsets.tolist():
                at, length = next(_lengths(path, file, offset))
                yield _content(path, file, at, length)
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}.") from error


def check_lengths(path: Path) -> None:
    """Refuse a file whose records do not end where it does. TensorFlow would ask for the memory that a damaged length
    says, and end the process.
    """
    try:
        with path.open("rb", buffering=0) as file:
            for _ in _lengths(path, file):
                pass
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}.") from error


def _lengths(path: Path, file: BinaryIO, at: int = 0) -> Iterator[tuple[int, int]]:
    """Where the content of each record from ``at`` on begins, and how many bytes it has: no more than are left."""
    size = os.fstat(file.fileno()).st_size
    while at < size:
        file.seek(at)
        header = file.read(_HEADER)
        at += _HEADER
        if _checksum(header[:8]) != header[8:]:
            raise FolderError(f"{path} is damaged: the checksums of its records do not match.")
        (length,) = struct.unpack("<Q", header[:8])
        if length > size - at - 4:
            raise FolderError(f"{path} is damaged: a record of {length} bytes is longer than what is left of the file.")
        yield at, length
        at += length + 4


def _content(path: Path, file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    record = file.read(length)
    if file.read(4) != _checksum(record):
        raise FolderError(f"{path} is damaged: the checksums of its records do not match.")
    return record


def _checksum(content: bytes) -> bytes:
    """CRC-32C, rotated and shifted, as in TensorFlow."""
    crc = google_crc32c.value(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


# --------------------------------------------------------------- tf.train.Example


def _to_example(texts: Mapping[str, bytes], numbers: Mapping[str, int]) -> bytes:
    """A serialised Example, its entries sorted by name, so that equal values give equal bytes. They are the bytes of
    TensorFlow, which puts a longer name before a shorter one that it begins with.
    """
    kinds = {name: _FLOAT_LIST if name == FEATURES else _BYTES_LIST for name in texts}
    features = {name: _field(kinds[name], _field(1, text)) for name, text in texts.items()}
    for name, number in numbers.items():
        features[name] = _field(_INT64_LIST, _field(1, _to_varint(number & 0xFFFF_FFFF_FFFF_FFFF)))
    entries = [
        _field(1, _field(1, name.encode()) + _field(2, features[name]))
        for name in sorted(features, key=lambda name: name.encode() + b"\xff")
    ]
    return _field(1, b"".join(entries))


def _from_example(record: bytes) -> tuple[dict[str, bytes], dict[str, int]]:
    """The first value of each list: texts and numbers. The floats of a list stay in one text, as they are packed."""
    texts: dict[str, bytes] = {}
    numbers: dict[str, int] = {}
    try:
        ((_, features),) = _fields(record)
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            ((kind, content),) = _fields(parts[2])
            _, first = next(_fields(content))
            if kind == _INT64_LIST:
                numbers[parts[1].decode()] = _signed(_from_varint(first, 0)[0])
            else:
                texts[parts[1].decode()] = first
    except (ValueError, IndexError, KeyError, StopIteration) as error:
        raise FolderError("A record of a TFRecord file is not a galaxy as stage=shards writes it.") from error
    return texts, numbers


def _field(number: int, content: bytes) -> bytes:
    return _to_varint(number << 3 | _BYTES) + _to_varint(len(content)) + content


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of a message."""
    at = 0
    while at < len(message):
        tag, at = _from_varint(message, at)
        length, at = _from_varint(message, at)
        yield tag >> 3, message[at : at + length]
        at += length


def _to_varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _from_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and the position after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
