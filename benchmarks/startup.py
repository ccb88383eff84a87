"""CPU seconds until run.py answers, compared with `import hydra`, which every run needs.

python -m benchmarks.startup [repetitions]
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks import ratios

ROOT = Path(__file__).resolve().parents[1]
REPETITIONS = 5
REFERENCE = ("import hydra", ["-c", "import hydra"])
COMMANDS = {
    "run.py --help": ["run.py", "--help"],
    "run.py --cfg job": ["run.py", "--cfg", "job", "stage=simulate"],
    "a stage without TensorFlow (refused: nothing to report)": ["run.py", "stage=report", "data_dir=/nonexistent"],
}


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the median, spread and ratio of each command, measured in turn with the reference."""
    print(f"startup: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS
    for name, arguments in COMMANDS.items():
        pairs = [(cpu_seconds(arguments), cpu_seconds(REFERENCE[1])) for _ in range(repetitions)]
        seconds = sorted(ours for ours, _ in pairs)
        ratio = sorted(ours / theirs for ours, theirs in pairs)[repetitions // 2]
        print(
            f"{name}: {seconds[repetitions // 2]:.2f} s CPU ({seconds[0]:.2f} to {seconds[-1]:.2f}),"
            f" {ratio:.1f} x {REFERENCE[0]}"
        )
        ratios.record(name, REFERENCE[0], 1 / ratio)


if __name__ == "__main__":
    main()
