"""Effects on the outside, each once: what is intended is durable before it is done, the receipt after.

A call that a crash cut off is made again with the very intent that was kept, and must find what the first one did: so
it carries a name of its own (a subject set, a run's id). One that has a receipt is never made again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoobot import folders
from zoobot.folders import manifest


def send(kept: Path, intent: Any, call: Callable[[Any], Any]) -> dict[str, Any]:
    """Make ``call`` with ``intent``, or with the one in the file ``kept``. Returns ``{"intent": …, "receipt": …}``."""
    entry: dict[str, Any] = folders.read_json(kept) if kept.is_file() else {"intent": intent}
    if "receipt" not in entry:
        folders.publish_file(kept, manifest.text(entry).encode())
        entry["receipt"] = call(entry["intent"])
        folders.publish_file(kept, manifest.text(entry).encode())
    return entry
