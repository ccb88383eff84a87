"""The manifest of a write-once folder: how it is made, and every way in which a folder can differ from it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoobot.errors import InputError
from zoobot.folders.provenance import provenance

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
READS_VERSIONS = (1, 2)  # 1 had no seal
_KEYS = ("files", "varying", "inputs", "settings", "digest")


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text(value: object) -> str:
    """JSON that is the same for the same value."""
    return json.dumps(value, indent=1, sort_keys=False, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    return json.loads(json.dumps(value))


def missing_keys(content: Mapping[str, Any]) -> list[str]:
    """What a manifest needs and this one lacks."""
    missing = [key for key in _KEYS if key not in content]
    for group, needed in (("files", ("bytes", "sha256")), ("inputs", ("path", "digest"))):
        for name, entry in dict(content.get(group, {})).items():
            missing += [f"{key} of {name}" for key in needed if key not in entry]
    return missing


def build(
    staging: Path,
    path: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    read: Mapping[str, str],
    varying: Sequence[str],
) -> dict[str, Any]:
    """The manifest of what is staged and will be ``path``; ``read`` are the digests of the inputs."""
    names = _list_files(staging)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = dict(zip(names, pool.map(_describe, (staging / name for name in names)), strict=True))
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "files": files,
        "varying": sorted(varying),
        "inputs": {
            name: {"path": os.path.relpath(source, path), "digest": read[name]} for name, source in inputs.items()
        },
        "settings": plain(settings),
        "provenance": provenance(),
        "run": {"finished_at": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node()},
    }
    content["digest"] = _digest(content)
    return content | {"seal": _seal(content)}


def _digest(manifest: Mapping[str, Any]) -> str:
    """Over all of a manifest but itself, the run, and the content of the files that vary."""
    content = {key: value for key, value in manifest.items() if key not in ("digest", "seal", "run")}
    content["files"] = {
        name: None if name in manifest["varying"] else entry for name, entry in manifest["files"].items()
    }
    content["inputs"] = {name: entry["digest"] for name, entry in manifest["inputs"].items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    """Over all of a manifest but itself."""
    content = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _broken_seal(file: Path, manifest: Mapping[str, Any]) -> list[str]:
    if _digest(manifest) != manifest["digest"]:
        return [f"{file}: its digest does not fit its content"]
    sealed = manifest["format_version"] == 1 or manifest.get("seal") == _seal(manifest)
    same_text = file.read_bytes() == text(manifest).encode()  # a space may have become another
    return [] if sealed and same_text else [f"{file}: its content has changed"]


def compare(path: Path, manifest: Mapping[str, Any], *, digests: bool) -> list[str]:
    """How the files of a folder differ from its manifest, by size or by content too, and that from its own digests."""
    listed: Mapping[str, Mapping[str, Any]] = manifest["files"]
    present = set(_list_files(path)) - {MANIFEST}
    problems = {name: "missing" for name in listed if name not in present}
    for name in present & set(listed):
        size = (path / name).stat().st_size
        if size != listed[name]["bytes"]:
            problems[name] = f"{size} bytes, should be {listed[name]['bytes']}"
    if digests:
        left = [name for name in listed if name not in problems]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(_digest_or_problem, (path / name for name in left))
            digest_of_file = dict(zip(left, found, strict=True))
        for name, digest in digest_of_file.items():
            if digest != listed[name]["sha256"]:
                problems[name] = "its content has changed" if " " not in digest else digest
    problems |= dict.fromkeys(sorted(present - set(listed)), "not in the manifest")
    told = [f"{path / name}: {problem}" for name, problem in problems.items()]
    return told + (_broken_seal(path / MANIFEST, manifest) if digests else [])


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
                kind = "a symbolic link" if entry.is_symlink() else "no plain file"
                raise InputError(f"{entry} is {kind}; a folder with a manifest holds only its own files.")
        files += [Path(folder, name).relative_to(path).as_posix() for name in names]
    return sorted(files)


def _describe(path: Path) -> dict[str, Any]:
    entry = {"bytes": path.stat().st_size, "sha256": digest_file(path)}
    return entry | ({"weights_sha256": _digest_weights(path)} if path.name.endswith(".weights.h5") else {})


def _digest_weights(path: Path) -> str:
    """SHA-256 over the arrays in a file: their names, types, shapes and values, however HDF5 lays them out."""
    import h5py  # late: only stages with a network have such files

    found = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found.update(f"{name} {item.dtype}{item.shape}".encode())
            found.update(item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(add)
    return found.hexdigest()
