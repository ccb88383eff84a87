"""Which texts are there more than once, among millions: by 8 bytes for each, not by a table of all of them.

Texts whose hashes are equal are compared in full, so the answers are exact. Axes: N texts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

PART = 50_000  # rows that are worked on at a time
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def parts_of(n: int) -> Iterator[slice]:
    """Slices of at most ``PART`` that cover ``n`` rows, at least one."""
    yield from (slice(start, start + PART) for start in range(0, max(n, 1), PART))


def repeated(texts: pd.Series) -> Ints:
    """The rows whose text is there more than once, in order. A missing text is one that others may have."""
    rows = _with_equal(_hashes(texts))
    found: Ints = rows[texts.iloc[rows].duplicated(keep=False).to_numpy(dtype=bool)]
    return found


def first_with(texts: pd.Series) -> Ints:
    """For each row the first with the same text, N; for a missing text the row itself."""
    first_N = np.arange(len(texts))
    there = np.flatnonzero(texts.notna().to_numpy(dtype=bool))
    rows = there[repeated(texts.iloc[there] if len(there) < len(texts) else texts)]
    if len(rows):
        codes, _ = pd.factorize(texts.iloc[rows])
        first_N[rows] = rows[first_of(codes)]
    return first_N


def first_of(numbers_N: npt.NDArray[np.integer]) -> Ints:
    """For each row the first with the same number, N. Numbers are from 0 on, and not much larger than N."""
    first = np.zeros(int(numbers_N.max(initial=-1)) + 1, np.int64)
    first[numbers_N[::-1]] = np.arange(len(numbers_N))[::-1]  # the last that is written is the first
    found: Ints = first[numbers_N]
    return found


def among(texts: pd.Series, others: pd.Series) -> npt.NDArray[np.bool_]:
    """Which of the texts are among others, N."""
    hash_N, hash_M = _hashes(texts), _hashes(others)
    rows, other_rows = np.flatnonzero(_are_in(hash_N, hash_M)), np.flatnonzero(_are_in(hash_M, hash_N))
    found_N = np.zeros(len(texts), dtype=bool)
    found_N[rows] = texts.iloc[rows].isin(others.iloc[other_rows]).to_numpy(dtype=bool)
    return found_N


def _hashes(texts: pd.Series) -> Hashes:
    return np.concatenate(
        [pd.util.hash_array(texts.iloc[part].to_numpy(dtype=object), categorize=False) for part in parts_of(len(texts))]
    )


def _with_equal(hash_N: Hashes) -> Ints:
    ordered = np.sort(hash_N)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    return np.flatnonzero(_are_in(hash_N, twice))


def _are_in(hash_N: Hashes, hash_M: Hashes) -> npt.NDArray[np.bool_]:
    if not len(hash_M):
        return np.zeros(len(hash_N), dtype=bool)
    ordered = np.sort(hash_M)
    at = np.minimum(np.searchsorted(ordered, hash_N), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[at] == hash_N
    return found
