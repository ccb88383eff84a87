"""stage=verify finds every kind of damage and lists it, whatever else is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zoobot import folders, stages
from zoobot.engine import process
from zoobot.errors import ChangedError, FolderError
from zoobot.settings import Settings
from zoobot.stages import verify


def make_chain(parent: Path) -> tuple[Path, Path]:
    """Two finished folders, the second made from the first, writable again."""
    first, second = parent / "first", parent / "second"
    for path, inputs in ((first, {}), (second, {"first": first})):
        with folders.create(path, {}, inputs) as staging:
            (staging / "a.txt").write_text(path.name)
        for file in (path, *path.iterdir()):
            file.chmod(0o755)
    return first, second


def listed(settings: Callable[..., Settings], path: Path) -> list[str]:
    """The problems that the stage lists when it ends with status 1."""
    with pytest.raises(ChangedError) as caught:
        verify.run(settings("stage=verify", f"verify.path={path}"))
    assert caught.value.exit_status == 1
    return str(caught.value).splitlines()


Fixture = Callable[..., Settings]


def test_a_sound_chain_is_checked_down_to_its_inputs(
    settings: Fixture, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, second = make_chain(tmp_path / "x.staging.d")  # a name that contains the suffix
    caplog.set_level("INFO")
    verify.run(settings("stage=verify", f"verify.path={second}"))
    assert "2 folders verified" in caplog.text


def test_damage_in_an_input_is_listed(settings: Fixture, tmp_path: Path) -> None:
    first, second = make_chain(tmp_path / "data")
    (first / "a.txt").write_text("forst")
    assert listed(settings, second) == [f"{first}/a.txt: its content has changed"]


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 1}', '{"format_version": 99}'])
def test_a_damaged_manifest_is_listed(content: str, settings: Fixture, tmp_path: Path) -> None:
    first, second = make_chain(tmp_path / "data")
    (first / "manifest.json").write_text(content)
    (second / "a.txt").write_text("other")
    problems = "\n".join(listed(settings, tmp_path / "data"))
    assert f"{first}/manifest.json" in problems and f"{second}: its input first cannot be checked" in problems
    assert f"{second}/a.txt: 5 bytes, should be 6" in problems, "one damage hides another"


def test_an_iteration_without_a_manifest_is_listed(settings: Fixture, tmp_path: Path) -> None:
    make_chain(tmp_path / "data")
    (tmp_path / "data" / "iteration_0").mkdir()
    assert listed(settings, tmp_path / "data") == [f"{tmp_path}/data/iteration_0: has no manifest.json"]


def test_a_link_that_was_added_is_listed(settings: Fixture, tmp_path: Path) -> None:
    first, _ = make_chain(tmp_path / "data")
    (first / "link").symlink_to("/etc/hostname")
    (problem,) = listed(settings, tmp_path / "data")
    assert f"{first}/link is a symbolic link" in problem


def test_a_folder_that_is_being_written_is_left_alone(settings: Fixture, tmp_path: Path) -> None:
    first, _ = make_chain(tmp_path / "data")
    first.rename(tmp_path / "data" / ".second.staging")
    (problem,) = listed(settings, tmp_path / "data")
    assert "its input first cannot be checked" in problem


def test_an_experiment_that_is_not_there(settings: Fixture, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"holds no folder with a manifest\.json"):
        verify.run(settings("stage=verify", f"verify.path={tmp_path}/nowhere"))


def test_a_manifest_lists_what_it_needs(tmp_path: Path) -> None:
    first, _ = make_chain(tmp_path / "data")
    manifest = json.loads((first / "manifest.json").read_text())
    for key in ("files", "inputs", "settings", "digest", "varying"):
        (first / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != key}))
        with pytest.raises(FolderError, match=rf"manifest\.json.* {key}"):
            folders.read_manifest(first)


def test_what_differs_is_told_by_a_process_of_a_sweep(settings: Fixture, tmp_path: Path) -> None:
    _, second = make_chain(tmp_path / "data")
    (second / "a.txt").write_text("seconx")
    with pytest.raises(ChangedError, match=r"second/a\.txt: its content has changed"):
        process.call(stages.run, settings("stage=verify", f"verify.path={second}"), "verify")


def test_an_edited_manifest_is_not_obeyed(settings: Fixture, tmp_path: Path) -> None:
    first, second = make_chain(tmp_path / "data")
    manifest = json.loads((first / "manifest.json").read_text())
    folders.write_json(first / "manifest.json", manifest | {"settings": {"acquisition.name": "random"}})
    for read in (folders.read_manifest, folders.digest_of, lambda path: folders.require(path, "shards")):
        with pytest.raises(FolderError, match="its seal does not fit its content"):
            read(first)
    with pytest.raises(FolderError, match="its seal does not fit"):
        folders.exists_with(first, {"acquisition.name": "random"}, None)
    (second / "a.txt").write_text("other")
    problems = listed(settings, tmp_path / "data")
    assert f"{first}/manifest.json: its content has changed" in problems
    assert f"{second}/a.txt: 5 bytes, should be 6" in problems and len(problems) == 3


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b'{"format_version": 2, "inputs": {"a": {"path": "\\u0000"}}}']
)
def test_no_manifest_hides_another_finding(content: bytes, settings: Fixture, tmp_path: Path) -> None:
    first, second = make_chain(tmp_path / "data")
    (first / "manifest.json").write_bytes(content)
    (second / "a.txt").write_text("seconx")
    problems = "\n".join(listed(settings, tmp_path / "data"))
    assert f"{second}/a.txt: its content has changed" in problems and f"{first}/manifest.json" in problems


def test_a_json_file_of_the_same_size_is_not_obeyed(tmp_path: Path) -> None:
    with folders.create(tmp_path / "made", {}, {}) as staging:
        folders.write_json(staging / "instructions.json", {"acquisition": "badge"})
    path = tmp_path / "made" / "instructions.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("badge", "lcmdx"))
    with pytest.raises(FolderError, match=r"instructions\.json: its content has changed"):
        folders.require(tmp_path / "made", "instructions")
