"""Published files with a record beside them that says what they were made from. For results without their own folder.

The record is written last, so files without a matching record were left by a run that was stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from zoobot.errors import FolderError
from zoobot.folders.files import parse, publish_file, read_json, to_text
from zoobot.folders.manifest import digest_file
from zoobot.folders.provenance import provenance
from zoobot.folders.write_once import changed_inputs, differing_keys

FORMAT_VERSION = 1


@dataclass(frozen=True)
class MadeOf:
    """Settings, and the digests of the files that were read."""

    settings: Mapping[str, object]
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class _Record(MadeOf):
    sha256: dict[str, str] | str  # by file name; a plain digest if there is only one file


def publish(
    record: Path, files: Mapping[str, bytes | Iterable[bytes]], made_of: MadeOf, found: Mapping[str, object]
) -> None:
    """Publish ``files``, by name, in the folder of ``record``; then publish the record, including ``found``, which may
    be filled while the files are written.
    """
    for name, file_content in files.items():
        publish_file(record.with_name(name), file_content)
    sha256 = {name: digest_file(record.with_name(name)) for name in files}
    content = {
        "format_version": FORMAT_VERSION,
        **found,
        "settings": made_of.settings,
        "inputs": made_of.inputs,
        "sha256": sha256,
        "provenance": asdict(provenance()),
    }
    publish_file(record, to_text(content).encode())


def is_published(record: Path, made_of: MadeOf, *, may_grow: bool = False) -> bool:
    """Whether the files exist and were made from exactly this. FolderError: from something else; it names what.

    With ``may_grow`` other inputs are no error: the answer is False, and the caller makes the files again.
    """
    if not record.is_file():
        return False
    before = parse(read_json(record), _Record, str(record))
    changed = changed_inputs(before.inputs, made_of.inputs)
    differences = differing_keys(before.settings, made_of.settings)
    sha256 = before.sha256 if isinstance(before.sha256, dict) else {record.with_suffix(".csv").name: before.sha256}
    paths = {record.with_name(name): digest for name, digest in sha256.items()}
    is_missing = not all(path.is_file() for path in paths)
    if not differences and ((changed and may_grow) or (is_missing and not changed)):
        return False
    differences += changed
    differences += [
        f"{path.name}: it was changed after it was written"
        for path, digest in paths.items()
        if path.is_file() and digest_file(path) != digest
    ]
    if differences:
        raise FolderError(
            "\n  ".join([f"{record.with_suffix('')} already exists, made with other settings or inputs:", *differences])
            + "\nUse those settings and files, or move the existing files away."
        )
    return True
