"""What a month costs, from launch/prices.yaml: facts with a date, not an offer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import yaml_text
from launch.errors import LaunchError

_NAMES = ("spot", "gp3_gb_month", "snapshot_gb_month", "public_ipv4_hour", "s3_gb_month")


def read_prices(path: Path) -> dict[str, Any]:
    """The prices in a file, as numbers. LaunchError for one that is not above 0: no budget would hold."""
    try:
        found: dict[str, Any] = yaml_text.read(path)
        region, as_of = found.pop("region"), found.pop("as_of")
        instances = {kind: float(price) for kind, price in found.pop("instances").items()}
        others = {name: float(found[name]) for name in _NAMES}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LaunchError(f"{path}: a price is missing or is no number ({error}).") from error
    wrong = [name for name, price in {**instances, **others}.items() if not 0 < price < 10_000]
    if wrong:
        raise LaunchError(f"{path}: {', '.join(wrong)} should be above 0 and below 10,000 dollars.")
    return {**others, "instances": instances, "region": region, "as_of": as_of}


PRICES = read_prices(Path(__file__).with_name("prices.yaml"))
MARGIN_H = 0.25  # from the dead-man timer to the end of billing: shutdown takes a while
CHANGED_PER_DAY = 0.02  # of the volume, between two daily snapshots; snapshots hold what changed
HOURS_PER_MONTH = 730


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


def always_on(instance_type: str, market: str) -> float | None:
    """US dollars a month for a machine that is never switched off; None for a type without a price."""
    return HOURS_PER_MONTH * hourly(instance_type, market) if instance_type in PRICES["instances"] else None


def month(instance_type: str, market: str, hours: float, root_gb: int, volume_gb: int, snapshots: int) -> Month:
    """A month in which a machine runs for ``hours``, and the volume is full (snapshots hold only what is used)."""
    disk = root_gb * PRICES["gp3_gb_month"] / HOURS_PER_MONTH
    held_gb = volume_gb * (1 + CHANGED_PER_DAY * (snapshots - 1))
    return Month(
        hours * (hourly(instance_type, market) + disk),
        volume_gb * PRICES["gp3_gb_month"],
        held_gb * PRICES["snapshot_gb_month"],
    )
