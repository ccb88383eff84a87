"""All encoders: from stored images to features, N × H. TensorFlow is loaded only when one is built.

To add an encoder, put an ``Architecture`` into ``ARCHITECTURES``; docs/extending.md shows how.
Axes: N galaxies, H features.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from zoobot.settings import PUBLISHED, ModelSettings, Settings

if TYPE_CHECKING:
    import keras

Tensor: TypeAlias = Any  # Keras has no types
Floats32 = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
# Sky is near -1 and the brightest pixels are near 4. Training is several times faster than with pixels from 0 to 1.
SCALE, OFFSET = 5 / 255, -1.0
_BATCH_MOMENTUM = 0.9  # Keras' default, 0.99, needs more steps than a small training set gives
_SMALLEST_DEEP_PX = 32


@dataclass(frozen=True)
class Architecture:
    """One encoder: either Keras ``layers``, or ``fixed`` features that need neither weights nor TensorFlow.

    ``layers(model, scaled)`` takes scaled images N × H × W × C (``encoders.prepare``) and returns features;
    ``fixed(model, images)`` takes stored images N × H × W × C, uint8. ``n_features(model)`` is the number of features.
    """

    n_features: Callable[[ModelSettings], int]
    layers: Callable[[ModelSettings, Tensor], Tensor] | None = None
    fixed: Callable[[ModelSettings, Any], Floats32] | None = None
    uses_blocks: bool = False  # whether model.blocks describes its layers
    has_imagenet: bool = False  # whether Keras has ImageNet weights for it
    smallest_px: int = 1  # the smallest images it can take
    timm: str = ""  # the name in timm of a network whose published weights it can take
    takes_features: bool = False  # whether `fixed` takes what the survey published (survey.features), not images


def _cnn(model: ModelSettings, values: Tensor) -> Tensor:
    """The network of Walmsley et al. 2020 (MNRAS 491, 1554). Its last layer still knows positions in the picture."""
    import keras

    for block in model.blocks:
        for filters in block:
            values = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(values)
        values = keras.layers.MaxPooling2D(2)(values)
    return keras.layers.Dense(model.hidden, activation="relu", name="hidden")(keras.layers.Flatten()(values))


def _pooled_cnn(model: ModelSettings, values: Tensor) -> Tensor:
    """Convolutions with batch normalisation, then the mean and maximum of each channel over the picture."""
    import keras

    for number, block in enumerate(model.blocks):
        for position, filters in enumerate(block):
            strides = 1 if number or position else 2  # the first block halves the size before, not after
            values = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(values)
            values = keras.layers.BatchNormalization(momentum=_BATCH_MOMENTUM)(values)
            values = keras.layers.ReLU()(values)
        if number:
            values = keras.layers.MaxPooling2D(2)(values)
    pooled = [keras.layers.GlobalAveragePooling2D()(values), keras.layers.GlobalMaxPooling2D()(values)]
    return keras.layers.Concatenate(name="features")(pooled)


def _application(name: str, n_features: int) -> Architecture:
    """A network from keras.applications; it scales pixels from 0 to 255 itself."""

    def layers(model: ModelSettings, values: Tensor) -> Tensor:
        import keras

        pixels = _pixels_to(255, model, values)
        size = model.final_size_px
        network: keras.Model = getattr(keras.applications, name)(
            include_top=False,
            weights="imagenet" if model.weights == "imagenet" else None,
            input_shape=(size, size, 3),
            pooling="avg",
        )
        return network(pixels)

    return Architecture(lambda model: n_features, layers, has_imagenet=True, smallest_px=_SMALLEST_DEEP_PX)


def _of_timm(name: str, n_features: int) -> Architecture:
    """A network of timm, for the weights of Zoobot, which were trained with pixels from 0 to 1, not normalised."""

    def layers(model: ModelSettings, values: Tensor) -> Tensor:
        from zoobot.models.timm_networks import NETWORKS

        return NETWORKS[name](_pixels_to(1, model, values))

    return Architecture(lambda model: n_features, layers, smallest_px=_SMALLEST_DEEP_PX, timm=name)


def _pixels_to(brightest: float, model: ModelSettings, scaled: Tensor) -> Tensor:
    """Pixels from 0 to ``brightest`` in three colours, from what ``encoders.prepare`` gives."""
    import keras

    factor = brightest / (255 * SCALE)
    pixels = keras.layers.Rescaling(factor, offset=-OFFSET * factor)(scaled)
    return pixels if model.colour else keras.layers.Concatenate()([pixels] * 3)


def _pixels(model: ModelSettings, images: Pixels) -> Floats32:
    """The mean brightness, 0 to 1, of each cell in a grid of ``model.final_size_px`` × ``model.final_size_px``."""
    n, size = images.shape[:2]
    values: Floats32 = images.astype(np.float32)
    if not model.colour:
        values = values.mean(axis=3, keepdims=True, dtype=np.float32)
    edges = np.linspace(0, size, model.final_size_px + 1).round().astype(int)[:-1]
    summed = np.add.reduceat(np.add.reduceat(values, edges, axis=1), edges, axis=2)
    width = np.diff([*edges, size])
    cells = (summed / (255 * width[:, None] * width)[:, :, None]).astype(np.float32)
    flat: Floats32 = cells.reshape(n, -1)
    return flat


def _published(model: ModelSettings, features: Floats32) -> Floats32:
    """The survey's own features, as they are stored."""
    return features


_ZOOBOT = {  # timm's names and the number of features
    "convnext_pico": 512, "convnext_nano": 640, "convnext_tiny": 768, "convnext_small": 768, "convnext_base": 1024,
    "convnext_large": 1536, "efficientnet_b0": 1280, "resnet18": 512, "resnet50": 2048, "resnet101": 2048,
}  # fmt: skip
ARCHITECTURES: dict[str, Architecture] = {
    "cnn": Architecture(lambda model: model.hidden, _cnn, uses_blocks=True),
    "pooled_cnn": Architecture(lambda model: 2 * model.blocks[-1][-1], _pooled_cnn, uses_blocks=True),
    "efficientnet_b0": _application("EfficientNetB0", 1280),
    "efficientnet_v2_b0": _application("EfficientNetV2B0", 1280),
    "convnext_tiny": _application("ConvNeXtTiny", 768),
    **{f"zoobot_{name}": _of_timm(name, n_features) for name, n_features in _ZOOBOT.items()},
    "pixels": Architecture(lambda model: model.final_size_px**2 * (3 if model.colour else 1), fixed=_pixels),
    # How many features there are, the survey says: 0 here.
    "features": Architecture(lambda model: 0, fixed=_published, takes_features=True),
}


def problems(settings: Settings) -> list[str]:
    """What is wrong with a run's model (whose architecture exists); each problem with its full key."""
    model, architecture = settings.model, ARCHITECTURES[settings.model.architecture]
    found = _size_problems(model, architecture) + _input_problems(settings, architecture)
    if model.weights == "imagenet" and not architecture.has_imagenet:
        found.append(f"model.weights=imagenet: Keras has none for model.architecture={model.architecture}")
    if model.weights.startswith(PUBLISHED):
        found += _published_problems(model, architecture)
    if model.colour and settings.shards.channels == 1:
        found.append("model.colour=true: the stored images are grey (shards.channels=1)")
    if model.train == "head" and architecture.layers and not model.weights:
        found.append(
            "model.train=head: needs a trained encoder; set model.weights to a name from stage=pretrain, imagenet or a"
            " path. Features of random weights would teach nothing"
        )
    if model.train == "head" and (model.ensemble > 1 or model.warm_start):
        found.append("model.train=head: has one closed-form posterior; leave out model.ensemble and model.warm_start")
    if architecture.fixed and (model.train != "head" or model.weights or model.orientations != 1):
        found.append(
            f"model.architecture={model.architecture}: has no weights; it needs model.train=head, model.weights='' and"
            " model.orientations=1"
        )
    if model.ensemble > model.n_samples:
        found.append(f"model.ensemble={model.ensemble}: each network needs a sample of model.n_samples")
    return found


def _published_problems(model: ModelSettings, architecture: Architecture) -> list[str]:
    name = model.weights.removeprefix(PUBLISHED)
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        return [f"model.weights={model.weights}: {name!r} is not the name of an encoder; docs/models.md lists them"]
    if architecture.timm:
        return []
    known = ", ".join(name for name, one in ARCHITECTURES.items() if one.timm)
    return [f"model.weights={model.weights}: fits none but model.architecture={known}, not {model.architecture}"]


def _input_problems(settings: Settings, architecture: Architecture) -> list[str]:
    """What is wrong with features and pictures, for the stages that use a model."""
    given = settings.survey.features
    if settings.stage not in ("pretrain", "instructions", "iterate", "simulate"):
        return []
    if settings.stage == "pretrain" and (given or architecture.takes_features):
        return ["stage=pretrain: learns from pictures, and survey.features has none; model=features needs no encoder"]
    if architecture.takes_features and not given:
        return [f"model.architecture={settings.model.architecture}: needs survey.features=FILE.parquet"]
    if given and not architecture.takes_features:
        return [
            f"survey.features={given}: is stored instead of pictures, which model.architecture="
            f"{settings.model.architecture} needs; choose model=features, or leave survey.features out"
        ]
    return []


def _size_problems(model: ModelSettings, architecture: Architecture) -> list[str]:
    if not architecture.uses_blocks:
        smallest = architecture.smallest_px
        if model.final_size_px < smallest:
            return [f"model.final_size_px={model.final_size_px}: {model.architecture} needs at least {smallest}"]
        return []
    if not model.blocks or not all(model.blocks) or min(f for block in model.blocks for f in block) < 1:
        return [f"model.blocks={model.blocks}: each block needs at least one convolution with at least one filter"]
    if model.final_size_px < 2 ** len(model.blocks):
        return [
            f"model.blocks: {len(model.blocks)} halvings need model.final_size_px of at least {2 ** len(model.blocks)}"
        ]
    return []
