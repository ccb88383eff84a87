"""A sweep of simulations with a fixed encoder: this checkout beside that of an earlier commit, on busy cores.

    python -m benchmarks.sweep --against e6ab39d

Eight simulations of four iterations, of which shards and encoder exist, one after the other and two side by
side with joblib. The ways take turns, with as many other processes at work as there are cores, and without. Printed are
seconds of the clock, the best turn, and how many times the simulations a second of the earlier commit, one after the
other, that is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.head import busy

ROOT = Path(__file__).resolve().parents[1]
EACH = ("stage=simulate", "model=pretrained", "simulate.iterations=4", "tracking=disabled")
SWEEP = ("acquisition=random,badge,mutual_information,k_center", "seed=0,1")
LAUNCHERS = {"one after the other": (), "side by side": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")}


def run(checkout: Path, data_dir: Path, *words: str) -> float:
    """One call of run.py in a checkout; its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "run.py", *words, *EACH, f"data_dir={data_dir}"]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(checkouts: dict[str, Path], data: Path, turns: int, others: int) -> None:
    """Print the best time of each checkout and launcher beside ``others`` busy processes."""
    times_s: dict[tuple[str, str], list[float]] = {}
    with busy(others):
        for turn in range(turns):
            for name, checkout in checkouts.items():
                for launcher, words in LAUNCHERS.items():
                    sweep = (
                        "-m",
                        *SWEEP,
                        *words,
                        f"experiment_name={others}_{turn}_{len(words)}_${{seed}}_${{acquisition.name}}",
                    )
                    times_s.setdefault((name, launcher), []).append(run(checkout, data / name, *sweep))
    reference = min(next(iter(times_s.values())))
    for (name, launcher), found in times_s.items():
        spread = f"{min(found):6.1f} s (to {max(found):.1f})"
        print(
            f"beside {others} processes: {name:>10}, {launcher:<19} {spread:<22} {reference / min(found):.1f} x",
            flush=True,
        )


def main() -> None:
    """Check out the other commit, prepare both, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, help="a commit")
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["git", "worktree", "add", "--detach", folder / "before", args.against], cwd=ROOT, check=True)
        try:
            checkouts = {"before": folder / "before", "now": ROOT}
            for version, checkout in checkouts.items():
                for seed in (0, 1):
                    run(checkout, folder / "data" / version, f"seed={seed}")
            for others in (0, os.cpu_count() or 1):
                measure(checkouts, folder / "data", args.turns, others)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder / "before"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
