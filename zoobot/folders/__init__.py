"""Folders that are written once, their manifests, and what we ask of a disk.

Nothing here knows what is in a folder: names, settings and files come from the callers.
"""

from zoobot.folders.manifest import MANIFEST, digest_file
from zoobot.folders.write_once import (
    create,
    differing_keys,
    digest_in,
    digest_of,
    exists_with,
    list_numbered,
    publish_file,
    read_json,
    read_manifest,
    remove_unfinished,
    require,
    require_version,
    step,
    unfinished,
    verify,
    with_inputs,
    write_json,
)

__all__ = [
    "MANIFEST",
    "create",
    "differing_keys",
    "digest_file",
    "digest_in",
    "digest_of",
    "exists_with",
    "list_numbered",
    "publish_file",
    "read_json",
    "read_manifest",
    "remove_unfinished",
    "require",
    "require_version",
    "step",
    "unfinished",
    "verify",
    "with_inputs",
    "write_json",
]
