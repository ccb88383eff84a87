"""Folders that are written once: staged beside their place, flushed, listed in a manifest, renamed into place,
read-only.

A reader sees no folder or the whole folder. ``manifest.json``, written last, holds the size and SHA-256 of every
file, the digests of the inputs, the settings, versions and git commit; its ``digest`` is over all of that, so a chain
of digests leads back to the master catalog. What differs between two equal runs (the time, the host, files named in
``varying``) is kept, but not part of the digest.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from zoobot.errors import FolderError, InputError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_MANIFEST_KEYS = ("files", "varying", "inputs", "settings", "digest")
_PACKAGES = (
    "numpy",
    "pandas",
    "astropy",
    "scipy",
    "pillow",
    "pyarrow",
    "keras",
    "tensorflow-cpu",
    "tensorflow",
    "hydra-core",
)


# --------------------------------------------------------------- single files


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON that is the same for the same value."""
    path.write_text(
        json.dumps(value, indent=1, sort_keys=False, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def read_json(path: Path) -> Any:
    """The value in a JSON file of ours."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FolderError(f"{path} is missing: its folder was not finished, or files were taken away.") from error
    except ValueError as error:
        raise FolderError(f"{path} is not valid JSON ({error}): it was changed by hand or damaged.") from error


def publish_file(path: Path, content: bytes) -> None:
    """Write a single file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    _flush_directory(path.parent)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------- write-once folders


@contextmanager
def create(
    path: Path,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    varying: Sequence[str] = (),
) -> Iterator[Path]:
    """Yield a staging folder; when the block ends well, publish it as ``path``, complete and read-only.

    ``inputs`` names the folders and files that were read; ``varying`` names files that differ between two equal runs.
    If the block raises, nothing appears at ``path``; the next try starts anew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        if path.exists():
            raise FolderError(f"{path} exists already; a folder is written once. Choose another name or move it away.")
        staging = path.with_name(f".{path.name}.staging")
        _remove(staging)
        staging.mkdir()
        yield staging
        _publish(staging, path, settings, inputs, varying)


def exists_with(path: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path] | None) -> bool:
    """Whether ``path`` is finished with just these settings (and inputs, unless None); with others it is refused,
    naming what differs.
    """
    if not path.exists():
        return False
    manifest = read_manifest(path)
    differences = differing_keys(manifest["settings"], settings)
    if inputs is not None:
        now = {name: digest_of(source) for name, source in inputs.items()}
        then = {name: entry["digest"] for name, entry in manifest["inputs"].items()}
        changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        differences += [f"input {name}: it has changed since" for name in changed]
    if differences:
        raise FolderError(
            "\n  ".join([f"{path} exists, but was made differently:", *differences])
            + "\nUse those settings, or choose another name for the folder; it is never overwritten."
        )
    return True


def differing_keys(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each key whose value differs, with both values; a long one is cut."""
    keys = [key for key in sorted({*there, *now}) if there.get(key) != _plain(now.get(key))]
    return [f"{key}: {_short(there.get(key))} there, {_short(now.get(key))} now" for key in keys]


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished folder."""
    if not path.is_dir():
        raise FolderError(f"{path} does not exist.")
    if not (path / MANIFEST).is_file():
        raise FolderError(f"{path} has no {MANIFEST}, so it was not finished by this program.")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        raise FolderError(
            f"{path / MANIFEST} has a format this version does not read; it reads version {FORMAT_VERSION}."
        )
    missing = [key for key in _MANIFEST_KEYS if key not in manifest]
    if missing:
        raise FolderError(f"{path / MANIFEST} has no {', '.join(missing)}: it was changed by hand or damaged.")
    return manifest


def list_numbered(parent: Path, name: str) -> list[Path]:
    """The finished folders ``{name}_0``, ``{name}_1``, … in ``parent``, in order; a gap is an error."""
    pattern = re.compile(rf"{name}_(\d+)")
    found = (pattern.fullmatch(path.parent.name) for path in parent.glob(f"{name}_*/{MANIFEST}"))
    numbers = sorted(int(match[1]) for match in found if match)
    if numbers != list(range(len(numbers))):
        missing = min(set(range(len(numbers))) - set(numbers))
        raise FolderError(f"{parent} has no {name}_{missing}, but later ones: put it back, or start a new experiment.")
    return [parent / f"{name}_{number}" for number in numbers]


def digest_of(path: Path) -> str:
    """The digest in a folder's manifest, or of a single file."""
    return digest_file(path) if path.is_file() else str(read_manifest(path)["digest"])


def digest_in(path: Path) -> str:
    """The SHA-256 of a file in a folder below a finished one, from its manifest; of a file elsewhere, anew."""
    folder = path.parent.parent
    if not (folder / MANIFEST).is_file():
        return digest_file(path)
    return str(read_manifest(folder)["files"][path.relative_to(folder).as_posix()]["sha256"])


def require(path: Path, made_by: str) -> None:
    """Refuse a folder which a stage reads unless it is finished and its files have their sizes."""
    if not path.is_dir():
        raise FolderError(
            f"{path} is missing. Make it first: python run.py stage={made_by} … (same survey, task and names)."
        )
    manifest = read_manifest(path)
    problems = _compare(path, manifest, digests=False)
    if problems:
        raise FolderError("\n  ".join([f"{path} is not as it was written:", *problems]))


def verify(path: Path) -> list[str]:
    """Every way in which a finished folder differs from its manifest; empty if none.

    Checked are the size and SHA-256 of every file, files that are missing or were added, the manifest's own digest,
    and that each input is still the one that was read.
    """
    path = Path(path)
    try:
        manifest = read_manifest(path)
        problems = _compare(path, manifest, digests=True)
    except (FolderError, InputError) as error:
        return [str(error)]
    if _digest(manifest) != manifest.get("digest"):
        problems.append(f"{path / MANIFEST}: its digest does not fit its content")
    for name, entry in manifest["inputs"].items():
        try:
            same = digest_of(path / entry["path"]) == entry["digest"]
        except FolderError as error:
            problems.append(f"{path}: its input {name} cannot be checked: {error}")
        else:
            problems += [] if same else [f"{path}: its input {name} ({entry['path']}) is not the one that was read"]
    return problems


def with_inputs(paths: Sequence[Path]) -> list[Path]:
    """These folders and all finished folders that they were made from, each once; a manifest that cannot be read
    names none.
    """
    found: dict[Path, None] = {}
    left = [path.resolve() for path in paths]
    while left:
        path = left.pop(0)
        if path not in found and (path / MANIFEST).is_file():
            found[path] = None
            with suppress(FolderError):  # `verify` tells of it
                left += [(path / entry["path"]).resolve() for entry in read_manifest(path)["inputs"].values()]
    return list(found)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold ``path`` against other processes: a kernel lock, which goes with the process; a second process waits."""
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _publish(
    staging: Path, path: Path, settings: Mapping[str, Any], inputs: Mapping[str, Path], varying: Sequence[str]
) -> None:
    files = {name: _describe(staging / name) for name in _list_files(staging)}
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "files": files,
        "varying": sorted(varying),
        "inputs": {
            name: {"path": os.path.relpath(source, path), "digest": digest_of(source)}
            for name, source in inputs.items()
        },
        "settings": _plain(dict(settings)),
        "provenance": provenance(),
        "run": {"finished_at": datetime.now(UTC).isoformat(timespec="seconds"), "host": platform.node()},
    }
    manifest["digest"] = _digest(manifest)
    write_json(staging / MANIFEST, manifest)
    for folder, _, names in os.walk(staging, topdown=False):
        for name in names:
            _flush_file(Path(folder, name))
        _flush_directory(Path(folder))
    staging.rename(path)
    _flush_directory(path.parent)
    _make_read_only(path)


def provenance() -> dict[str, Any]:
    """Versions and git commit: what ran."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "git": _git_state(), "platform": f"{sys.platform} {platform.machine()}"}


@cache
def _git_state() -> dict[str, Any] | None:
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout, or no git: an installed copy


def _digest(manifest: Mapping[str, Any]) -> str:
    """Over all of a manifest but itself, the run, and the content of the files that vary."""
    content = {key: value for key, value in manifest.items() if key not in ("digest", "run")}
    content["files"] = {
        name: None if name in manifest["varying"] else entry for name, entry in manifest["files"].items()
    }
    content["inputs"] = {name: entry["digest"] for name, entry in manifest["inputs"].items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _compare(path: Path, manifest: Mapping[str, Any], *, digests: bool) -> list[str]:
    problems = []
    present = set(_list_files(path)) - {MANIFEST}
    for name, entry in manifest["files"].items():
        if name not in present:
            problems.append(f"{path / name}: missing")
        elif (path / name).stat().st_size != entry["bytes"]:
            problems.append(f"{path / name}: {(path / name).stat().st_size} bytes, should be {entry['bytes']}")
        elif digests and digest_file(path / name) != entry["sha256"]:
            problems.append(f"{path / name}: its content has changed")
    return problems + [f"{path / name}: not in the manifest" for name in sorted(present - set(manifest["files"]))]


def _list_files(path: Path) -> list[str]:
    files = []
    for folder, folders, names in os.walk(path):
        for name in (*folders, *names):
            if Path(folder, name).is_symlink():
                raise InputError(
                    f"{Path(folder, name)} is a symbolic link; a folder with a manifest holds only its own files."
                )
        files += [Path(folder, name).relative_to(path).as_posix() for name in names]
    return sorted(files)


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": digest_file(path)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_read_only(path: Path) -> None:
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            Path(folder, name).chmod(0o444)
        Path(folder).chmod(0o555)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
