"""TFRecord files as input for networks, through tf.data. Axes: N galaxies, H W C pixels, A answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf

from zoobot.galaxies import tfrecords
from zoobot.galaxies.tasks import Task
from zoobot.galaxies.tfrecords import ShardConfig

Parsed: TypeAlias = Any  # a tensor or a pair of tensors: TensorFlow has no types for them
SHUFFLE_BUFFER = 4096  # records


def dataset(
    paths: Sequence[Path],
    n_galaxies: int,
    task: Task | None,
    config: ShardConfig,
    batch_size: int,
    shuffle_seed: int | None = None,
    passes: int = 1,
) -> tf.data.Dataset:
    """Batches of ``(images N × H × W × C uint8, counts N × A float32)``; without a ``task`` only the images.

    ``n_galaxies`` is the number of galaxies in all files; a wrong number is an error once they have been read. Records
    come in the order of ``paths``. With ``shuffle_seed`` they are shuffled again for each epoch, in the same way in
    each run, and repeated ``passes`` times.
    """
    for path in paths:
        tfrecords.check_lengths(path)
    names = [str(path) for path in paths]
    if shuffle_seed is None:
        records = tf.data.TFRecordDataset(names)
    else:  # shuffle the files, read several in turn, then shuffle their records in a buffer
        files = tf.data.Dataset.from_tensor_slices(names)
        files = files.shuffle(len(names), seed=shuffle_seed, reshuffle_each_iteration=True)
        records = files.interleave(tf.data.TFRecordDataset, cycle_length=8, num_parallel_calls=2, deterministic=True)
        records = records.shuffle(SHUFFLE_BUFFER, seed=shuffle_seed, reshuffle_each_iteration=True).repeat(passes)
    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    if task is not None:
        spec |= {name: tf.io.FixedLenFeature([], tf.int64) for name in task.stored_columns}

    def parse(batch: tf.Tensor) -> Parsed:
        features = tf.io.parse_example(batch, spec)
        images = _decode(features["image"], config)
        if task is None:
            return images
        stored = [tf.cast(features[name], tf.float32) for name in task.stored_columns]
        return images, tf.stack(task.count_answers(stored), axis=-1)

    batched = records.batch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    n_batches = -(-n_galaxies * passes // batch_size)
    return batched.apply(tf.data.experimental.assert_cardinality(n_batches)).prefetch(2)


def batches(path: Path, batch_size: int) -> tf.data.Dataset:
    """Batches of the serialised galaxies in one file, in order."""
    tfrecords.check_lengths(path)
    return tf.data.TFRecordDataset(str(path)).batch(batch_size).prefetch(2)


def decode_images(records: tf.Tensor, config: ShardConfig) -> tf.Tensor:
    """Serialised galaxies → images N × H × W × C, uint8. For compiled code, so that a file needs no pipeline."""
    return _decode(tf.io.parse_example(records, {"image": tf.io.FixedLenFeature([], tf.string)})["image"], config)


def _decode(images: tf.Tensor, config: ShardConfig) -> tf.Tensor:
    shape = [config.image_size_px, config.image_size_px, config.channels]
    if config.encoding == "raw":
        return tf.reshape(tf.io.decode_raw(images, tf.uint8), [-1, *shape])

    def one(image: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.io.decode_image(image, channels=shape[2], expand_animations=False), shape)

    return tf.map_fn(one, images, fn_output_signature=tf.TensorSpec(shape, tf.uint8))
