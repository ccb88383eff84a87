"""The Bayesian heads that can be fitted to fixed features, by their names in ``model.head``. numpy and scipy only.

Axes: N galaxies, K posterior samples, H features, A answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from zoobot.galaxies.tasks import Group
from zoobot.models import linear_head


class Head(Protocol):
    """A fitted head."""

    def sample(
        self, features_N_H: npt.ArrayLike, n_samples: int, random: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """Dirichlet concentrations N × K × A over all questions. Sample k of one galaxy goes with k of every other."""

    def save(self, path: Path) -> None:
        """Write a ``.npz`` file; the same head gives the same bytes."""

    def digest(self) -> str:
        """SHA-256 over all values."""

    def history(self, groups: Sequence[Group]) -> dict[str, dict[str, float]]:
        """What the fit chose for each question, for people to read."""


@dataclass(frozen=True)
class Kind:
    """How a kind of head is fitted (see ``linear_head.fit``) and loaded."""

    fit: Callable[..., Head]
    load: Callable[[Path], Head]


HEADS: dict[str, Kind] = {"linear": Kind(linear_head.fit, linear_head.load)}


def fit(name: str, *given: Any) -> Head:
    """Fit the head of this name: features N × H, votes N × A, groups, and which galaxies were drawn at random (N)."""
    return HEADS[name].fit(*given)
