"""Write a table of galaxies in parts, and put the parts together as one FITS or CSV file, a part at a time.

Each column has a unit and a description, which go into the fields' metadata of parquet and the header of FITS.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from zoobot import folders
from zoobot.errors import InputError

_FITS_BLOCK = 2880  # bytes
_FITS = {pa.float64(): ("D", ">f8"), pa.float32(): ("E", ">f4"), pa.int64(): ("K", ">i8"), pa.bool_(): ("L", "S1")}


@dataclass(frozen=True)
class Column:
    """A column: its name, what it holds, and its unit as FITS spells it (empty: none)."""

    name: str
    description: str
    type: pa.DataType  # string, float64, float32, int64 or bool
    unit: str = ""


def schema(columns: Sequence[Column]) -> pa.Schema:
    """The schema of a table with these columns."""
    return pa.schema(
        [
            pa.field(c.name, c.type, metadata={"description": c.description, **({"unit": c.unit} if c.unit else {})})
            for c in columns
        ]
    )


def write_part(path: Path, table: pa.Table) -> None:
    """Write a parquet file, complete or not at all."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    folders.publish_file(path, content.getvalue())


def write_csv(parts: Sequence[Path], target: Path) -> None:
    """One CSV file of all parts; a missing value is an empty cell."""
    with target.open("wb") as file, pa_csv.CSVWriter(file, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))


def write_fits(parts: Sequence[Path], target: Path) -> None:
    """One FITS file with a binary table of all parts. InputError: a text is not ASCII, which is all that FITS holds."""
    from astropy.io import fits

    fields = list(pq.read_schema(parts[0]))
    widths = {field.name: max(_width(part, field.name) for part in parts) for field in fields if _is_text(field)}
    kinds = {f.name: (f"{widths[f.name]}A", f"S{widths[f.name]}") if _is_text(f) else _FITS[f.type] for f in fields}
    described = [(f.name, kinds[f.name][0], {k.decode(): v.decode() for k, v in f.metadata.items()}) for f in fields]
    columns = [fits.Column(name, form, unit=more.get("unit")) for name, form, more in described]
    header = fits.BinTableHDU.from_columns(columns, name="CATALOGUE").header
    header["NAXIS2"] = sum(pq.read_metadata(part).num_rows for part in parts)
    for number, (_, _, more) in enumerate(described, start=1):
        header[f"TCOMM{number}"] = more["description"]
    with target.open("wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode("ascii") + header.tostring().encode("ascii"))
        for part in parts:
            file.write(_to_records(pq.read_table(part), kinds, part).tobytes())
        file.write(bytes(-file.tell() % _FITS_BLOCK))


def _is_text(field: pa.Field) -> bool:
    return bool(pa.types.is_string(field.type))


def _width(part: Path, name: str) -> int:
    """The length of the longest text in a column, at least 1."""
    return max(1, pc.max(pc.binary_length(pq.read_table(part, columns=[name])[name])).as_py() or 1)


def _to_records(table: pa.Table, kinds: dict[str, tuple[str, str]], part: Path) -> npt.NDArray[np.void]:
    """The rows as FITS stores them."""
    rows = np.empty(len(table), np.dtype([(name, kind) for name, (_, kind) in kinds.items()]))
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type):
            try:
                rows[name] = np.array([text.encode("ascii") for text in column.fill_null("").to_pylist()], "S")
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{part}, column {name}: {error.object!r} is not ASCII, which is all that FITS can hold. Set"
                    " predict.format=parquet, under another predict.name."
                ) from error
        elif pa.types.is_boolean(column.type):
            rows[name] = np.where(column.to_numpy(), b"T", b"F")
        else:
            rows[name] = column.to_numpy()
    return rows


# Formats by their name: how the parts become one file; None: they stay as they are.
FORMATS: dict[str, Callable[[Sequence[Path], Path], None] | None] = {
    "parquet": None,
    "fits": write_fits,
    "csv": write_csv,
}
