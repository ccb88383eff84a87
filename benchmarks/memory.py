"""How much memory a long simulation needs: its driver after 5 iterations and after all of them.

python -m benchmarks.memory [iterations] [in one process]
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from zoobot.engine import process
from zoobot.settings import Settings, compose
from zoobot.stages import catalogs, check_settings, instructions, iterate, master_catalog, shards

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS, FIRST = 100, 5


def resident_mb() -> float:
    """The memory of this process, without its children."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def tiny(data_dir: str) -> Settings:
    """A simulation that asks about one tiny galaxy at a time."""
    compose.register()
    overrides = ["stage=simulate", "quick=true", "acquisition=random", "iterate.subjects_per_iteration=1",
                 "iterate.shards_per_iteration=1", "tracking=disabled", "model.max_epochs=1",
                 f"data_dir={data_dir}"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return check_settings(compose.from_config(hydra_compose("config", overrides)))


def main() -> None:
    """Run the same steps as stage=simulate, and measure the memory after each iteration."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else ITERATIONS
    in_one_process = len(sys.argv) > 2
    with tempfile.TemporaryDirectory() as data_dir:
        settings = tiny(data_dir)
        for stage in (master_catalog, catalogs, shards, instructions):
            stage.run(settings)
        resident = []
        for number in range(n):
            if in_one_process:
                iterate.run(settings)
            else:
                process.call(iterate.run, settings, f"iteration_{number}")
            resident.append(resident_mb())
            if number + 1 in (1, FIRST, n) or not (number + 1) % 10:
                print(f"after {number + 1} iterations: {resident[-1]:,.0f} MiB", flush=True)
        growth = resident[-1] - resident[FIRST - 1]
        where = "in one process" if in_one_process else "each in its own process, needed 50 MiB at most"
        print(f"growth of the driver from iteration {FIRST} to {n}: {growth:,.1f} MiB; {where}")


if __name__ == "__main__":
    main()
