"""Features that others have published: parquet files with an id and a vector for each galaxy (``survey.features``).

A vector is a list in one column, or a number in each of many columns. Files are read in batches, because the vectors of
millions of galaxies do not fit into memory. Axes: N galaxies that are wanted, R rows of a batch, H features.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoobot.engine.progress import track
from zoobot.engine.seeds import stream
from zoobot.errors import InputError
from zoobot.galaxies import table_formats, templates
from zoobot.settings import Settings

Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_ROWS = 4096  # of a batch
_BUFFER = 1 << 16  # bytes; without it pyarrow reads whole columns, and pandas writes a million rows as one group
_SHOWN = 3  # examples of ids
# Why a galaxy has no features. Reasons are numbers until they are shown.
_NONE, _ABSENT, _SEVERAL, _EMPTY, _LENGTH, _NOT_FINITE = range(6)


@dataclass(frozen=True)
class FeatureTable:
    """The files of a survey's features: the column of the ids or its template, and the columns of the features."""

    path: Path
    files: list[Path]
    id_str: str
    columns: list[str]
    n_features: int

    @property
    def shown(self) -> str:
        """Which columns are read."""
        first, last = self.columns[0], self.columns[-1]
        return first if first == last else f"{first} … {last}"

    def reasons(self) -> list[str]:
        """What each reason says, by its number."""
        name = self.path.name
        return [
            "",
            f"{name} has no row with this id_str",
            f"{name} has several different rows with this id_str",
            f"its features in {name} are empty",
            f"its features in {name} are not {self.n_features} numbers, as those of others",
            f"its features in {name} have NaN, infinity, or numbers beyond float32",
        ]


@dataclass
class Gathered:
    """The features of N galaxies, in the order of ``ids``, in a file; and why some have none."""

    table: FeatureTable
    ids: pd.Index
    file: BinaryIO | None  # None: nothing is kept
    why_N: npt.NDArray[np.int8]
    n_other: int = 0  # rows whose galaxy is not wanted
    others: list[str] = field(default_factory=list)  # a few of them

    def of(self, ids: Sequence[str]) -> Iterator[Floats32 | str]:
        """The features of each galaxy, H, or the reason why it has none."""
        assert self.file is not None
        reasons, n_bytes = self.table.reasons(), 4 * self.table.n_features
        for row in self.rows_of(ids).tolist():
            if self.why_N[row] != _NONE:
                yield reasons[self.why_N[row]]
                continue
            yield np.frombuffer(os.pread(self.file.fileno(), n_bytes, row * n_bytes), np.float32)

    def rows_of(self, ids: Sequence[str] | pd.Series) -> Ints:
        """Which of the N galaxies each id is; -1: none of them."""
        found: Ints = self.ids.get_indexer(pd.Index(ids, dtype=object))
        return found

    def problem(self, may_lose: float) -> str:
        """What is wrong if a larger fraction than ``may_lose`` has no features; otherwise ""."""
        n_lost, n = int((self.why_N != _NONE).sum()), len(self.ids)
        if n_lost <= may_lose * n:
            return ""
        here = ", ".join(map(repr, self.ids[self.why_N != _NONE][:_SHOWN]))
        there = f" ids that only the features have: {', '.join(map(repr, self.others))}." if self.others else ""
        return (
            f"{n_lost} of {n} galaxies have no features, more than max_dropped_fraction={may_lose}: {self.described()}."
            f" Galaxies without: {here};{there} Write the ids alike in both tables, or leave galaxies without features"
            " out of the survey's table, or raise max_dropped_fraction."
        )

    def described(self) -> str:
        """How many galaxies have features, and how many have none for each reason."""
        reasons = self.table.reasons()
        counts = sorted(Counter(self.why_N.tolist()).items())
        return "; ".join(f"{count} x {reasons[why] or 'with features'}" for why, count in counts)


# --------------------------------------------------------------- which columns


def find(settings: Settings) -> FeatureTable:
    """The survey's features. InputError: the files or their columns cannot be used, and why."""
    path = settings.source_dir / settings.survey.features
    if not path.exists():
        raise InputError(f"{path} does not exist. Set survey.features to a parquet file or folder in survey.folder.")
    files = table_formats.folder_files(path) if path.is_dir() else [path]
    schema = _schema(files[0])
    ways = [*filter(None, [settings.survey.id_str]), "id_str", "iauname"]
    fits = [way for way in ways if set(templates.columns_of(way, "survey.id_str")) <= set(schema.names)]
    if not fits:
        raise InputError(
            f"{files[0]} has no column {ways[0]}, which names the galaxies. It has: {', '.join(schema.names[:12])}, …"
            " survey.id_str may be a template of columns that both tables have."
        )
    columns = _columns(schema, settings.survey.features_column, files[0])
    for file in files[1:]:
        lacking = {*columns, *templates.columns_of(fits[0], "survey.id_str")} - set(_schema(file).names)
        if lacking:
            raise InputError(f"{file} has no column {sorted(lacking)[0]}, which {files[0].name} has.")
    n_features = len(columns) if len(columns) > 1 else _length(files[0], columns[0])
    return FeatureTable(path, files, fits[0], columns, n_features)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"survey.features: {path} is not a readable parquet file ({error}). Other formats are not read here."
        ) from error


def _schema(path: Path) -> pa.Schema:
    with _open(path) as file:
        return file.schema_arrow


def _columns(schema: pa.Schema, first: str, path: Path) -> list[str]:
    """The columns of the features: the one of lists, or the only numbered ones; or those that begin with ``first``."""
    lists = [[each.name] for each in schema if _is_list(each.type) and _is_number(each.type.value_type)]
    numbered = _numbered([each.name for each in schema if _is_number(each.type)])
    found = [columns for columns in (*lists, *numbered) if columns[0] == first] if first else lists or numbered
    if len(found) == 1:
        return found[0]
    options = ", ".join(columns[0] for columns in (*lists, *numbered)) or "none"
    raise InputError(
        f"{path}: which columns are the features? Name the column of lists, or the first of numbered columns:"
        f" survey.features_column={first or 'COLUMN'}{' is neither' if first else ''}. Columns that can be: {options}."
    )


def _numbered(names: Sequence[str]) -> list[list[str]]:
    """Columns that differ in the number at their end, from 0 or 1 on without a gap, such as feat_0, feat_1, feat_2."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)(\d{1,6})", name, re.DOTALL):
            groups.setdefault(match[1], []).append((int(match[2]), name))
    found = [sorted(group) for group in groups.values() if len(group) > 1]
    complete = [group for group in found if [n - group[0][0] for n, _ in group] == list(range(len(group)))]
    return [[name for _, name in group] for group in complete if group[0][0] in (0, 1)]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _length(path: Path, column: str) -> int:
    """How many numbers a list holds: as most of the first rows do."""
    with _open(path) as file:
        kind = file.schema_arrow.field(column).type
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in file.iter_batches(_ROWS, columns=[column]):
            lengths = Counter(pc.list_value_length(batch.column(0)).drop_null().to_pylist())
            if any(lengths):
                return int(max(lengths, key=lambda length: (lengths[length], length)))
    raise InputError(f"{path}: column {column} has no features: all its lists are empty.")


# --------------------------------------------------------------- rows


def gather(table: FeatureTable, ids: Sequence[str], file: BinaryIO | None = None) -> Gathered:
    """The features of these galaxies, whose ids differ, written to ``file`` in their order. It reads all files once.

    Rows of one galaxy that are the same count as one; if they differ, it has no features.
    """
    # As objects: pandas would build the table of an index of texts anew for each batch.
    found = Gathered(table, pd.Index(ids, dtype=object), file, np.full(len(ids), _ABSENT, np.int8))
    check_N = np.zeros(len(ids), np.uint64)
    odd_H = stream(0, "check").integers(0, 2**64, table.n_features, dtype=np.uint64) | np.uint64(1)
    n_rows = sum(_n_rows(path) for path in table.files)
    for ids_R, values_R_H, why_R in track(_batches(table), "reading features", -(-n_rows // _ROWS)):
        row_R = found.rows_of(ids_R)
        found.n_other += int((row_R < 0).sum())
        found.others += ids_R[row_R < 0].dropna().tolist()[: _SHOWN - len(found.others)]
        check_R = values_R_H.view(np.uint32).astype(np.uint64) @ odd_H
        left = np.flatnonzero(row_R >= 0)
        while len(left):  # more than once only if a galaxy is there twice
            _, at = np.unique(row_R[left], return_index=True)
            new = left[at]
            _take(found, check_N, row_R[new], (values_R_H[new], why_R[new], check_R[new]))
            left = np.delete(left, at)
    return found


def _take(found: Gathered, check_N: npt.NDArray[np.uint64], row_R: Ints, given: tuple[Any, Any, Any]) -> None:
    """Add rows of galaxies that differ, in the order of ``found.ids``."""
    values_R_H, why_R, check_R = given
    before_R = found.why_N[row_R]
    is_new_R = before_R == _ABSENT
    same_R = (before_R == why_R) & (check_N[row_R] == check_R)
    found.why_N[row_R] = np.where(is_new_R, why_R, np.where(same_R, before_R, _SEVERAL))
    check_N[row_R] = check_R
    if found.file is None:
        return
    for n in np.flatnonzero(is_new_R & (why_R == _NONE)).tolist():
        found.file.seek(int(row_R[n]) * 4 * found.table.n_features)
        found.file.write(values_R_H[n].tobytes())
    found.file.flush()  # it is read by its descriptor


def _n_rows(path: Path) -> int:
    with _open(path) as file:
        return int(file.metadata.num_rows)


def _batches(table: FeatureTable) -> Iterator[tuple[pd.Series, Floats32, npt.NDArray[np.int8]]]:
    """For each batch: the ids, R; the features, R × H, zeros where they cannot be used; and why they cannot, R."""
    names = templates.columns_of(table.id_str, "survey.id_str")
    for path in table.files:
        try:
            with _open(path) as file:
                for batch in file.iter_batches(_ROWS, columns=[*names, *table.columns]):
                    frame = table_formats.from_arrow([pa.Table.from_batches([batch]).select(names)], path)
                    ids_R = templates.made(table.id_str, frame, path, "survey.id_str")
                    values_R_H, why_R = _values(batch, table)
                    yield ids_R, values_R_H, why_R
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"survey.features: {path} cannot be read: {error}. Download it again.") from error


def _values(batch: pa.RecordBatch, table: FeatureTable) -> tuple[Floats32, npt.NDArray[np.int8]]:
    columns = [batch.column(name) for name in table.columns]
    n, why_R = len(batch), np.zeros(len(batch), np.int8)
    values_R_H = np.zeros((n, table.n_features), np.float32)
    if _is_list(columns[0].type):
        length_R = pc.list_value_length(columns[0]).fill_null(0)
        fits = pc.equal(length_R, table.n_features)
        fits_R = fits.to_numpy(zero_copy_only=False)
        why_R[~fits_R] = np.where(length_R.to_numpy()[~fits_R] == 0, _EMPTY, _LENGTH)
        flat = pc.list_flatten(columns[0].filter(fits))
        values_R_H[fits_R] = _floats(flat).reshape(-1, table.n_features)
    else:
        for number, column in enumerate(columns):
            values_R_H[:, number] = _floats(column)
    finite_R_H = np.isfinite(values_R_H)
    why_R[~finite_R_H.all(axis=1)] = _NOT_FINITE
    why_R[np.isnan(values_R_H).all(axis=1)] = _EMPTY
    values_R_H[why_R != _NONE] = 0
    return values_R_H, why_R


def _floats(column: pa.Array) -> Floats32:
    """Numbers as float32: NaN for an empty cell, infinity beyond the range."""
    with np.errstate(over="ignore"):
        found: Floats32 = column.to_numpy(zero_copy_only=False).astype(np.float32)
    return found
