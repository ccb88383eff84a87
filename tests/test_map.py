"""A function over many items in worker processes: order, errors with their item, workers that are killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.ray_driver import die, die_once
from zoobot.engine import map as engine
from zoobot.engine import progress
from zoobot.engine.tasks import Task
from zoobot.errors import InputError, ProcessError, ServiceError

ROOT = Path(__file__).resolve().parents[1]


def square(n: int) -> int:
    time.sleep(0.02 * (n % 3))  # so that later items are done before earlier ones
    return n * n


def where(n: int) -> tuple[int, str]:
    logging.getLogger("zoobot").info("item %d", n)
    return os.getpid(), os.environ["OPENBLAS_NUM_THREADS"]


def refuse(n: int) -> int:
    if n == 3:
        raise ServiceError("it is full.", http_status=503)
    if n == 13:
        raise ValueError("odd")
    return n


def sleep(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(engine.in_order(square, range(12), workers)) == [n * n for n in range(12)]
    assert list(engine.in_order(square, [], workers)) == []


def test_one_worker_is_this_process_and_others_compute_in_one_thread(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    assert list(engine.in_order(where, range(2), 1)) == [(os.getpid(), "7")] * 2
    found = list(engine.in_order(where, range(6), 2))
    assert os.getpid() not in {pid for pid, _ in found} and {threads for _, threads in found} == {"1"}
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7" and caplog.messages.count("item 5") == 1


def test_items_are_taken_as_they_are_needed() -> None:
    taken = list[int]()

    def items() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    with closing(engine.in_order(square, items(), 2)) as results:
        assert next(results) == 0 and len(taken) <= 4


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_says_which_item(workers: int) -> None:
    with pytest.raises(ServiceError, match=r"^picture 3: it is full\.$") as caught:
        list(engine.in_order(refuse, range(6), workers, lambda n: f"picture {n}"))
    assert caught.value.http_status == 503
    with pytest.raises((RuntimeError, ValueError), match="odd" if workers == 1 else r"^picture 13: ValueError: odd"):
        list(engine.in_order(refuse, range(12, 14), workers, lambda n: f"picture {n}"))


def test_what_a_killed_worker_did_is_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [tmp_path / str(n) for n in range(5)]
    for path in (*paths[:1], *paths[2:4]):
        path.touch()
    assert list(engine.in_order(die_once, paths, 2, lambda path: path.name)) == ["0", "1", "2", "3", "4"]
    assert "the process working on 4 was killed (SIGKILL): it is done again" in caplog.messages


def test_an_item_that_always_ends_its_process_is_an_error() -> None:
    with pytest.raises(ProcessError, match=r"working on big was killed 3 times \(SIGKILL\).*Set workers"):
        list(engine.in_order(die, ["big"], 2))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell may ignore it
    code += "from pathlib import Path; from zoobot.engine import map; from tests.test_map import sleep;"
    code += f"list(map.in_order(sleep, [Path({str(tmp_path)!r}) / n for n in 'ab'], 2))"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    pids = []
    for path in (tmp_path / "a", tmp_path / "b"):
        wait_until(lambda path=path: path.is_file() and bool(path.read_text()))
        pids.append(int(path.read_text()))
    parent.send_signal(how)
    parent.wait(30)
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "zombie" not in status.read_text()


def wait_until(condition: object) -> None:
    assert callable(condition)
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen within a minute")


def test_cores_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= engine.cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    for limit, expected in (("max 100000", 64), ("250000 100000", 3), ("5000 100000", 1), ("nonsense", 64)):
        monkeypatch.setattr(Path, "read_text", lambda *_, limit=limit: limit)
        assert engine.cores() == expected


def test_a_log_has_a_line_with_the_rate_and_the_time_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    now_s = iter([0, 0, 61, 100, 9000])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now_s)))
    sizes = [610, 390, 1000, 1000]
    assert list(progress.track(sizes, "writing shards", 100_000, lambda size: size)) == sizes
    assert caplog.messages == [
        "writing shards: 610 of 100000, 10 a second, 2.8 h left",
        "writing shards: 2000 of 100000, 13.3 a minute, 122.5 h left",
    ]


def test_input_errors_keep_their_kind() -> None:
    error = InputError("b: is bad")
    assert str(Task(0, None, "b").failed(error)) == "b: is bad", "the name is there once"
