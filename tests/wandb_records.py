"""What an offline run of Weights & Biases holds, read back from its own format: what `wandb sync` would send."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records_in(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a log as LevelDB's, in blocks of 32 KiB, after a header of 7 bytes."""
    content, at, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:  # too little for a record's header, so the block is padded
            at += left
            continue
        _crc, size, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a complete record, or the last part of one
            yield parts
            parts = b""


def read_back(folder: Path) -> dict[str, Any]:
    """The run's record and config, its axes, its artifacts, and its history: one dictionary for each step."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    run: dict[str, Any] = {"history": [], "axes": {}, "artifacts": []}
    for content in records_in(next(folder.glob("*.wandb"))):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "run":
            run["record"] = record.run
            run["config"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.WhichOneof("record_type") == "artifact":
            run["artifacts"].append(record.artifact)
        if record.WhichOneof("record_type") == "metric":
            run["axes"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                (row.setdefault(outer[0], {}) if outer else row)[last] = json.loads(item.value_json)
            run["history"].append(row)
    return run
