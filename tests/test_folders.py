"""Write-once folders: complete, read-only, refused when they differ, and every change found."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from zoobot import folders
from zoobot.errors import FolderError, InputError

SETTINGS = {"survey.name": "demo", "seed": 1}


def make(
    path: Path, text: str = "hello", inputs: dict[str, Path] | None = None, settings: dict[str, object] = SETTINGS
) -> Path:
    with folders.create(path, settings, inputs or {}) as staging:
        (staging / "deep").mkdir()
        (staging / "a.txt").write_text(text)
        (staging / "deep" / "b.bin").write_bytes(bytes(1000))
    return path


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with folders.create(path, SETTINGS, {}) as staging:
        (staging / "a.txt").write_text("hello")
        assert not path.exists()
    manifest = folders.read_manifest(path)
    assert manifest.files["a.txt"].bytes == 5
    assert manifest.files["a.txt"].sha256.startswith("2cf24dba5fb0a30e")  # sha256 of "hello"
    assert folders.verify(path) == []


def test_everything_is_read_only(tmp_path: Path) -> None:
    path = make(tmp_path / "made")
    for entry in (path, *path.rglob("*")):
        assert entry.stat().st_mode & 0o222 == 0, entry


def test_an_error_leaves_nothing_and_the_next_try_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with pytest.raises(RuntimeError), folders.create(path, SETTINGS, {}) as staging:
        (staging / "half.txt").write_text("half")
        raise RuntimeError
    assert not path.exists()
    make(path)
    assert not (path / "half.txt").exists()


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    path = make(tmp_path / "made")
    with pytest.raises(FolderError, match="written once"):
        make(path, "other")
    assert (path / "a.txt").read_text() == "hello"


def test_exists_with_names_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "made"
    assert not folders.exists_with(path, SETTINGS, {})
    source = tmp_path / "source.csv"
    source.write_text("1")
    make(path, inputs={"source": source})
    assert folders.exists_with(path, SETTINGS, {"source": source})
    with pytest.raises(FolderError, match="seed: 1 there, 2 now"):
        folders.exists_with(path, SETTINGS | {"seed": 2}, {"source": source})
    source.write_text("2")
    with pytest.raises(FolderError, match="input source: it has changed"):
        folders.exists_with(path, SETTINGS, {"source": source})


def test_a_setting_newer_than_the_folder_is_equal_at_its_default(tmp_path: Path) -> None:
    path = make(tmp_path / "made")
    now = {**SETTINGS, "acquisition.random_share": 0.0}
    assert folders.exists_with(path, now, {})
    with pytest.raises(FolderError, match=r"acquisition\.random_share: 0\.0 there, 0\.2 now"):
        folders.exists_with(path, {**now, "acquisition.random_share": 0.2}, {})
    with pytest.raises(FolderError, match="unheard_of: None there, 1 now"):
        folders.exists_with(path, {**SETTINGS, "unheard_of": 1}, {})


def test_what_ran_is_in_the_manifest(tmp_path: Path) -> None:
    versions = folders.read_manifest(make(tmp_path / "made")).provenance.versions
    assert {"python", "numpy", "pandas", "pyarrow", "duckdb", "h5py", "keras"} <= set(versions)


def test_an_input_that_is_no_longer_given_is_a_difference(tmp_path: Path) -> None:
    path, source = tmp_path / "made", tmp_path / "source.csv"
    source.write_text("a")
    with folders.create(path, SETTINGS, {"source": source}):
        pass
    with pytest.raises(FolderError, match="input source: it has changed since"):
        folders.exists_with(path, SETTINGS, {})
    assert folders.exists_with(path, SETTINGS, None)


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    assert folders.differing_keys({"q": "x" * 500, "a": 1, "b": [1, 2]}, {"q": "y", "a": 1, "b": (1, 2)}) == [
        f"q: '{'x' * 76}… there, 'y' now"
    ]


def test_equal_runs_have_equal_digests_and_a_changed_setting_has_not(tmp_path: Path) -> None:
    first, again = make(tmp_path / "a"), make(tmp_path / "b")
    assert folders.digest_of(first) == folders.digest_of(again)
    assert folders.digest_of(make(tmp_path / "c", "other")) != folders.digest_of(first)
    assert folders.digest_of(make(tmp_path / "d", settings={"seed": 2})) != folders.digest_of(first)


def test_a_file_that_varies_is_checked_but_not_chained(tmp_path: Path) -> None:
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        with folders.create(tmp_path / name, SETTINGS, {}, varying=["times.json"]) as staging:
            folders.write_json(staging / "times.json", {"seconds": seconds})
    assert folders.digest_of(tmp_path / "a") == folders.digest_of(tmp_path / "b")
    damage(tmp_path / "a" / "times.json", b"x")
    assert len(folders.verify(tmp_path / "a")) == 1


def damage(path: Path, content: bytes | None) -> None:
    """Change or remove a published file, as somebody with the right to do so might."""
    path.parent.chmod(0o755)
    if content is None:
        path.unlink()
        return
    if path.exists():
        path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("a.txt", b"jello", "content has changed"),
        ("a.txt", b"hello!", "6 bytes, should be 5"),
        ("a.txt", None, "missing"),
        ("new.txt", b"", "not in the manifest"),
        ("manifest.json", None, "was not finished"),
        ("manifest.json", b"{", "not valid JSON"),
    ],
)
def test_verify_names_each_change(tmp_path: Path, file: str, content: bytes | None, problem: str) -> None:
    path = make(tmp_path / "made")
    damage(path / file, content)
    problems = folders.verify(path)
    assert len(problems) == 1 and problem in problems[0] and file in problems[0], problems


def test_verify_finds_a_changed_manifest(tmp_path: Path) -> None:
    path = make(tmp_path / "made")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["settings"]["seed"] = 99
    damage(path / "manifest.json", json.dumps(manifest).encode())
    assert "its content has changed" in folders.verify(path)[0]


def test_the_chain_of_inputs_is_checked(tmp_path: Path) -> None:
    shards = make(tmp_path / "shards")
    iteration = make(tmp_path / "iteration", "i", inputs={"shards": shards})
    assert folders.verify(iteration) == []
    assert folders.with_inputs([iteration]) == [iteration, shards]
    shards.rename(tmp_path / "moved")
    assert "shards cannot be checked" in folders.verify(iteration)[0]
    make(shards, "other")
    assert "not the one that was read" in folders.verify(iteration)[0]


def test_a_complete_data_folder_may_move(tmp_path: Path) -> None:
    shards = make(tmp_path / "data" / "shards")
    make(tmp_path / "data" / "deep" / "iteration", "i", inputs={"shards": shards})
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert folders.verify(tmp_path / "elsewhere" / "deep" / "iteration") == []


def test_require_refuses_what_is_missing_unfinished_or_cut(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="stage=shards"):
        folders.require(tmp_path / "none", "shards")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match=r"no manifest\.json"):
        folders.require(tmp_path / "empty", "shards")
    path = make(tmp_path / "made")
    folders.require(path, "shards")
    damage(path / "a.txt", b"cut")
    with pytest.raises(FolderError, match="3 bytes, should be 5"):
        folders.require(path, "shards")


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="symbolic link"), folders.create(tmp_path / "made", SETTINGS, {}) as staging:
        (staging / "link").symlink_to(tmp_path)
    assert not (tmp_path / "made").exists()


def test_publish_file_replaces_complete_files(tmp_path: Path) -> None:
    folders.publish_file(tmp_path / "deep" / "x.csv", b"one")
    folders.publish_file(tmp_path / "deep" / "x.csv", b"two")
    assert (tmp_path / "deep" / "x.csv").read_bytes() == b"two"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.csv"]


def _make_in_process(path: Path) -> None:
    try:
        make(path)
    except FolderError:
        raise SystemExit(3) from None


def test_of_processes_that_race_one_writes_and_the_others_are_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    racers = [context.Process(target=_make_in_process, args=(tmp_path / "made",)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert sorted(racer.exitcode or 0 for racer in racers) == [0, 3, 3, 3]
    assert folders.verify(tmp_path / "made") == []
