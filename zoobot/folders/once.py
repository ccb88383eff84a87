"""Calls to services outside, each with one effect: the intent is stored before the call, the receipt after it.

A call that a crash interrupted is made again with the stored intent, and must find what the first call did. So the
intent carries a unique name (of a subject set, or a run's id). A call that has a receipt is never made again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from zoobot.folders.files import publish_file, read_json, to_text

Intent = TypeVar("Intent")
Receipt = TypeVar("Receipt")


def send(kept: Path, intent: Intent, call: Callable[[Intent], Receipt]) -> tuple[Intent, Receipt]:
    """Make ``call`` with ``intent``, or with the one in the file ``kept`` if it exists. Returns the intent and the
    receipt, both as they come back from JSON.
    """
    entry: Any = read_json(kept) if kept.is_file() else {"intent": intent}
    if "receipt" not in entry:
        publish_file(kept, to_text(entry).encode())
        entry["receipt"] = call(entry["intent"])
        publish_file(kept, to_text(entry).encode())
    return entry["intent"], entry["receipt"]
