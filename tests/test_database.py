"""The index: ids stay text, every galaxy lies in one place, labels are added once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from zoobot.errors import FolderError
from zoobot.galaxies import database

ODD_IDS = ["587739132962406756", "0012", "1e5", "J0945+00", "dr7objid_1"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "shards.db"
    database.create(path)
    rows = [
        (id_str, f"{id_str}.png", "pool", f"pool/pool_{n // 2:05d}.tfrecord", n % 2) for n, id_str in enumerate(ODD_IDS)
    ]
    with database.connect(path) as connection:
        database.add_galaxies(connection, rows)
    return path


def test_ids_stay_text(index: Path) -> None:
    with database.connect(index) as connection:
        assert database.ids_in_split(connection, "pool") == set(ODD_IDS)
        kinds = {kind for (kind,) in connection.execute("SELECT typeof(id_str) FROM shard_index")}
    assert kinds == {"text"}


def test_shards_of_tells_where_galaxies_lie(index: Path) -> None:
    with database.connect(index) as connection:
        places = database.shards_of(connection, ["1e5", "0012", "J0945+00"])
        assert database.shards_of(connection, []) == {}
    assert places == {
        "pool/pool_00000.tfrecord": {1: "0012"},
        "pool/pool_00001.tfrecord": {0: "1e5", 1: "J0945+00"},
    }


def test_a_label_is_added_once(index: Path) -> None:
    with database.connect(index) as connection:
        database.add_labels(connection, {"0012": {"label": 3, "total_votes": 4, "bar_yes": 3}}, 0)
        assert database.labelled_ids(connection, "pool") == {"0012"}
    with pytest.raises(sqlite3.IntegrityError), database.connect(index) as connection:
        database.add_labels(connection, {"1e5": {"label": 1}, "0012": {"label": 3}}, 1)
    with database.connect(index) as connection:  # all or nothing
        assert database.labelled_ids(connection, "pool") == {"0012"}


def test_a_galaxy_that_is_not_there_cannot_be_labelled(index: Path) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.connect(index) as connection:
        database.add_labels(connection, {"stranger": {"label": 1}}, 0)


def test_a_galaxy_is_in_one_shard(index: Path) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.connect(index) as connection:
        database.add_galaxies(connection, [("0012", "x.png", "train", "train/train_00000.tfrecord", 0)])


def test_a_missing_index_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="missing"), database.connect(tmp_path / "none.db"):
        pass
    assert not (tmp_path / "none.db").exists()
