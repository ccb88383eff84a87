"""How long stage=report takes for hundreds of experiments, and how large its page is.

    python -m benchmarks.report                            # 60 experiments
    python -m benchmarks.report --experiments 20 60 200

One simulation of the demo survey (seven iterations on plain pixels) is copied under the names of ten acquisition
functions and of as many seeds as needed, its losses shaken. The time is compared with that of reading the experiments,
which every report must do; the page with the pictures of all galaxies asked about, as it held them before: PNG, at
most 96 pixels a side, twelve for each iteration of each experiment.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import ratios
from tests.records import another_manifest
from zoobot import folders
from zoobot.acquisition import ACQUISITIONS
from zoobot.folders import disk
from zoobot.folders.manifest import digest_file
from zoobot.reports.experiments import read_experiments
from zoobot.settings import ReportSettings, Settings
from zoobot.stages import report

FUNCTIONS = [*(name for name in list(ACQUISITIONS)[:10] if name != "random"), "random"]
TARGET_S, TARGET_MB = 60, 15  # for 200 experiments
OLD_PX, OLD_PICTURES = 96, 12


def main() -> None:
    """Print a line for each number of experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, nargs="*", default=[60])
    wanted = sorted(parser.parse_args().experiments)
    with tempfile.TemporaryDirectory() as name:
        data_dir = Path(name)
        original = simulate(data_dir)
        for n in wanted:
            for number in range(n):
                copy(original, number)
            settings = Settings("report", str(data_dir), report=ReportSettings(["copy_*"], str(data_dir / "out")))
            measure(settings, n, pictures_as_png(original) * n)
        disk.make_writable(data_dir)


def simulate(data_dir: Path) -> Path:
    """One simulation. Its folder."""
    command = "stage=simulate survey=demo model=pixels acquisition=random simulate.iterations=7 tracking=disabled"
    more = [f"data_dir={data_dir}", "experiment_name=original", f"hydra.run.dir={data_dir}/logs"]
    subprocess.run([sys.executable, "run.py", *command.split(), *more], check=True, stdout=subprocess.DEVNULL)
    return data_dir / "experiments" / "simulations" / "original"


def copy(original: Path, number: int) -> None:
    """A copy of the experiment, with another function or seed and other losses, unless it exists."""
    folder, random = original.with_name(f"copy_{number:04d}"), np.random.default_rng(number)
    if folder.exists():
        return
    shutil.copytree(original, folder)
    disk.make_writable(folder)
    changed = {"experiment": folder.name, "seed": number // len(FUNCTIONS)}
    path = folder / "instructions" / "instructions.json"
    content = folders.read_json(path)
    content["acquisition"]["name"] = FUNCTIONS[number % len(FUNCTIONS)]
    folders.write_json(path, content | changed)
    seal(folder / "instructions", ["instructions.json"])
    for iteration in sorted(folder.glob("iteration_*")):
        table, shift = pq.read_table(iteration / "test.parquet"), random.normal(scale=0.03)
        losses = table["loss"].to_numpy() + shift + random.normal(scale=0.2, size=len(table))
        pq.write_table(pa.table({"id_str": table["id_str"], "loss": losses}), iteration / "test.parquet")
        metrics = folders.read_json(iteration / "metrics.json")
        metrics["test"]["all"]["loss"] = float(losses.mean())
        folders.write_json(iteration / "metrics.json", metrics)
        seal(iteration, ["test.parquet", "metrics.json"])


def seal(folder: Path, changed: list[str]) -> None:
    """Give a folder a manifest that fits its changed files."""
    files = json.loads((folder / folders.MANIFEST).read_text())["files"]
    for name in changed:
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": digest_file(folder / name)}
    another_manifest(folder, files=files)


def pictures_as_png(experiment: Path) -> int:
    """The bytes that an experiment's pictures took in the page before."""
    total = 0
    for iteration in experiment.glob("iteration_*"):
        for path in sorted((iteration / "pictures").iterdir())[:OLD_PICTURES]:
            buffer = io.BytesIO()
            with Image.open(path) as image:
                image.thumbnail((OLD_PX, OLD_PX))
                image.save(buffer, "PNG", optimize=True)
            total += len(base64.b64encode(buffer.getvalue()))
    return total


def measure(settings: Settings, n: int, old_bytes: int) -> None:
    """Time one report and weigh its page."""
    start = time.process_time()
    read_experiments(settings)
    read_s = time.process_time() - start
    start, begin = time.process_time(), time.perf_counter()
    page = report.run(settings)
    report_s, wall_s, size = time.process_time() - start, time.perf_counter() - begin, page.stat().st_size
    ratios.record(f"stage=report, {n} experiments: CPU seconds", "reading them", read_s / report_s)
    ratios.record(f"stage=report, {n} experiments: bytes", "all their pictures as PNG", old_bytes / size)
    print(
        f"{n} experiments: {wall_s:.1f} s ({report_s:.1f} s CPU, {read_s / report_s:.2f} of the speed of reading them);"
        f" {size / 1e6:.1f} MB, 1 / {old_bytes / size:.1f} of all their pictures as PNG (target for 200: {TARGET_S} s,"
        f" {TARGET_MB} MB)"
    )


if __name__ == "__main__":
    main()
