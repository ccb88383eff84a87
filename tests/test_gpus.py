"""Networks on several devices: two virtual CPU devices stand for two GPUs, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# One step of gradient descent with a rate of 1, so weights change by minus the gradient. No dropout, no turned views.
STEP = """
import json, sys
import keras, numpy as np, tensorflow as tf
from contextlib import nullcontext
from dataclasses import replace
from benchmarks.networks import settings_of, task_of
from zoobot.models import encoders, mc_dropout
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mirrored = tf.distribute.MirroredStrategy
tf.distribute.MirroredStrategy = lambda: mirrored(["CPU:0", "CPU:1"])
settings = settings_of("model=small_cnn", "shards=small")
random = np.random.default_rng(0)
corner = random.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
half = np.concatenate([corner, corner[:, ::-1]], axis=1)
images = np.concatenate([half, half[:, :, ::-1]], axis=2)  # flips, which every view has, change nothing
counts = random.multinomial(40, [0.3, 0.7], 16)
found = []
for both in (False, True):
    encoders.precision = lambda model: nullcontext(both)
    model = replace(settings.model, dropout_rate=0.0, rotate=False, zoom=0.0, all_gpus=True, likelihood=sys.argv[1])
    network = mc_dropout.build(model, task_of(settings).groups, 64, 3, 0)
    network.trainer.optimizer.learning_rate = 1.0
    with network.trainer.distribute_strategy.scope() if both else tf.device("CPU:0"):
        network.trainer.compile(keras.optimizers.SGD(1.0), loss=network.trainer.loss)
    assert network.trainer.distribute_strategy.num_replicas_in_sync == 1 + both
    before = [w.copy() for w in network.trainer.get_weights()]
    data = tf.data.Dataset.from_tensor_slices((images, counts)).batch(16)
    loss = network.trainer.fit(data, shuffle=False, verbose=0).history["loss"][0]
    change = [(a - b).ravel() for a, b in zip(network.trainer.get_weights(), before)]
    found.append((loss, np.concatenate(change)))
(one, alone), (two, shared) = found
print(json.dumps([float(one), float(two), float(np.abs(alone).max()), float(np.abs(alone - shared).max())]))
"""


@pytest.mark.parametrize("likelihood", ["multinomial", "dirichlet_multinomial"])
@pytest.mark.long
def test_two_devices_give_the_loss_and_the_gradient_of_one(likelihood: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEP, likelihood], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two, largest, apart = json.loads(done.stdout.splitlines()[-1])
    assert two == pytest.approx(one, rel=1e-5)
    assert largest > 0 and apart < 1e-4 * largest


@pytest.mark.long
def test_without_a_gpu_the_benchmark_says_that_it_measured_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "nothing was measured" in done.stderr
