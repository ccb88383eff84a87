"""All benchmarks of speed, their ratios in one table, compared with benchmarks/baseline.json.

    python -m benchmarks.ratios                  # make bench: all of them; exit status 1 if a ratio fell by over 25 %
    python -m benchmarks.ratios head verify      # only these
    python -m benchmarks.ratios --renew          # and write what was measured into the baseline

A ratio is how many times as fast as its reference something is, both measured in turn in one run. Where it can be, it
is one of CPU seconds, which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

BASELINE = Path(__file__).with_name("baseline.json")
BENCHMARKS: dict[str, tuple[str, ...]] = {  # and their arguments
    "startup": (), "acquisition": ("20000",), "peer_speed": (), "head": (), "reduction": (), "prediction": (),
    "input": (), "shards": (), "verify": (), "report": (),
}  # fmt: skip
MOST_LOST = 0.25  # of a ratio
_FILE = "ZOOBOT_RATIOS"  # names the file where a benchmark leaves its ratios


@dataclass(frozen=True)
class Ratio:
    """``value``: how many times as fast as ``reference`` ``figure`` is."""

    figure: str
    reference: str
    value: float

    @property
    def key(self) -> str:
        """What names it in the baseline."""
        return f"{self.figure} / {self.reference}"


def record(figure: str, reference: str, value: float) -> None:
    """Leave a ratio for the table, when a benchmark runs for it."""
    if path := os.environ.get(_FILE):
        with Path(path).open("a") as file:
            file.write(json.dumps(asdict(Ratio(figure, reference, value))) + "\n")


def measure(name: str) -> list[Ratio]:
    """Run one benchmark, which prints its own lines, and read the ratios that it leaves."""
    with tempfile.NamedTemporaryFile() as file:
        environment = os.environ | {_FILE: file.name}
        command = [sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name]]
        subprocess.run(command, check=True, env=environment)
        return [Ratio(**json.loads(line)) for line in Path(file.name).read_text().splitlines()]


def table(found: list[Ratio], baseline: dict[str, float]) -> list[str]:
    """The lines of the table."""
    width = max(len(ratio.key) for ratio in found)
    lines = [f"{'figure / reference':<{width}} {'ratio':>8} {'baseline':>9} {'change':>7}"]
    for ratio in found:
        before = baseline.get(ratio.key)
        compared = f"{before:9.2f} {ratio.value / before - 1:+7.0%}" if before else f"{'new':>9}"
        lines.append(f"{ratio.key:<{width}} {ratio.value:8.2f} {compared}")
    return lines


def fallen(found: list[Ratio], baseline: dict[str, float]) -> list[Ratio]:
    """The ratios that fell by more than a quarter since the baseline."""
    return [ratio for ratio in found if ratio.value < (1 - MOST_LOST) * baseline.get(ratio.key, 0)]


def machine() -> str:
    """What it ran on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    """Measure, print the table, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--renew", action="store_true", help="write the baseline")
    args = parser.parse_args()
    if unknown := set(args.names) - BENCHMARKS.keys():
        parser.error(f"{', '.join(unknown)}: choose from {', '.join(BENCHMARKS)}")
    kept = json.loads(BASELINE.read_text())
    baseline: dict[str, float] = kept["ratios"]
    found = [ratio for name in args.names or BENCHMARKS for ratio in measure(name)]
    print(f"\n{machine()}, load {os.getloadavg()[0]:.1f}; baseline: {kept['machine']}")
    print(*table(found, baseline), sep="\n")
    if args.renew:
        ratios = baseline | {ratio.key: round(ratio.value, 3) for ratio in found}
        BASELINE.write_text(json.dumps({"machine": machine(), "ratios": ratios}, indent=1) + "\n")
    elif lost := fallen(found, baseline):
        names = "\n".join(f"  {ratio.key}" for ratio in lost)
        sys.exit(
            f"Fell by more than {MOST_LOST:.0%}:\n{names}\nMeasure these again on a quiet machine. If it stays, find"
            " the change that did it; if it is meant, write the new baseline with --renew and say why in the commit."
        )


if __name__ == "__main__":
    main()
