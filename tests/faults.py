"""A fault layer: counts a program's operations on a folder and its calls to the outside, and makes one of them fail.

    faults = Faults(folder, at=17, kind="torn")
    faults.install()            # in a forked child, since it patches the child's own open, os, sqlite3 and tfrecords
    …                           # the 17th operation below the folder fails

It counts each write that reaches the system, truncation, flush, creation, rename, unlink, mkdir, rmdir, chmod, SQL
commit, and each call to the outside (which reports itself by ``faults.point``). A process ends by ``os._exit``: no
handler, ``finally`` or buffer of Python runs, as after kill -9. Kinds:

    kill       the process ends before the operation
    torn       half of a write is done, any other operation completely; then the process ends
    ENOSPC     the operation fails if it needs space, and so does every later one: the disk stays full
    EIO        the operation fails, once
    unflushed  the process ends, and the disk forgets every content and every name that was not flushed
    empty      the process ends; names stay, but contents that were not flushed are lost

A flush is only recorded, not done: ``Shadow``, the disk of the test, keeps what was flushed in memory.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoobot.folders import disk

KINDS = ("kill", "torn", "ENOSPC", "EIO", "unflushed", "empty")
KILLED = 137  # the exit status of a shell's child after kill -9
NEEDS_SPACE = ("write", "create", "mkdir", "rename", "flush", "commit")
_real = {name: getattr(os, name) for name in
         ("fsync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "chmod", "sendfile")}  # fmt: skip
_real_open = io.open


class Faults:
    """Counts the operations below ``root``; the one numbered ``at`` (from 1) fails as ``kind`` says."""

    def __init__(self, root: Path, at: int = 0, kind: str = "kill") -> None:
        self.root, self.at, self.kind = str(root), at, kind
        self.log: list[str] = []
        self.full = False
        self.shadow = Shadow(root) if kind in ("unflushed", "empty") else None

    def point(
        self,
        what: str,
        path: str,
        do: Callable[[], Any],
        half: Callable[[], Any] | None = None,
        error: Callable[[int], Exception] = lambda number: OSError(number, os.strerror(number)),
    ) -> Any:
        """Do an operation, or make it fail if its turn has come."""
        self.log.append(f"{what} {os.path.relpath(path, self.root)}")
        struck = len(self.log) == self.at
        if struck and self.kind == "EIO":
            raise error(errno.EIO)
        self.full |= struck and self.kind == "ENOSPC"
        if self.full and what in NEEDS_SPACE:
            raise error(errno.ENOSPC)
        if struck and self.kind != "ENOSPC":
            if self.kind == "torn":
                try:
                    (half or do)()
                finally:
                    os._exit(KILLED)
            if self.shadow:
                self.shadow.restore(keep_names=self.kind == "empty")
            os._exit(KILLED)
        return do()

    def is_below(self, path: str) -> bool:
        return path.startswith(self.root + "/")

    def install(self) -> None:
        """Patch this process."""
        builtins.open = io.open = self._open
        setattr(os, "fsync", self._fsync)  # noqa: B010
        setattr(os, "sendfile", self._sendfile)  # noqa: B010
        for name in ("unlink", "remove", "rmdir", "mkdir", "chmod"):
            setattr(os, name, self._of_path(name))
        for name in ("rename", "replace"):
            setattr(os, name, self._rename)
        self._install_libraries()

    # ----------------------------------------------------------- files

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **more: Any) -> Any:
        path = os.path.abspath(os.fspath(file)) if isinstance(file, str | os.PathLike) else ""
        if not set(mode) & set("wax+") or not self.is_below(path):
            return _real_open(file, mode, buffering, *text, **more)
        if not os.path.exists(path):
            self.point("create", path, lambda: None)
        raw = _Raw(path, mode.replace("b", "").replace("t", ""), self)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *text, **more)

    def _fsync(self, descriptor: int) -> None:
        path = _path_of(descriptor)
        if self.is_below(path) or path == self.root:
            self.point("flush", path, lambda: self._note(path))

    def _note(self, path: str) -> None:
        if self.shadow:
            self.shadow.note(path)

    def _hold(self, path: str) -> None:
        if self.shadow and os.path.lexists(path):
            self.shadow.hold(path)

    def _sendfile(self, to: int, source: int, offset: int, count: int) -> int:
        def send(n: int) -> int:
            return int(_real["sendfile"](to, source, offset, n))

        path, rest = _path_of(to), os.fstat(source).st_size - offset
        if rest <= 0 or not self.is_below(path):
            return send(count)
        return int(self.point("write", path, lambda: send(count), lambda: send(rest // 2)))

    # ----------------------------------------------------------- names

    def _of_path(self, name: str) -> Callable[..., None]:
        what = "unlink" if name == "remove" else name

        def call(path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> None:
            if dir_fd is not None:
                more["dir_fd"] = dir_fd
            full = os.path.join(_path_of(dir_fd), path) if dir_fd is not None else os.path.abspath(os.fspath(path))
            if not self.is_below(full):
                _real[name](path, *args, **more)
                return
            if what in ("unlink", "rmdir"):
                self._hold(full)
            self.point(what, full, lambda: _real[name](path, *args, **more))

        return call

    def _rename(self, source: Any, target: Any, **more: Any) -> None:
        path = os.path.abspath(os.fspath(target))
        if not self.is_below(path):
            _real["replace"](source, target, **more)
            return
        self._hold(path)
        self.point("rename", path, lambda: _real["replace"](source, target, **more))

    # ----------------------------------------------------------- libraries that write below Python

    def _install_libraries(self) -> None:
        if "zoobot.galaxies.tfrecords" in sys.modules:
            self._install_tfrecords()
        faults, real_connect = self, sqlite3.connect

        class Connection(sqlite3.Connection):
            path = ""

            def __exit__(self, kind: Any, value: Any, trace: Any) -> Any:
                def commit() -> Any:
                    return sqlite3.Connection.__exit__(self, kind, value, trace)

                if kind or not self.in_transaction or not faults.is_below(self.path):
                    return commit()
                return faults.point("commit", self.path, commit, self._half(commit), _sql_error)

            def executescript(self, script: str, /) -> sqlite3.Cursor:
                def run() -> sqlite3.Cursor:
                    return sqlite3.Connection.executescript(self, script)

                found: sqlite3.Cursor = faults.point("commit", self.path, run, self._half(run), _sql_error)
                return found

            def _half(self, do: Callable[[], Any]) -> Callable[[], None]:
                def half() -> None:
                    do()
                    os.truncate(self.path, Path(self.path).stat().st_size // 2)

                return half

        def connect(path: Any, *args: Any, **more: Any) -> sqlite3.Connection:
            connection = real_connect(path, *args, factory=Connection, **more)
            connection.path = os.path.abspath(os.fspath(path))
            return connection

        sqlite3.connect = connect  # type: ignore[assignment]

    def _install_tfrecords(self) -> None:
        import tensorflow as tf

        from zoobot.galaxies import tfrecords

        real_write = tfrecords.write

        def write(path: Path, records: Any) -> None:
            def half() -> None:
                real_write(path, records)
                os.truncate(path, path.stat().st_size // 2)

            def error(number: int) -> Exception:
                return tf.errors.UnknownError(None, None, f"{path}; {os.strerror(number)}")  # type: ignore[no-any-return]

            self.point("write", str(path), lambda: real_write(path, records), half, error)

        tfrecords.write = write


class _Raw(io.FileIO):
    """A file that counts its writes when they reach the system."""

    def __init__(self, path: str, mode: str, faults: Faults) -> None:
        super().__init__(path, mode)
        self._path, self._faults = path, faults

    def write(self, data: Any, /) -> int:
        content = bytes(data)
        write = super().write
        return int(
            self._faults.point("write", self._path, lambda: write(content), lambda: write(content[: len(content) // 2]))
        )

    def truncate(self, size: int | None = None, /) -> int:
        truncate = super().truncate
        return int(self._faults.point("truncate", self._path, lambda: truncate(size)))


class Shadow:
    """What a disk is sure to hold: the content of each file, and the names in each folder, at their last flush. Both
    are kept by inode, because a rename moves names and not contents.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._files: dict[int, tuple[bytes, int]] = {}  # inode: content, mode
        self._folders: dict[int, tuple[dict[str, tuple[int, bool]], int]] = {}  # {name: (inode, is a folder)}, mode
        self._held: list[int] = []
        for folder, _, names in os.walk(root):
            self.note(folder)
            for name in names:
                self.note(os.path.join(folder, name))

    def hold(self, path: str) -> None:
        """Keep the inode of a file that is about to lose its name, so that no other file gets its number."""
        self._held.append(os.open(path, os.O_PATH))

    def note(self, path: str) -> None:
        """Record a file or folder as flushed in its present state."""
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(path) as entries:
                names = {e.name: (e.inode(), e.is_dir()) for e in entries}
            self._folders[found.st_ino] = (names, stat.S_IMODE(found.st_mode))
        else:
            with _real_open(path, "rb") as file:
                self._files[found.st_ino] = (file.read(), stat.S_IMODE(found.st_mode))

    def restore(self, *, keep_names: bool) -> None:
        """Make the folder look as it would after a power cut."""
        if keep_names:
            for folder, _, names in os.walk(self._root):
                for path in (os.path.join(folder, name) for name in names):
                    self._write(path, os.stat(path).st_ino)
            return
        inode = os.stat(self._root).st_ino
        for name, do in _real.items():  # from here on nothing is counted
            setattr(os, name, do)
        disk.make_writable(Path(self._root))
        disk.empty(Path(self._root))
        self._rebuild(self._root, inode)

    def _rebuild(self, folder: str, inode: int) -> None:
        """Rebuild a folder with the names that were flushed (none if it never was)."""
        entries, mode = self._folders.get(inode, ({}, 0o755))
        for name, (child, is_folder) in entries.items():
            path = os.path.join(folder, name)
            if is_folder:
                os.mkdir(path)
                self._rebuild(path, child)
            else:
                self._write(path, child)
        os.chmod(folder, mode)

    def _write(self, path: str, inode: int) -> None:
        content, mode = self._files.get(inode, (b"", 0o644))
        if os.path.exists(path):
            _real["chmod"](path, 0o644)
        with _real_open(path, "wb") as file:
            file.write(content)
        _real["chmod"](path, mode)


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _sql_error(number: int) -> Exception:
    return sqlite3.OperationalError("database or disk is full" if number == errno.ENOSPC else "disk I/O error")
