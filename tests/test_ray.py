"""engine=ray: the same bytes as here, workers and machines that are killed, tokens, and clusters that cannot be used.

Ray listens on every address, so all of it happens in a network namespace of its own, which has only 127.0.0.0/8.
Several raylets stand for several machines. The drivers are processes of their own: nothing here imports ray.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import re
import shlex
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import test_sweep
from tests.ray_driver import ADDRESS
from tests.test_docs import blocks
from tests.test_layers import loaded
from tests.test_map import is_running, wait_until
from zoobot.engine import cluster
from zoobot.errors import ProcessError, SettingsError
from zoobot.folders import read_manifest
from zoobot.settings import Settings
from zoobot.stages import finish, predict, shards, simulate

ROOT = Path(__file__).resolve().parents[1]
RAY = Path(sys.executable).with_name("ray")
GUIDE = [line.partition("  #")[0] for block in blocks(ROOT / "docs/cluster.md", "bash") for line in block.splitlines()]
_CLONE_NEWNET, _SIOCSIFFLAGS, _IFF_UP = 0x40000000, 0x8914, 1

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="the extra ray is not installed")


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[None]:
    """A network of its own for this thread and the processes that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        if libc.unshare(_CLONE_NEWNET):
            pytest.skip(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
        yield
        assert libc.setns(before.fileno(), _CLONE_NEWNET) == 0


@dataclass
class Machines:
    """A cluster: processes of Ray, a group for each machine. Its first machine has no core, so it only hands out."""

    folder: Path
    token: str = ""
    groups: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs, and Ray's own processes."""
        return os.environ | {
            "RAY_AUTH_MODE": "token", "HOME": str(self.folder), "PATH": f"{RAY.parent}:{os.environ['PATH']}",
            "RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "2",
        }  # fmt: skip

    def start(self, name: str, begins: str, *more: str) -> None:
        """Start Ray on a machine, as the line of the guide does that begins so."""
        line = next(line for line in GUIDE if line.startswith(begins)).replace("HEAD:6379", ADDRESS)
        words = [*shlex.split(line), "--block", "--object-store-memory=80000000", *more]
        with (self.folder / f"{name}.log").open("wb") as out:
            self.groups[name] = subprocess.Popen(
                words, cwd=ROOT, env=self.environment, stdout=out, stderr=out, start_new_session=True, executable=RAY
            )
        self.wait_for(name)  # two that start at once disturb each other

    def add(self, name: str, number: int) -> None:
        """A machine with one core, at an address of its own."""
        self.start(name, "ray start --address", "--num-cpus=1", f"--node-ip-address=127.0.0.{number}")

    def wait_for(self, name: str) -> None:
        said = self.folder / f"{name}.log"
        wait_until(lambda: "Ray runtime started" in said.read_text() or self.groups[name].poll() is not None)
        assert self.groups[name].poll() is None, said.read_text()

    def kill(self, name: str) -> None:
        """As a power cut does: all of its processes at once."""
        machine = self.groups.pop(name)
        for pid in family(machine.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        machine.wait()


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = []
    with suppress(OSError):
        children = [int(n) for path in Path(f"/proc/{pid}/task").glob("*/children") for n in path.read_text().split()]
    return [pid, *(each for child in children for each in family(child))]


@pytest.fixture(scope="module")
def head(network: None) -> Iterator[Machines]:
    with tempfile.TemporaryDirectory(
        prefix="ray", ignore_cleanup_errors=True
    ) as folder:  # a socket's path has 107 bytes
        yield from head_in(Machines(Path(folder)))


def head_in(machines: Machines) -> Iterator[Machines]:
    """Start the head, and end all machines in the end."""
    make = next(line for line in GUIDE if "get-auth-token" in line)
    subprocess.run(make, shell=True, env=machines.environment, check=True, capture_output=True)
    file = machines.folder / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    machines.token = file.read_text()
    machines.start("head", "ray start --head", "--num-cpus=0", f"--temp-dir={machines.folder / 'r'}")
    yield machines
    for name in list(machines.groups):
        machines.kill(name)


@pytest.fixture(scope="module")
def machines(head: Machines) -> Machines:
    """Two machines with a core each, behind the head."""
    head.add("first", 2)
    head.add("second", 3)
    return head


def drive(folder: Path, machines: Machines | None, *cases: str, **more: str) -> str:
    """What cases of ray_driver.py say, on stdout and in their log."""
    with start(folder, machines, *cases, **more) as driver:
        out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, out
    return out


def start(folder: Path, machines: Machines | None, *cases: str, **more: str) -> subprocess.Popen[str]:
    code = "from tests import ray_driver; ray_driver.main()"
    environment = (machines.environment if machines else dict(os.environ)) | {"PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", code, str(folder), *cases]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


# --------------------------------------------------------------- clusters that cannot be used


def test_nothing_imports_ray_unless_it_is_chosen() -> None:
    code = "from zoobot.engine import map; print(list(map.in_order(abs, [1, 2], 2)), map.cores())"
    packages = loaded("-c", f"if __name__ == '__main__': {code}")
    assert "zoobot" in packages and "ray" not in packages
    assert "ray" in loaded("-c", "import ray"), "the test sees what is loaded"


def test_settings_of_the_engine(settings: Callable[..., Settings]) -> None:
    assert settings("stage=shards").cluster is None
    assert settings("stage=shards", "engine=ray").cluster == ""
    assert settings("stage=shards", "engine=ray", "engine.address=a:1").cluster == "a:1"
    with pytest.raises(SettingsError, match=r"engine\.address=a:1: only with engine=ray"):
        settings("stage=shards", "engine.address=a:1")
    for wrong in ("auto", "ray://a:1", "a", "a:b"):
        with pytest.raises(SettingsError, match=r"engine\.address=.*must be HOST:PORT"):
            settings("stage=shards", "engine=ray", f"engine.address='{wrong}'")


def test_a_cluster_that_cannot_be_used_is_refused_in_time(head: Machines, tmp_path: Path) -> None:
    """What to do is in the message. Ray itself waits for minutes where nothing answers."""
    file = head.folder / ".ray" / "auth_token"
    file.chmod(0o644)  # as Ray writes it
    said = drive(tmp_path, head, "at_another_port", "squares", "of_another_version", "without_ray")
    assert "at_another_port: SettingsError: engine.address=127.0.0.1:9: nothing answers there" in said
    assert "squares: SettingsError" in said and "no machine of the cluster offers a core" in said
    assert "token of the Ray cluster, and others could read it: now only you can" in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    said = drive(tmp_path, head, "of_another_version", "without_ray", RAY_AUTH_TOKEN=head.token)
    assert "Version mismatch" in said and "Ray: 2.0.0" in said and "Install the cluster's versions" in said
    assert "without_ray: SettingsError" in said and "pip install 'ray" in said
    said = drive(tmp_path, head, "squares", RAY_AUTH_TOKEN_PATH=str(tmp_path / "none"))
    assert "the token of the cluster cannot be read" in said and "RAY_AUTH_TOKEN_PATH" in said
    said = drive(tmp_path, head, "squares", RAY_AUTH_TOKEN="77" * 32)
    assert f"SettingsError: engine.address={ADDRESS}: the cluster refuses our token" in said
    assert "77777" not in said and head.token not in said


def test_a_folder_that_a_machine_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone is not there on .*a folder that all machines share"):
        cluster._enter(str(tmp_path / "gone"))
    said = cluster._of_worker(SimpleNamespace(cause=RuntimeError("System error: No module named 'zoobot'\ntraceback")))
    assert "No module named 'zoobot'. Every machine needs the same packages" in str(said)


def test_a_cluster_that_does_nothing_is_looked_at(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others use its cores, so tasks wait; or its last machine is lost."""
    caplog.set_level("INFO")
    there = {"CPU": 4}
    ray = SimpleNamespace(
        cluster_resources=lambda: there,
        available_resources=dict,
        remote=lambda **_: lambda function: None,
        wait=lambda *_, **more: ([], []),
    )
    team = cluster.Cluster(ray, "a:1").team(abs, 2)
    assert team.work() == {} and not caplog.messages, "not at once"
    monkeypatch.setattr(cluster, "_WITHOUT_NODES_S", 0)
    assert team.work() == {} and "of the cluster's 4 cores 0 are free" in caplog.text
    there.clear()
    with pytest.raises(ProcessError, match=r"The cluster at a:1 has lost all machines with a core.*run the same"):
        team.work()


# --------------------------------------------------------------- work


def test_results_logs_and_errors_come_through(machines: Machines, tmp_path: Path) -> None:
    said = drive(tmp_path, machines, "squares", "where", "refused", "odd", "killed_once", "killed_always", "closed")
    assert f"squares gave {[n * n for n in range(12)]}" in said
    assert said.count("log of 2") == 1 and f"where gave {[(str(tmp_path), '1', 'token')] * 3}" in said
    assert "refused: ServiceError: item 3: it is full." in said
    assert "odd: RuntimeError: item 0: ValueError: odd" in said
    assert "killed_once gave ['a', 'b']" in said and f"{tmp_path / 'b'} was killed" in said
    assert "killed_always: ProcessError: The process working on item big was killed 3 times" in said
    assert "closed gave 4" in said
    assert not any(is_running(int(path.read_text() or 0)) for path in tmp_path.glob("[0-9]*"))


@pytest.mark.long
def test_machines_are_killed_one_by_one(machines: Machines, tmp_path: Path) -> None:
    with start(tmp_path, machines, "slowly") as driver:
        wait_until(lambda: (tmp_path / "03").exists() or driver.poll() is not None)
        machines.kill("first")
        machines.add("third", 4)
        wait_until(lambda: (tmp_path / "09").exists() or driver.poll() is not None)
        machines.kill("second")
        said, _ = driver.communicate(timeout=60)
    assert f"gave {[f'{n:02}' for n in range(16)]}" in said, said
    assert "it is done again" in said
    assert {path.read_text() for path in tmp_path.iterdir()} == {"begun ", "begun begun "}


@pytest.mark.long
def test_workers_end_with_their_driver(machines: Machines, tmp_path: Path) -> None:
    begun = tmp_path / "a"
    with start(tmp_path, machines, "sleeping") as driver:
        wait_until(lambda: begun.is_file() and bool(begun.read_text()))
        driver.kill()
    wait_until(lambda: not is_running(int(begun.read_text())))


# --------------------------------------------------------------- stages


@pytest.mark.long
def test_stages_write_the_same_bytes(
    compose: Callable[..., Settings], machines: Machines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["quick=true", "model=pixels", "simulate.iterations=1", "shards.shard_size=16", "tracking=disabled",
             "experiment_name=e", "workers=2"]  # fmt: skip
    s = compose("stage=predict", *words, "predict.name=local", data_dir=tmp_path)
    simulate.run(s)
    finish.run(s)
    predict.run(s)
    guide = next(line for line in GUIDE if line.startswith("python run.py stage")).replace("HEAD:6379", ADDRESS)
    for more in (["stage=shards", "shards.name=ray"], ["predict.name=ray"]):
        command = [sys.executable, *shlex.split(guide)[1:], *words, f"data_dir={tmp_path}", *more]
        done = subprocess.run(command, cwd=ROOT, env=machines.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and machines.token not in done.stdout + done.stderr, done.stdout + done.stderr
    on_ray = s.shard_dir.with_name("ray")
    assert read_manifest(on_ray).files == read_manifest(s.shard_dir).files
    assert len(list(on_ray.rglob("*.tfrecord"))) > 5
    parts = [s.predictions_dir / name / "galaxies" / "part_00000.parquet" for name in ("local", "ray")]
    assert parts[0].read_bytes() == parts[1].read_bytes()
    caplog.set_level("INFO")
    shards.run(replace(s, shards=replace(s.shards, name="ray")))
    assert "nothing to do" in caplog.text, "a folder does not depend on the engine"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and machines.token.encode() in path.read_bytes()]


@pytest.mark.long
def test_a_sweep_runs_on_the_cluster(machines: Machines, tmp_path: Path) -> None:
    guide = next(line for line in GUIDE if line.startswith("python run.py -m")).replace("HEAD:6379", ADDRESS)
    words = [re.sub("seed=.*", "seed=0", word) for word in shlex.split(guide)[1:]]
    words += ["quick=true", "simulate.iterations=1", "tracking=disabled"]
    found = []
    for where, more in (("ray", []), ("local", ["engine=local", "engine.address=''"])):
        command = [sys.executable, *words, *more, f"data_dir={tmp_path / where}"]
        done = subprocess.run(command, cwd=ROOT, env=machines.environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0 and "2 of 2 finished" in done.stdout, done.stdout + done.stderr
        found.append(test_sweep.digests(tmp_path / where))
    assert found[0] == found[1] and len(found[0]) > 6


@pytest.mark.long
def test_a_ray_of_its_own_leaves_nothing_behind(tmp_path: Path) -> None:
    assert "own gave [0, 1, 4, 9]" in drive(tmp_path, None, "own")
    token, folder, path = (tmp_path / "own").read_text().split()
    assert (token, folder) == ("100600", "40700") and not Path(path).exists()
    wait_until(lambda: not commands_with(path))


def commands_with(text: str) -> list[bytes]:
    """The command lines of the processes that were started with this text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_bytes())
    return [line for line in found if text.encode() in line]
