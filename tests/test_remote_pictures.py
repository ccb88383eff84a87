"""Pictures in an object store: the same shards as from a disk; a fault of the store is no missing picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from tests.aws import World
from tests.test_shards import SMALL, galaxies, prepare
from zoobot import folders
from zoobot.errors import InputError, ServiceError, SettingsError
from zoobot.folders import disk
from zoobot.galaxies import remote_pictures
from zoobot.galaxies.remote_pictures import RemotePictures
from zoobot.settings import Settings
from zoobot.stages import catalogs, check, master_catalog, shards

Custom = Callable[..., Settings]
NAMES = [
    "a b.png",
    "plus+sign.png",
    "per%20cent.png",
    "hash#tag.png",
    "q?x=1.png",
    "ümlaut.png",
    "deep/er/c.png",
    "d.png",
]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """No connection outlives its server."""
    remote_pictures.opened.cache_clear()
    yield
    remote_pictures.opened.cache_clear()


@pytest.fixture
def bucket(world: World) -> Callable[[str, bytes], None]:
    """``bucket(key, content)`` stores an object in the bucket sky."""
    s3 = world.client("s3")
    s3.create_bucket(Bucket="sky")
    return lambda key, content: s3.put_object(Bucket="sky", Key=key, Body=content)


def upload(s: Settings, bucket: Callable[[str, bytes], None], but: tuple[str, ...] = ()) -> None:
    """Store the pictures of the survey's folder below sky/png, and take them away from the disk."""
    table = pd.read_csv(s.source_dir / s.survey.catalog, dtype="string")
    for location in table["file_loc"]:
        path = s.image_path(str(location))
        if location not in but:
            bucket(f"png/{location}", path.read_bytes())
        path.unlink()


def digests(s: Settings) -> dict[str, str]:
    files = folders.read_manifest(s.shard_dir).files
    return {name: listed.sha256 for name, listed in files.items() if name.endswith((".tfrecord", ".json"))}


# --------------------------------------------------------------- the same as from a disk


@pytest.mark.parametrize("workers", [1, 2])
def test_shards_from_a_bucket_are_those_from_a_disk(
    custom_survey: Custom, bucket: Callable[[str, bytes], None], workers: int
) -> None:
    table = galaxies(20)
    table.loc[: len(NAMES) - 1, "file_loc"] = NAMES
    local = prepare_in_folders(custom_survey, table)
    shards.run(local)
    expected = digests(local)
    upload(local, bucket)
    disk.remove(local.shard_dir)
    remote = custom_survey(table, *SMALL, "survey.pictures=s3://sky/png", f"workers={workers}")
    assert master_catalog.run(remote) and catalogs.run(remote), "they exist, and are the same"
    shards.run(remote)
    assert digests(remote) == expected


def prepare_in_folders(custom_survey: Custom, table: pd.DataFrame) -> Settings:
    s = custom_survey(table, *SMALL)
    for location in table["file_loc"]:
        s.image_path(location).parent.mkdir(parents=True, exist_ok=True)
    return prepare(custom_survey, table)


def test_check_reads_pictures_from_a_bucket(
    custom_survey: Custom, bucket: Callable[[str, bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    s = prepare(custom_survey, galaxies(60))
    upload(s, bucket)
    check.run(custom_survey(galaxies(60), "stage=check", "survey.pictures=s3://sky/png"))
    printed = capsys.readouterr().out
    assert "survey.pictures=" in printed and "s3://sky/png" in printed and "Next:" in printed


# --------------------------------------------------------------- missing pictures


def test_a_missing_key_is_a_missing_picture(
    custom_survey: Custom, bucket: Callable[[str, bytes], None], caplog: pytest.LogCaptureFixture
) -> None:
    table = galaxies(20)
    upload(prepare(custom_survey, table), bucket, but=tuple(table["file_loc"][:1]))
    place = ("survey.pictures=s3://sky/png", "survey.name=other")
    s = custom_survey(table, *SMALL, *place, "max_dropped_fraction=0.1", "workers=1")
    master_catalog.run(s)
    assert "1 of 20 images are missing from s3://sky/png, for example 0000" in caplog.text
    catalogs.run(s)
    shards.run(s)
    assert f"dropped {table['id_str'][0]}: no such file" in caplog.text
    strict = custom_survey(table, *SMALL, *place, "shards.name=strict")
    with pytest.raises(InputError, match=r"1 of 20 images are missing from s3://sky/png, .*without survey"):
        shards.run(strict)


def test_folders_are_listed_once_and_no_picture_is_asked_for_alone(
    world: World, bucket: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(30):
        bucket(f"png/{n % 3}/{n}.png", b"x" * n)
    store = RemotePictures("s3://sky/png")
    spied = Spied(store._files.get_file_info)
    monkeypatch.setattr(store, "_files", spied)
    found = store.sizes(pd.Series([f"{n % 3}/{n}.png" for n in range(32)] + ["./1/1.png", "/2/2.png", "none/0.png"]))
    assert found.tolist() == [*range(30), -1, -1, 1, 2, -1]
    assert sorted(spied.listed) == ["sky/png/0", "sky/png/1", "sky/png/2", "sky/png/none"]


class Spied:
    """A file system that can only list, and notes what."""

    def __init__(self, real: Callable[[Any], object]) -> None:
        self._real, self.listed = real, list[str]()

    def get_file_info(self, selector: Any) -> object:
        self.listed.append(selector.base_dir)
        return self._real(selector)


def test_nothing_outside_of_the_prefix_is_read(world: World, bucket: Callable[[str, bytes], None]) -> None:
    bucket("secret.png", b"x")
    store = RemotePictures("s3://sky/png")
    for location in ("../secret.png", "a/../../secret.png", "..", "."):
        with pytest.raises(InputError, match=r"leads out of s3://sky/png"):
            store.sizes(pd.Series([location]))
        assert store.sizes(pd.Series([location]), may_lead_out=True).tolist() == [-1]
        assert "leads out of" in str(next(store.read([location], 1000)))


def test_a_file_that_is_too_large_is_not_fetched(world: World, bucket: Callable[[str, bytes], None]) -> None:
    bucket("png/a.png", b"x" * 1601)
    assert "survey.max_pixels=100" in str(next(RemotePictures("s3://sky/png").read(["a.png"], 100)))


# --------------------------------------------------------------- faults of the store


class Refusing:
    """A file system that answers every request with an error of AWS, as pyarrow words it."""

    def __init__(self, error: OSError) -> None:
        self._error = error

    def open_input_file(self, path: str) -> object:
        raise self._error

    get_file_info = open_input_file


@pytest.mark.parametrize(
    "said", ["AWS Error ACCESS_DENIED during HeadObject operation: No response body.",
             "AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: ExpiredToken",
             "AWS Error UNKNOWN (HTTP status 301) during ListObjectsV2 operation: PermanentRedirect"],
)  # fmt: skip
def test_what_the_store_refuses_is_no_missing_picture(world: World, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RemotePictures("s3://sky/png")
    monkeypatch.setattr(store, "_files", Refusing(OSError(f"When reading information for key 'png/a.png': {said}")))
    for ask in (lambda: store.sizes(pd.Series(["a.png"])), lambda: list(store.read(["a.png"], 1000))):
        with pytest.raises(ServiceError) as caught:
            ask()
        assert said.rstrip(".") in str(caught.value) and "AWS_PROFILE" in str(caught.value)
        assert "testing" not in str(caught.value), "no credentials"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_store_that_goes_away_ends_the_stage_and_the_same_command_goes_on(
    custom_survey: Custom,
    bucket: Callable[[str, bytes], None],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    table = galaxies(20)
    upload(prepare(custom_survey, table), bucket)
    s = custom_survey(table, *SMALL, "survey.pictures=s3://sky/png", f"workers={workers}")
    monkeypatch.setattr(shards, "_check_images_exist", lambda *_: None)
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(ServiceError, match=r"tfrecord.*cannot be read.*That is no missing picture") as caught:
            shards.run(s)
    assert caught.value.exit_status == 1 and not s.shard_dir.exists()
    remote_pictures.opened.cache_clear()
    shards.run(s)
    assert folders.verify(s.shard_dir) == []


def test_a_bucket_that_does_not_exist(world: World) -> None:
    with pytest.raises(ServiceError, match="NO_SUCH_BUCKET"):
        RemotePictures("s3://nosuch/png").sizes(pd.Series(["a.png"]))


@pytest.mark.parametrize(
    ("url", "message"),
    [("png", "give an address such as s3://bucket/prefix"),
     ("s3://AKIAX:hush@sky/png", "the address holds credentials"),
     ("s3://sky/png?secret_key=hush", "the address holds credentials")],
)  # fmt: skip
def test_addresses_that_are_refused(custom_survey: Custom, url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        custom_survey(galaxies(3), *SMALL, f"survey.pictures='{url}'")
    assert "hush" not in str(caught.value)


def test_an_address_that_nothing_opens() -> None:
    with pytest.raises(SettingsError, match=r"survey\.pictures=nope://sky/png"):
        RemotePictures("nope://sky/png")


def test_any_file_system_of_pyarrow(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (9, 9)).save(content, "PNG")
    (tmp_path / "a.png").write_bytes(content.getvalue())
    store = RemotePictures(tmp_path.as_uri())
    assert store.sizes(pd.Series(["a.png", "b.png"])).tolist() == [len(content.getvalue()), -1]
    assert list(store.read(["b.png", "a.png"], 1000)) == ["no such file", content.getvalue()]
