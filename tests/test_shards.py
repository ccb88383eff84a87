"""Shards: each galaxy in exactly one, nothing lost silently, and bad pictures found before the work is done."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoobot import folders
from zoobot.errors import FolderError, InputError, SettingsError
from zoobot.galaxies import database, shard_writer, tfrecords
from zoobot.settings import Settings
from zoobot.stages import catalogs, master_catalog, shards, simulate

ROOT_FOLDER = Path(__file__).resolve().parents[1]
SHARED = ROOT_FOLDER.parent / "shared"
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")
Custom = Callable[..., Settings]
ROOT = ("smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk", "smooth-or-featured_artifact")
SMALL = (
    "stage=shards", "catalogs.mock_labelled=12", "shards.eval_size=4", "shards.test_size=3", "shards.shard_size=4",
    "shards.image_size_px=16", "model.final_size_px=16",
)  # fmt: skip
SIZES = {"train": 5, "eval": 4, "test": 3}


def galaxies(n: int, **columns: list[Any]) -> pd.DataFrame:
    """``n`` retired galaxies with ids of 18 digits, the first with zeros in front."""
    ids = ["0" * 15 + "123", *(str(587739505552785605 + k) for k in range(1, n))]
    votes = {ROOT[0]: range(n), ROOT[1]: 40, ROOT[2]: 1}
    return pd.DataFrame({"id_str": ids, "file_loc": [f"{i}.png" for i in ids], **votes, **columns})


def colour_of(row: int) -> tuple[int, int, int]:
    return (5 * row + 1, 255 - 5 * row, 7)


def prepare(custom_survey: Custom, table: pd.DataFrame, *overrides: str) -> Settings:
    """A survey with pictures of one colour each, but for their edge, which is cut off; and its catalogs."""
    s = custom_survey(table, *SMALL, *overrides)
    for row, location in enumerate(table["file_loc"]):
        picture = Image.new("RGB", (20, 24), colour_of(row))
        picture.paste((0, 0, 0), (0, 0, 20, 2))
        picture.save(s.image_path(location))
    master_catalog.run(s)
    catalogs.run(s)
    return s


def read_all(folder: Path) -> dict[str, dict[str, tuple[np.ndarray[Any, Any], dict[str, int]]]]:
    """``{split: {id_str: (pixels, votes)}}``, and a check that every shard has galaxies and none appears twice."""
    config = tfrecords.load_config(folder)
    found: dict[str, dict[str, tuple[np.ndarray[Any, Any], dict[str, int]]]] = {}
    for split, files in config.splits.items():
        assert files == sorted(set(files)) and all(
            re.fullmatch(rf"{split}/{split}_\d{{5}}\.tfrecord", f) for f in files
        )
        records = [[tfrecords.decode(r, config.encoding) for r in tfrecords.read(folder / f)] for f in files]
        sizes = [len(shard) for shard in records]
        assert min(sizes) > 0 and max(sizes) <= config.shard_size
        assert config.dropped or set(sizes[:-1]) <= {config.shard_size}
        found[split] = {i: (pixels, votes) for shard in records for i, pixels, votes in shard}
        assert len(found[split]) == sum(sizes) == config.galaxies[split]
    ids = [i for split in found.values() for i in split]
    assert len(ids) == len(set(ids))
    return found


# --------------------------------------------------------------- what is in them


@pytest.mark.parametrize("n", [20, 23])  # the pool: two full shards, or two and a part
def test_every_galaxy_is_in_exactly_one_shard(n: int, custom_survey: Custom) -> None:
    table = galaxies(n)
    s = prepare(custom_survey, table)
    folder = shards.run(s)
    assert folders.verify(folder) == []
    found = read_all(folder)
    assert {split: len(of) for split, of in found.items()} == SIZES | {"pool": n - 12}
    assert {i for of in found.values() for i in of} == set(table["id_str"])
    mock = pd.read_csv(s.catalog_dir / "mock_labelled.csv", dtype={"id_str": "string"})["id_str"]
    assert [*found["eval"], *found["test"], *found["train"]] == mock.tolist()
    rows = {i: k for k, i in enumerate(table["id_str"])}
    for split, of in found.items():
        for id_str, (pixels, votes) in of.items():
            row = rows[id_str]
            assert pixels.shape == (16, 16, 3) and (pixels == colour_of(row)).all()
            expected = {"label": row, "total_votes": row + 41, ROOT[0]: row, ROOT[1]: 40, ROOT[2]: 1}
            assert votes == ({} if split == "pool" else expected | {"smooth-or-featured_total-votes": row + 41})


def test_database_shards_and_catalogs_agree(custom_survey: Custom) -> None:
    s = prepare(custom_survey, galaxies(20))
    folder = shards.run(s)
    found = read_all(folder)
    with database.connect(folder / "shards.db") as connection:
        for split, of in found.items():
            assert database.ids_in_split(connection, split) == set(of)
            for shard, positions in database.shards_of(connection, list(of)).items():
                assert list(positions.values()) == tfrecords.read_ids(folder / shard)
                assert list(positions) == list(range(len(positions)))
        labels = connection.execute("SELECT id_str, label, total_votes, votes, iteration FROM labels").fetchall()
    stored = {i: votes for split in SIZES for i, (_, votes) in found[split].items()}
    assert {i: json.loads(votes) for i, _, _, votes, _ in labels} == stored
    assert all((k, n, at) == (stored[i]["label"], stored[i]["total_votes"], -1) for i, k, n, _, at in labels)


def test_the_config_says_what_the_contract_does(custom_survey: Custom) -> None:
    folder = shards.run(prepare(custom_survey, galaxies(20), "catalogs.seed=7"))
    content = folders.read_json(folder / "shard_config.json")
    lists = {key: content.pop(key) for key in ("splits", "galaxies", "dropped")}
    assert content == {
        "version": 1, "survey": "mine", "task": "smooth", "image_size_px": 16, "channels": 3, "encoding": "raw",
        "shard_size": 4, "seed": 7, "database": "shards.db",
    }  # fmt: skip
    assert lists["dropped"] == [] and lists["galaxies"] == SIZES | {"pool": 8}
    assert {p.name for p in folder.iterdir()} == {
        "shard_config.json", "shards.db", "train", "eval", "test", "pool", "manifest.json",
    }  # fmt: skip


@pytest.mark.parametrize("encoding, channels, error", [("png", 3, 0), ("jpeg", 3, 3), ("raw", 1, 0), ("png", 1, 0)])
def test_encodings(encoding: str, channels: int, error: int, custom_survey: Custom) -> None:
    table = galaxies(14)
    folder = shards.run(prepare(custom_survey, table, f"shards.encoding={encoding}", f"shards.channels={channels}"))
    rows = {i: k for k, i in enumerate(table["id_str"])}
    for of in read_all(folder).values():
        for id_str, (pixels, _) in of.items():
            expected = np.array(colour_of(rows[id_str]))
            expected = np.rint([expected.mean()]) if channels == 1 else expected
            assert pixels.shape == (16, 16, channels) and np.abs(pixels.astype(int) - expected).max() <= error


def test_the_real_source_has_all_the_labelled(custom_survey: Custom) -> None:
    table = galaxies(20)
    table.loc[15:, ROOT[1]] = 3  # not retired
    found = read_all(shards.run(prepare(custom_survey, table, "shards.source=real")))
    assert {split: len(of) for split, of in found.items()} == {"train": 8, "eval": 4, "test": 3, "pool": 5}
    assert set(found["pool"]) == set(table["id_str"][15:])
    assert all(votes == {} for _, votes in found["pool"].values())


def test_a_column_named_label_is_no_vote_of_a_tree(custom_survey: Custom) -> None:
    tree = ("task.name=tree", "task.label=[]")
    found = read_all(shards.run(prepare(custom_survey, galaxies(14, label=["spiral"] * 14), *tree)))
    assert all(set(votes) == {*ROOT, "smooth-or-featured_total-votes"} for _, votes in found["train"].values())


# --------------------------------------------------------------- moved, made again


def test_a_moved_folder_still_works(custom_survey: Custom, tmp_path: Path) -> None:
    s = prepare(custom_survey, galaxies(14))
    found = read_all(shards.run(s))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(s.survey_dir, tmp_path / "elsewhere" / "mine")
    moved = replace(s, data_dir=str(tmp_path / "elsewhere"))
    assert list(read_all(moved.shard_dir)["pool"]) == list(found["pool"])
    assert folders.verify(moved.shard_dir) == []
    assert shards.run(moved) == moved.shard_dir, "it is known to be done"
    texts = [(moved.shard_dir / name).read_text() for name in ("shard_config.json", "manifest.json")]
    assert not any(str(tmp_path) in text for text in texts)


def test_again_does_nothing_and_changes_are_refused(custom_survey: Custom, caplog: pytest.LogCaptureFixture) -> None:
    table = galaxies(14)
    s = prepare(custom_survey, table)
    digest = folders.digest_of(shards.run(s))
    caplog.set_level("INFO")
    assert folders.digest_of(shards.run(s)) == digest and "nothing to do" in caplog.text
    with pytest.raises(FolderError, match=r"shards\.encoding: 'raw' there, 'png' now"):
        shards.run(custom_survey(table, *SMALL, "shards.encoding=png"))
    other = custom_survey(table, *SMALL, "shards.name=again")
    shards.run(other)
    for name in ("train/train_00000.tfrecord", "pool/pool_00000.tfrecord"):
        assert (other.shard_dir / name).read_bytes() == (s.shard_dir / name).read_bytes()


def test_without_catalogs(custom_survey: Custom) -> None:
    with pytest.raises(FolderError, match=r"is missing\. Make it first: python run.py stage=catalogs"):
        shards.run(custom_survey(galaxies(14), *SMALL))


def test_a_version_it_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "shard_config.json").write_text('{"version": 2}')
    with pytest.raises(FolderError, match="this program reads 1"):
        tfrecords.load_config(tmp_path)


# --------------------------------------------------------------- workers


def digest_with(s: Settings, workers: int) -> str:
    """The digest of the shards, made anew."""
    s = replace(s, workers=workers)
    if s.shard_dir.exists():
        s.shard_dir.rename(s.shard_dir.with_name(f"before_{len(list(s.shard_dir.parent.iterdir()))}"))
    return folders.digest_of(shards.run(s))


def killed_at_first(work: shard_writer.Work) -> shard_writer.Part:
    """Write a shard; but the first process that comes to the pool's second one is killed half way."""
    mark = Path(work.settings.data_dir) / "killed"
    if work.file.endswith("pool_00001.tfrecord") and not mark.exists():
        mark.touch()
        (work.folder / work.file).parent.mkdir(exist_ok=True)
        (work.folder / work.file).with_name(".pool_00001.tfrecord.1").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return shard_writer.write(work)


def test_any_number_of_workers_gives_the_same_bytes(
    custom_survey: Custom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    s = prepare(custom_survey, galaxies(40), "max_dropped_fraction=0.1")
    s.image_path(galaxies(40)["file_loc"][5]).write_bytes(b"no picture")
    digest = digest_with(s, 1)
    assert [digest_with(s, workers) for workers in (2, 3)] == [digest] * 2
    monkeypatch.setattr(shard_writer, "write", killed_at_first)
    assert digest_with(s, 2) == digest and "was killed (SIGKILL): it is done again" in caplog.text
    assert not list(s.shard_dir.rglob(".*"))


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(custom_survey: Custom, tmp_path: Path) -> None:
    """All of it is killed, workers too, at a moment of chance; finished shards are not written again."""
    s = prepare(custom_survey, galaxies(60))
    digest = digest_with(s, 1)
    s.shard_dir.rename(s.shard_dir.with_name("whole"))
    (tmp_path / "settings").write_bytes(pickle.dumps(replace(s, workers=2)))
    code = "import pickle, sys; from pathlib import Path; from zoobot.stages import shards;"
    code += "shards.run(pickle.loads(Path(sys.argv[1]).read_bytes()))"
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "settings")], cwd=ROOT_FOLDER)
    kept = folders.unfinished(s.shard_dir)
    while parent.poll() is None and len(list(kept.glob("[!.]*_*.json"))) < 2:
        time.sleep(0.005)
    parent.kill()
    parent.wait()
    before = {path.name: path.stat().st_mtime_ns for path in kept.glob("[!.]*_*.json")}
    stamps, config = dict[str, int](), shards._config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_config", lambda *a: stamps.update(
            {path.name: path.stat().st_mtime_ns for path in kept.glob("[!.]*_*.json")}) or config(*a))  # fmt: skip
        assert digest_with(s, 2) == digest
    assert before and before.items() <= stamps.items() and len(stamps) > len(before)


# --------------------------------------------------------------- bad pictures, bad catalogs


def test_bad_pictures_are_dropped_with_a_reason(custom_survey: Custom, caplog: pytest.LogCaptureFixture) -> None:
    table = galaxies(20)
    s = prepare(custom_survey, table, "max_dropped_fraction=0.1")
    s.image_path(table["file_loc"][0]).write_bytes(b"no picture")
    s.image_path(table["file_loc"][7]).unlink()
    folder = shards.run(s)
    dropped = {d.id_str: d.reason for d in tfrecords.load_config(folder).dropped}
    assert (
        dropped[table["id_str"][0]].startswith("not a readable picture")
        and dropped[table["id_str"][7]] == "no such file"
    )
    assert len(dropped) == 2 and {i for of in read_all(folder).values() for i in of} == set(table["id_str"]) - set(
        dropped
    )
    assert all(f"dropped {i}: {reason}" in caplog.text for i, reason in dropped.items())


def test_what_was_changed_in_pictures_is_said_once(custom_survey: Custom, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    table = galaxies(20)
    s = prepare(custom_survey, table, "max_dropped_fraction=0.1")
    for location in table["file_loc"][3:6]:
        Image.effect_noise((20, 24), 60).convert("LA").save(s.image_path(location))
        with Image.open(s.image_path(location)) as picture:
            picture.putalpha(100)
            picture.save(s.image_path(location))
    Image.new("RGB", (20, 24), "grey").save(s.image_path(table["file_loc"][9]))
    folder = shards.run(s)
    assert caplog.text.count("3 pictures: transparent parts are shown black") == 1
    (dropped,) = tfrecords.load_config(folder).dropped
    assert dropped.id_str == table["id_str"][9] and dropped.reason.startswith("the picture is blank")


def test_a_dropped_galaxy_moves_no_other(custom_survey: Custom) -> None:
    """Shard n has the catalog's rows n x shard_size and on; one of which nothing is left does not exist."""
    s = prepare(custom_survey, galaxies(26), "max_dropped_fraction=0.3")
    pool = [*shards.split_galaxies(s)["pool"].itertuples()]
    for row in (pool[1], *pool[4:8]):
        s.image_path(row.file_loc).write_bytes(b"no picture")
    config = tfrecords.load_config(shards.run(s))
    stored = {Path(f).stem[-1]: tfrecords.read_ids(s.shard_dir / f) for f in config.splits["pool"]}
    ids = [row.id_str for row in pool]
    assert stored == {"0": [ids[0], *ids[2:4]], "2": ids[8:12], "3": ids[12:]}
    assert config.galaxies["pool"] == 9 and [d.id_str for d in config.dropped] == [ids[1], *ids[4:8]]
    with database.connect(s.shard_dir / config.database) as connection:
        counts = database.counts_by_shard(connection, "pool")
    assert list(counts.values()) == [3, 4, 2]
    names = list(counts)
    assert [tfrecords.first_shards(counts, n) for n in (0, 3, 4, 7, 8, 99)] == [
        names, names[:1], names[:2], names[:2], names, names
    ]  # fmt: skip


@pytest.mark.parametrize("other", ["survey.bands=[r]", "survey.zero_point=27", "survey.stretch=noise"])
def test_shards_depend_on_how_fits_is_shown(custom_survey: Custom, other: str) -> None:
    table = galaxies(14)
    shards.run(prepare(custom_survey, table))
    with pytest.raises(FolderError, match=rf"{other.partition('=')[0]}: .* there, .* now"):
        shards.run(custom_survey(table, *SMALL, other))


def test_too_many_bad_pictures_stop_the_work_at_once(custom_survey: Custom) -> None:
    table = galaxies(40)
    s = prepare(custom_survey, table)
    for location in table["file_loc"]:
        s.image_path(location).write_bytes(b"no picture")
    with pytest.raises(
        InputError, match=r"\d of 40 images cannot be used so far.*max_dropped_fraction=0\.01"
    ) as caught:
        shards.run(s)
    assert "not a readable picture" in str(caught.value) and "or raise max_dropped_fraction" in str(caught.value)
    assert not s.shard_dir.exists()


def test_missing_pictures_are_one_message_before_the_work(custom_survey: Custom) -> None:
    table = galaxies(20)
    s = prepare(custom_survey, table)
    for location in table["file_loc"][:3]:
        s.image_path(location).unlink()
    with pytest.raises(
        InputError, match=rf"3 of 20 images are missing from {s.source_dir}, for example .*survey\.folder"
    ):
        shards.run(s)


def test_a_split_without_a_readable_picture(custom_survey: Custom) -> None:
    s = prepare(custom_survey, galaxies(20), "max_dropped_fraction=1")
    test = shards.split_galaxies(s)["test"]
    for location in test["file_loc"]:
        s.image_path(location).write_bytes(b"")
    with pytest.raises(InputError, match="No galaxy of split test has a readable picture; for example: not a readable"):
        shards.run(s)


@pytest.mark.parametrize("target", ["mock_labelled.csv", "mock_unlabelled.csv"])
def test_duplicate_ids_are_refused_before_the_work(target: str, custom_survey: Custom) -> None:
    s = prepare(custom_survey, galaxies(20))
    path = s.catalog_dir / target
    first, second = path.read_text().splitlines()[1].split(",")[0], path.read_text().splitlines()[2].split(",")[0]
    path.chmod(0o644)
    path.write_text(path.read_text().replace(second, first))  # of the same size: only the digests differ
    with pytest.raises(InputError, match=f"{first} .* more than once") as caught:
        shards.run(s)
    assert str(s.catalog_dir) in str(caught.value)
    assert not list(s.shard_dir.parent.glob(f".{s.shard_dir.name}.staging")), "the work had begun"


def test_nothing_left_to_train_on_or_to_choose_from(custom_survey: Custom) -> None:
    s = prepare(custom_survey, galaxies(12), "catalogs.mock_labelled=30", "shards.source=real")
    with pytest.raises(InputError, match=r"unlabelled\.csv has no galaxies, so no pool"):
        shards.run(s)
    few = prepare(custom_survey, galaxies(14), "survey.name=few")
    with pytest.raises(InputError, match=r"has 12 galaxies: none are left to train on after shards\.eval_size=9"):
        shards.run(replace(few, shards=replace(few.shards, eval_size=9)))


def test_a_simulation_checks_its_task_before_any_work(settings: Custom) -> None:
    s = settings("stage=simulate", "task=gz2_tree", "survey.n_galaxies=3")
    with pytest.raises(SettingsError, match="Task gz2_tree does not fit the survey"):
        simulate.run(s)
    assert not s.survey_dir.exists()


# --------------------------------------------------------------- real data


@needs_real_data
def test_real_stripe_82_has_no_pictures_here(settings: Custom) -> None:
    place = ("survey.catalog=gz2_stripe82_votes_19761.csv.gz", f"survey.folder={SHARED}/catalogs")
    s = settings("stage=shards", "survey=gz2", *place, "survey.samples=[stripe82_c]", "survey.retirement_votes=20")
    master_catalog.run(s)
    catalogs.run(s)
    with pytest.raises(InputError) as caught:
        shards.run(s)
    n = sum(len(table) for table in shards.split_galaxies(s).values())
    assert f"{n} of {n} images are missing from {SHARED}/catalogs, for example gz2/png/" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and not s.shard_dir.exists()


@needs_real_data
def test_real_decals_pictures(custom_survey: Custom, tmp_path: Path) -> None:
    """20 PNG cut-outs and 3 FITS ones, of which two are damaged."""
    votes = pd.read_csv(SHARED / "realdata/decals/votes.csv").rename(
        columns={"iauname": "id_str", "png_loc": "file_loc"}
    )
    names = ["example_a", "example_bad_pix", "example_incomplete"]
    cut_outs = pd.DataFrame({"id_str": names, "file_loc": [f"fits_native/{name}.fits" for name in names]})
    table = pd.concat([votes, cut_outs])
    few = ("shards.eval_size=2", "shards.test_size=2", "max_dropped_fraction=0.1", "shards.source=real")
    s = custom_survey(table, *SMALL, *few)
    s = replace(s, survey=replace(s.survey, folder=str(SHARED / "realdata/decals")))
    (s.survey_dir).mkdir(parents=True)
    table.to_csv(tmp_path / "catalog.csv", index=False)
    s = replace(s, survey=replace(s.survey, catalog=str(tmp_path / "catalog.csv")))
    master_catalog.run(s)
    catalogs.run(s)
    folder = shards.run(s)
    assert {d.id_str for d in tfrecords.load_config(folder).dropped} == set(names[1:])
    found = read_all(folder)
    assert list(found["pool"]) == ["example_a"] and len(found["train"]) == 16
    assert all(pixels.std() > 3 for of in found.values() for pixels, _ in of.values())
