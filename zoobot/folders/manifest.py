"""The manifest of a write-once folder: how it is made, and how a folder can differ from it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
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
    names = _list_files(staging)
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


def _is_sealed(path: Path) -> bool:
    """Whether every byte of the manifest is what it was when it was written; the seal covers all values but itself."""
    content = read_json(path / MANIFEST)
    same_text = (path / MANIFEST).read_bytes() == to_text(content).encode()  # white space, too
    return bool(content.pop("seal") == _sha256(content)) and same_text


def compare(path: Path, manifest: Manifest, *, digests: bool) -> list[str]:
    """How a folder differs from its manifest: in the size of files; with ``digests`` also in content and seal."""
    present = set(_list_files(path)) - {MANIFEST}
    problems = {name: "missing" for name in manifest.files if name not in present}
    for name in present & set(manifest.files):
        size = (path / name).stat().st_size
        if size != manifest.files[name].bytes:
            problems[name] = f"{size} bytes, should be {manifest.files[name].bytes}"
    if digests:
        left = [name for name in manifest.files if name not in problems]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(_digest_or_problem, (path / name for name in left))
            digest_of_file = dict(zip(left, found, strict=True))
        for name, digest in digest_of_file.items():
            if digest != manifest.files[name].sha256:
                problems[name] = "its content has changed" if " " not in digest else digest
    problems |= dict.fromkeys(sorted(present - set(manifest.files)), "not in the manifest")
    if digests and not _is_sealed(path):
        problems[MANIFEST] = "its content has changed"
    return [f"{path / name}: {problem}" for name, problem in problems.items()]


def _digest_or_problem(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _list_files(path: Path) -> list[str]:
    files = []
    for folder, folders, names in os.walk(path):
        for entry in (Path(folder, name) for name in (*folders, *names)):
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                kind = "a symbolic link" if entry.is_symlink() else "not a plain file"
                raise InputError(f"{entry} is {kind}; a folder with a manifest holds only its own files.")
        files += [Path(folder, name).relative_to(path).as_posix() for name in names]
    return sorted(files)


def _describe(path: Path) -> Listed:
    return Listed(path.stat().st_size, digest_file(path))
