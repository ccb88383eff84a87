"""A process of its own: what it logs, what it raises, and its end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoobot import sweep
from zoobot.engine import process
from zoobot.errors import FolderError, ProcessError, ServiceError

ROOT = Path(__file__).resolve().parents[1]


def write_its_process(path: Path) -> None:
    logging.getLogger("zoobot").info("written by %s", "the child")
    logging.getLogger("zoobot").debug("too fine")
    path.write_text(str(os.getpid()))


def refuse(message: str) -> None:
    raise FolderError(message)


def lose_the_network(message: str) -> None:
    raise ServiceError(message, http_status=503)


class Odd(Exception):
    """One that pickle cannot make again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(_: object) -> None:
    raise Odd(1, 2)


def be_killed(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(60)


def test_it_is_another_process_and_its_log_comes_to_our_handlers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    process.call(write_its_process, tmp_path / "pid", "a test")
    assert int((tmp_path / "pid").read_text()) != os.getpid()
    assert [record.getMessage() for record in caplog.records] == ["written by the child"]


def test_our_errors_keep_their_message_and_exit_status() -> None:
    with pytest.raises(FolderError, match=r"^it is full\.$") as refused:
        process.call(refuse, "it is full.", "a test")
    with pytest.raises(ServiceError, match="away") as away:
        process.call(lose_the_network, "away", "a test")
    assert refused.value.exit_status == 2 and away.value.exit_status == 1 and away.value.http_status == 503


def test_any_other_error_comes_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="Odd: 1 and 2") as caught:
        process.call(fail, None, "a test")
    assert "raise Odd(1, 2)" in caught.value.__notes__[0]


def test_a_killed_process_is_a_clear_error() -> None:
    with pytest.raises(
        ProcessError, match=r"working on iteration_3 was killed \(SIGKILL\).*same command again"
    ) as caught:
        process.call(be_killed, None, "iteration_3")
    assert caught.value.exit_status == 1


def write_and_refuse(path: Path) -> None:
    write_its_process(path)
    if path.name == "refused":
        raise FolderError("it is full.")
    if path.name == "broken":
        raise Odd(1, 2)


def test_a_kept_process_serves_again_until_it_is_killed_or_the_environment_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = process.Kept(write_and_refuse)
    kept.call(tmp_path / "first", "a test")
    with pytest.raises(FolderError, match="it is full"):
        kept.call(tmp_path / "refused", "a test")
    kept.call(tmp_path / "second", "a test")
    pid = {int((tmp_path / name).read_text()) for name in ("first", "refused", "second")}
    assert len(pid) == 1 and kept.serves()
    monkeypatch.setenv("ANYTHING", "else")
    assert not kept.serves()
    monkeypatch.delenv("ANYTHING")
    os.kill(pid.pop(), signal.SIGKILL)
    with pytest.raises(ProcessError, match=r"working on the third was killed \(SIGKILL\)"):
        kept.call(tmp_path / "third", "the third")
    assert not kept.serves()
    kept.close()


def test_a_kept_process_in_which_something_broke_does_not_serve_again(tmp_path: Path) -> None:
    kept = process.Kept(write_and_refuse)
    with pytest.raises(RuntimeError, match="1 and 2"):
        kept.call(tmp_path / "broken", "a test")
    assert not kept.serves()


def keep_one_to_the_end(path: Path) -> None:
    kept.append(process.Kept(write_its_process))
    kept[0].call(path, "a test")


kept: list[process.Kept] = []


def test_a_kept_process_lets_the_process_end_that_keeps_it(tmp_path: Path) -> None:
    """Also one of a launcher, which runs no atexit: multiprocessing would wait for its children for ever."""
    parent = multiprocessing.get_context("spawn").Process(target=keep_one_to_the_end, args=(tmp_path / "pid",))
    parent.start()
    parent.join(60)
    assert parent.exitcode == 0
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_jobs_of_a_sweep_share_a_process_until_the_environment_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep._kept_process()
    assert sweep._kept_process() is first
    monkeypatch.setenv("ANYTHING", "else")
    assert sweep._kept_process() is not first and not first.serves()
    sweep._kept.pop().close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell may ignore it
    code += "from pathlib import Path; from zoobot.engine import process; from tests.test_child import sleep;"
    code += f"process.call(sleep, Path({str(tmp_path / 'pid')!r}), 'a test')"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    pid = int(_wait_for(tmp_path / "pid"))
    parent.send_signal(how)
    parent.wait(30)
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the process outlived its parent")


def _wait_for(path: Path) -> str:
    for _ in range(600):
        if path.is_file() and path.read_text():
            return path.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{path} did not come")
