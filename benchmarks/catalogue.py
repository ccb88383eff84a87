"""How long stage=predict takes for a million galaxies with published features, beside its head alone.

    python -m benchmarks.catalogue                                    # 100,000 galaxies
    python -m benchmarks.catalogue --galaxies 1000000 --folder /big/disk

The experiment is small: 1,000 labels, and 192 drawn features a galaxy. Its shards and those of the catalogue stay in
--folder. The stage runs twice: the first time it reads the features from the shards, the second time from the cache.
It computes in one thread; CPU seconds hardly depend on what else runs. Axes: N galaxies, H features.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from scipy.special import expit
from threadpoolctl import threadpool_limits

from zoobot import folders
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations.files import ExperimentFolder
from zoobot.iterations.final_files import final_of
from zoobot.iterations.learning import HEAD_FILE
from zoobot.models import gaussian_process, head
from zoobot.settings import Settings, compose
from zoobot.stages import check_settings, finish, predict, simulate

ROOT = Path(__file__).resolve().parents[1]
LABELS, N_FEATURES, SHARD, MANY = 1000, 192, 512, "many"
ANSWERS = ("smooth", "featured-or-disk", "artifact")


def settings_of(folder: Path, *more: str) -> Settings:
    """A small experiment with features instead of pictures."""
    compose.register()
    overrides = ["survey=custom", "survey.name=drawn", f"survey.folder={folder / 'in'}", "survey.features=features.pq",
                 "model=features", "acquisition=random", "oracle=known", f"catalogs.mock_labelled={LABELS + 400}",
                 "shards.eval_size=200", "shards.test_size=200", "simulate.iterations=1", "tracking=disabled",
                 f"data_dir={folder}", *more]  # fmt: skip
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return check_settings(compose.from_config(hydra_compose("config", overrides)))


def draw(random: np.random.Generator, n: int) -> np.ndarray:
    """Features N × H."""
    return random.standard_normal((n, N_FEATURES), np.float32)


def write_survey(folder: Path) -> None:
    """A small table with votes, and features whose logit of a smooth galaxy is linear in them."""
    random, n = np.random.default_rng(0), LABELS + 1000
    features_N_H = draw(random, n)
    smooth_N = random.binomial(40, expit(features_N_H @ random.normal(size=N_FEATURES) * 2 / N_FEATURES**0.5))
    counts = zip(ANSWERS, (smooth_N, 40 - smooth_N, np.zeros_like(smooth_N)), strict=True)
    ids = [f"J{number:09}" for number in range(n)]
    folder.mkdir(parents=True)
    votes = {f"smooth-or-featured_{answer}": count for answer, count in counts}
    pd.DataFrame({"id_str": ids, **votes}).to_csv(folder / "catalog.csv", index=False)
    pd.DataFrame({"id_str": ids, "embedding": list(features_N_H)}).to_parquet(folder / "features.pq")


def write_shards(settings: Settings, like: Path, n: int) -> None:
    """The shards of N galaxies, as stage=shards would write them, and their catalogs."""
    random, ids = np.random.default_rng(1), [f"K{number:09}" for number in range(n)]
    with folders.create(settings.catalog_dir, {}, {}) as staging:
        position = {"ra": random.uniform(0, 360, n), "dec": random.uniform(-90, 90, n)}
        table = pd.DataFrame({"id_str": ids, "file_loc": "", **position})
        table.iloc[:1].to_csv(staging / "labelled.csv", index=False)
        table.iloc[1:].to_csv(staging / "unlabelled.csv", index=False)
    config: ShardConfig = tfrecords.load_config(like)
    names = [f"pool/pool_{number:05d}.tfrecord" for number in range(-(-n // SHARD))]
    made = {"splits": {"pool": names}, "galaxies": {"pool": n}, "shard_size": SHARD}
    with folders.create(settings.shard_dir, {}, {"catalogs": settings.catalog_dir}) as staging:
        folders.write_record(staging / tfrecords.SHARD_CONFIG, ShardConfig(**{**vars(config), **made}))
        database.create(staging / config.database)
        with database.connect(staging / config.database) as connection:
            for name, start in zip(names, range(0, n, SHARD), strict=True):
                own = ids[start : start + SHARD]
                database.add_galaxies(connection, [(id_, "", "pool", name, row) for row, id_ in enumerate(own)])
                features_N_H = draw(random, len(own))
                records = [tfrecords.encode(i, f, {}, config.encoding) for i, f in zip(own, features_N_H, strict=True)]
                tfrecords.write(staging / name, records)


def show(what: str, n: int, call: Callable[[], object]) -> None:
    """Print how long a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<42} {wall:>8.1f} s {cpu:>8.1f} CPU s {n / cpu:>10,.0f} galaxies per CPU s", flush=True)


def bare(model: head.Head, features_N_H: np.ndarray) -> None:
    """The expected fraction of each galaxy, and no more."""
    for start in range(0, len(features_N_H), SHARD):
        question = model.questions[0]
        mean_N, variance_N = question.processes[0].alone(model.scale.apply(features_N_H[start : start + SHARD]))
        points = mean_N[:, None] + np.sqrt(variance_N)[:, None] * gaussian_process.normal_points(20)
        expit(question.slope * points).mean(axis=1)


def measure(folder: Path, n: int) -> None:
    """Print the table."""
    small = settings_of(folder, "stage=simulate")
    if not (folder / "in").is_dir():
        write_survey(folder / "in")
    simulate.run(small)
    finish.run(small)
    many = ["stage=predict", "workers=1", f"shards.name={MANY}_{n}", f"catalogs.name={MANY}_{n}"]
    if not settings_of(folder, *many).shard_dir.is_dir():
        write_shards(settings_of(folder, *many), small.shard_dir, n)
    name = f"predict.name=catalogue_{n}_{time.time_ns()}"
    show("stage=predict, features from the shards", n, lambda: predict.run(settings_of(folder, *many, name)))
    show("stage=predict, features from the cache", n, lambda: predict.run(settings_of(folder, *many, f"{name}_again")))
    status = Path("/proc/self/status").read_text()
    print(f"peak memory {int(status.partition('VmHWM:')[2].split()[0]) / 1024:,.0f} MiB")
    model = head.load(final_of(ExperimentFolder(small.experiment_dir)).model / HEAD_FILE)
    some = draw(np.random.default_rng(2), min(n, 65536))
    with threadpool_limits(1, "blas"):
        bare(model, some[:SHARD])
        show("the head alone, in memory", len(some), lambda: bare(model, some))
        show("joint samples, in double precision", 8192, lambda: model.sample(some[:8192], 20, np.random.default_rng()))


def main() -> None:
    """Measure one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--galaxies", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the shards here")
    args = parser.parse_args()
    print(f"{args.galaxies:,} galaxies, {LABELS} labels, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        measure(args.folder or Path(temporary), args.galaxies)


if __name__ == "__main__":
    main()
