"""The first day as one command: what is sent to S3, what the machine does, and any way to be cut off."""

from __future__ import annotations

import dataclasses
import itertools
import os
from functools import partial
from pathlib import Path

import pytest

from launch.config import Config
from launch.errors import LaunchError
from launch.prepare import choose, prepare, upload
from launch.setup import setup
from tests.aws import World
from tests.launching import ALL, READS, Killed, calls, cloud_of, command, points
from tests.test_launch_job import over, refuse_at

BUCKET = "zoobot-staging"


@pytest.fixture
def config(world: World, ec2: Config, tmp_path: Path) -> Config:
    """An account in which `setup` was run, a bucket, and a folder with a table and two pictures."""
    folder = tmp_path / "mine" / "decals"
    (folder / "J000").mkdir(parents=True)
    (folder / "joint_catalog.csv").write_text("iauname\nJ000\n")
    for name in ("a", "b"):
        (folder / "J000" / f"{name}.png").write_bytes(name.encode() * 100)
    world.client("s3").create_bucket(Bucket=BUCKET)
    found = dataclasses.replace(ec2, upload=str(folder.parent), staging=f"s3://{BUCKET}/in", budget_usd=10_000)
    setup(cloud_of(world, found))
    return found


def names(world: World) -> list[str]:
    return [item["Key"] for item in world.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def puts(world: World) -> int:
    return len([c for c in world.calls if c.operation == "PutObject"])


def test_everything_before_the_first_iteration_is_one_command(world: World, config: Config) -> None:
    assert command(world, config, "prepare") == 0
    assert names(world) == [
        "in/decals/J000/a.png", "in/decals/J000/b.png", "in/decals/joint_catalog.csv"
    ]  # fmt: skip
    ((name, job),) = world.disk.jobs.items()
    over(world, name, 1, units=5)
    assert job.commands[0][:2] == ["copy", f"s3://{BUCKET}/in/"]
    assert [words[1] for words in job.commands[1:]] == [
        "stage=master_catalog", "stage=catalogs", "stage=shards", "stage=instructions"
    ]  # fmt: skip
    for words in job.commands[1:]:
        assert "experiment_name=decals_live" in words and set(config.arguments) < set(words)
    before = len(world.calls)
    assert command(world, config, "prepare") == 0
    changed = [c.operation for c in world.calls[before:] if not c.operation.startswith(READS)]
    assert changed == [] and len(world.machines) == 1, "all of it is there"
    assert command(world, config, "day") == 0


def test_an_upload_sends_what_is_missing_or_differs(world: World, config: Config) -> None:
    folder = Path(config.upload)
    assert upload(cloud_of(world, config), folder) == 3
    assert upload(cloud_of(world, config), folder) == 0
    (folder / "decals/J000/a.png").write_bytes(b"c" * 100)  # of the same size
    (folder / "decals/J000/b.png").write_bytes(b"b")
    (folder / "decals/J000/c.png").write_bytes(b"new")
    assert upload(cloud_of(world, config), folder) == 3
    assert world.client("s3").get_object(Bucket=BUCKET, Key="in/decals/J000/a.png")["Body"].read() == b"c" * 100
    with pytest.raises(LaunchError, match="is not a folder"):
        upload(cloud_of(world, config), folder / "nowhere")


def test_what_is_hidden_or_leads_out_of_the_folder_is_not_sent(world: World, config: Config, tmp_path: Path) -> None:
    folder, secret = Path(config.upload), tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("a secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("a secret")
    (folder / "decals" / ".env").write_text("a secret")
    (folder / "decals" / "out").symlink_to(secret)
    (folder / "decals" / "key").symlink_to("../../secret/key")
    (folder / "decals" / "broken").symlink_to("nothing")
    (folder / "decals" / "round").symlink_to("..")
    (folder / "decals" / "table.csv").symlink_to("joint_catalog.csv")
    os.mkfifo(folder / "decals" / "pipe")
    told: list[str] = []
    cloud = cloud_of(world, config)
    cloud.say = told.append
    assert upload(cloud, folder) == 4
    assert [name.removeprefix("in/decals/") for name in names(world)] == [
        "J000/a.png", "J000/b.png", "joint_catalog.csv", "table.csv"
    ]  # fmt: skip
    left_out = [line.rpartition("/")[2] for line in told if line.startswith("left out: ")]
    assert left_out == [".git", ".env", "broken", "key", "out", "pipe", "round"]
    assert f"7 are left out: hidden ones, and links to folders or out of {folder}" in told
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert len(choose(linked)[0]) == 4, "the folder itself may be a link"


def test_a_large_file_is_known_by_the_digest_that_it_was_sent_with(
    world: World, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.prepare._LARGE", 50)
    folder = Path(config.upload)
    assert upload(cloud_of(world, config), folder) == 3
    assert upload(cloud_of(world, config), folder) == 0
    (folder / "decals/J000/a.png").write_bytes(b"c" * 100)
    assert upload(cloud_of(world, config), folder) == 1


def test_other_files_or_stages_are_another_job(world: World, config: Config) -> None:
    prepare(cloud_of(world, config))
    (Path(config.upload) / "decals" / "more.csv").write_text("x\n")
    prepare(cloud_of(world, config))
    prepare(cloud_of(world, dataclasses.replace(config, prepare=config.prepare[:2])))
    assert len(world.disk.jobs) == len(world.machines) == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"prepare": ("stage=shardz",)}, "run.py would refuse this"),
        ({"prepare": ("stage=iterate",)}, "stage=iterate is not a part of it"),
        ({"prepare": ()}, "prepare: is empty"),
        ({"arguments": ("survey=decals",)}, "run.py would refuse this|needs shards.source"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_sent(
    world: World, config: Config, changed: dict[str, tuple[str, ...]], reason: str
) -> None:
    if "arguments" in changed:
        changed = {**changed, "arguments": (*config.arguments, "shards.source=mock")}
    with pytest.raises(LaunchError, match=reason):
        prepare(cloud_of(world, dataclasses.replace(config, **changed)))
    assert puts(world) == 0 and world.machines == {}


def test_a_kill_at_every_call_of_prepare_and_the_command_again(world: World, config: Config) -> None:
    whole = cloud_of(world, config)
    prepare(whole)
    tried = points(whole.operations)
    assert len(tried) >= (42 if ALL else 4)
    for number, (n, answered) in enumerate(tried):
        world.sleep(86400)
        for name in names(world):
            world.client("s3").delete_object(Bucket=BUCKET, Key=name)
        (Path(config.upload) / "decals" / "joint_catalog.csv").write_text(f"iauname\nJ{number}\n")
        with pytest.raises(Killed):
            prepare(cloud_of(world, config, at=n, answered=answered))
        prepare(cloud_of(world, config))
        name = list(world.disk.jobs)[-1]
        over(world, name, 1, units=5)
        assert len(world.disk.jobs) == number + 2, f"call {n}, {whole.operations[n - 1]}, answered: {answered}"
    print(f"prepare: killed at {len(tried)} of {len(whole.operations)} calls")


def test_a_refusal_at_every_call_of_prepare_and_the_command_again(world: World, config: Config) -> None:
    whole = cloud_of(world, config)
    prepare(whole)
    first = [n for n in calls(whole.operations) if whole.operations[n - 1] not in whole.operations[: n - 1]]
    for n in first:
        world.sleep(86400)
        (Path(config.upload) / "decals" / "joint_catalog.csv").write_text(f"iauname\nJ{n}\n")
        world.faults = [partial(refuse_at, n, itertools.count(1))]
        command(world, config, "prepare")
        world.faults = []
        assert command(world, config, "prepare") == 0, whole.operations[n - 1]
        over(world, list(world.disk.jobs)[-1], 1, units=5)
    print(f"prepare: refused at {len(first)} calls")
