"""One random stream per purpose: the same seed and purpose always give the same numbers, whatever else is drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *purpose: object) -> np.random.Generator:
    """The random stream of ``purpose`` (any values with a stable text, e.g. ``stream(0, "dropout", "pool_00003")``)."""
    digest = hashlib.sha256("\x1f".join(map(str, purpose)).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def number(seed: int, *purpose: object) -> int:
    """A seed below 2**31 for a library that takes only one integer."""
    return int(stream(seed, *purpose).integers(2**31))
