"""Shared by the benchmarks of networks: the networks of configs/, shards of noise, and costs side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from zoobot import folders
from zoobot.galaxies import tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import Task, build_task
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.settings import Settings, compose
from zoobot.stages import check_settings

ROOT = Path(__file__).resolve().parents[1]
REPETITIONS = 3


def settings_of(*overrides: str) -> Settings:
    """The settings of a simulation with these overrides."""
    compose.register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return check_settings(compose.from_config(hydra_compose("config", ["stage=simulate", *overrides])))


def task_of(settings: Settings) -> Task:
    """The task of these settings."""
    return build_task(settings.task, load_questions(settings.survey.questions))


def write_shards(folder: Path, settings: Settings, n: int, shard_size: int) -> tuple[list[Path], ShardConfig]:
    """Write shards of ``n`` labelled galaxies of noise. Returns their files, and what shard_config.json would hold."""
    size, channels = settings.shards.image_size_px, settings.shards.channels
    random = np.random.default_rng(0)
    names = [f"pool/pool_{number:05d}.tfrecord" for number in range(-(-n // shard_size))]
    with folders.create(folder / "shards", {}, {}) as staging:
        for number, name in enumerate(names):
            in_shard = min(shard_size, n - number * shard_size)
            pixels = random.integers(0, 256, (in_shard, size, size, channels), dtype=np.uint8)
            records = [tfrecords.encode(f"{number}_{i}", image, {"label": i % 40, "total_votes": 40}, "raw")
                       for i, image in enumerate(pixels)]  # fmt: skip
            tfrecords.write(staging / name, records)
    paths = [folder / "shards" / name for name in names]
    return paths, ShardConfig(
        "noise", "smooth", size, channels, "raw", shard_size, 0, {"pool": names}, {"pool": n}, [], ""
    )


def costs(
    sides: dict[str, Callable[[], object]], repetitions: int = REPETITIONS
) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds and seconds of each side, measured in turn in each repetition; a first repetition is not counted."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, side in sides.items():
            cpu, wall = time.process_time(), time.perf_counter()
            side()
            if repetition:
                measured[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return measured


def ratio(above: Sequence[tuple[float, float]], below: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The median over repetitions of the ratio of CPU seconds, and of the ratio of seconds."""
    pairs = list(zip(above, below, strict=True))
    return median(a[0] / b[0] for a, b in pairs), median(a[1] / b[1] for a, b in pairs)


def show_load() -> None:
    """Print how busy the machine was."""
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
