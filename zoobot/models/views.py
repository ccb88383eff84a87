"""Random views of training images."""

from __future__ import annotations

import math

import keras

from zoobot.models.architectures import Tensor


class RandomView(keras.layers.Layer):
    """Each training image flipped, turned and magnified at random, which should not change a galaxy's votes.

    All three are one affine transformation, so pixels are interpolated once. The image is reflected at its border.
    """

    def __init__(self, rotate: bool, zoom: float, seed: int) -> None:
        super().__init__(dtype="float32")  # also where networks compute in float16
        self._rotate, self._zoom = rotate, zoom
        self._random = keras.random.SeedGenerator(seed)

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Images N × H × W × C, float; unchanged unless ``training``."""
        if not training:
            return images
        n, size = keras.ops.shape(images)[0], images.shape[1]
        angle_N = keras.random.uniform((n,), 0.0, 2 * math.pi if self._rotate else 0.0, seed=self._random)
        scale_N = 1 / (1 + keras.random.uniform((n,), 0.0, self._zoom, seed=self._random))
        flip_N = keras.ops.where(keras.random.uniform((n,), seed=self._random) < 0.5, -1.0, 1.0)
        mirror_N = keras.ops.where(keras.random.uniform((n,), seed=self._random) < 0.5, -1.0, 1.0)
        cos_N, sin_N = scale_N * keras.ops.cos(angle_N), scale_N * keras.ops.sin(angle_N)
        a, b, c, d = cos_N * flip_N, -sin_N * mirror_N, sin_N * flip_N, cos_N * mirror_N
        centre, zero_N = (size - 1) / 2, keras.ops.zeros_like(angle_N)
        rows = [a, b, centre * (1 - a - b), c, d, centre * (1 - c - d), zero_N, zero_N]
        return keras.ops.image.affine_transform(images, keras.ops.stack(rows, axis=1), fill_mode="reflect")
