"""Read a table in any format that astronomers have: CSV, ECSV, IPAC, VOTable, FITS, parquet, compressed or not.

The format is told by the content, not by the name. Text stays text, digit for digit: a CSV has no other cells. Where a
number is needed, zoobot/galaxies/cells.py makes it.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import difflib
import gzip
import hashlib
import io
import json
import logging
import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from zoobot import folders
from zoobot.errors import InputError
from zoobot.galaxies import cells, table_formats

log = logging.getLogger("zoobot")
# Whatever type they have in a file, these become text: an id of 18 digits must never become a float.
TEXT_COLUMNS = ("id_str", "dr7objid", "iauname", "subject_id", "file_loc", "png_loc", "fits_loc")
_SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".ecsv", ".tbl", ".vot", ".xml", ".fits", ".fit", ".parquet", ".pq", ".gz",
             ".bz2", ".xz", ".zip")  # fmt: skip
_UNKNOWN = {
    b"\x89HDF": "HDF5", b"ARROW1": "Feather", b"\xd0\xcf\x11\xe0": "an Excel workbook", b"\x93NUMPY": "numpy",
    b"SQLite format": "SQLite", b"%PDF": "PDF", b"\x28\xb5\x2f\xfd": "Zstandard",
}  # fmt: skip
_BLOCK = 1 << 20
_START = 4096  # bytes that tell the format
if "jemalloc" in pa.supported_memory_backends():  # it gives memory back: a table then takes a fifth less
    pa.set_memory_pool(pa.jemalloc_memory_pool())
_ROWS = 50_000  # of a CSV that are read at a time: pandas holds each cell as an object first


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file, or in a folder of parquet files. The cells of a CSV are text; an empty one is missing."""
    if path.is_dir():
        table = table_formats.read_folder(path)
    elif path.is_file():
        table = _read_file(path)
    else:
        raise InputError(
            f"{path} does not exist. Set survey.folder to the folder of the survey's tables and images,"
            f" and survey.catalog to its table.{_others(path)}"
        )
    if table.empty:
        raise InputError(f"{path} has no rows.")
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    return _with_texts(table, path)


def digest(source: Path) -> str:
    """The digest of a table's file; of a folder, that of its files' digests."""
    if not source.is_dir():
        return folders.digest_file(source)
    found = {str(file.relative_to(source)): folders.digest_file(file) for file in table_formats.folder_files(source)}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def read_votes(path: Path) -> pd.DataFrame:
    """A table of this program with ``id_str`` and votes, such as oracle.csv: the votes by id, as whole numbers."""
    return read_table(path).set_index("id_str").apply(cells.numbers).astype("int64")


def require_columns(table: pd.DataFrame, columns: Sequence[str], path: Path, do: str = "") -> None:
    """Refuse a table that lacks one of ``columns``; ``do`` says what helps."""
    missing = [name for name in columns if name not in table.columns]
    if not missing:
        return
    alike = {_plain(str(name)): str(name) for name in table.columns}
    close = [alike[found] for name in missing for found in difflib.get_close_matches(_plain(name), alike, 1, 0.85)]
    hint = f" Is it {' and '.join(dict.fromkeys(close))}? Then rename it." if close else ""
    raise InputError(
        f"{path} has no column {', '.join(missing)}. It has: {', '.join(map(str, table.columns[:12]))}, …{hint}{do}"
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _others(path: Path) -> str:
    """The tables that are in the folder instead."""
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    found = sorted(each.name for each in path.parent.iterdir() if each.suffix.lower() in _SUFFIXES)
    return f" In that folder: {', '.join(found[:8])}{', …' if len(found) > 8 else ''}." if found else ""


def _read_file(path: Path) -> pd.DataFrame:
    try:
        with path.open("rb") as file:
            start = file.read(_START)
        content = _unpacked(path, start)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if content is not None:
        start = content[:_START]
    reader = _reader_of(start, path)
    if reader is None:
        return _read_csv(path, content)
    return reader(path.read_bytes() if content is None else content, path)


def _reader_of(start: bytes, path: Path) -> Callable[[bytes, Path], pd.DataFrame] | None:
    """The reader of a format that its first bytes tell; None for CSV."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"SIMPLE  ="):
        return table_formats.read_fits
    if start.startswith(b"PAR1"):
        return table_formats.read_parquet
    if text.startswith(b"# %ECSV"):
        return table_formats.read_ecsv
    if text.startswith((b"|", b"\\")):
        return table_formats.read_ipac
    if text.startswith(b"<") and b"VOTABLE" in start.upper():
        return table_formats.read_votable
    if text[:9].lower() in (b"<!doctype", b"<html>\n<h") or text[:5].lower() == b"<html":
        raise InputError(f"{path} is a web page, not a table: the download failed or needs a login. Download it again.")
    for magic, name in _UNKNOWN.items():
        if start.startswith(magic):
            raise InputError(f"{path} is {name}, which is not read here. Save it as CSV, FITS or parquet, ids as text.")
    return None


def _unpacked(path: Path, start: bytes) -> bytes | None:
    """The content of a compressed file; None if it is not compressed."""
    unpack: Callable[[bytes], bytes]
    if start.startswith(b"\x1f\x8b"):
        unpack = gzip.decompress
    elif start.startswith(b"BZh"):
        unpack = bz2.decompress
    elif start.startswith(b"\xfd7zXZ\x00"):
        unpack = lzma.decompress
    elif start.startswith(b"PK\x03\x04"):
        unpack = _only_member
    else:
        return None
    try:
        return unpack(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
        cut = "ended before" in str(error) or "incomplete or truncated" in str(error) or "not a zip" in str(error)
        what = "is cut off" if cut or isinstance(error, EOFError) else "is damaged"
        raise InputError(f"{path} {what} ({error}): download it again.") from error


def _only_member(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")]
        if "[Content_Types].xml" in names:
            raise InputError("an Excel workbook is not read here. Save it as CSV, with the ids as text.")
        if len(names) != 1:
            raise InputError(f"the archive has {len(names)} files ({', '.join(names[:4])}). Unpack it, and name one.")
        return archive.read(names[0])


# --------------------------------------------------------------- CSV


def _read_csv(path: Path, content: bytes | None) -> pd.DataFrame:
    encoding = _encoding(path, content)
    head = _first_lines(path, content, encoding)
    skipped, names, delimiter, is_comment = _layout(head)
    _check_end(path, content, encoding, len(names), delimiter)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        log.warning(
            "%s: %s is the name of several columns; the first is read, the next is %s.1", path, twice[0], twice[0]
        )
    own: dict[str, Any] = {"header": None, "names": names} if is_comment else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header lose values
            with pd.read_csv(
                path if content is None else io.BytesIO(content), sep=delimiter, dtype="string", keep_default_na=False,
                na_values=[""], index_col=False, encoding=encoding, skiprows=skipped, compression=None,
                chunksize=_ROWS, **own,
            ) as parts:  # fmt: skip
                return _without_units(pd.concat(list(parts), ignore_index=True))
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise InputError(f"{path} is not a readable CSV table: {error}") from error


def _without_units(table: pd.DataFrame) -> pd.DataFrame:
    """Without the lines of units and dashes that VizieR writes below the header."""
    for rule in range(min(2, len(table))):
        cells_of = table.iloc[rule].dropna()
        if len(cells_of) and cells_of.str.fullmatch(r"-{2,}").all():
            return table.iloc[rule + 1 :].reset_index(drop=True)
    return table


def _blocks(path: Path, content: bytes | None) -> Iterator[bytes]:
    with path.open("rb") if content is None else io.BytesIO(content) as file:
        while block := file.read(_BLOCK):
            yield block


def _encoding(path: Path, content: bytes | None) -> str:
    """utf-8, utf-16 by its first bytes, or latin-1, which is warned of with the line."""
    decoder, n_lines = codecs.getincrementaldecoder("utf-8")(), 1
    for number, block in enumerate(_blocks(path, content)):
        if number == 0 and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        if b"\0" in block:
            raise InputError(f"{path} is not a readable CSV table, nor ECSV, VOTable, FITS or parquet: it is binary.")
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            line = n_lines + block.count(b"\n", 0, error.start)
            log.warning("%s, line %d: not UTF-8, so it is read as Latin-1. If names look wrong, save it as UTF-8.",
                        path, line)  # fmt: skip
            return "latin-1"
        n_lines += block.count(b"\n")
    return "utf-8-sig"


def _first_lines(path: Path, content: bytes | None, encoding: str) -> list[str]:
    """The comments at the top, the header and one row."""
    lines: list[str] = []
    raw = path.open("rb") if content is None else io.BytesIO(content)
    with io.TextIOWrapper(raw, encoding=encoding, errors="replace") as file:
        for line in file:
            lines.append(line.rstrip("\n"))
            if sum(1 for each in lines if each.strip() and not each.startswith("#")) == 2:
                break
    return lines


def _layout(head: Sequence[str]) -> tuple[int, list[str], str, bool]:
    """How many lines to skip, the names of the columns, the delimiter, and whether the names are in a comment.

    Lines that begin with # are comments; the last of them is the header if it has a name for each cell of a first row
    that has numbers (so TOPCAT and astropy write ASCII tables).
    """
    at = next((n for n, line in enumerate(head) if line.strip() and not line.startswith("#")), len(head))
    rows = [line for line in head[at:] if line.strip()]
    if not rows:
        return 0, [], ",", False
    delimiter = _delimiter(rows[0])
    first = _split(rows[0], delimiter)
    commented = _split(head[at - 1].lstrip("#").strip(), delimiter) if at else []
    if len(commented) == len(first) > 1 and any(re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", c) for c in first):
        return at, commented, delimiter, True
    return at, first, delimiter, False


def _delimiter(line: str) -> str:
    bare = re.sub(r'"[^"]*"', "", line)
    counts = {delimiter: bare.count(delimiter) for delimiter in "\t;|,"}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    if counts[best]:
        return best
    return r"\s+" if len(bare.split()) > 1 else ","


def _split(line: str, delimiter: str) -> list[str]:
    if delimiter == r"\s+":
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _check_end(path: Path, content: bytes | None, encoding: str, n_columns: int, delimiter: str) -> None:
    """Refuse a table whose last line was cut off: it has no end, and fewer cells than the header."""
    if content is None:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            end = file.read()
    else:
        end = content[-65536:]
    last = end.decode(encoding, errors="replace") if encoding != "utf-16" else "\n"
    if last.endswith(("\n", "\r")) or "\n" not in last:
        return
    line = last.rsplit("\n", 1)[1]
    if line.count('"') % 2 == 0 and len(_split(line, delimiter)) < n_columns:
        raise InputError(f"{path} is cut off in its last line ({line[:40]}): download it again, or remove that line.")


# --------------------------------------------------------------- ids


def _with_texts(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    texts = [name for name in TEXT_COLUMNS if name in table]
    floats = [name for name in texts if pd.api.types.is_float_dtype(table[name])]
    if floats:
        raise InputError(
            f"{path}: {', '.join(floats)} holds numbers with a fraction, which cannot hold an id of 18 digits: the last"
            " digits are lost. Store ids as text."
        )
    return table.astype(dict.fromkeys(texts, "string"))
