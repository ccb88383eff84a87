"""The survey catalogues of stage=predict that lie in the data folder: how their fractions are spread, and both ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from zoobot import folders
from zoobot.folders import MANIFEST
from zoobot.reports import pictures, vega
from zoobot.reports.galleries import Row, Shown
from zoobot.reports.vega import Axes, Chart

Counts = npt.NDArray[np.int64]
_BINS = 20
_AT_ONCE = 200_000  # rows of a CSV
_FRACTION, _ENTROPY = "_fraction", "_entropy"


@dataclass(frozen=True)
class Catalogue:
    """What the page shows of a catalogue."""

    name: str  # survey / name
    galaxies: int
    chart: Chart
    rows: list[Row]


def find(data_dir: Path) -> list[Path]:
    """The folders of all finished catalogues."""
    return sorted(path.parent for path in data_dir.glob(f"*/predictions/[!.]*/{MANIFEST}"))


def read(path: Path, key: str, most: int) -> Catalogue:
    """Count a catalogue's fractions, part by part, and find its most and least certain galaxies."""
    folders.require(path, "predict")
    counts: dict[str, Counts] = {}
    ends, total = pd.DataFrame(), 0
    for part in _parts(path):
        total += len(part)
        for name in _columns(part, _FRACTION):
            counts[name] = counts.get(name, 0) + np.histogram(part[name], _BINS, (0, 1))[0]
        ends = _ends(pd.concat([ends, part]), most)
    return Catalogue(f"{path.parents[1].name} / {path.name}", total, _chart(key, counts), _rows(path, ends, most))


def _columns(table: pd.DataFrame, end: str) -> list[str]:
    return [name for name in map(str, table.columns) if name.endswith(end)]


def _ends(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows with the lowest and the highest entropy of the first question, in order."""
    ordered = table.sort_values(_columns(table, _ENTROPY)[0], kind="stable")
    return ordered if len(ordered) <= 2 * most else pd.concat([ordered[:most], ordered[len(ordered) - most :]])


def _parts(path: Path) -> Iterator[pd.DataFrame]:
    """Ids, expected fractions and entropies, in any of the formats of stage=predict."""
    if (csv := path / "catalogue.csv").is_file():
        names = _wanted(list(pd.read_csv(csv, nrows=0).columns))
        yield from pd.read_csv(csv, usecols=names, dtype={"id_str": "string"}, chunksize=_AT_ONCE)
    elif (path / "catalogue.fits").is_file():
        from astropy.table import Table

        table = Table.read(path / "catalogue.fits")
        yield table[_wanted(table.colnames)].to_pandas()
    else:
        for file in sorted((path / "galaxies").glob("*.parquet")):
            yield pd.read_parquet(file, columns=_wanted(pq.read_schema(file).names))


def _wanted(names: Sequence[str]) -> list[str]:
    """The columns that are read. A survey's own column may end in _fraction, too, but has no interval beside it."""
    beside = {_FRACTION: "_fraction_low", _ENTROPY: "_asked"}
    return [
        name for name in names
        if name == "id_str"
        or any(name.endswith(end) and name.removesuffix(end) + other in names for end, other in beside.items())
    ]  # fmt: skip


def _chart(key: str, counts: dict[str, Counts]) -> Chart:
    rows = [
        {"of": name.removesuffix(_FRACTION), "x": (n + 0.5) / _BINS, "y": int(count)}
        for name, bins in counts.items()
        for n, count in enumerate(bins)
    ]
    axes = Axes("expected fraction of the votes", "galaxies", "Answer")
    said = (("x", "fraction near"), ("y", "galaxies"))
    return vega.chart(key, "Expected fractions", axes, [vega.bars(rows, said, _BINS)], {})


def _rows(path: Path, ends: pd.DataFrame, most: int) -> list[Row]:
    shards, ids = folders.read_manifest(path).inputs.get("shards"), ends["id_str"].astype(str).tolist()
    found = pictures.of_shards((path / shards.path).resolve(), ids) if shards else {}
    first, by = _columns(ends, _FRACTION)[0], _columns(ends, _ENTROPY)[0]
    entropy_N, fraction_N = ends[by].to_numpy(), ends[first].to_numpy()
    answer = first.removesuffix(_FRACTION).removeprefix(f"{by.removesuffix(_ENTROPY)}_")

    def galaxy(n: int) -> Shown:
        said = f"{answer} {100 * fraction_N[n]:.0f}\u00a0%"
        return Shown(ids[n], found.get(ids[n]), float(entropy_N[n]), said)

    n_rows = min(most, len(ends))
    halves = {"Most certain": range(n_rows), "Least certain": range(len(ends) - 1, len(ends) - 1 - n_rows, -1)}
    return [Row(title, [galaxy(n) for n in half]) for title, half in halves.items() if half]
