"""The networks of timm whose weights the Zoobot project publishes, as Keras layers with timm's names.

A layer called ``stages.0.blocks.1.conv_dw`` has the weights that timm calls ``stages.0.blocks.1.conv_dw.weight`` and
``….bias`` (zoobot/models/timm_weights.py). keras.applications has some of these networks with other padding, and not
the small ConvNeXts. Written after timm 1.0.29; `python -m benchmarks.timm_features` compares the numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any  # Keras has no types
_EFFICIENTNET_B0 = (  # of each stage: expansion, size of the kernel, stride, filters, blocks
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip


class Scale(keras.layers.Layer):
    """Each channel times a number that is learnt."""

    def build(self, shape: Sequence[int]) -> None:
        """One number for each channel."""
        self._scale = self.add_weight(shape=(shape[-1],), initializer=keras.initializers.Constant(1e-6), name="scale")

    def call(self, values: Tensor) -> Tensor:
        """N × H × W × C → the same shape."""
        return values * self._scale


def _conv(values: Tensor, name: str, filters: int, size: int, stride: int = 1, bias: bool = False) -> Tensor:
    """A convolution with timm's padding: the same on both sides, and none for kernels of even size."""
    values, padding = _padded(values, size, stride)
    return keras.layers.Conv2D(filters, size, stride, padding, use_bias=bias, name=name)(values)


def _depthwise(values: Tensor, name: str, size: int, stride: int = 1, bias: bool = False) -> Tensor:
    values, padding = _padded(values, size, stride)
    return keras.layers.DepthwiseConv2D(size, stride, padding, use_bias=bias, name=name)(values)


def _padded(values: Tensor, size: int, stride: int) -> tuple[Tensor, str]:
    if stride == 1:
        return values, "same"  # with an odd kernel it is the same on both sides
    margin = size // 2 if size % 2 else 0
    return (keras.layers.ZeroPadding2D(margin)(values) if margin else values), "valid"


def _norm(values: Tensor, name: str) -> Tensor:
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(values)


def _layer_norm(values: Tensor, name: str) -> Tensor:
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name)(values)


def _activate(values: Tensor, function: str) -> Tensor:
    return keras.layers.Activation(function)(values)


def _mean(values: Tensor) -> Tensor:
    return keras.layers.GlobalAveragePooling2D()(values)


# --------------------------------------------------------------- ConvNeXt (Liu et al. 2022, arXiv 2201.03545)


def _convnext(depths: Sequence[int], widths: Sequence[int], values: Tensor) -> Tensor:
    values = _layer_norm(_conv(values, "stem.0", widths[0], 4, 4, bias=True), "stem.1")
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        stage = f"stages.{number}"
        if number:
            values = _layer_norm(values, f"{stage}.downsample.0")
            values = _conv(values, f"{stage}.downsample.1", width, 2, 2, bias=True)
        for block in range(depth):
            values = _convnext_block(values, f"{stage}.blocks.{block}", width)
    return _layer_norm(_mean(values), "head.norm")


def _convnext_block(values: Tensor, name: str, width: int) -> Tensor:
    inner = _layer_norm(_depthwise(values, f"{name}.conv_dw", 7, bias=True), f"{name}.norm")
    inner = _activate(keras.layers.Dense(4 * width, name=f"{name}.mlp.fc1")(inner), "gelu")
    inner = keras.layers.Dense(width, name=f"{name}.mlp.fc2")(inner)
    return keras.layers.Add()([values, Scale(name=name)(inner)])


# --------------------------------------------------------------- EfficientNet-B0 (Tan & Le 2019, arXiv 1905.11946)


def _efficientnet(values: Tensor) -> Tensor:
    values = _activate(_norm(_conv(values, "conv_stem", 32, 3, 2), "bn1"), "silu")
    for number, (expansion, size, stride, filters, depth) in enumerate(_EFFICIENTNET_B0):
        for block in range(depth):
            name, first = f"blocks.{number}.{block}", block == 0
            inner = _mobile_block(values, name, (expansion, size, stride if first else 1, filters))
            values = inner if first else keras.layers.Add()([values, inner])
    return _mean(_activate(_norm(_conv(values, "conv_head", 1280, 1), "bn2"), "silu"))


def _mobile_block(values: Tensor, name: str, form: tuple[int, int, int, int]) -> Tensor:
    """Expand, a convolution of each channel, weigh the channels, project. Without expansion timm numbers otherwise."""
    expansion, size, stride, filters = form
    channels, norms = values.shape[-1], iter((f"{name}.bn1", f"{name}.bn2", f"{name}.bn3"))
    inner = values
    if expansion > 1:
        inner = _activate(_norm(_conv(inner, f"{name}.conv_pw", expansion * channels, 1), next(norms)), "silu")
    inner = _activate(_norm(_depthwise(inner, f"{name}.conv_dw", size, stride), next(norms)), "silu")
    inner = _squeeze_excite(inner, f"{name}.se", channels // 4)
    last = "conv_pwl" if expansion > 1 else "conv_pw"
    return _norm(_conv(inner, f"{name}.{last}", filters, 1), next(norms))


def _squeeze_excite(values: Tensor, name: str, reduced: int) -> Tensor:
    weight = keras.layers.GlobalAveragePooling2D(keepdims=True)(values)
    weight = _activate(_conv(weight, f"{name}.conv_reduce", reduced, 1, bias=True), "silu")
    weight = _activate(_conv(weight, f"{name}.conv_expand", values.shape[-1], 1, bias=True), "sigmoid")
    return keras.layers.Multiply()([values, weight])


# --------------------------------------------------------------- ResNet (He et al. 2015, arXiv 1512.03385)


def _resnet(depths: Sequence[int], expansion: int, values: Tensor) -> Tensor:
    values = _activate(_norm(_conv(values, "conv1", 64, 7, 2), "bn1"), "relu")
    values = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(values))  # after a relu zero is the lowest
    for number, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if number and not block else 1
            values = _resnet_block(values, f"layer{number + 1}.{block}", (64 * 2**number, expansion, stride))
    return _mean(values)


def _resnet_block(values: Tensor, name: str, form: tuple[int, int, int]) -> Tensor:
    """Two 3 × 3 convolutions, or (expansion 4) one between two of 1 × 1. The first 3 × 3 has the stride."""
    width, expansion, stride = form
    sizes = [(width, 3, stride), (width, 3, 1)]
    if expansion > 1:
        sizes = [(width, 1, 1), (width, 3, stride), (expansion * width, 1, 1)]
    inner = values
    for number, (filters, size, step) in enumerate(sizes, 1):
        inner = inner if number == 1 else _activate(inner, "relu")
        inner = _norm(_conv(inner, f"{name}.conv{number}", filters, size, step), f"{name}.bn{number}")
    if values.shape[-1] != inner.shape[-1] or stride > 1:
        values = _conv(values, f"{name}.downsample.0", inner.shape[-1], 1, stride)
        values = _norm(values, f"{name}.downsample.1")
    return _activate(keras.layers.Add()([values, inner]), "relu")


# Pixels from 0 to 1, N × H × W × 3 → features N × H. The names are timm's.
NETWORKS: dict[str, Callable[[Tensor], Tensor]] = {
    "convnext_pico": functools.partial(_convnext, (2, 2, 6, 2), (64, 128, 256, 512)),
    "convnext_nano": functools.partial(_convnext, (2, 2, 8, 2), (80, 160, 320, 640)),
    "convnext_tiny": functools.partial(_convnext, (3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": functools.partial(_convnext, (3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": functools.partial(_convnext, (3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": functools.partial(_convnext, (3, 3, 27, 3), (192, 384, 768, 1536)),
    "efficientnet_b0": _efficientnet,
    "resnet18": functools.partial(_resnet, (2, 2, 2, 2), 1),
    "resnet50": functools.partial(_resnet, (3, 4, 6, 3), 4),
    "resnet101": functools.partial(_resnet, (3, 4, 23, 3), 4),
}
