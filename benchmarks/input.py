"""Whether reading shards is fast enough: training and prediction from shards, compared with arrays in memory.

It prints ratios of images per CPU second and, in brackets, per second, which other programs on the machine affect.

python -m benchmarks.input
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from benchmarks import ratios
from benchmarks.networks import costs, ratio, settings_of, show_load, task_of, write_shards
from zoobot.models import encoders, mc_dropout
from zoobot.models.datasets import dataset

# The number of galaxies in an epoch, and the settings of the network.
NETWORKS = {
    "small_cnn": (4096, ("model=small_cnn", "shards=small")),
    "cnn": (128, ("model=cnn", "shards=standard", "catalogs.mock_labelled=6000")),
    "pretrained": (512, ("model=pretrained", "shards=small")),
}


def compare(name: str, folder: Path) -> None:
    """Print both ratios of one network."""
    n, overrides = NETWORKS[name]
    settings = settings_of(*overrides)
    chosen, task = replace(settings.model, orientations=1), task_of(settings)
    paths, config = write_shards(folder, settings, n, 512)
    network = mc_dropout.build(chosen, task.groups, config.image_size_px, config.channels, 0)
    of_batch, of_records = (
        encoders.forward(network.encoder),
        encoders.forward_records(network.encoder, config, chosen),
    )
    batches = list(dataset(paths, n, task, config, n))
    images, counts = (values.numpy() for values in batches[0])

    def train_from_shards() -> None:
        data = dataset(paths, n, task, config, chosen.batch_size, 0)
        network.trainer.fit(data, shuffle=False, verbose=0)

    def train_from_memory() -> None:
        network.trainer.fit(images, counts, batch_size=chosen.batch_size, shuffle=True, verbose=0)

    def predict_from_shards() -> None:
        for path in paths:
            encoders.encode(of_records, path, chosen.predict_batch_size)

    def predict_bare() -> None:
        for start in range(0, n, chosen.predict_batch_size):
            of_batch(images[start : start + chosen.predict_batch_size]).numpy()

    for what, shards, bare in (
        ("training from shards", train_from_shards, train_from_memory),
        ("prediction from shards", predict_from_shards, predict_bare),
    ):
        measured = costs({"bare": bare, "shards": shards})
        cpu, wall = ratio(measured["bare"], measured["shards"])
        rate = np.median([n / seconds for seconds, _ in measured["shards"]])
        print(
            f"{name}, {config.image_size_px} px, {what}: {rate:,.0f} images per CPU second,"
            f" {cpu:.3f} x those from memory ({wall:.3f}), needed 0.95",
            flush=True,
        )
        ratios.record(f"{what}, {name}", "from memory", cpu)


def main() -> None:
    """Print each ratio and its target."""
    print(f"input: keras {keras.__version__}")
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, Path(folder))
    show_load()


if __name__ == "__main__":
    main()
