"""The same galaxy under two ids: the same picture, or nearly the same position. Such rows never go to two splits.

The same picture is the same path, or a file with the same bytes. A picture encoded again is not found.

Axes: N galaxies.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoobot.errors import InputError
from zoobot.galaxies import cells
from zoobot.galaxies.images import same_pictures
from zoobot.settings import SurveySettings

log = logging.getLogger("zoobot")
SAME_AS = "same_galaxy_as"  # in the catalogs: the first id of the galaxy, if any has several
_PLACEHOLDER = 10  # a position that more galaxies share is no position
Ints = npt.NDArray[np.int64]


def groups(table: pd.DataFrame, survey: SurveySettings, where: str, files: Sequence[Path] = ()) -> Ints:
    """The galaxy of each row, N: the number of the first row with the same picture or position, directly or by others
    between. ``files``, N, are the pictures of the rows; those that are not there are passed over.

    Several rows of a galaxy are warned of, or an error, as ``survey.same_galaxy`` says.
    """
    pictures = _first_with(table["file_loc"].astype("string").str.replace(r"^(?:\./)+", "", regex=True))
    position = _same_position(table, survey.same_within_arcsec, where)
    same_path = np.stack([np.arange(len(table)), pictures], axis=1)
    first_N = _connected(len(table), [same_path, position, _same_bytes(files, where)])
    repeated_N = np.flatnonzero(first_N != np.arange(len(table)))
    if len(repeated_N):
        ids = table["id_str"].to_numpy()
        pairs = ", ".join(f"{ids[first_N[row]]} and {ids[row]}" for row in repeated_N[:3])
        n_pictures = int((pictures != np.arange(len(table))).sum())
        text = (
            f"{where}: {len(repeated_N)} rows are a galaxy that is there already under another id ({n_pictures} by the"
            " same file_loc, the others by the same bytes of their pictures or within survey.same_within_arcsec="
            f"{survey.same_within_arcsec:g}), for example {pairs}."
        )
        if survey.same_galaxy == "error":
            raise InputError(f"{text} Remove them, or set survey.same_galaxy=warn to keep each galaxy in one split.")
        log.warning("%s All rows of a galaxy go to one split. survey.same_galaxy=error refuses them.", text)
    return first_N


def fill(group_N: Ints, sizes: Sequence[int]) -> Ints:
    """Which split each row goes to, N: the first with room for all rows of its galaxy; the one behind the last of
    ``sizes`` takes the rest. Without repeated galaxies these are ranges of rows.
    """
    members = np.bincount(group_N, minlength=len(group_N))
    split_N = np.searchsorted(np.cumsum(sizes), np.arange(len(group_N)), side="right")
    if members.max(initial=0) <= 1:
        return split_N
    room, chosen = list(sizes), np.empty(len(group_N), dtype=np.int64)
    for row, group in enumerate(group_N.tolist()):  # the first row of a group comes first
        if group == row:
            needed = int(members[group])
            split = next((n for n, left in enumerate(room) if left >= needed), len(room))
            chosen[group] = split
            if split < len(room):
                room[split] -= needed
    filled: Ints = chosen[group_N]
    return filled


def rows_of(table: pd.DataFrame) -> Ints:
    """The galaxy of each row, N, as ``groups`` gave it when the catalogs were made: the number of its first row."""
    return _first_with(_names(table).astype("string"))


def elsewhere(table: pd.DataFrame, others: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows of ``table`` are galaxies that ``others`` has, too, N."""
    return _names(table).isin(_names(others)).to_numpy(dtype=bool)


def _names(table: pd.DataFrame) -> pd.Series:
    names: pd.Series = table[SAME_AS if SAME_AS in table.columns else "id_str"]
    return names


def _first_with(names: pd.Series) -> Ints:
    codes, _ = pd.factorize(names)
    rows = np.arange(len(names))
    _, first = np.unique(codes, return_index=True)
    found: Ints = np.where(codes < 0, rows, first[codes + (1 if (codes < 0).any() else 0)])
    return found


def _same_bytes(files: Sequence[Path], where: str) -> Ints:
    """Pairs of rows, P × 2, whose pictures are files with the same bytes."""
    row_of = {path: row for row, path in reversed(list(enumerate(files)))}
    pairs = [(0, 0)]
    for same in same_pictures(files):
        if len(same) > _PLACEHOLDER:
            log.warning("%s: %d pictures are the same file, for example %s: taken for placeholders",
                        where, len(same), same[0].name)  # fmt: skip
        else:
            pairs += [(row_of[path], row_of[same[0]]) for path in same[1:]]
    return np.array(pairs, dtype=np.int64)


def _same_position(table: pd.DataFrame, within_arcsec: float, where: str) -> Ints:
    """Pairs of rows, P × 2."""
    none = np.empty((0, 2), dtype=np.int64)
    if not within_arcsec or not {"ra", "dec"} <= set(table.columns):
        return none
    ra, dec = (cells.numbers(table[name]).to_numpy() for name in ("ra", "dec"))
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero((np.abs(dec) <= 90) & (ra >= -180) & (ra <= 360) & ~((ra == 0) & (dec == 0)))
    if not len(rows):
        return none
    places, first, at, count = np.unique(
        np.stack([ra[rows], dec[rows]], axis=1), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    known = count <= _PLACEHOLDER
    if not known.all():
        log.warning(
            "%s: %d galaxies share their position with more than %d others, for example %s: taken as not known",
            where, int(count[~known].sum()), _PLACEHOLDER, tuple(places[~known][0].tolist()),
        )  # fmt: skip
    at = at.reshape(-1)
    equal = np.stack([rows, rows[first[at]]], axis=1)[known[at]]
    near = rows[first[known]][_pairs(places[known], within_arcsec)]
    return np.concatenate([equal, near])


def _pairs(places: npt.NDArray[np.float64], within_arcsec: float) -> Ints:
    """The pairs, P × 2, of positions (right ascension and declination in degrees) no farther apart than this."""
    from scipy.spatial import KDTree

    ra, dec = np.radians(places).T
    vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    chord = 2 * np.sin(np.radians(within_arcsec / 3600) / 2)
    pairs: Ints = KDTree(vectors).query_pairs(chord, output_type="ndarray").reshape(-1, 2)
    return pairs


def _connected(n: int, pairs: Sequence[Ints]) -> Ints:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    found: Ints = first[labels].astype(np.int64)
    return found
