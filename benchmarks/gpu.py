"""What a GPU gains from half precision, from XLA, and from splitting batches over several: training steps and features.

python -m benchmarks.gpu        (make bench-gpu)

It prints images per second with plain settings, and ratios to that. Without a GPU it stops: there these settings change
nothing.
"""

from __future__ import annotations

import sys
import time
from statistics import median

import keras
import numpy as np
import tensorflow as tf

from benchmarks.networks import settings_of, task_of
from zoobot.models import encoders, mc_dropout
from zoobot.settings import Settings

NETWORKS = {
    "cnn, 128 px": ("model=cnn", "shards=standard", "catalogs.mock_labelled=6000"),
    "efficientnet_b0, 224 px": ("model=efficientnet_b0", "shards=standard", "shards.image_size_px=224",
                                "catalogs.mock_labelled=6000"),
}  # fmt: skip
PRECISION, XLA, ALL = "model.mixed_precision=true", "model.xla=true", "model.all_gpus=true"
VARIANTS = {"plain": (), "mixed_precision": (PRECISION,), "xla": (XLA,), "both": (PRECISION, XLA)}
STEPS, REPETITIONS = 20, 5


def rates(settings: Settings) -> tuple[list[float], list[float]]:
    """Images per second in training and in prediction, of each repetition."""
    keras.backend.clear_session()
    model, size, channels = settings.model, settings.shards.image_size_px, settings.shards.channels
    network = mc_dropout.build(model, task_of(settings).groups, size, channels, 0)
    random, n = np.random.default_rng(0), model.batch_size
    images = random.integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    counts = random.multinomial(40, np.full(network.head.output_shape[-1], 1 / network.head.output_shape[-1]), n)
    batches = tf.data.Dataset.from_tensors((images, counts)).cache().repeat(STEPS)
    of_batch = encoders.forward(network.encoder, xla=model.xla)

    def train() -> None:
        network.trainer.fit(batches, shuffle=False, verbose=0)

    def predict() -> None:
        for _ in range(STEPS):
            of_batch(images).numpy()

    found = []
    for step in (train, predict):
        step()  # compiles
        seconds = []
        for _ in range(REPETITIONS):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        found.append([n * STEPS / each for each in seconds])
    return found[0], found[1]


def main() -> None:
    """Print the table."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        sys.exit("This machine has no GPU that TensorFlow can use, so nothing was measured.")
    print(f"{len(gpus)} GPU(s): {tf.config.experimental.get_device_details(gpus[0]).get('device_name', 'unknown')}")
    variants = VARIANTS | ({"all_gpus": (ALL,)} if len(gpus) > 1 else {})
    for name, overrides in NETWORKS.items():
        plain: list[float] = []
        for variant, chosen in variants.items():
            measured = rates(settings_of(*overrides, *chosen))
            middle = [median(each) for each in measured]
            plain = plain or middle
            spread = max((max(each) - min(each)) / median(each) for each in measured)
            training, prediction = (f"{m:.0f} images/s ({m / p:.2f} x)" for m, p in zip(middle, plain, strict=True))
            print(f"{name}, {variant}: training {training}, prediction {prediction}; spread {100 * spread:.0f} %")


if __name__ == "__main__":
    main()
