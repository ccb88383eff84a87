"""Galaxies through TFRecords and back, eagerly and inside tf.data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from zoobot.errors import FolderError
from zoobot.galaxies import tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import Task

SMOOTH = Task("smooth", load_questions("demo").subset(["smooth-or-featured"]), ("smooth-or-featured_smooth",), ())
TREE = Task("tree", load_questions("demo"), (), ())


def config(encoding: str = "raw", channels: int = 3) -> dict[str, Any]:
    return {"image_size_px": 6, "channels": channels, "encoding": encoding}


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
    batches = list(tfrecords.dataset(paths, 9, SMOOTH, config(encoding), 4))
    images = np.concatenate([batch[0].numpy() for batch in batches])
    counts = np.concatenate([batch[1].numpy() for batch in batches])
    assert images.tolist() == [pixels(i).tolist() for i in range(9)]
    assert counts.tolist() == [[i, i] for i in range(9)]  # label, total - label
    decoded = [
        tfrecords.decode_images(batch, config(encoding)) for path in paths for batch in tfrecords.batches(path, 4)
    ]
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
    ((_, counts),) = list(tfrecords.dataset([tmp_path / "a.tfrecord"], 1, TREE, config(), 4))
    assert counts.numpy().tolist() == [list(range(len(TREE.answers)))]
    assert TREE.counts({name: [value] for name, value in votes.items()}).tolist() == counts.numpy().tolist()


def test_shuffling_is_seeded_complete_and_new_in_each_epoch(tmp_path: Path) -> None:
    paths = [write(tmp_path, 20, first=20 * n) for n in range(3)]

    def labels(seed: int) -> list[list[float]]:
        data = tfrecords.dataset(paths, 60, SMOOTH, config(), 16, shuffle_seed=seed)
        return [[float(label) for _, counts in data for label in counts[:, 0]] for _ in range(2)]

    first, second = labels(1)
    assert sorted(first) == sorted(second) == list(range(60)) and first != second
    assert labels(1) == [first, second]
    assert labels(2)[0] != first


def test_passes_repeat_a_small_set(tmp_path: Path) -> None:
    data = tfrecords.dataset([write(tmp_path, 3)], 3, SMOOTH, config(), 2, shuffle_seed=0, passes=4)
    assert data.cardinality() == 6
    assert sorted(float(x) for _, counts in data for x in counts[:, 0]) == sorted([0.0, 1.0, 2.0] * 4)


def test_another_number_of_galaxies_than_stated_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    with pytest.raises(tf.errors.FailedPreconditionError):
        list(tfrecords.dataset([path], 9, SMOOTH, config(), 4))


def test_ids_and_votes_of_many_shards_keep_no_pictures_in_memory(tmp_path: Path) -> None:
    large = np.zeros((200, 200, 3), np.uint8)
    paths = [tmp_path / f"{number}.tfrecord" for number in range(32)]
    for path in paths:
        tfrecords.write(path, [tfrecords.encode(f"{path.stem}_{i}", large, {"label": i}, "raw") for i in range(40)])
    tfrecords.read_ids(paths[0])
    before = resident_bytes()
    for path in paths[1:]:
        assert tfrecords.read_ids(path) == [f"{path.stem}_{i}" for i in range(40)]
        assert tfrecords.read_votes(path, ["label"])["label"].tolist() == list(range(40))
    assert resident_bytes() - before < 0.5 * 31 * 40 * large.nbytes


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    with pytest.raises(FolderError, match=r"train_00000\.tfrecord cannot be read"):
        list(tfrecords.read(path))
