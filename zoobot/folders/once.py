"""Effects on the outside, each once: what is intended is durable before it is done, the receipt after.

A call that a crash cut off is made again with the very intent that was kept, and must find what the first one did: so
it carries a name of its own (a subject set, a run's id). One that has a receipt is never made again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from zoobot.folders.files import publish_file, read_json, to_text

Intent = TypeVar("Intent")
Receipt = TypeVar("Receipt")


def send(kept: Path, intent: Intent, call: Callable[[Intent], Receipt]) -> tuple[Intent, Receipt]:
    """Make ``call`` with ``intent``, or with the one in the file ``kept``. Returns the intent and the receipt, both as
    they come back from JSON.
    """
    entry: Any = read_json(kept) if kept.is_file() else {"intent": intent}
    if "receipt" not in entry:
        publish_file(kept, to_text(entry).encode())
        entry["receipt"] = call(entry["intent"])
        publish_file(kept, to_text(entry).encode())
    return entry["intent"], entry["receipt"]
