"""A crash at any instant, two runs at once, a full disk, a flipped byte: a part here, all by ``make test-crash``."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash import SETTINGS, in_child, start_child, status_of
from tests.faults import KILLED, Faults
from zoobot import folders
from zoobot.errors import FolderError, ServiceError
from zoobot.folders import disk, once
from zoobot.settings import Settings
from zoobot.stages import catalogs, instructions, iterate, master_catalog, shards

ROOT = Path(__file__).resolve().parents[1]
ALL = "CRASH_ALL" in os.environ  # make test-crash
STOPPED = "not as it was written|not valid JSON|format version|has no|made with other settings|no longer holds|damaged"
Compose = Callable[..., Settings]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The disk that the layer watches; the output of children is beside it."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def run_child(folder: Path, work: Callable[[], object], at: int = 0, kind: str = "kill") -> int:
    """How ``work`` ends in a separate process, if its operation ``at`` fails."""

    def run() -> None:
        Faults(folder, at, kind).install()
        work()

    return in_child(run, folder.with_name("output.txt"))


def make(path: Path, text: str = "hello") -> Path:
    with folders.create(path, {"seed": 1}, {}) as staging:
        (staging / "a.txt").write_text(text)
    return path


# --------------------------------------------------------------- the layer itself


def test_operations_are_counted(folder: Path) -> None:
    def work() -> None:
        faults = Faults(folder)
        faults.install()
        folders.publish_file(folder / "deep" / "a", b"x")
        shutil.rmtree(folder / "deep")
        (name,) = {operation.split()[1] for operation in faults.log if operation.startswith("create")}
        assert name.startswith(f"deep/.a.{os.getpid()}-")
        assert faults.log == [
            "mkdir deep", "flush .", f"create {name}", f"write {name}", f"flush {name}", "rename deep/a", "flush deep",
            "unlink deep/a", "rmdir deep",
        ]  # fmt: skip

    output = folder.with_name("output.txt")
    assert in_child(work, output) == 0, output.read_text()


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("kill", {"b": b"flushed", "c": b"not flushed", "new name": b"renamed"}),
        ("torn", {"b": b"flushed", "c": b"not flushed", "d": b"hal", "new name": b"renamed"}),
        ("unflushed", {"old name": b"renamed"}),  # the name of b is the folder's, which was not flushed
        ("empty", {"b": b"flushed", "c": b"", "new name": b"renamed"}),
    ],
)
def test_what_each_kind_leaves(folder: Path, kind: str, left: dict[str, bytes]) -> None:
    (folder / "old name").write_bytes(b"renamed")

    def work() -> None:
        with (folder / "b").open("wb") as file:  # create, write, flush: operations 1 to 3
            file.write(b"flushed")
            file.flush()
            os.fsync(file.fileno())
        (folder / "c").write_bytes(b"not flushed")  # 4, 5
        (folder / "old name").rename(folder / "new name")  # 6
        (folder / "d").write_bytes(b"halved")  # 7, 8

    assert run_child(folder, work, 8 if kind == "torn" else 7, kind) == KILLED
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left


@pytest.mark.parametrize(("left_out", "kind"), [("flush_tree", "empty"), ("flush_folder", "unflushed")])
@pytest.mark.parametrize("broken", [False, True])
def test_a_flush_that_is_left_out_is_seen(folder: Path, left_out: str, kind: str, broken: bool) -> None:
    def work() -> None:
        if broken:
            setattr(disk, left_out, lambda path: None)
        make(folder / "made")
        (folder / "the end").mkdir()

    last = next(at for at in range(1, 60) if run_child(clean(folder), work, at) == 0) - 1
    assert run_child(clean(folder), work, last, kind) == KILLED
    sound = (folder / "made").exists() and folders.verify(folder / "made") == []
    assert sound is not broken


def clean(folder: Path) -> Path:
    disk.make_writable(folder)
    disk.empty(folder)
    return folder


# --------------------------------------------------------------- all of a stage


@pytest.mark.parametrize(("scenario", "every"), [("iterate", 80), pytest.param("shards", 60, marks=pytest.mark.long)])
def test_each_operation_of_a_stage_fails_in_each_way(scenario: str, every: int) -> None:
    size = ["--every", "1", "--jobs", "2"] if ALL else ["--every", str(every), "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", scenario, *size], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cases, 0 wrong" in done.stdout


@pytest.mark.skipif(not ALL, reason="takes a quarter of an hour: make test-crash")
def test_a_hundred_kills_of_real_training() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", "kills", "--kills", "100"], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


# --------------------------------------------------------------- steps and effects


def test_a_step_is_complete_or_absent_and_goes_with_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "made"
    for number in range(3):
        with pytest.raises(RuntimeError), folders.create(path, {"seed": 1}, {}, resumes=True):
            kept = folders.unfinished(path) / f"step_{number}"
            with folders.step(kept) as staging:
                (staging / "x").write_text("x")
            with pytest.raises(ValueError), folders.step(kept.with_name("half")) as staging:
                raise ValueError
            raise RuntimeError
    assert {p.name for p in folders.unfinished(path).glob("[!.]*")} == {"begun.json", "step_0", "step_1", "step_2"}
    with folders.create(path, {"seed": 1}, {}, resumes=True):
        pass
    assert not folders.unfinished(path).exists() and folders.verify(path) == []


def test_going_on_with_other_settings_or_inputs_is_refused(tmp_path: Path) -> None:
    path, source = tmp_path / "made", tmp_path / "source.csv"
    source.write_text("1")
    with pytest.raises(RuntimeError), folders.create(path, {"seed": 1}, {"source": source}, resumes=True):
        raise RuntimeError
    source.write_text("2")
    with (
        pytest.raises(FolderError, match=r"seed: 1 there, 2 now\n  input source: it has changed since") as caught,
        folders.create(path, {"seed": 2}, {"source": source}, resumes=True),
    ):
        pass
    assert str(folders.unfinished(path)) in str(caught.value) and caught.value.exit_status == 2
    disk.remove(folders.unfinished(path))  # as the message says
    with folders.create(path, {"seed": 2}, {"source": source}, resumes=True):
        pass


def test_an_effect_with_a_receipt_is_never_repeated_and_one_without_keeps_its_intent(tmp_path: Path) -> None:
    calls: list[str] = []

    def call(intent: str) -> str:
        calls.append(intent)
        if len(calls) == 1:
            raise RuntimeError
        return f"receipt of {intent}"

    with pytest.raises(RuntimeError):
        once.send(tmp_path / "kept.json", "first", call)
    for _ in range(2):
        sent = once.send(tmp_path / "kept.json", "another choice", call)
        assert sent == ("first", "receipt of first")
    assert calls == ["first", "first"]


def test_what_a_process_that_is_gone_had_staged_is_removed(folder: Path) -> None:
    assert run_child(folder, lambda: folders.publish_file(folder / "a", b"new"), 3) == KILLED
    (folder / ".a.1").write_text("a process of that number lives here, but it was one of another container")
    with (folder / ".a.7-0123abcd").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a process of another container is about it
        assert len(list(folder.glob(".a.*"))) == 3
        folders.publish_file(folder / "a", b"newer")
    assert {path.name for path in folder.iterdir()} == {"a", ".a.7-0123abcd"}


# --------------------------------------------------------------- locks


def test_the_message_says_who_holds_a_folder(tmp_path: Path) -> None:
    with disk.lock(tmp_path / "experiment"):
        with (
            pytest.raises(FolderError, match=rf"experiment is held by process {os.getpid()} on .*, since 20") as caught,
            disk.lock(tmp_path / "experiment"),
        ):
            pass
        assert caught.value.exit_status == 2
    with disk.lock(tmp_path / "experiment"):
        pass


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(FolderError, match=r"file system without locks .*Set data_dir"), disk.lock(tmp_path / "x"):
        pass


@pytest.mark.long
def test_of_two_drivers_one_writes_and_the_dead_leave_nothing_to_fix(tmp_path: Path) -> None:
    """Each round two processes want the next iteration, and in half of the rounds one of them is killed."""
    chance, ended = random.Random(0), Counter[str]()
    output, address = tmp_path / "output.txt", str(tmp_path)[-100:]

    def drive(number: int) -> None:
        # A name of the kernel's, which one process can hold: made before the lock, so that a kill gives it up first.
        with socket.socket(socket.AF_UNIX) as witness, disk.lock(tmp_path / "experiment"):
            before = folders.list_numbered(tmp_path, "iteration")
            for path in before:
                folders.remove_unfinished(path)
            if len(before) > number:
                return
            witness.bind(f"\0{address}")  # fails if somebody writes now
            with folders.create(tmp_path / f"iteration_{number}", {}, {}, resumes=True) as staging:
                (staging / "a.txt").write_text(str(os.getpid()))
            witness.close()

    for number in range(1000 if ALL else 60):
        drivers = [start_child(lambda n=number: drive(n), output) for _ in range(2)]  # type: ignore[misc]
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 0.03))
            os.kill(chance.choice(drivers), 9)
        statuses = sorted(map(status_of, drivers))
        assert set(statuses) <= {-9, 0, 2}, output.read_text()
        if 2 in statuses:
            assert "is held by" in output.read_text()
        ended[str(statuses)] += 1
        if -9 in statuses:
            drive(number)
        assert len(folders.list_numbered(tmp_path, "iteration")) == number + 1
    drive(0)  # which only tidies up
    assert ended["[0, 2]"] and ended["[-9, 0]"], ended
    assert [problem for path in tmp_path.glob("iteration_*") for problem in folders.verify(path)] == []
    assert not list(tmp_path.glob(".*.unfinished")) and not list(tmp_path.glob(".*.staging"))


# --------------------------------------------------------------- the disk


def test_too_little_space_is_reported_before_the_work(tmp_path: Path) -> None:
    with (
        pytest.raises(FolderError, match=r"GB left, but about 1000000000\.00 GB are needed. Free some space"),
        folders.create(tmp_path / "made", {}, {}, needs_bytes=10**18),
    ):
        raise AssertionError("the work began")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device.*Free some space, then run the same command again"),
        (OSError(errno.EDQUOT, "x"), "quota"),
        (OSError(errno.EROFS, "x"), "Make the file system writable"),
        (RuntimeError("Can't decrement id (file write failed: errno = 5, error message = '?')"), "error.*dmesg"),
        (sqlite3.OperationalError("database or disk is full"), "Free some space"),
        (shutil.Error([("a", "b", "[Errno 5] Input/output error")]), "dmesg"),
    ],
)
def test_an_error_of_the_disk_says_what_to_do(tmp_path: Path, error: Exception, message: str) -> None:
    with pytest.raises(FolderError, match=message), folders.create(tmp_path / "made", {}, {}):
        raise error
    assert not (tmp_path / "made").exists()
    make(tmp_path / "made")


@pytest.mark.parametrize(
    "error",
    [
        ServiceError("Zooniverse answered: Permission denied", 403),
        RuntimeError("No space left on device, says a server"),
        PermissionError(errno.EACCES, "Permission denied", "/somewhere/else/picture.png"),
    ],
)
def test_an_error_elsewhere_is_not_taken_for_one_of_the_disk(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, folders.create(tmp_path / "made", {}, {}):
        raise error
    assert caught.value is error


# --------------------------------------------------------------- flipped bytes


@pytest.fixture(scope="module")
def experiment(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A small experiment with one iteration, writable."""
    made = compose(*SETTINGS, "tracking=disabled", data_dir=tmp_path_factory.mktemp("flips"))
    for stage in (master_catalog, catalogs, shards, instructions, iterate):
        stage.run(made)
    disk.make_writable(Path(made.data_dir))
    return made


@contextmanager
def flipped(path: Path, chance: random.Random) -> Iterator[None]:
    """A file with one byte changed."""
    content = path.read_bytes()
    at = chance.randrange(len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ chance.randrange(1, 256)]) + content[at + 1 :])
    yield
    path.write_bytes(content)


def test_every_flipped_byte_is_found_and_stops_the_stage_that_reads_it(experiment: Settings) -> None:
    chance = random.Random(0)
    chain = folders.with_inputs([experiment.experiment_dir / "iteration_0"])
    inside = [path for folder in chain for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    catalog = experiment.survey_dir / f"{experiment.survey.name}_master_catalog.csv"
    careful = replace(experiment, verify_inputs="digests")
    assert {"iteration_0", "instructions"} < {path.name for path in chain} and len(inside) > 25
    for _ in range(1000 if ALL else 80):
        path = chance.choice([*inside, catalog])
        with flipped(path, chance):
            problems = [problem for folder in chain for problem in folders.verify(folder)]
            assert path.name in "\n".join(problems), path
            if path != catalog:  # which the next iteration does not read
                with pytest.raises(FolderError, match=STOPPED):
                    iterate.run(careful)
    assert [problem for folder in chain for problem in folders.verify(folder)] == []
    assert not (experiment.experiment_dir / "iteration_1").exists()


def test_a_manifest_of_another_format_is_refused(experiment: Settings, tmp_path: Path) -> None:
    path = make(tmp_path / "made")
    disk.make_writable(path)
    content = folders.read_json(path / "manifest.json")
    folders.write_json(path / "manifest.json", content | {"format_version": 3})
    with pytest.raises(FolderError, match=r"format version 3; this program reads 2\. Use the program that wrote"):
        folders.require(path, "shards")
