"""A file of classifications as bytes and as text: compressed or not, in any Unicode encoding."""

from __future__ import annotations

import codecs
import gzip
import io
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from zoobot.errors import InputError

_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
          codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"


def existing(path: str | Path) -> Path:
    """The path. InputError: the file does not exist."""
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}")
    return Path(path)


def is_gzip(path: str | Path) -> bool:
    """Whether the content is compressed by gzip, whatever the name says."""
    with existing(path).open("rb") as file:
        return file.read(2) == _GZIP


def open_bytes(path: str | Path) -> BinaryIO:
    """The bytes of a file, decompressed. InputError: the file does not exist, or is a ZIP archive or a workbook."""
    with existing(path).open("rb") as file:
        if file.read(4) == _ZIP:
            raise InputError(f"{path} is a ZIP archive or an Excel workbook. Unpack it, or save it as CSV.")
    return cast(BinaryIO, gzip.open(path, "rb") if is_gzip(path) else Path(path).open("rb"))


def encoding(path: str | Path) -> str:
    """The encoding that a mark at the start tells of; UTF-8 otherwise."""
    with open_bytes(path) as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


def open_text(path: str | Path) -> TextIO:
    """The text of a file, line ends included; what cannot be decoded becomes U+FFFD."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding(path), errors="replace", newline="")


def ends_with_a_line(path: str | Path) -> bool:
    """Whether the last line has an end. If not, the file may have been cut off in it."""
    last = b""
    with open_bytes(path) as file:
        if not isinstance(file, gzip.GzipFile):
            file.seek(max(0, file.seek(0, io.SEEK_END) - 4))
        while chunk := file.read(1_000_000):
            last = (last + chunk)[-4:]
    return not last or last.rstrip(b"\x00")[-1:] in (b"\n", b"\r")
