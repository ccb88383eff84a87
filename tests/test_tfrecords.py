"""Galaxies through TFRecords and back, eagerly and inside tf.data."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.records import a_shard_config
from zoobot.errors import FolderError
from zoobot.galaxies import tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import Task
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.models import datasets

SMOOTH = Task("smooth", load_questions("demo").subset(["smooth-or-featured"]), ("smooth-or-featured_smooth",), ())
TREE = Task("tree", load_questions("demo"), (), ())


def config(encoding: str = "raw") -> ShardConfig:
    return a_shard_config(image_size_px=6, encoding=encoding)


def pixels(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)


def write(folder: Path, n: int, encoding: str = "raw", first: int = 0) -> Path:
    path = folder / f"train_{first:05d}.tfrecord"
    records = [
        tfrecords.encode(f"id{i}", pixels(i), {"label": i, "total_votes": 2 * i}, encoding)
        for i in range(first, first + n)
    ]
    tfrecords.write(path, records)
    return path


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_of_encode_is_the_galaxy(encoding: str, channels: int) -> None:
    id_str, image, votes = tfrecords.decode(
        tfrecords.encode("dr7objid_587739132962406756", pixels(1, channels), {"label": 3, "total_votes": 40}, encoding),
        encoding,
    )
    assert id_str == "dr7objid_587739132962406756"
    assert image.tolist() == pixels(1, channels).tolist()
    assert votes == {"label": 3, "total_votes": 40}


def test_jpeg_is_near() -> None:
    flat = np.full((6, 6, 3), 100, np.uint8)
    _, image, _ = tfrecords.decode(tfrecords.encode("a", flat, {}, "jpeg"), "jpeg")
    assert np.abs(image.astype(int) - 100).max() <= 3


def test_the_same_galaxy_gives_the_same_bytes() -> None:
    votes = {f"column_{n}": n for n in range(20)}
    assert tfrecords.encode("a", pixels(1), votes, "raw") == tfrecords.encode(
        "a", pixels(1), dict(reversed(votes.items())), "raw"
    )


def test_votes_are_added_without_touching_the_pixels() -> None:
    bare = tfrecords.encode("a", pixels(1), {}, "raw")
    assert tfrecords.decode(bare, "raw")[2] == {}
    id_str, image, votes = tfrecords.decode(tfrecords.add_votes(bare, {"label": 5}), "raw")
    assert (id_str, votes) == ("a", {"label": 5}) and image.tolist() == pixels(1).tolist()


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_dataset_keeps_order_and_pairs_images_with_votes(tmp_path: Path, encoding: str) -> None:
    paths = [write(tmp_path, 5, encoding), write(tmp_path, 4, encoding, first=5)]
    batches = list(datasets.dataset(paths, 9, SMOOTH, config(encoding), 4))
    images = np.concatenate([batch[0].numpy() for batch in batches])
    counts = np.concatenate([batch[1].numpy() for batch in batches])
    assert images.tolist() == [pixels(i).tolist() for i in range(9)]
    assert counts.tolist() == [[i, i] for i in range(9)]  # label, total - label
    decoded = [datasets.decode_images(batch, config(encoding)) for path in paths for batch in datasets.batches(path, 4)]
    assert np.concatenate(decoded).tolist() == images.tolist()
    assert [tfrecords.read_ids(path) for path in paths] == [
        [f"id{i}" for i in range(5)],
        [f"id{i}" for i in range(5, 9)],
    ]


def test_a_tree_reads_every_answer(tmp_path: Path) -> None:
    votes = {answer: n for n, answer in enumerate(TREE.answers)}
    tfrecords.write(
        tmp_path / "a.tfrecord", [tfrecords.encode("a", pixels(1), {**votes, "bar_total-votes": 99}, "raw")]
    )
    ((_, counts),) = list(datasets.dataset([tmp_path / "a.tfrecord"], 1, TREE, config(), 4))
    assert counts.numpy().tolist() == [list(range(len(TREE.answers)))]
    assert TREE.counts({name: [value] for name, value in votes.items()}).tolist() == counts.numpy().tolist()


def test_shuffling_is_seeded_complete_and_new_in_each_epoch(tmp_path: Path) -> None:
    paths = [write(tmp_path, 20, first=20 * n) for n in range(3)]

    def labels(seed: int) -> list[list[float]]:
        data = datasets.dataset(paths, 60, SMOOTH, config(), 16, shuffle_seed=seed)
        return [[float(label) for _, counts in data for label in counts[:, 0]] for _ in range(2)]

    first, second = labels(1)
    assert sorted(first) == sorted(second) == list(range(60)) and first != second
    assert labels(1) == [first, second]
    assert labels(2)[0] != first


def test_passes_repeat_a_small_set(tmp_path: Path) -> None:
    data = datasets.dataset([write(tmp_path, 3)], 3, SMOOTH, config(), 2, shuffle_seed=0, passes=4)
    assert data.cardinality() == 6
    assert sorted(float(x) for _, counts in data for x in counts[:, 0]) == sorted([0.0, 1.0, 2.0] * 4)


def test_another_number_of_galaxies_than_stated_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    with pytest.raises(tf.errors.FailedPreconditionError):
        list(datasets.dataset([path], 9, SMOOTH, config(), 4))


NAMES = st.text(min_size=1, max_size=8).filter(
    lambda name: name not in ("id_str", "image", "height", "width", "channels")
)


@given(st.text(), st.dictionaries(NAMES, st.integers(-(2**63), 2**63 - 1), max_size=6))
def test_records_are_those_of_tensorflow(id_str: str, votes: dict[str, int]) -> None:
    record = tfrecords.encode(id_str, pixels(3), votes, "raw")
    assert tfrecords.decode(record, "raw")[2] == votes
    shape = dict(zip(("height", "width", "channels"), pixels(3).shape, strict=True))
    texts = {"id_str": id_str.encode(), "image": pixels(3).tobytes()}
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text])) for name, text in texts.items()}
    for name, number in {**shape, **votes}.items():
        features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[number]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    assert record == example.SerializeToString(deterministic=True)


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), st.dictionaries(st.text(max_size=3), st.integers(0, 50)))
def test_records_of_features_are_those_of_tensorflow(features: list[float], votes: dict[str, int]) -> None:
    bare = tfrecords.encode("a", np.array(features, np.float32), {}, tfrecords.FEATURES)
    record = tfrecords.add_votes(bare, votes)
    id_str, found, found_votes = tfrecords.decode(record, tfrecords.FEATURES)
    assert (id_str, found_votes) == ("a", votes) and np.array_equal(
        found, np.array(features, np.float32), equal_nan=True
    )
    expected = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=[n])) for name, n in votes.items()}
    expected["id_str"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a"]))
    expected["features"] = tf.train.Feature(float_list=tf.train.FloatList(value=features))
    example = tf.train.Example(features=tf.train.Features(feature=expected))
    assert record == example.SerializeToString(deterministic=True)


def test_features_of_a_file_come_in_the_order_of_its_records(tmp_path: Path) -> None:
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    records = [tfrecords.encode(f"id{n}", row, {}, tfrecords.FEATURES) for n, row in enumerate(features)]
    tfrecords.write(tmp_path / "pool_00000.tfrecord", records)
    assert tfrecords.read_contents(tmp_path / "pool_00000.tfrecord", tfrecords.FEATURES).tolist() == features.tolist()
    assert tfrecords.read_ids(tmp_path / "pool_00000.tfrecord") == ["id0", "id1", "id2"]


def test_files_are_those_of_tensorflow(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    records = list(tfrecords.read(path))
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == records
    with tf.io.TFRecordWriter(str(tmp_path / "theirs.tfrecord")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "theirs.tfrecord").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("cut", [5, 13, 40, -2])
def test_a_shard_that_is_cut_off_or_has_a_wrong_length_is_an_error(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FolderError, match=r"train_00000\.tfrecord is damaged"):
        list(tfrecords.read(path))
    path.write_bytes(b"\xff" * 64)  # a length beyond any memory
    with pytest.raises(FolderError, match="is damaged"):
        list(tfrecords.read(path))


def test_a_shard_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, 2)
    assert tfrecords.read_ids(path) == ["id0", "id1"]
    write(tmp_path, 3)
    assert tfrecords.read_ids(path) == ["id0", "id1", "id2"]
    path.unlink()
    with pytest.raises(FolderError, match=r"tfrecord cannot be read: No such file"):
        tfrecords.read_ids(path)


def test_a_damaged_shard_is_an_error_naming_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(FolderError, match=r"train_00000\.tfrecord is damaged"):
        list(tfrecords.read(path))


@pytest.mark.parametrize("length", [2**20, 2**40, 2**62, 2**63 + 5, 2**64 - 1])
def test_a_length_beyond_the_file_is_refused_before_memory_is_asked_for(length: int, tmp_path: Path) -> None:
    """TensorFlow itself ends the process for some of these."""
    path = write(tmp_path, 2)
    header = struct.pack("<Q", length)
    content = path.read_bytes()
    path.write_bytes(content + header + tfrecords._checksum(header) + b"x" * 100)
    for read in (
        tfrecords.read_ids,
        lambda p: datasets.batches(p, 2),
        lambda p: datasets.dataset([p], 2, SMOOTH, config(), 2),
    ):
        with pytest.raises(FolderError, match=rf"a record of {length} bytes is longer than what is left"):
            read(path)


def test_a_record_that_is_no_galaxy_is_refused() -> None:
    for record in (b"", b"\x0a", b"\x0a\x05abc", b"\xff" * 30, tfrecords._field(1, tfrecords._field(1, b"x"))):
        with pytest.raises(FolderError, match="not a galaxy"):
            tfrecords.decode(record, "raw")
