"""Features of stored images, from a trained network or a frozen encoder, and their cache.

Axes: N galaxies, H features.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoobot import folders
from zoobot.errors import SettingsError
from zoobot.galaxies import tfrecords
from zoobot.models import encoders
from zoobot.settings import ENCODER_SHAPE, ModelSettings, Settings

Floats32 = npt.NDArray[np.float32]


def frozen(settings: Settings, shard_config: Mapping[str, Any]) -> FeatureCache:
    """The features of the encoder that ``model.weights`` names; it is built only if some are not in the cache.

    Raises SettingsError if there is no such encoder, or if it has another shape than the settings say.
    """
    path, chosen = settings.weights_path, settings.model
    images = {key: shard_config[key] for key in ("image_size_px", "channels", "encoding")}
    build = functools.partial(_frozen_encoder, path, json.dumps([dataclasses.asdict(chosen), images]))
    shape = {key: getattr(chosen, key) for key in ENCODER_SHAPE}
    told = path / encoders.ENCODER_FILE if path else None
    if told and told.is_file():
        wanted = {**shape, "image_size_px": images["image_size_px"], "channels": images["channels"]}
        differences = folders.differing_keys({k: v for k, v in folders.read_json(told).items() if k in wanted}, wanted)
        if differences:
            raise SettingsError(
                "\n  ".join([f"the encoder in {path} has another shape than the settings:", *differences])
            )
        weights_sha256 = folders.read_json(told)["weights_sha256"]
    else:
        weights_sha256 = encoders.digest(build()[0])
    return FeatureCache(settings.features_dir, weights_sha256, chosen.orientations, lambda file: build()[1](file))


@functools.lru_cache(maxsize=1)
def _frozen_encoder(path: Path | None, told: str) -> tuple[keras.Model, Callable[[Path], Floats32]]:
    """The encoder, and its compiled pass: kept from iteration to iteration. ``told``: settings and images, as JSON."""
    chosen, images = json.loads(told)
    encoder = encoders.build(ModelSettings(**chosen), images["image_size_px"], images["channels"])
    if path:
        encoders.load(encoder, path)
    return encoder, encoder_pass(encoder, images, ModelSettings(**chosen))


def encoder_pass(
    encoder: keras.Model, shard_config: Mapping[str, Any], chosen: ModelSettings
) -> Callable[[Path], Floats32]:
    """The encoder's pass over a TFRecord file: the features N × H of its galaxies."""
    decode = functools.partial(tfrecords.decode_images, shard_config=shard_config)
    of_records = forward_records(encoder, chosen.orientations, decode)
    return lambda path: np.concatenate(
        [of_records(batch).numpy() for batch in tfrecords.batches(path, chosen.predict_batch_size)]
    )


@dataclass(frozen=True)
class FeatureCache:
    """Features kept by the digests of the encoder's weights and of the TFRecord file: any number of samples and
    acquisition functions cost one pass of the encoder. A file of it is whole or not there; all may be deleted.
    """

    folder: Path
    weights_sha256: str
    orientations: int
    encode: Callable[[Path], Floats32]

    def of(self, path: Path) -> Floats32:
        """The features N × H of the galaxies in a TFRecord file, mapped into memory."""
        kept = self.folder / f"{self.weights_sha256[:16]}_{self.orientations}" / f"{folders.digest_in(path)[:16]}.npy"
        if not kept.is_file():
            content = io.BytesIO()
            np.save(content, self.encode(path))
            folders.publish_file(kept, content.getvalue())
        features: Floats32 = np.load(kept, mmap_mode="r")
        return features


def forward(encoder: keras.Model, orientations: int = 1) -> Callable[[Any], Any]:
    """Compiled once: stored images → features N × H, without dropout or augmentation, their mean over 1 or 8
    orientations.
    """

    def mean(batch: Any) -> Any:
        views = [batch]
        if orientations == 8:
            views = [tf.image.rot90(v, k) for v in (batch, tf.image.flip_left_right(batch)) for k in range(4)]
        return tf.cast(tf.add_n([encoder(view, training=False) for view in views]), tf.float32) / len(views)

    return tf.function(mean, input_signature=[tf.TensorSpec(encoder.input_shape, tf.uint8)])  # type: ignore[no-any-return]


def forward_records(encoder: keras.Model, orientations: int, decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compiled once, with ``decode`` (serialised galaxies → stored images): serialised galaxies → features N × H."""
    of_batch = forward(encoder, orientations)
    return tf.function(lambda records: of_batch(decode(records)), input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[no-any-return]
