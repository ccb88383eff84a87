"""Folders that are written once: staged beside their place, listed in a manifest, made read-only, flushed and renamed.

A reader sees no folder or the complete folder. ``manifest.json``, written last, holds the size and SHA-256 of every
file, the digests of the inputs, the settings, versions and git commit. Its ``digest`` covers all of that, so a chain of
digests leads back to the master catalog. What differs between two equal runs (the time, the host, files named in
``varying``) is stored, but is not part of the digest. ``seal`` covers the complete manifest, so that no byte of it can
change unnoticed. Beside a folder, ``.{name}.staging`` is the folder being written, and ``.{name}.unfinished`` holds the
steps that survive a crash.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from zoobot.errors import FolderError, ZoobotError
from zoobot.folders import disk, manifest
from zoobot.folders.files import publish_file, read_json, read_record, to_text, write_json
from zoobot.folders.manifest import MANIFEST, Listed, Manifest, digest_file
from zoobot.settings import DEFAULTS

BEGUN = "begun.json"
# What a damaged manifest, or a folder of another user, can raise: each becomes one finding, and the next one is looked
# for.
_NO_FINDING_IS_LOST = (ZoobotError, OSError, ValueError, RecursionError)
log = logging.getLogger("zoobot")


@contextmanager
def create(
    path: Path,
    settings: Mapping[str, object],
    inputs: Mapping[str, Path],
    varying: Sequence[str] = (),
    *,
    resumes: bool = False,
    needs_bytes: int = 0,
) -> Iterator[Path]:
    """Yield a staging folder. If the block ends without an error, publish it as ``path``, complete and read-only.

    ``inputs`` names the folders and files that were read. ``varying`` names files that differ between two equal runs.
    ``needs_bytes`` is the approximate size of the output. If the block raises, nothing appears at ``path`` and the next
    try starts from the beginning. With ``resumes`` the next try finds the staging folder and ``unfinished(path)`` as
    they were left; with other settings or inputs it is refused.
    """
    disk.make_folder(path.parent)
    with disk.lock(path), disk.clear_errors(path):
        if path.exists():
            raise FolderError(f"{path} already exists; a folder is written once. Choose another name or move it away.")
        disk.require_space(path, needs_bytes)
        read = {name: digest_of(source) for name, source in inputs.items()}
        staging = path.with_name(f".{path.name}.staging")
        if resumes and _is_begun(path, settings, read):
            if staging.is_dir():
                disk.make_writable(staging)  # a crash just before publishing leaves it read-only
        else:
            disk.remove(staging)
            disk.remove(unfinished(path))
        if resumes:
            begun = {"settings": manifest.plain(settings), "inputs": read}
            publish_file(unfinished(path) / BEGUN, to_text(begun).encode())
        disk.make_folder(staging)
        yield staging
        (staging / MANIFEST).unlink(missing_ok=True)
        write_json(staging / MANIFEST, manifest.build(staging, path, settings, inputs, read, varying))
        disk.make_read_only(staging)
        disk.flush_tree(staging)
        disk.rename_folder(staging, path)
        disk.flush_folder(path.parent)
        remove_unfinished(path)


def unfinished(path: Path) -> Path:
    """The hidden folder beside ``path`` for steps that survive a crash; removed when ``path`` is published."""
    return path.with_name(f".{path.name}.unfinished")


def remove_unfinished(path: Path) -> None:
    """Remove what a crash just after publishing left behind."""
    if path.exists():
        with suppress(OSError):  # another process may be removing it; all of it may be deleted at any time
            disk.remove(unfinished(path))


@contextmanager
def step(path: Path) -> Iterator[Path]:
    """Yield a folder for one step of longer work. If the block ends without an error, it becomes ``path``, flushed."""
    staging = path.with_name(f".{path.name}.staging")
    disk.remove(staging)
    disk.make_folder(staging)
    yield staging
    disk.flush_tree(staging)
    disk.rename_folder(staging, path)
    disk.flush_folder(path.parent)


def _is_begun(path: Path, settings: Mapping[str, object], read: Mapping[str, str]) -> bool:
    """Whether earlier steps of ``path`` can be continued. Steps with other settings or inputs are refused."""
    if not (unfinished(path) / BEGUN).is_file():
        return False
    begun = read_json(unfinished(path) / BEGUN)
    differences = differing_keys(begun["settings"], settings) + changed_inputs(begun["inputs"], read)
    if differences:
        raise FolderError(
            "\n  ".join([f"{path} was begun with other settings or inputs:", *differences])
            + f"\nUse those settings, or discard what was begun: remove {unfinished(path)}."
        )
    return True


def changed_inputs(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Each input whose digest differs."""
    changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    return [f"input {name}: it has changed since" for name in changed]


def exists_with(path: Path, settings: Mapping[str, object], inputs: Mapping[str, Path] | None) -> bool:
    """Whether ``path`` is finished, with exactly these settings (and inputs, unless None). FolderError: it was made
    with others; the message names the differences.
    """
    if not path.exists():
        return False
    made = read_manifest(path)
    differences = differing_keys(made.settings, settings)
    if inputs is not None:
        then = {name: entry.digest for name, entry in made.inputs.items()}
        differences += changed_inputs(then, {name: digest_of(source) for name, source in inputs.items()})
    if differences:
        raise FolderError(
            "\n  ".join([f"{path} already exists, made with other settings or inputs:", *differences])
            + "\nUse those settings, or choose another name for the folder; it is never overwritten."
        )
    remove_unfinished(path)
    return True


def is_done(path: Path, settings: Mapping[str, object], inputs: Mapping[str, Path] | None) -> bool:
    """Like ``exists_with``, for a stage: logs that there is nothing to do."""
    done = exists_with(path, settings, inputs)
    if done:
        log.info("%s exists with these settings: nothing to do", path)
    return done


def differing_keys(there: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Each key whose value differs, with both values; a long value is cut.

    A setting that is newer than the folder is absent in ``there``: the folder was made with its default.
    """
    differing = []
    for key in sorted({*there, *now}):
        if key == "survey.questions" and there.get("questions") == now.get("questions"):
            continue  # a path: what counts is its content, which is recorded beside it
        before, after = manifest.plain(there.get(key, DEFAULTS.get(key))), manifest.plain(now.get(key))
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
            differing.append(f"{key}: other content there, in {_short(', '.join(names)) if names else 'their order'}")
        else:
            differing.append(f"{key}: {_short(before)} there, {_short(after)} now")
    return differing


def read_manifest(path: Path) -> Manifest:
    """The manifest of a finished folder. FolderError: there is none, or it is not as it was written."""
    found = _read_unsealed(path)
    if not manifest.is_sealed(path):
        raise FolderError(
            f"{path / MANIFEST} is not as it was written: its seal does not fit its content. Restore it from a copy, or"
            " move the folder away and make it again."
        )
    return found


def _read_unsealed(path: Path) -> Manifest:
    """A manifest, even if it was edited."""
    if not path.is_dir():
        raise FolderError(f"{path} does not exist.")
    if not (path / MANIFEST).is_file():
        raise FolderError(f"{path} has no {MANIFEST}, so it was not finished by this program.")
    return read_record(path / MANIFEST, Manifest)


def finished_at(path: Path) -> str:
    """When a finished folder was published: ISO 8601, in UTC."""
    return str(read_json(path / MANIFEST)["run"]["finished_at"])


def list_numbered(parent: Path, name: str) -> list[Path]:
    """The finished folders ``{name}_0``, ``{name}_1``, … in ``parent``, in order; a gap is an error."""
    pattern = re.compile(rf"{name}_(\d+)")
    found = (pattern.fullmatch(path.parent.name) for path in parent.glob(f"{name}_*/{MANIFEST}"))
    numbers = sorted(int(match[1]) for match in found if match)
    if numbers != list(range(len(numbers))):
        missing = min(set(range(len(numbers))) - set(numbers))
        raise FolderError(f"{parent} has no {name}_{missing}, but later ones. Put it back, or start a new experiment.")
    return [parent / f"{name}_{number}" for number in numbers]


def digest_of(path: Path) -> str:
    """The digest in a folder's manifest, or the digest of a single file."""
    return digest_file(path) if path.is_file() else read_manifest(path).digest


def digest_in(path: Path) -> str:
    """The SHA-256 of a file: from the manifest if it is in a subfolder of a finished folder, otherwise computed."""
    folder = path.parent.parent
    if not (folder / MANIFEST).is_file():
        return digest_file(path)
    now = (folder / MANIFEST).stat()
    listed = _files_listed(folder, (now.st_ino, now.st_mtime_ns, now.st_size))
    return listed[path.relative_to(folder).as_posix()].sha256


@functools.lru_cache(maxsize=4)
def _files_listed(folder: Path, version: tuple[int, int, int]) -> dict[str, Listed]:
    """The files of a finished folder, often thousands: its manifest is read once for each ``version`` of it."""
    return read_manifest(folder).files


def require(path: Path, made_by: str, check: str = "sizes") -> None:
    """Refuse a folder that a stage reads unless it is finished and its files have the right sizes. With ``check`` =
    ``digests`` their content must be right too.
    """
    if not path.is_dir():
        raise FolderError(
            f"{path} is missing. Make it first: python run.py stage={made_by} … (same survey, task and names)."
        )
    content = read_manifest(path)
    problems = manifest.compare(path, content, digests=check == "digests")
    if problems:
        raise FolderError(
            "\n  ".join([f"{path} is not as it was written:", *problems])
            + "\nRestore it from a copy, or make it again under another name."
        )


def verify(path: Path) -> list[str]:
    """All differences between a finished folder and its manifest; empty if there are none.

    It checks the size and SHA-256 of every file, missing and added files, the manifest itself, and that each input is
    still the one that was read.
    """
    path = Path(path)
    try:
        content = _read_unsealed(path)
        problems = [] if manifest.is_sealed(path) else [f"{path / MANIFEST}: its content has changed"]
        problems = manifest.compare(path, content, digests=True) + problems
    except _NO_FINDING_IS_LOST as error:
        return [_finding(path, error)]
    for name, entry in content.inputs.items():
        try:
            same = digest_of(path / entry.path) == entry.digest
        except _NO_FINDING_IS_LOST as error:
            problems.append(f"{path}: its input {name} cannot be checked: {_finding(path / entry.path, error)}")
        else:
            problems += [] if same else [f"{path}: its input {name} ({entry.path}) is not the one that was read"]
    return problems


def _finding(path: Path, error: Exception) -> str:
    return str(error) if isinstance(error, ZoobotError) else f"{path}: cannot be checked: {error}"


def with_inputs(paths: Sequence[Path]) -> list[Path]:
    """These folders and all finished folders that they were made from, each once. A manifest that cannot be read
    adds none.
    """
    found: dict[Path, None] = {}
    left = [path.resolve() for path in paths]
    while left:
        path = left.pop(0)
        with suppress(*_NO_FINDING_IS_LOST):  # `verify` reports it
            if path not in found and (path / MANIFEST).is_file():
                found[path] = None
                left += [(path / entry.path).resolve() for entry in _read_unsealed(path).inputs.values()]
    return list(found)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
