"""What a month costs, from launch/prices.yaml: facts with a date, not an offer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PRICES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("prices.yaml").read_text(encoding="utf-8"))
MARGIN_H = 0.25  # from the dead-man timer to the end of billing: shutdown takes a while
CHANGED_PER_DAY = 0.02  # of the volume, between two daily snapshots; snapshots hold what changed
_HOURS_PER_MONTH = 730


@dataclass(frozen=True)
class Month:
    """US dollars a month, by what they are for."""

    machine: float
    volume: float
    snapshots: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.machine + self.volume + self.snapshots


def hourly(instance_type: str, market: str) -> float:
    """US dollars an hour for a machine of a type, with its public address but without its disk."""
    price = float(PRICES["instances"][instance_type])
    return price * (PRICES["spot"] if market == "spot" else 1.0) + float(PRICES["public_ipv4_hour"])


def month(instance_type: str, market: str, hours: float, root_gb: int, volume_gb: int, snapshots: int) -> Month:
    """A month in which a machine runs for ``hours``, and the volume is full (snapshots hold only what is used)."""
    disk = root_gb * PRICES["gp3_gb_month"] / _HOURS_PER_MONTH
    held_gb = volume_gb * (1 + CHANGED_PER_DAY * (snapshots - 1))
    return Month(
        hours * (hourly(instance_type, market) + disk),
        volume_gb * PRICES["gp3_gb_month"],
        held_gb * PRICES["snapshot_gb_month"],
    )
