"""How an iteration grows with the pool: seconds of each step, and peak memory, from 10,000 to 10,000,000 galaxies.

    python -m benchmarks.scale                               # pools of 10,000 and 100,000 galaxies
    python -m benchmarks.scale --galaxies 1000000 --labels 10000 --folder /big/disk
    python -m benchmarks.scale --galaxies 100000 --profile   # and which functions take the time

The survey is drawn: features instead of pictures (model=features, so no network and no TensorFlow), 192 numbers a
galaxy, as many bytes as a picture of 16 px in colour. An iteration predicts all of the pool. Stages and iterations are
the program's own, each iteration in a process of its own, and the last one is measured: it receives the labels that the
one before asked for. "around" is what is in no step of iteration.json: checks of the inputs, the manifest, flushing.
The survey and its shards stay in --folder, for the next measurement. Set OPENBLAS_NUM_THREADS=1 if others use the
cores. Axes: N galaxies, H features.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from zoobot import acquisition
from zoobot.folders import disk
from zoobot.iterations.files import ExperimentFolder
from zoobot.settings import Settings, compose
from zoobot.stages import catalogs, check_settings, instructions, iterate, master_catalog, shards

ROOT = Path(__file__).resolve().parents[1]
LABELLED, CHUNK = 2500, 50_000
ANSWERS = ("smooth", "featured-or-disk", "artifact")
STEPS = ("receive", "train", "evaluate", "predict", "request")


def write_survey(folder: Path, n: int, n_features: int) -> None:
    """A table with votes, and features whose logit of a smooth galaxy is linear in them."""
    random = np.random.default_rng(0)
    direction_H = random.normal(size=n_features) * 2 / n_features**0.5
    folder.mkdir(parents=True)
    schema = pa.schema({"id_str": pa.string(), "embedding": pa.list_(pa.float32(), n_features)})
    votes = []
    with pq.ParquetWriter(folder / "features.parquet", schema, compression="NONE") as writer:
        for start in range(0, n, CHUNK):
            features_N_H = random.standard_normal((min(CHUNK, n - start), n_features), np.float32)
            votes.append(random.binomial(40, 1 / (1 + np.exp(-features_N_H @ direction_H))))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(features_N_H.ravel()), n_features)
            ids = [f"J{number:09}" for number in range(start, start + len(features_N_H))]
            writer.write_table(pa.table([pa.array(ids), vectors], schema))
    smooth_N = np.concatenate(votes)
    counts = dict(zip(ANSWERS, (smooth_N, 40 - smooth_N, np.zeros_like(smooth_N)), strict=True))
    table = {"id_str": [f"J{number:09}" for number in range(n)]}
    pa_csv.write_csv(
        pa.table(table | {f"smooth-or-featured_{name}": n for name, n in counts.items()}), folder / "catalog.csv"
    )


def settings_of(folder: Path, n: int, args: argparse.Namespace) -> Settings:
    """An experiment that predicts the complete pool in each iteration."""
    compose.register()
    overrides = ["stage=simulate", "survey=custom", "survey.name=drawn", f"survey.folder={folder / 'in'}",
                 "survey.features=features.parquet", "model=features", f"acquisition={args.acquisition}",
                 "oracle=known", f"catalogs.mock_labelled={LABELLED}", "shards.eval_size=500", "shards.test_size=1000",
                 f"iterate.subjects_per_iteration={args.labels}", f"iterate.shards_per_iteration={n // 512 + 1}",
                 f"seed={args.seed}", "tracking=disabled", f"data_dir={folder}"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return check_settings(compose.from_config(hydra_compose("config", overrides)))


def prepare(folder: Path, settings: Settings, n: int, args: argparse.Namespace) -> None:
    """Make the survey and its shards, unless they are there, and print how long each stage took."""
    if not (folder / "in").is_dir():
        write_survey(folder / "in", n + LABELLED, args.features)
    disk.remove(Path(settings.experiment_dir))
    if not settings.shard_dir.is_dir():
        for name in ("master_catalog", "catalogs", "shards"):
            found = in_process(folder, n, name, args)
            print(f"{n:>10,} {name}: {found['total']:.1f} s, {found['cpu']:.1f} of CPU, {found['peak_mib']:,.0f} MiB")


def in_process(folder: Path, n: int, stage: str, args: argparse.Namespace, *more: str) -> dict[str, float]:
    """Run a stage in a process of its own: its seconds, those of its steps, and its peak memory in MiB."""
    given = [f"--{key}={getattr(args, key)}" for key in ("labels", "acquisition", "seed", "most")]
    command = [sys.executable, "-m", "benchmarks.scale", f"--folder={folder}", f"--galaxies={n}", f"--child={stage}"]
    done = subprocess.run([*command, *given, *more], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(stage: str, settings: Settings, profiled: bool) -> dict[str, float]:
    """Run a stage here."""
    run = {module.__name__.rpartition(".")[2]: module.run for module in
           (master_catalog, catalogs, shards, instructions, iterate)}[stage]  # fmt: skip
    profile, start, cpu = cProfile.Profile(), time.perf_counter(), time.process_time()
    if profiled:
        profile.runcall(run, settings)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(70)
    else:
        run(settings)
    found = {"total": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak_mib": peak_mib()}
    if stage == "iterate":
        folder = ExperimentFolder(settings.experiment_dir).iterations()[-1]
        found |= folder.summary().timings_s
        found["loss"] = folder.loss("test")
        found["predictions_bytes"] = (folder.path / "predictions.parquet").stat().st_size
        found["folder_mb"] = sum(path.stat().st_size for path in folder.path.rglob("*")) / 1e6
    return found


def peak_mib() -> float:
    """The most memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(folder: Path, n: int, args: argparse.Namespace) -> None:
    """Print a line for one size."""
    settings = settings_of(folder, n, args)
    prepare(folder, settings, n, args)
    in_process(folder, n, "instructions", args)
    for number in range(args.iterations):
        profile = args.profile and number == args.iterations - 1
        found = in_process(folder, n, "iterate", args, *(["--profile"] if profile else []))
    around = found["total"] - sum(found[step] for step in STEPS)
    steps = " ".join(f"{found[step]:>8.1f}" for step in STEPS)
    print(f"{n:>10,} {args.labels:>7,} {steps} {around:>8.1f} {found['total']:>8.1f} {found['cpu']:>8.1f}"
          f" {found['peak_mib']:>9,.0f} {found['predictions_bytes'] / n:>9.0f} {found['folder_mb']:>9.0f}"
          f" {found['loss']:>7.4f}", flush=True)  # fmt: skip


def main() -> None:
    """Measure every size, or be the process that runs one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galaxies", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--labels", type=int, default=1000, help="galaxies asked about, and labelled")
    parser.add_argument("--acquisition", default="badge")
    parser.add_argument("--iterations", type=int, default=2, help="the last one is measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=acquisition.MOST, help="galaxies that a batch is chosen from")
    parser.add_argument("--features", type=int, default=192, help="of a galaxy; 768 bytes as 192 float32")
    parser.add_argument("--folder", type=Path, help="keep surveys and shards here")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        acquisition.MOST = args.most
        settings = settings_of(args.folder, args.galaxies[0], args)
        print(json.dumps(child(args.child, settings, args.profile)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'galaxies':>10} {'labels':>7} {' '.join(f'{step:>8}' for step in (*STEPS, 'around', 'total', 'CPU'))}"
          f" {'peak MiB':>9} {'B/galaxy':>9} {'folder MB':>9} {'loss':>7}")  # fmt: skip
    folder = args.folder or Path(tempfile.mkdtemp())
    try:
        for n in args.galaxies:
            measure(folder / str(n), n, args)
    finally:
        if not args.folder:
            disk.make_writable(folder)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
