"""The readers of binary and XML tables: FITS, VOTable, ECSV, IPAC, parquet, and folders of parquet files.

Columns that hold an array in each cell are left out, and named. A whole number keeps its digits even beside gaps.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoobot.errors import InputError

log = logging.getLogger("zoobot")


def read_fits(content: bytes, path: Path) -> pd.DataFrame:
    """The first table of a FITS file. A table of one row, whose columns are arrays of one length, is turned."""
    from astropy.io import fits
    from astropy.table import Table

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd units and keywords
            with fits.open(io.BytesIO(content)) as hdus:
                tables = [
                    (number, hdu.name)
                    for number, hdu in enumerate(hdus)
                    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU)
                ]
                rest = hdus[-1]._data_offset + hdus[-1].size if len(hdus) else 0
            if not tables:
                raise InputError("it has no table, only images")
            if rest > len(content):
                raise InputError("it is cut off: download it again")
            table = Table.read(io.BytesIO(content), format="fits", hdu=tables[0][0])
    except Exception as error:  # astropy raises nearly anything on damaged bytes
        raise InputError(f"{path} is not a readable FITS table: {error}") from error
    if len(tables) > 1:
        names = ", ".join(name for _, name in tables)
        log.warning("%s has %d tables (%s): the first is read", path, len(tables), names)
    return _frame(_turned(table), path)


def read_votable(content: bytes, path: Path) -> pd.DataFrame:
    """The first table of a VOTable."""
    from astropy.io.votable import parse

    if re.search(rb"<FIELD\b(?![^>]*\bdatatype\s*=)", content):  # astropy would keep the first letter of each cell
        raise InputError(f"{path}: a FIELD has no datatype, so its cells cannot be read. Ask for CSV or FITS instead.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = parse(io.BytesIO(content), verify="ignore")
            tables = list(found.iter_tables())
            table = tables[0].to_table(use_names_over_ids=True)
    except Exception as error:  # a parser of XML and of binary streams
        raise InputError(f"{path} is not a readable VOTable: {error or type(error).__name__}") from error
    if len(tables) > 1:
        log.warning("%s has %d tables: the first is read", path, len(tables))
    return _frame(table, path)


def read_ecsv(content: bytes, path: Path) -> pd.DataFrame:
    """An ECSV table of astropy."""
    return _read_ascii(content, path, "ecsv")


def read_ipac(content: bytes, path: Path) -> pd.DataFrame:
    """An IPAC table, as IRSA and the Euclid archive write them."""
    return _read_ascii(content, path, "ipac")


def _read_ascii(content: bytes, path: Path, format_: str) -> pd.DataFrame:
    from astropy.table import Table

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = Table.read(content.decode("utf-8-sig").splitlines(), format=f"ascii.{format_}")
    except Exception as error:  # astropy raises nearly anything on a damaged table
        raise InputError(f"{path} is not a readable {format_.upper()} table: {error}") from error
    return _frame(table, path)


def read_parquet(content: bytes, path: Path) -> pd.DataFrame:
    """A parquet file."""
    return from_arrow([_read_arrow(io.BytesIO(content), path)], path)


def read_folder(path: Path) -> pd.DataFrame:
    """The parquet files below a folder: any data set, or a HATS catalogue (``Norder=*/Dir=*/Npix=*``)."""
    return from_arrow([_read_arrow(file, file) for file in folder_files(path)], path)


def folder_files(path: Path) -> list[Path]:
    """The parquet files that are the table, in order. Of a HATS catalogue not its margins, thumbnails and metadata."""
    try:
        found = [file for suffix in ("parquet", "pq") for file in path.rglob(f"*.{suffix}") if file.is_file()]
    except OSError as error:
        raise InputError(f"{path} cannot be searched for parquet files: {error}. Name a table, or a folder.") from error
    found = sorted(file for file in found if not file.name.startswith(("_", ".")))
    partitions = [file for file in found if any(part.startswith("Norder=") for part in file.relative_to(path).parts)]
    files = partitions or found
    if not files:
        raise InputError(f"{path} is a folder without parquet files. Name a table, or a folder that has them.")
    return files


def _read_arrow(source: Any, path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}): download it again.") from error


def from_arrow(parts: list[Any], path: Path) -> pd.DataFrame:
    """Tables of pyarrow, one below the other."""
    import pyarrow as pa

    try:
        table = pa.concat_tables(parts, promote_options="default")
    except pa.ArrowException as error:
        raise InputError(f"{path}: its files have different columns: {error}") from error
    types, arrays = pa.types, []
    for position, field in enumerate(table.schema):
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if types.is_nested(kind):
            arrays.append(field.name)
        elif types.is_decimal(kind):
            table = table.set_column(position, field.name, table[position].cast(pa.string()))
        elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            texts = _texts(table[position].to_pylist(), f"{path}, column {field.name}")
            table = table.set_column(position, field.name, pa.array(texts, pa.string()))
        elif kind != field.type:
            table = table.set_column(position, field.name, table[position].cast(kind))
    _say_left_out(arrays, path)
    index = [name for name in table.column_names if name.startswith("__index_level_")]
    frame: pd.DataFrame = table.drop_columns([*arrays, *index]).to_pandas(types_mapper=_type_of, ignore_metadata=True)
    return frame


def _type_of(kind: Any) -> Any:
    """The type of a column in which gaps cost no digit."""
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pd.StringDtype()
    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    if pa.types.is_integer(kind):
        return pd.api.types.pandas_dtype(str(kind).replace("u", "U").replace("int", "Int"))
    return None


# --------------------------------------------------------------- astropy's tables


def _turned(table: Any) -> Any:
    """A table with one row per galaxy, from one with a single row whose columns are arrays over the galaxies."""
    from astropy.table import Table

    if len(table) != 1:
        return table
    lengths = Counter(table[name].shape[1] for name in table.colnames if table[name].ndim == 2)
    length = max(lengths, key=lambda n: lengths[n], default=1)
    if length < 2 or lengths[length] * 2 <= len(table.colnames):
        return table
    names = [name for name in table.colnames if table[name].ndim == 2 and table[name].shape[1] == length]
    return Table({name: table[name][0] for name in names})


def _frame(table: Any, path: Path) -> pd.DataFrame:
    columns, arrays = {}, []
    for name in table.colnames:
        series = _series(table[name], f"{path}, column {name}")
        if series is None:
            arrays.append(name)
        else:
            columns[name] = series
    _say_left_out(arrays, path)
    return pd.DataFrame(columns)


def _series(column: Any, where: str) -> pd.Series | None:
    """A column of an astropy table; None if its cells are no single values."""
    if getattr(column, "ndim", 0) != 1 or not hasattr(column, "dtype"):
        return None
    mask = np.ma.getmaskarray(column) if np.ma.isMaskedArray(column) else np.zeros(len(column), dtype=bool)
    values = np.asarray(np.ma.getdata(column))
    if values.dtype.kind in "SUO":
        found = [None if masked else cell for cell, masked in zip(values.tolist(), mask.tolist(), strict=True)]
        if any(not isinstance(cell, str | bytes | int | float | None) for cell in found):
            return None
        return pd.Series(_texts(found, where), dtype="string").replace("", pd.NA)
    values = values.astype(values.dtype.newbyteorder("="))
    if not mask.any():
        return pd.Series(values)
    if values.dtype.kind in "iub":
        array = pd.arrays.BooleanArray if values.dtype.kind == "b" else pd.arrays.IntegerArray
        return pd.Series(array(values, mask))
    return pd.Series(values).mask(mask)


def _texts(found: Sequence[str | bytes | float | None], where: str) -> list[str | None]:
    """The cells as text: bytes as UTF-8, or else, as old FITS files have them, as Latin-1."""

    def decoded(encoding: str) -> list[str | None]:
        texts = (cell.decode(encoding).rstrip("\0 ") if isinstance(cell, bytes) else cell for cell in found)
        return [None if text is None else str(text) for text in texts]

    try:
        return decoded("utf-8")
    except UnicodeDecodeError as error:
        log.warning("%s: not UTF-8 (%r), so it is read as Latin-1", where, error.object[:40])
        return decoded("latin-1")


def _say_left_out(arrays: list[str], path: Path) -> None:
    if arrays:
        log.info("%s: left out, because a cell holds an array: %s", path, ", ".join(arrays))
