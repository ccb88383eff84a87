"""Intervals over seeds and test galaxies, and the correction for many comparisons.

Each replicate gives every seed and every test galaxy a random weight, and a loss the product of both: the bootstrap for
two crossed factors (Owen & Eckles 2012, Annals of Applied Statistics 6, 895). A galaxy that is tested by several seeds
has the same weight in all of them. The weights of galaxies are exponential (the Bayesian bootstrap, Rubin 1981, Annals
of Statistics 9, 130). Those of P seeds are Gamma variables of shape (P - 2) / P, since then a mean over seeds has the
variance s² / P; exponential weights would give a fifth less with ten seeds.

Axes: R replicates, of which the first is the data themselves (all weights are 1), P pairs, T iterations, N test
galaxies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
REPLICATES, LEVEL = 1000, 0.95
_AT_ONCE = 50  # replicates: bounds the memory for many galaxies


@dataclass(frozen=True)
class Tested:
    """The losses of the same test galaxies at several points."""

    ids_N: Sequence[str]
    losses_T_N: Floats


def mean_losses(tested: Mapping[str, Tested]) -> dict[str, Floats]:
    """The mean loss R × T of each, over its own galaxies, in every replicate."""
    number = {id_str: row for row, id_str in enumerate(sorted({i for of in tested.values() for i in of.ids_N}))}
    at = {name: np.array([number[id_str] for id_str in of.ids_N]) for name, of in tested.items()}
    random = np.random.default_rng(0)
    parts: dict[str, list[Floats]] = {name: [of.losses_T_N.mean(axis=1)[None]] for name, of in tested.items()}
    for start in range(0, REPLICATES, _AT_ONCE):
        weights_R_G = random.exponential(size=(min(_AT_ONCE, REPLICATES - start), len(number)))
        for name, of in tested.items():
            own_R_N = weights_R_G[:, at[name]]
            parts[name].append(own_R_N @ of.losses_T_N.T / own_R_N.sum(axis=1, keepdims=True))
    return {name: np.concatenate(of) for name, of in parts.items()}


def seed_weights(n_pairs: int) -> Floats:
    """The weights R × P of the pairs."""
    drawn = np.random.default_rng(1).gamma(max(n_pairs - 2, 1) / n_pairs, size=(REPLICATES, n_pairs))
    return np.concatenate([np.ones((1, n_pairs)), np.maximum(drawn, 1e-12)])


def with_interval(values_R: Floats) -> dict[str, float | None]:
    """The value, and the interval that holds 95 % of the replicates. Infinite values and bounds are None.

    NaN is a ratio to something that is not above 0. If more than 2.5 % of the replicates are NaN, no interval is known.
    """
    tail = (1 - LEVEL) / 2
    known = values_R[1:][~np.isnan(values_R[1:])]
    bounds = [np.nan, np.nan]
    if len(known) >= (1 - tail) * (len(values_R) - 1):
        bounds = list(np.quantile(known, [tail, 1 - tail], method="closest_observation"))
    return dict(zip(("value", "low", "high"), map(finite, (values_R[0], *bounds)), strict=True))


def finite(value: float) -> float | None:
    """The value, or None if it is infinite or NaN: JSON has neither."""
    return float(value) if np.isfinite(value) else None


def crossed_error(pairs: Sequence[tuple[Sequence[str], Floats]]) -> float:
    """The standard error of a mean difference over at least two seeds, of (ids, differences N) each.

    The square is s² / P, over the seeds' means, plus the covariance between seeds that comes from galaxies which
    several of them test: standard errors clustered by seed and by galaxy (Cameron, Gelbach & Miller 2011, Journal of
    Business & Economic Statistics 29, 238).
    """
    of_seeds = float(np.var([apart_N.mean() for _, apart_N in pairs], ddof=1)) / len(pairs)
    number = {id_str: row for row, id_str in enumerate({i for ids, _ in pairs for i in ids})}
    rows = np.concatenate([[number[i] for i in ids] for ids, _ in pairs]).astype(int)
    parts = np.concatenate([(apart_N - apart_N.mean()) / (len(pairs) * len(apart_N)) for _, apart_N in pairs])
    of_shared = float((np.bincount(rows, parts) ** 2).sum() - (parts**2).sum())
    return float(np.sqrt(of_seeds + max(of_shared, 0)))


def p_value(mean: float, error: float, n_pairs: int) -> float:
    """How often a difference between equals would be this large: Student's t with P - 1 degrees of freedom."""
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, n_pairs - 1))


def student(n: int) -> float:
    """How many standard errors the 95 % interval of a mean of ``n`` reaches to each side."""
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: if none of the differences is real, one is below 0.05 in at most 5 of 100
    sets, however the tests depend on each other (Holm 1979, Scandinavian Journal of Statistics 6, 65).
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    return [float(p) for p in np.minimum(corrected, 1)]
