"""What posterior samples cost, compared with one deterministic pass and with 30 passes of the complete network.

It prints ratios of CPU seconds, which other programs on the machine hardly change.

python -m benchmarks.prediction
"""

from __future__ import annotations

import functools
import multiprocessing
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import ratios
from benchmarks.networks import costs, ratio, settings_of, show_load, task_of, write_shards
from zoobot.models import encoders, head, mc_dropout
from zoobot.models.features import FeatureCache
from zoobot.settings import Settings

SAMPLES = 30
# For each network: the number of galaxies to predict, the number in a shard (the naive passes see one), its settings.
NETWORKS = {
    "small_cnn": (4096, 512, ("model=small_cnn", "shards=small")),
    "cnn": (96, 32, ("model=cnn", "shards=standard", "catalogs.mock_labelled=6000")),
    "pretrained": (384, 64, ("model=pretrained", "shards=small")),
}
POOLS = (4096, 32768)
Floats = mc_dropout.Floats32


def sampler(network: mc_dropout.Network, chosen: Settings) -> Callable[[Floats, int], Floats]:
    """Posterior samples from features: by dropout, or from a Gaussian-process head fitted to some of them."""
    random = np.random.default_rng(0)
    if chosen.model.train != "head":
        return lambda features, n: mc_dropout.sample([network], features, n, random)
    features = random.normal(size=(500, network.encoder.output_shape[-1]))
    fitted = head.fit(features, random.integers(0, 40, (500, 2)), task_of(chosen).groups)
    return lambda features, n: fitted.sample(features, n, random)


def compare(name: str, folder: Path) -> None:
    """Print the ratios of one network."""
    n, n_naive, overrides = NETWORKS[name]
    chosen = settings_of(*overrides)
    paths, config = write_shards(folder, chosen, n, n_naive)
    network = mc_dropout.build(chosen.model, task_of(chosen).groups, config.image_size_px, config.channels, 0)
    of_records = encoders.forward_records(network.encoder, config, chosen.model)
    of_file = functools.partial(encoders.encode, of_records, batch_size=chosen.model.predict_batch_size)
    samples = sampler(network, chosen)
    kept = folder / "features"

    def features() -> list[Floats]:
        cache = FeatureCache(kept, "0" * 64, chosen.model.orientations, of_file)
        return [cache.of(path) for path in paths]

    def deterministic() -> None:
        samples(np.concatenate([of_file(path) for path in paths]), 1)

    def first() -> None:
        shutil.rmtree(kept, ignore_errors=True)
        samples(np.concatenate(features()), SAMPLES)

    def second() -> None:
        samples(np.concatenate(features()), SAMPLES)

    def naive() -> None:
        for _ in range(SAMPLES):
            samples(of_file(paths[0]), 1)

    measured = costs({"deterministic": deterministic, "first": first, "second": second, "naive": naive})
    per_galaxy = {
        k: [(c / m, w / m) for c, w in v] for k, v in measured.items() for m in [n_naive if k == "naive" else n]
    }
    rate = np.median([1 / cpu for cpu, _ in per_galaxy["deterministic"]])
    print(f"{name}, {config.image_size_px} px: {rate:,.0f} galaxies per CPU second")
    cost = ratio(per_galaxy["first"], per_galaxy["deterministic"])[0]
    print(f"  {SAMPLES} samples cost {cost:.3f} x one deterministic pass, needed 1.15 at most")
    gain = ratio(per_galaxy["naive"], per_galaxy["first"])[0]
    print(f"  {SAMPLES} passes of the complete network cost {gain:.1f} x that, needed 20 at least")
    again = ratio(per_galaxy["second"], per_galaxy["first"])[0]
    for reference, times in (("one deterministic pass", 1 / cost), (f"{SAMPLES} passes of the network", gain)):
        ratios.record(f"{SAMPLES} samples, {name}", reference, float(times))
    print(f"  a second scoring from kept features costs {100 * again:.2f} % of the first, needed 5 at most", flush=True)


def peak_mb(folder: str, n: int, queue: Any) -> None:
    """Predict ``n`` galaxies and report the peak memory; runs in its own process."""
    chosen = settings_of(*NETWORKS["small_cnn"][2])
    paths, config = write_shards(Path(folder), chosen, n, 512)
    network = mc_dropout.build(chosen.model, task_of(chosen).groups, config.image_size_px, config.channels, 0)
    of_records = encoders.forward_records(network.encoder, config, chosen.model)
    of_file = functools.partial(encoders.encode, of_records, batch_size=chosen.model.predict_batch_size)
    cache = FeatureCache(Path(folder) / "features", "0" * 64, 1, of_file)
    sampler(network, chosen)(np.concatenate([cache.of(path) for path in paths]), SAMPLES)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would start from the parent's
    queue.put(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)  # type: ignore[index]


def memory(pools: Sequence[int]) -> None:
    """Print how much memory each additional galaxy in the pool costs."""
    context = multiprocessing.get_context("spawn")
    peaks = []
    for n in pools:
        with tempfile.TemporaryDirectory() as folder:
            queue = context.Queue()
            process = context.Process(target=peak_mb, args=(folder, n, queue))
            process.start()
            peaks.append(queue.get())
            process.join()
    kib = (peaks[1] - peaks[0]) * 1024 / (pools[1] - pools[0])
    print(
        f"peak memory for {pools[0]:,} and {pools[1]:,} galaxies: {peaks[0]:,.0f} and {peaks[1]:,.0f} MiB,"
        f" {kib:.2f} KiB per galaxy; its pixels have {64 * 64 * 3 / 1024:.0f} KiB"
    )


def main() -> None:
    """Print each figure and its target."""
    print(f"prediction: keras {keras.__version__}")
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder))
    memory(POOLS)
    show_load()


if __name__ == "__main__":
    main()
