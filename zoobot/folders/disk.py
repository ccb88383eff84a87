"""What we need from a disk (flushed data, locks, space), and the messages if it fails.

The content of a file is safe once the file is flushed, its name once its folder is flushed. After a power cut, any part
of what was not flushed may be gone.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import platform
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from zoobot.errors import FolderError, ZoobotError

_FIX = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space of your quota",
    errno.EIO: "Check the health of the disk (dmesg)",
    errno.EROFS: "Make the file system writable",
    errno.EACCES: "Make the folder writable",
    errno.EPERM: "Run it as the user whose files these are, or ask them to remove what is unfinished",
    errno.ENAMETOOLONG: "Choose shorter names (data_dir, experiment_name)",
}
_FICLONE = 0x40049409  # linux/fs.h: let a file share the blocks of another
_NOT_USABLE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
_NO_INODES = "The disk can hold no more files, whatever space is left (df -i shows it): remove files"
# SQLite gives a text instead of a number. HDF5 (an OSError or a RuntimeError) and shutil hide the number in a text.
_SQLITE = {"database or disk is full": errno.ENOSPC, "disk I/O error": errno.EIO, "readonly database": errno.EROFS}
_IN_TEXT = re.compile(r"(?:\berrno = |\[Errno )(\d+)")


# --------------------------------------------------------------- flush


def flush_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(path: Path) -> None:
    """Flush ``path`` and every file and folder below it."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            flush_file(Path(folder, name))
        flush_folder(Path(folder))


def make_folder(path: Path) -> None:
    """Make a folder and its parents, and flush their names."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush_folder(path.parent)


def copy(source: str | Path, target: str | Path) -> None:
    """Copy a file's content: on XFS and Btrfs both share it until one is changed."""
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, old.fileno())
        except OSError:  # another file system, or another kind of one
            shutil.copyfile(source, target)


def remove(path: Path) -> None:
    """Remove a folder and its content, even if it is already read-only."""
    if path.is_dir():
        make_writable(path)
        try:
            shutil.rmtree(path)
        except OSError as error:  # it names a file without its folder
            raise OSError(error.errno, error.strerror, str(path / (error.filename or ""))) from error


def empty(path: Path) -> None:
    """Remove the content of a folder."""
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def make_read_only(path: Path) -> None:
    """Remove the write permission of ``path`` and of every file and folder below it."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            Path(folder, name).chmod(0o444)
        Path(folder).chmod(0o555)


def make_writable(path: Path) -> None:
    """Give the write permission back to the owner. What belongs to another user stays as it is."""
    for folder, _, names in os.walk(path):
        for entry, more in ((Path(folder), 0o700), *((Path(folder, name), 0o600) for name in names)):
            with suppress(PermissionError):
                entry.chmod(stat.S_IMODE(entry.stat().st_mode) | more)


def rename_folder(source: Path, target: Path) -> None:
    """Give a complete folder its name, at once.

    An overlay file system (a container's) does not rename a folder that came with its image: such a folder is copied
    first, and the copy is renamed.
    """
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = source.with_name(f"{source.stem}.copy.staging")
        remove(copy)
        shutil.copytree(source, copy)
        flush_tree(copy)
        copy.rename(target)
        remove(source)


# --------------------------------------------------------------- lock


@contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``path`` against other processes, with a kernel lock that ends when the process does.

    FolderError: another process holds it (the message says which), unless ``wait``; or the file system has no locks.
    """
    with clear_errors(path), _open_lock(path.with_name(f".{path.name}.lock")) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise FolderError(
                f"{path} is held by {_holder(file)}. Wait until it ends, or stop it; then run the same command again."
                " There is nothing to unlock: the lock ends with the process."
            ) from None
        except OSError as error:
            raise FolderError(
                f"{path.parent} is on a file system without locks ({error.strerror}), so two runs could write there at"
                " the same time. Set data_dir to a folder on a local disk, or on NFS 4."
            ) from error
        with suppress(io.UnsupportedOperation):  # opened for reading only
            _write_holder(
                file, f"process {os.getpid()} on {platform.node()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z"
            )
        try:
            yield
        finally:
            with suppress(OSError):  # the unsupported operation is one, too
                _write_holder(file, "")


def try_lock(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed. False: another process holds it, or the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _open_lock(path: Path) -> IO[str]:
    """The file that is locked. Another user of the folder may have made it: then it is only read, which is enough."""
    try:
        return path.open("a+", encoding="utf-8")
    except PermissionError:
        if not path.is_file():
            raise
        return path.open(encoding="utf-8")


def _write_holder(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _holder(file: IO[str]) -> str:
    time.sleep(0.05)  # the other process locks first, then writes its name
    file.seek(0)
    holder = file.read() or "another process"
    number = re.match(rf"process (\d+) on {re.escape(platform.node())},", holder)
    if number and not Path("/proc", number[1]).exists() and Path("/proc/self").exists():
        holder += " (in another container; the number is the one it has there)"
    return holder


# --------------------------------------------------------------- what goes wrong


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk below the folder of ``path`` into a FolderError that says what to do.

    All other errors pass unchanged: a server's answer may contain the same words.
    """
    try:
        yield
    except Exception as error:
        number = _disk_error(error, path.absolute().parent)
        if number is None:
            raise
        fix = _NO_INODES if number == errno.ENOSPC and _has_no_inodes(path) else _FIX[number]
        raise FolderError(
            f"{path} cannot be written: {os.strerror(number)} ({error}). Nothing was published, and finished steps are"
            f" kept. {fix}, then run the same command again."
        ) from error


def of_the_user(error: OSError) -> FolderError | None:
    """What is said of a path that a setting names and that cannot be used; None: it is another kind of error."""
    if error.filename is None or (error.errno not in _FIX and error.errno not in _NOT_USABLE):
        return None
    fix = _NO_INODES if error.errno == errno.ENOSPC and _has_no_inodes(Path(error.filename)) else _FIX.get(error.errno)
    todo = fix or "Check the settings that name this path"
    return FolderError(f"{error.filename} cannot be used: {error.strerror}. {todo}, then run the same command again.")


def _has_no_inodes(path: Path) -> bool:
    """Whether the disk is full because it can hold no more files."""
    path = path.absolute()
    while not os.path.lexists(path):
        path = path.parent
    found = os.statvfs(path)
    return found.f_files > 0 and found.f_favail == 0


def _disk_error(error: BaseException | None, folder: Path) -> int | None:
    """The number of a disk error, whichever library raised it. None: it is another kind of error, or is elsewhere."""
    while error is not None and not isinstance(error, ZoobotError):
        if isinstance(error, OSError) and error.errno in _FIX:
            return error.errno if _is_below(error.filename, folder) else None
        found = []
        if isinstance(error, sqlite3.Error):
            found = [number for text, number in _SQLITE.items() if text in str(error)]
        elif type(error) in (OSError, RuntimeError, shutil.Error):
            found = [int(number) for number in _IN_TEXT.findall(str(error)) if int(number) in _FIX]
        if found:
            return found[0]
        error = error.__cause__
    return None


def _is_below(name: object, folder: Path) -> bool:
    """Whether a file is below ``folder``; true if the error names no file."""
    return not isinstance(name, str | os.PathLike) or Path(name).absolute().is_relative_to(folder)


def require_space(path: Path, n_bytes: int) -> None:
    """Refuse to begin long work if its output will not fit on the disk. ``path`` need not exist yet."""
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < n_bytes:
        raise FolderError(
            f"{path} has {free / 1e9:.2f} GB left, but about {n_bytes / 1e9:.2f} GB are needed. Free some space, or set"
            " data_dir to a larger disk."
        )
