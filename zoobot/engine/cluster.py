"""Work on a Ray cluster, as map.py hands it out: a task of Ray for each item, on one core, in processes that Ray keeps.

Ray listens on every address of a machine, so its token is always asked for: whoever connects may run anything.
Only this file imports ray, and only when engine=ray. Paths mean the same file on every machine of the cluster.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import queue
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Any

import zoobot
from zoobot.engine import places, process
from zoobot.engine.tasks import Task
from zoobot.errors import ProcessError, SettingsError

_ANSWERS_WITHIN_S = 5  # a cluster
_LOOK_EVERY_S = 10.0  # at the cluster, while nothing is done
_WITHOUT_NODES_S = 60.0  # until a cluster that lost all of its nodes is given up
_STORE_BYTES = 100 * 2**20  # of a Ray that is started here: items and results are small, /dev/shm may be
_OWN = {  # read by Ray when it is imported
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": str(_ANSWERS_WITHIN_S),  # one a second, for the token too
}
_ADVICE = "docs/cluster.md says how to start a cluster."
log = logging.getLogger("zoobot")


@functools.cache
def connect(address: str, environment: tuple[tuple[str, str], ...]) -> Cluster:
    """The cluster at HOST:PORT; empty: one on this machine, which ends with this process. Workers start in
    ``environment``. Once in each process.

    Raises SettingsError: the extra is missing, nothing answers, the token is missing or another, or versions differ.
    """
    os.environ |= _OWN
    code = [str(Path(zoobot.__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    worker = {"env_vars": dict(environment) | {"PYTHONPATH": os.pathsep.join(code)}}
    how: dict[str, Any] = {"runtime_env": worker, "log_to_driver": False}
    if address:
        _refuse_silence(address)
        _protect_token()
    else:
        how |= {
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": str(_own_folder() / "ray"),
        }
    try:
        import ray
    except ImportError as error:
        raise SettingsError("engine=ray needs a package that is not installed: pip install 'ray>=2.59'") from error
    try:
        ray.init(address=address or "local", logging_level=logging.ERROR, **how)
    except Exception as error:  # of many kinds
        raise SettingsError(_refused(address, error)) from error
    return Cluster(ray, address)


def _refuse_silence(address: str) -> None:
    """SettingsError: nothing answers there. Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise SettingsError(
            f"engine.address={address}: nothing answers there ({error}). Start the cluster, or correct it. {_ADVICE}"
        ) from error


def _protect_token() -> None:
    """Let nobody else read the file with the token, which Ray writes for all to read. SettingsError: there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            log.warning("%s holds the token of the Ray cluster, and others could read it: now only you can", file)
            file.chmod(0o600)
    except OSError as error:
        raise SettingsError(
            f"engine.address: the token of the cluster cannot be read or protected ({error}). Copy it to"
            f" ~/.ray/auth_token (mode 0600), or name its file in RAY_AUTH_TOKEN_PATH. {_ADVICE}"
        ) from error


def _own_folder() -> Path:
    """A folder that only this user can enter, with a token, for a Ray that is started here; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="zoobot_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.pop("RAY_AUTH_TOKEN", None)  # it would come first
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    return folder


def _refused(address: str, error: Exception) -> str:
    where = f"engine.address={address}" if address else "engine=ray"
    text = " ".join(str(error).split())
    if isinstance(error, ConnectionError):
        text = "the cluster refuses our token, or is no Ray cluster. Use the token that it was started with"
    elif "ersion mismatch" in text:
        text = f"{text}. Install the cluster's versions here, or ours there"
    return f"{where}: {text}. {_ADVICE}"


# --------------------------------------------------------------- this side


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    ray: Any
    address: str

    def cores(self) -> int:
        """How many tasks it can do at a time. SettingsError: none."""
        n = int(self.ray.cluster_resources().get("CPU", 0))
        if not n:
            raise SettingsError(
                f"engine.address={self.address}: no machine of the cluster offers a core. Start Ray on one without"
                f" --num-cpus=0. {_ADVICE}"
            )
        return n

    def team(self, function: Callable[[Any], Any], size: int) -> Team:
        """Processes of the cluster, for one kind of work."""
        return Team(self, function, size)


class Team:
    """The tasks that Ray works on, and those that wait for it."""

    def __init__(self, cluster: Cluster, function: Callable[[Any], Any], size: int) -> None:
        self._ray, self._cluster, self._function, self._size = cluster.ray, cluster, function, size
        self._given: dict[Any, Task[Any]] = {}
        self._there = self._ray.remote(num_cpus=1, max_retries=0)(_work)
        self._heard_s = time.monotonic()
        self.queue: deque[Task[Any]] = deque()
        cluster.cores()

    def work(self) -> dict[int, Any]:
        """Give tasks to Ray and wait until one is done, for a while. Results, by the number of their task."""
        while self.queue and len(self._given) < self._size:
            task = self.queue.popleft()
            level = logging.getLogger().level
            self._given[self._there.remote(self._function, task.item, str(Path.cwd()), level)] = task
        done, _ = self._ray.wait(list(self._given), timeout=_LOOK_EVERY_S)
        if not done:
            self._look()
            return {}
        self._heard_s = time.monotonic()
        return self._result(done[0], self._given.pop(done[0]))

    def end(self) -> None:
        """End what is in work, and wait until it is: what it publishes is complete or absent."""
        for ref in self._given:
            self._ray.cancel(ref, force=True)
        if self._given:
            self._ray.wait(list(self._given), num_returns=len(self._given), timeout=_LOOK_EVERY_S)
        self._given.clear()

    def _result(self, ref: Any, task: Task[Any]) -> dict[int, Any]:
        kinds = self._ray.exceptions
        try:
            records, found = self._ray.get(ref)
        except (kinds.RayTaskError, kinds.RuntimeEnvSetupError) as error:  # before or after the function was called
            raise task.failed(_of_worker(error)) from error
        except kinds.RayError as error:
            task.lost(f"{type(error).__name__} of Ray")
            self.queue.appendleft(task)
            return {}
        for record in records:
            logging.getLogger(record.name).handle(record)
        if isinstance(found, Exception):
            raise task.failed(found)
        return {task.number: found[0]}

    def _look(self) -> None:
        """While nothing is done: say what the cluster does. ProcessError: all of its nodes are lost."""
        waited_s = time.monotonic() - self._heard_s
        if waited_s < _WITHOUT_NODES_S:
            return
        there, free = self._ray.cluster_resources().get("CPU", 0), self._ray.available_resources().get("CPU", 0)
        if not there:
            raise ProcessError(
                f"The cluster at {self._cluster.address} has lost all machines with a core. Finished parts are kept."
                " Start Ray on one of them again, and run the same command again."
            )
        log.info("nothing was done for %.0f s; of the cluster's %d cores %d are free", waited_s, there, free)
        self._heard_s = time.monotonic()


def _of_worker(error: Any) -> Exception:
    """What is said of a worker that could not even begin, or whose result could not be sent."""
    cause = getattr(error, "cause", error)
    if missing := re.search("No module named '.*'", str(cause)):
        return SettingsError(
            f"A worker of the cluster has another environment than this process: {missing[0]}. Every machine needs the"
            f" same packages and this checkout, at the same path. {_ADVICE}"
        )
    return process.to_send(cause if isinstance(cause, Exception) else error)


# --------------------------------------------------------------- the other side


def _work(
    function: Callable[[Any], Any], item: Any, folder: str, level: int
) -> tuple[list[logging.LogRecord], tuple[Any] | Exception]:
    """What a worker does with an item, in the working folder of the process that sent it. Its log, and the result."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    root = logging.getLogger()
    root.handlers, root.level = [QueueHandler(records)], level
    places.leave_home_alone()
    found: tuple[Any] | Exception
    try:
        _enter(folder)
        found = (function(item),)
    except Exception as error:
        found = process.to_send(error)
    return [records.get() for _ in range(records.qsize())], found


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise SettingsError(
            f"{folder} is not there on {socket.gethostname()}, a machine of the cluster ({error.strerror}). Data reach"
            f" workers by a folder that all machines share, at the same path. {_ADVICE}"
        ) from error
