"""Galaxies as TFRecords: both directions in one file. Axes: N galaxies, H W C pixels, A answers."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from zoobot import folders
from zoobot.errors import FolderError
from zoobot.galaxies.tasks import Task

Pixels = npt.NDArray[np.uint8]
FORMAT_VERSION = 1  # of shard_config.json
SHUFFLE_BUFFER = 4096  # records
READ_BATCH = 256  # records
_NO_VOTES = {"id_str", "image", "height", "width", "channels"}


def load_config(folder: Path) -> dict[str, Any]:
    """The shard_config.json of a finished folder; refuses a version that this program does not read."""
    config = folders.read_json(folder / "shard_config.json")
    if not isinstance(config, dict) or config.get("version") != FORMAT_VERSION:
        raise FolderError(
            f"{folder}/shard_config.json has a version this program does not read; it reads version"
            f" {FORMAT_VERSION}. Run stage=shards under a new shards.name."
        )
    return config


def encode(id_str: str, pixels: Pixels, votes: Mapping[str, int], encoding: str) -> bytes:
    """One galaxy as a serialised tf.train.Example. ``pixels`` uint8 H × W × C; ``votes`` empty for an unlabelled
    galaxy.
    """
    height, width, channels = pixels.shape
    return bytes(
        _example(
            {
                "id_str": id_str.encode(),
                "image": _encode_pixels(pixels, encoding),
                "height": height,
                "width": width,
                "channels": channels,
                **votes,
            }
        ).SerializeToString(deterministic=True)
    )


def add_votes(record: bytes, votes: Mapping[str, int]) -> bytes:
    """The record of an unlabelled galaxy, with its votes; the pixels stay as they are."""
    example = tf.train.Example.FromString(record)
    example.MergeFrom(_example(dict(votes)))
    return bytes(example.SerializeToString(deterministic=True))


def decode(record: bytes, encoding: str) -> tuple[str, Pixels, dict[str, int]]:
    """``id_str``, pixels H × W × C and votes of one record."""
    features = tf.train.Example.FromString(record).features.feature
    shape = [features[name].int64_list.value[0] for name in ("height", "width", "channels")]
    raw = features["image"].bytes_list.value[0]
    if encoding == "raw":
        pixels = np.frombuffer(raw, np.uint8).reshape(shape)
    else:
        pixels = tf.io.decode_image(raw, channels=shape[2]).numpy()
    return features["id_str"].bytes_list.value[0].decode(), pixels, _votes(features)


def write(path: Path, records: Sequence[bytes]) -> None:
    """Write one shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def read(path: Path) -> Iterator[bytes]:
    """The records of one shard, in order."""
    try:
        for batch in tf.data.TFRecordDataset(str(path)).batch(READ_BATCH).as_numpy_iterator():
            yield from batch  # one by one, each would cost more than the galaxy it holds
    except tf.errors.OpError as error:
        raise FolderError(
            f"{path} cannot be read as TFRecords ({error.message}): it was changed or damaged."
        ) from error


def read_ids(path: Path) -> list[str]:
    """The ids in one shard, in order."""
    return list(_read_labels(path, *_state(path))[0])


def read_votes(path: Path, columns: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """The votes of the labelled galaxies in one shard, in order: an array for each of these columns."""
    votes = _read_labels(path, *_state(path))[1]
    return {name: votes[name].copy() for name in columns}


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}.") from error
    return state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=256)  # each iteration asks again, and TensorFlow takes 20 ms to begin with a file
def _read_labels(path: Path, _mtime_ns: int, _size: int) -> tuple[list[str], dict[str, npt.NDArray[np.int64]]]:
    """Ids and votes alone: a part of a record would keep all of it, with its pixels, in memory."""
    ids: list[str] = []
    votes: dict[str, list[int]] = {}
    for record in read(path):
        features = tf.train.Example.FromString(record).features.feature
        ids.append(features["id_str"].bytes_list.value[0].decode())
        for name, values in _votes(features).items():
            votes.setdefault(name, []).append(values)
    return ids, {name: np.array(values, np.int64) for name, values in votes.items()}


def _votes(features: Mapping[str, Any]) -> dict[str, int]:
    return {name: values.int64_list.value[0] for name, values in features.items() if name not in _NO_VOTES}


def dataset(
    paths: Sequence[Path],
    n_galaxies: int,
    task: Task | None,
    shard_config: Mapping[str, Any],
    batch_size: int,
    shuffle_seed: int | None = None,
    passes: int = 1,
) -> tf.data.Dataset:
    """Batches of ``(images N × H × W × C uint8, counts N × A float32)``; without a ``task`` only the images.

    ``n_galaxies`` is how many there are, all files together; another number is an error when they have been read.
    Records come in the order of ``paths``; with ``shuffle_seed`` they are shuffled anew in each epoch, the same way
    in each run, and passed ``passes`` times.
    """
    names = [str(path) for path in paths]
    if shuffle_seed is None:
        records = tf.data.TFRecordDataset(names)
    else:  # files in a new order, several read in turn, and a buffer over what they give
        files = tf.data.Dataset.from_tensor_slices(names)
        files = files.shuffle(len(names), seed=shuffle_seed, reshuffle_each_iteration=True)
        records = files.interleave(tf.data.TFRecordDataset, cycle_length=8, num_parallel_calls=2, deterministic=True)
        records = records.shuffle(SHUFFLE_BUFFER, seed=shuffle_seed, reshuffle_each_iteration=True).repeat(passes)
    shape = [shard_config["image_size_px"], shard_config["image_size_px"], shard_config["channels"]]
    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    if task is not None:
        spec |= {name: tf.io.FixedLenFeature([], tf.int64) for name in task.stored_columns}

    def parse(batch: tf.Tensor) -> Any:
        features = tf.io.parse_example(batch, spec)
        images = _decode_batch(features["image"], shape, shard_config["encoding"])
        return images if task is None else (images, _counts(features, task))

    batched = records.batch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    n_batches = -(-n_galaxies * passes // batch_size)
    return batched.apply(tf.data.experimental.assert_cardinality(n_batches)).prefetch(2)


def batches(path: Path, batch_size: int) -> tf.data.Dataset:
    """Batches of the serialised galaxies in one shard, in order."""
    return tf.data.TFRecordDataset(str(path)).batch(batch_size).prefetch(2)


def decode_images(records: tf.Tensor, shard_config: Mapping[str, Any]) -> tf.Tensor:
    """Serialised galaxies → their images N × H × W × C, uint8; for compiled code, so that no shard costs a pipeline."""
    image = tf.io.parse_example(records, {"image": tf.io.FixedLenFeature([], tf.string)})["image"]
    size = shard_config["image_size_px"]
    return _decode_batch(image, [size, size, shard_config["channels"]], shard_config["encoding"])


def _counts(features: Mapping[str, tf.Tensor], task: Task) -> tf.Tensor:
    """As ``Task.counts``, on tensors."""
    values = [tf.cast(features[name], tf.float32) for name in task.stored_columns]
    if task.label_columns:
        values[1] = values[1] - values[0]
    return tf.stack(values, axis=-1)


def _decode_batch(images: tf.Tensor, shape: Sequence[int], encoding: str) -> tf.Tensor:
    if encoding == "raw":
        return tf.reshape(tf.io.decode_raw(images, tf.uint8), [-1, *shape])

    def one(image: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.io.decode_image(image, channels=shape[2], expand_animations=False), shape)

    return tf.map_fn(one, images, fn_output_signature=tf.TensorSpec(shape, tf.uint8))


def _encode_pixels(pixels: Pixels, encoding: str) -> bytes:
    if encoding == "raw":
        return pixels.tobytes()
    writer = tf.io.encode_png if encoding == "png" else tf.io.encode_jpeg
    return bytes(writer(pixels).numpy())


def _example(values: Mapping[str, bytes | int]) -> tf.train.Example:
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        if isinstance(value, bytes)
        else tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        for name, value in values.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features))
