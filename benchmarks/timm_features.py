"""Our networks against timm's: the same weights and pictures must give the same features.

    pip install torch timm                                               # in an environment of its own
    python -m benchmarks.timm_features write FILE                        # there: what timm gives, for all networks
    python -m benchmarks.timm_features write tests/fixtures/timm_features.npz --small   # what the tests compare
    python -m benchmarks.timm_features compare FILE                      # with zoobot: the largest differences

The weights are random numbers that depend on the name and shape of each tensor, so that both sides make the same ones
and no file of weights is kept. The statistics of normalisations and ConvNeXt's layer scales are random too: at their
first values (0, 1 and 0.000001) a mistake in them would not show.
"""

from __future__ import annotations

import argparse
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats32 = npt.NDArray[np.float32]
SMALL = ("convnext_pico", "convnext_nano", "efficientnet_b0", "resnet18", "resnet50")
LARGE = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large", "resnet101")
SIZES = (64, 224)  # side lengths of the pictures
KEPT = 64  # features per picture in the file, evenly spread


def weights_of(name: str, shape: tuple[int, ...]) -> Floats32:
    """The values of a tensor, which depend on its name and the number of values only."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    last = name.rpartition(".")[2]
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    values = random.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return values * np.float32(1.5 / math.sqrt(math.prod(shape[1:])))  # less, and EfficientNet sees no picture
    return values * np.float32(0.3 if last == "gamma" else 0.1)


def pictures(size_px: int) -> npt.NDArray[np.uint8]:
    """Three pictures N × size × size × 3: coarse squares and fine noise."""
    random = np.random.default_rng(size_px)
    coarse = random.integers(0, 128, (3, 8, 8, 3)).repeat(size_px // 8, axis=1).repeat(size_px // 8, axis=2)
    return (coarse + random.integers(0, 128, (3, size_px, size_px, 3))).astype(np.uint8)


def kept(features_N_H: npt.ArrayLike) -> Floats32:
    """The features of each picture that are compared."""
    features = np.asarray(features_N_H, np.float32)
    return features[:, :: features.shape[1] // KEPT][:, :KEPT]


def difference(found: Floats32, wanted: Floats32) -> float:
    """The largest difference, in units of the typical size of a feature (root mean square)."""
    return float(np.abs(found - wanted).max() / np.sqrt(np.mean(np.square(wanted))))


def of_timm(name: str) -> dict[int, Floats32]:
    """The features that timm gives for the pictures of each size."""
    import timm
    import torch

    network: Any = timm.create_model(name, num_classes=0).eval()
    values = {
        key: torch.from_numpy(weights_of(key, tuple(tensor.shape)))
        for key, tensor in network.state_dict().items()
        if tensor.is_floating_point()
    }
    missing = network.load_state_dict(values, strict=False)
    assert not missing.unexpected_keys and all("num_batches" in key for key in missing.missing_keys)
    with torch.inference_mode():
        pixels = {size: torch.from_numpy(pictures(size).transpose(0, 3, 1, 2) / np.float32(255)) for size in SIZES}
        return {size: kept(network(of_size).numpy()) for size, of_size in pixels.items()}


def of_keras(name: str, size_px: int) -> Floats32:
    """The same by our network, whose weights are set without a file."""
    from zoobot.models import encoders, timm_weights
    from zoobot.settings import ModelSettings

    settings = ModelSettings(name=name, architecture=f"zoobot_{name}", blocks=[], colour=True, final_size_px=size_px)
    encoder = encoders.build(settings, size_px, 3)
    for key, weight in timm_weights.weights(encoder.get_layer("convolutions")).items():
        weight.fill(weights_of(key, weight.shape))
    return kept(encoder(pictures(size_px), training=False))


def main() -> None:
    """Write what timm gives, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--small", action="store_true", help="only the networks that the tests compare")
    given = parser.parse_args()
    if given.what == "write":
        names = SMALL if given.small else SMALL + LARGE
        found = {name: of_timm(name) for name in names}
        np.savez_compressed(given.file, **{f"{n}_{size}": f for n, by in found.items() for size, f in by.items()})  # type: ignore[arg-type]
        return
    with np.load(given.file) as of_file:
        for key, wanted in of_file.items():
            name, _, size = key.rpartition("_")
            print(f"{name:16} {size:>4} px  {difference(of_keras(name, int(size)), wanted):.1e}", flush=True)


if __name__ == "__main__":
    main()
