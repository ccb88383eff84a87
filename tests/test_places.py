"""Where folders may lie: shared by two users, on an overlay, in two containers, on a disk without room for files.

These tests need root, and the right to mount; elsewhere they skip.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash import in_child
from zoobot import folders
from zoobot.errors import ChangedError, FolderError
from zoobot.folders import disk
from zoobot.settings import Settings
from zoobot.stages import verify

ROOT = Path(__file__).resolve().parents[1]
FIRST, SECOND, GROUP = 61001, 61002, 61003
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users or to mount")


@contextmanager
def mounted(at: Path, *arguments: str) -> Iterator[Path]:
    """A file system mounted at a folder; skips where that is not permitted."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def make(path: Path, text: str = "x", **how: bool) -> None:
    with folders.create(path, {}, {}, **how) as staging:
        (staging / "a.txt").write_text(text)


def as_user(user: int, work: Callable[[], None], output: Path) -> str:
    """What ``work`` says when a member of the group does it: nothing, or the error."""

    def change_and_work() -> None:
        os.setgroups([])
        os.setgid(GROUP)
        os.setuid(user)
        os.umask(0o002)
        work()

    return "" if in_child(change_and_work, output) == 0 else output.read_text()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder of a group, below folders that everybody may pass."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)
    path = tmp_path / "shared"
    path.mkdir()
    os.chown(path, -1, GROUP)
    path.chmod(0o2775)
    return path


# --------------------------------------------------------------- two users


@needs_root
def test_two_users_of_a_group_share_a_folder(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "output.txt"
    out.touch()
    out.chmod(0o666)
    assert as_user(FIRST, lambda: make(shared / "one"), out) == ""
    assert as_user(SECOND, lambda: make(shared / "two"), out) == ""
    assert as_user(FIRST, lambda: folders.publish_file(shared / "table.csv", b"1"), out) == ""
    assert as_user(SECOND, lambda: folders.publish_file(shared / "table.csv", b"2"), out) == ""
    assert as_user(SECOND, lambda: folders.require(shared / "one", "shards", "digests"), out) == ""
    (shared / ".three.lock").touch()  # made by a user whose umask gives the group no right to write
    (shared / ".three.lock").chmod(0o644)
    assert as_user(SECOND, lambda: make(shared / "three"), out) == ""
    assert [folders.verify(shared / name) for name in ("one", "two", "three")] == [[], [], []]


@needs_root
def test_what_another_user_left_is_removed_or_named(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "output.txt"
    out.touch()
    out.chmod(0o666)

    def leave(mode: int) -> None:
        (shared / ".one.staging").mkdir(exist_ok=True)
        (shared / ".one.staging" / "half.txt").write_text("half")
        (shared / ".one.staging").chmod(mode)

    assert as_user(FIRST, lambda: leave(0o555), out) == ""
    said = as_user(SECOND, lambda: make(shared / "one"), out)
    assert "Permission denied" in said and "half.txt" in said and "then run the same command again" in said
    assert as_user(FIRST, lambda: leave(0o775), out) == ""
    assert as_user(SECOND, lambda: make(shared / "one"), out) == ""


@needs_root
def test_verify_lists_each_folder_that_another_user_cannot_read(
    shared: Path, tmp_path: Path, settings: Callable[..., Settings]
) -> None:
    out = tmp_path / "output.txt"
    out.touch()
    out.chmod(0o666)
    for name in ("one", "two", "three", "four"):
        make(shared / name / "iteration_0")
        (shared / name).chmod(0o755)
    with folders.create(shared / "deep", {}, {}) as staging:
        for name in ("inside", "open"):
            (staging / name).mkdir()
            (staging / name / "b.txt").write_text("b")
    for path, mode in (("one", 0o700), ("two/iteration_0", 0o600), ("three/iteration_0", 0o644),
                       ("four/iteration_0/a.txt", 0o400), ("deep/inside", 0o700)):  # fmt: skip
        (shared / path).chmod(mode)
    checked = settings("stage=verify", f"verify.path={shared}")

    def look() -> None:
        with pytest.raises(ChangedError) as caught:
            verify.run(checked)
        out.write_text(str(caught.value))

    assert as_user(SECOND, look, out) == ""
    found = out.read_text().splitlines()
    assert len(found) == 5 and all("Permission denied" in line for line in found), found
    for path in ("one", "two/iteration_0", "three/iteration_0", "four/iteration_0/a.txt", "deep/inside"):
        assert [line for line in found if f"{shared}/{path}" in line], path


# --------------------------------------------------------------- containers


@needs_root
def test_a_folder_of_a_containers_image_is_published(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    path = tmp_path / "lower" / "made"
    with pytest.raises(RuntimeError), folders.create(path, {}, {}, resumes=True) as staging:
        (staging / "half.txt").write_text("an image was made of it")
        raise RuntimeError
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    with mounted(tmp_path / "overlay", "-t", "overlay", "-o", layers, "overlay") as overlay:
        with pytest.raises(OSError, match="cross-device") as caught:
            (overlay / ".made.staging").rename(overlay / "refused")
        assert caught.value.errno == errno.EXDEV
        make(overlay / "made", resumes=True)
        assert folders.verify(overlay / "made") == []
        assert (overlay / "made" / "half.txt").read_text() == "an image was made of it"
        assert {each.name for each in overlay.iterdir()} == {"made", ".made.lock"}
        assert (overlay / "made").stat().st_mode & 0o222 == 0


IN_A_NAMESPACE = """
    import sys, time
    from pathlib import Path
    from zoobot import folders
    from zoobot.errors import FolderError
    from zoobot.folders import disk
    folder = Path(sys.argv[1])
    if sys.argv[2] == "hold":
        with disk.lock(folder / "made"), (folder / ".a.csv.2-0123abcd").open("wb") as staged:
            disk.try_lock(staged)
            (folder / "held").touch()
            time.sleep(60)
    try:
        with disk.lock(folder / "made"):
            print("both hold it")
    except FolderError as error:
        print(error)
    folders.publish_file(folder / "a.csv", b"new")
    print(sorted(path.name for path in folder.glob(".a.csv.*")))
"""


@needs_root
def test_two_containers_on_one_disk_see_each_others_locks(tmp_path: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", textwrap.dedent(IN_A_NAMESPACE)]
    if subprocess.run([*command[:4], "true"], capture_output=True).returncode:
        pytest.skip("no PID namespaces")
    holder = subprocess.Popen([*command[:4], "sleep", "0"])  # so that both begin to count at the same number
    holder.wait()
    holder = subprocess.Popen([*command, str(tmp_path), "hold"], cwd=ROOT, process_group=0)
    try:
        while not (tmp_path / "held").exists():
            assert holder.poll() is None
        (tmp_path / ".a.csv.1-0123abcd").write_text("left by a process that is gone; number 1 always lives")
        (tmp_path / ".made.lock").write_text((tmp_path / ".made.lock").read_text().replace("process 1 ", "process 99 "))
        done = subprocess.run([*command, str(tmp_path), "try"], cwd=ROOT, capture_output=True, text=True)
    finally:
        os.killpg(holder.pid, 9)
        holder.wait()
    message, staged = done.stdout.splitlines()
    assert "is held by process 99 on" in message and "in another container" in message and "then run" in message
    assert staged == "['.a.csv.2-0123abcd']", "a file that is being written was removed, or one that was left was kept"


# --------------------------------------------------------------- no room


@needs_root
def test_a_disk_that_can_hold_no_more_files_says_so(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m,nr_inodes=12", "tmpfs") as small:
        with pytest.raises(FolderError) as caught, folders.create(small / "made", {}, {}) as staging:
            for number in range(20):
                (staging / f"{number}.txt").write_text("x")
        assert "can hold no more files, whatever space is left (df -i" in str(caught.value)
        assert not (small / "made").exists()
        shutil.rmtree(small / ".made.staging")
        with pytest.raises(FolderError, match="No space left on device") as full:
            folders.publish_file(small / "big", bytes(9_000_000))
        assert "Free some space" in str(full.value)
        with pytest.raises(FolderError, match="Free some space, or set data_dir"):
            disk.require_space(small, 10_000_000)


@needs_root
def test_a_run_without_room_for_files_ends_with_one_message(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m,nr_inodes=4", "tmpfs") as small:
        command = [sys.executable, "run.py", "stage=master_catalog", "quick=true", f"data_dir={small}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stdout + done.stderr
        assert "No space left on device" in done.stderr and "data_dir" in done.stderr
