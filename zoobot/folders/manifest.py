"""The manifest of a write-once folder: how it is made, and how a folder can differ from it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from zoobot.errors import InputError
from zoobot.folders.files import read_json, to_text
from zoobot.folders.provenance import Provenance, provenance

MANIFEST = "manifest.json"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Listed:
    """A file of the folder."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Input:
    """What was read: a folder with its manifest's digest, or a file with its content's. ``path`` is relative."""

    path: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest. ``digest`` identifies the folder; ``seal`` covers all the rest of the manifest."""

    FORMAT: ClassVar = ("format_version", FORMAT_VERSION)
    files: dict[str, Listed]
    varying: list[str]
    inputs: dict[str, Input]
    settings: dict[str, object]
    provenance: Provenance
    digest: str
    seal: str


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: object) -> object:
    """A value as it comes back from JSON."""
    found: object = json.loads(json.dumps(value))
    return found


def build(
    staging: Path,
    path: Path,
    settings: Mapping[str, object],
    inputs: Mapping[str, Path],
    read: Mapping[str, str],
    varying: Sequence[str],
) -> dict[str, object]:
    """The manifest of a staged folder that will become ``path``; ``read`` has the digests of the inputs."""
    names = sorted(_list_files(staging)[0])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        listed = pool.map(_describe, (staging / name for name in names))
        files = {name: asdict(entry) for name, entry in zip(names, listed, strict=True)}
    sources = {name: {"path": os.path.relpath(source, path), "digest": read[name]} for name, source in inputs.items()}
    identity = {
        "format_version": FORMAT_VERSION,
        "files": {name: None if name in varying else entry for name, entry in files.items()},
        "varying": sorted(varying),
        "inputs": read,
        "settings": plain(settings),
        "provenance": asdict(provenance()),
    }
    run = {"finished_at": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node()}
    content = {**identity, "files": files, "inputs": sources, "run": run, "digest": _sha256(identity)}
    return content | {"seal": _sha256(content)}


def _sha256(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_sealed(path: Path) -> bool:
    """Whether every byte of the manifest is what it was when it was written; the seal covers all values but itself."""
    content = read_json(path / MANIFEST)
    same_text = (path / MANIFEST).read_bytes() == to_text(content).encode()  # white space, too
    return bool(content.pop("seal") == _sha256(content)) and same_text


def compare(path: Path, manifest: Manifest, *, digests: bool) -> list[str]:
    """How the files of a folder differ from its manifest: in size, the JSON files in content; all with ``digests``."""
    present, problems = _list_files(path)
    unreadable = tuple(f"{name}/" for name in problems)
    present.discard(MANIFEST)
    for name, listed in manifest.files.items():
        if name.startswith(unreadable):
            continue
        problem = _size_problem(path / name, listed) if name in present else "missing"
        problems |= {name: problem} if problem else {}
    left = [name for name in manifest.files if name in present and name not in problems]
    left = [name for name in left if digests or name.endswith(".json")]  # which steer a run, and are small
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_digest_or_problem, (path / name for name in left))
        for name, digest in zip(left, found, strict=True):
            if digest != manifest.files[name].sha256:
                problems[name] = "its content has changed" if " " not in digest else digest
    problems |= dict.fromkeys(sorted(present - set(manifest.files)), "not in the manifest")
    return [f"{path / name}: {problem}" for name, problem in problems.items()]


def _size_problem(path: Path, listed: Listed) -> str | None:
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if size == listed.bytes else f"{size} bytes, should be {listed.bytes}"


def _digest_or_problem(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _list_files(path: Path) -> tuple[set[str], dict[str, str]]:
    """The files below a folder; and the folders below it that cannot be read, with the reason."""
    files: set[str] = set()
    unreadable: dict[str, str] = {}

    def note(error: OSError) -> None:
        unreadable[Path(str(error.filename)).relative_to(path).as_posix()] = f"cannot be read: {error.strerror}"

    for folder, folders, names in os.walk(path, onerror=note):
        for entry in (Path(folder, name) for name in (*folders, *names)):
            try:
                mode = entry.lstat().st_mode
            except OSError as error:
                note(error)
                continue
            if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a plain file"
                raise InputError(f"{entry} is {kind}; a folder with a manifest holds only its own files.")
        files |= {Path(folder, name).relative_to(path).as_posix() for name in names}
    return files, unreadable


def _describe(path: Path) -> Listed:
    return Listed(path.stat().st_size, digest_file(path))
