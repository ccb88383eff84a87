"""How fast two worker processes are, of this program and of Ray, compared with one process that does the same.

    unshare -n sh -c 'ip link set lo up; exec .venv/bin/python -m benchmarks.engine'

Ray listens on every address, so give it a network of its own. Shards are made from JPEG of 424 px, and features by an
EfficientNet-B0 of random weights, which may use all cores in the one process. Rates are those between the result with
which all workers have begun and the last: per second of the clock (the best, because others use the machine too), and
per second of the processor, that of all processes of Ray included. The ways take turns, five times.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.networks import settings_of, show_load, write_shards
from benchmarks.shards import write_survey
from zoobot.engine import map as engine
from zoobot.galaxies import shard_writer
from zoobot.galaxies.shard_writer import Work
from zoobot.models import features
from zoobot.models.features import FrozenEncoder

REPEATS, IN_SHARD = 5, 128
WAYS: dict[str, tuple[int, str | None]] = {"one process": (1, None), "two": (2, None), "two of Ray": (2, "")}


def rate(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, cluster: str | None
) -> tuple[float, float]:
    """Galaxies per second of the clock, and of the processor."""
    times_s, used_s = [], []
    for _ in engine.in_order(function, items, workers, lambda item: "an item", cluster):
        times_s.append(time.perf_counter())
        used_s.append(_cpu_s())
    begun = 2 * workers
    n = IN_SHARD * (len(times_s) - begun)
    return n / (times_s[-1] - times_s[begun - 1]), n / (used_s[-1] - used_s[begun - 1])


def _cpu_s(pid: int = os.getpid()) -> float:
    """The processor's seconds of a process and all that it has started."""
    try:
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for path in tasks for child in path.read_text().split()]
    except OSError:  # it has ended
        return 0
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_s, children))


def compare(what: str, function: Callable[[Any], Any], items_in: Callable[[Path], Sequence[Any]]) -> None:
    """Print the rates of each way, and their ratios to those of one and of two processes."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, (workers, cluster) in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                found[way].append(rate(function, items_in(Path(folder)), workers, cluster))
    best = {way: max(clock for clock, _ in rates) for way, rates in found.items()}
    used = {way: median(cpu for _, cpu in rates) for way, rates in found.items()}
    for way, rates in found.items():
        print(
            f"{what:<16} {way:<12} best {best[way]:6,.0f} a second (median {median(clock for clock, _ in rates):,.0f}),"
            f" / one {best[way] / best['one process']:.2f}, / two {best[way] / best['two']:.2f}; of the processor"
            f" {used[way]:6,.0f}, / one {used[way] / used['one process']:.2f}, / two {used[way] / used['two']:.2f}",
            flush=True,
        )


def of_shards(size_px: int, folder: Path) -> None:
    """Shards of JPEG."""
    names = [Path(path).name for path in write_survey(folder, "JPEG")]
    settings = settings_of(f"shards.image_size_px={size_px}", "model.final_size_px=32", f"survey.folder={folder}")

    def works(staging: Path) -> list[Work]:
        return [
            Work(f"pool/pool_{n:05d}.tfrecord", [(name, name) for name in chosen], [{}] * len(chosen), None, settings,
                 staging, staging)
            for n, start in enumerate(range(0, len(names), IN_SHARD))
            if len(chosen := names[start : start + IN_SHARD]) == IN_SHARD
        ]  # fmt: skip

    compare(f"JPEG to {size_px} px", shard_writer.write, works)


def of_features(size_px: int, n_galaxies: int, folder: Path) -> None:
    """Features of an EfficientNet-B0."""
    import keras  # late: processes that make shards import this file too

    from zoobot.models import encoders

    s = settings_of("model=efficientnet_b0", f"shards.image_size_px={size_px}")
    files, config = write_shards(folder, s, n_galaxies, IN_SHARD)
    keras.utils.set_random_seed(0)
    (folder / "encoder").mkdir()
    encoders.save(encoders.build(s.model, size_px, 3), s.model, folder / "encoder")
    frozen = FrozenEncoder(s.model, config, folder / "encoder")
    compare(
        f"features {size_px} px", features._keep, lambda kept: [(features.cached(frozen, kept), path) for path in files]
    )


def main() -> None:
    """Compare all."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    for size_px in (64, 128):
        with tempfile.TemporaryDirectory() as name:
            of_shards(size_px, Path(name))
    for size_px, n_galaxies in ((64, 24 * IN_SHARD), (128, 16 * IN_SHARD)):
        with tempfile.TemporaryDirectory() as name:
            of_features(size_px, n_galaxies, Path(name))
    show_load()


if __name__ == "__main__":
    main()
