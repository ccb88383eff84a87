"""The survey catalogues of stage=predict that lie in the data folder: how their fractions are spread, and both ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from zoobot import folders
from zoobot.folders import MANIFEST
from zoobot.reports import pictures, vega
from zoobot.reports.galleries import Galaxy, Row
from zoobot.reports.vega import Axes, Chart

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
    counts: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    ends, total, by = pd.DataFrame(), 0, ""
    for part in _parts(path):
        total += len(part)
        by = next(name for name in part if name.endswith(_ENTROPY))  # of the first question
        for name in (name for name in part if name.endswith(_FRACTION)):
            counts[name] = counts.get(name, 0) + np.histogram(part[name], _BINS, (0, 1))[0]
        both = pd.concat([ends, part]).sort_values(by, kind="stable")
        ends = pd.concat([both[:most], both[max(most, len(both) - most) :]])
    return Catalogue(f"{path.parents[1].name} / {path.name}", total, _chart(key, counts), _rows(path, ends, by, most))


def _parts(path: Path) -> Iterator[pd.DataFrame]:
    """Ids, expected fractions and entropies, in any of the formats of stage=predict."""

    def wanted(name: str) -> bool:
        return name == "id_str" or name.endswith((_FRACTION, _ENTROPY))

    if (path / "catalogue.csv").is_file():
        yield from pd.read_csv(path / "catalogue.csv", usecols=wanted, dtype={"id_str": "string"}, chunksize=_AT_ONCE)
    elif (path / "catalogue.fits").is_file():
        from astropy.table import Table

        table = Table.read(path / "catalogue.fits")
        yield table[[name for name in table.colnames if wanted(name)]].to_pandas()
    else:
        for file in sorted((path / "galaxies").glob("*.parquet")):
            names = [name for name in pq.read_schema(file).names if wanted(name)]
            yield pd.read_parquet(file, columns=names)


def _chart(key: str, counts: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]) -> Chart:
    rows = [
        {"of": name.removesuffix(_FRACTION), "x": (n + 0.5) / _BINS, "y": int(count)}
        for name, bins in counts.items()
        for n, count in enumerate(bins)
    ]
    axes = Axes("expected fraction of the votes", "galaxies", "Answer")
    said = (("x", "fraction near"), ("y", "galaxies"))
    return vega.chart(key, "Expected fractions", axes, [vega.bars(rows, said, _BINS)], {})


def _rows(path: Path, ends: pd.DataFrame, by: str, most: int) -> list[Row]:
    """The ends of the catalogue, sorted by the entropy of the first question's next vote."""
    shards = folders.read_manifest(path).inputs.get("shards")
    found = pictures.of_shards((path / shards.path).resolve(), list(ends["id_str"])) if shards else {}
    halves = {"Most certain": ends[:most], "Least certain": ends[::-1][:most]}
    fractions = [name for name in ends if name.endswith(_FRACTION)]
    return [
        Row(title, [
            Galaxy(row["id_str"], found.get(row["id_str"]), row[by], _said(row[fractions])) for _, row in half.iterrows()
        ])
        for title, half in halves.items() if len(half)
    ]  # fmt: skip


def _said(fractions: pd.Series[float]) -> str:
    """The first answer, and its expected fraction."""
    return f"{str(fractions.index[0]).removesuffix(_FRACTION)} {100 * fractions.iloc[0]:.0f}\u00a0%"
