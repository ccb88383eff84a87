"""The same galaxy under two ids: the same picture, or nearly the same position. Such rows never go to two splits.

The same picture is the same path, or a file with the same bytes. A picture encoded again is not found.

Axes: N galaxies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoobot.errors import InputError
from zoobot.galaxies import cells, repeats
from zoobot.galaxies.repeats import Ints
from zoobot.settings import SurveySettings

log = logging.getLogger("zoobot")
SAME_AS = "same_galaxy_as"  # in the catalogs: the first id of the galaxy, if any has several
_PLACEHOLDER = 10  # a position that more galaxies share is no position
Floats = npt.NDArray[np.float64]
Same = Callable[[pd.Series], Iterable[Ints]]


def groups(table: pd.DataFrame, survey: SurveySettings, where: str, same_pictures: Same = lambda _: []) -> Ints:
    """The galaxy of each row, N: the number of the first row with the same picture or position, directly or by others
    between. ``same_pictures`` gives the rows of a column ``file_loc`` whose files are the same to the byte.

    Several rows of a galaxy are warned of, or an error, as ``survey.same_galaxy`` says.
    """
    locations = table["file_loc"].astype("string")
    if locations.str.startswith("./").any():
        locations = locations.str.replace(r"^(?:\./)+", "", regex=True)
    first_N = repeats.first_with(locations)
    row_N = np.arange(len(table))
    by_path = np.flatnonzero(first_N != row_N)
    others = np.flatnonzero((first_N == row_N) & ~cells.no_text(locations).to_numpy(dtype=bool))
    pairs = [np.stack([by_path, first_N[by_path]], axis=1)]
    pairs += [_same_bytes(others, same_pictures(locations.iloc[others]), table["id_str"], where)]
    pairs += [_same_position(table, survey.same_within_arcsec, where)]
    first_N = _connected(len(table), pairs)
    repeated_N = np.flatnonzero(first_N != row_N)
    if len(repeated_N):
        ids = table["id_str"].array
        shown = ", ".join(f"{ids[int(first_N[row])]} and {ids[int(row)]}" for row in repeated_N[:3])
        text = (
            f"{where}: {len(repeated_N)} rows are a galaxy that is there already under another id ({len(by_path)} by"
            " the same file_loc, the others by the same bytes of their pictures or within survey.same_within_arcsec="
            f"{survey.same_within_arcsec:g}), for example {shown}."
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
    return repeats.first_with(_names(table).astype("string"))


def elsewhere(table: pd.DataFrame, others: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows of ``table`` are galaxies that ``others`` has, too, N."""
    return repeats.among(_names(table), _names(others))


def _names(table: pd.DataFrame) -> pd.Series:
    names: pd.Series = table[SAME_AS if SAME_AS in table.columns else "id_str"]
    return names


def _same_bytes(rows: Ints, found: Iterable[Ints], ids: pd.Series, where: str) -> Ints:
    """Pairs of rows, P × 2, whose pictures are the same to the byte; ``found`` has groups of places in ``rows``."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for same in found:
        if len(same) > _PLACEHOLDER:
            log.warning("%s: %d pictures are the same file, for example that of %s: taken for placeholders",
                        where, len(same), ids.iloc[rows[same[0]]])  # fmt: skip
        else:
            pairs += [np.stack([rows[same[1:]], np.full(len(same) - 1, rows[same[0]])], axis=1)]
    return np.concatenate(pairs)


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
    rows = rows[np.lexsort((ra[rows], dec[rows]))]  # equal positions lie together, the first row first
    ra, dec = ra[rows], dec[rows]
    is_new = np.concatenate([[True], (ra[1:] != ra[:-1]) | (dec[1:] != dec[:-1])])
    starts, copies = np.flatnonzero(is_new), np.flatnonzero(~is_new)
    first = starts[np.searchsorted(starts, copies, side="right") - 1]
    crowded, n_others = np.unique(first, return_counts=True)
    crowded, n_others = crowded[n_others >= _PLACEHOLDER], n_others[n_others >= _PLACEHOLDER]
    if len(crowded):
        log.warning(
            "%s: %d galaxies share their position with more than %d others, for example %s: taken as not known",
            where, int((n_others + 1).sum()), _PLACEHOLDER, (float(ra[crowded[0]]), float(dec[crowded[0]])),
        )  # fmt: skip
        is_new[crowded] = False
    is_known = ~np.isin(first, crowded)
    equal = np.stack([rows[copies[is_known]], rows[first[is_known]]], axis=1)
    del starts, copies, first, is_known
    if not is_new.all():
        rows, ra, dec = rows[is_new], ra[is_new], dec[is_new]
    return np.concatenate([equal, rows[_pairs(ra, dec, within_arcsec)]])


def _pairs(ra_K: Floats, dec_K: Floats, within_arcsec: float) -> Ints:
    """The pairs, P × 2, of positions (right ascension and declination in degrees, by declination) no farther apart than
    this: found in strips of declination, each with what lies so near above it.
    """
    from scipy.spatial import KDTree

    pairs = [np.empty((0, 2), dtype=np.int64)]
    chord = 2 * np.sin(np.radians(within_arcsec / 3600) / 2)
    for strip in repeats.parts_of(len(dec_K)) if len(dec_K) else ():
        highest = dec_K[strip][-1] + within_arcsec / 3600 * 1.001
        end = int(np.searchsorted(dec_K, highest, side="right"))
        ra, dec = np.radians(ra_K[strip.start : end]), np.radians(dec_K[strip.start : end])
        vectors = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
        pairs.append(strip.start + KDTree(vectors).query_pairs(chord, output_type="ndarray").reshape(-1, 2))
    return np.concatenate(pairs)


def _connected(n: int, pairs: Sequence[Ints]) -> Ints:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = np.concatenate(pairs).T
    if not len(one):
        return np.arange(n)
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    return repeats.first_of(labels)
