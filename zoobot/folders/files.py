"""Single files: JSON, typed records in JSON, and files that are replaced in one step."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from zoobot.errors import FolderError
from zoobot.folders import disk

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class Record(Protocol):
    """A frozen dataclass that is stored as JSON. ``FORMAT`` holds the key and the number of its version."""

    FORMAT: ClassVar[tuple[str, int]]
    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Record)
T = TypeVar("T")


def to_text(value: object) -> str:
    """``value`` as JSON; equal values give equal text."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON; equal values give equal files."""
    path.write_text(to_text(value), encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in one of our JSON files."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FolderError(f"{path} is missing: its folder was not finished, or files were removed.") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path} is not valid JSON ({error}): it was edited or damaged.") from error
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}.") from error


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, its version first."""
    key, version = record.FORMAT
    write_json(path, {key: version, **dataclasses.asdict(record)})


def read_record(path: Path, kind: type[R]) -> R:
    """The record in a JSON file. FolderError: it has another version, or a field is missing or has another type."""
    content = read_json(path)
    key, version = kind.FORMAT
    found = content.get(key) if isinstance(content, dict) else None
    if found != version:
        raise FolderError(
            f"{path} has format version {found}; this program reads {version}. Use the program that wrote it, or make"
            " the folder again under another name."
        )
    return parse(content, kind, str(path))


def parse(content: object, kind: type[T], where: str) -> T:
    """A dataclass from plain values, with checked types. A FolderError names ``where`` and the first bad field."""
    from pydantic import ValidationError  # late: it takes 0.2 s

    try:
        record: T = _adapter(kind).validate_python(content)  # type: ignore[arg-type]  # a type is hashable
        return record
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise FolderError(f"{where} is damaged or was edited: {field}: {first['msg'].lower()}.") from error


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def publish_file(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file so that a reader sees either the old content or the new, never a part. ``content`` may come in
    parts; if it ends with an error, nothing is published.
    """
    with disk.clear_errors(path):
        disk.make_folder(path.parent)
        _remove_leftovers(path)
        with _staged(path) as staged:
            staged.writelines([content] if isinstance(content, bytes) else content)
            staged.flush()
            os.fsync(staged.fileno())
            Path(staged.name).replace(path)
        disk.flush_folder(path.parent)


@contextmanager
def _staged(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside ``path``, locked: so that others know it is being written, in whatever container they are."""
    while True:
        name = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        with name.open("xb") as file:
            disk.try_lock(file, wait=True)
            if os.fstat(file.fileno()).st_nlink:  # otherwise another process removed it before it was locked
                try:
                    yield file
                except BaseException:
                    with suppress(OSError):
                        name.unlink()
                    raise
                return


def _remove_leftovers(path: Path) -> None:
    """Remove what dead processes staged for a file: nobody holds its lock."""
    staged = re.compile(rf"\.{re.escape(path.name)}\.\d+(-[0-9a-f]{{8}})?")
    for leftover in path.parent.iterdir():
        if staged.fullmatch(leftover.name):
            with suppress(FileNotFoundError, PermissionError), leftover.open("rb") as file:
                if disk.try_lock(file):
                    leftover.unlink(missing_ok=True)
