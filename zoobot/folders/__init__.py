"""Folders that are written once, their manifests, and what they need from a disk.

This package does not know what a folder holds: names, settings and files come from the callers.
"""

from zoobot.folders.files import Record, parse, publish_file, read_json, read_record, to_text, write_json, write_record
from zoobot.folders.manifest import MANIFEST, digest_file
from zoobot.folders.write_once import (
    create,
    differing_keys,
    digest_in,
    digest_of,
    exists_with,
    finished_at,
    is_done,
    list_numbered,
    read_manifest,
    remove_unfinished,
    require,
    step,
    unfinished,
    verify,
    with_inputs,
)

__all__ = [
    "MANIFEST",
    "Record",
    "create",
    "differing_keys",
    "digest_file",
    "digest_in",
    "digest_of",
    "exists_with",
    "finished_at",
    "is_done",
    "list_numbered",
    "parse",
    "publish_file",
    "read_json",
    "read_manifest",
    "read_record",
    "remove_unfinished",
    "require",
    "step",
    "to_text",
    "unfinished",
    "verify",
    "with_inputs",
    "write_json",
    "write_record",
]
