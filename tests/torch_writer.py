"""Files as torch and safetensors write them, made byte by byte without either, so that each part can be wrong."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]


def name(module: str, of: str) -> bytes:
    return f"c{module}\n{of}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


ORDERED_DICT = name("collections", "OrderedDict") + b")R"


def tensor(
    key: str, shape: Sequence[int], strides: Sequence[int], offset: int = 0, size: int = 12, kind: str = "FloatStorage"
) -> bytes:
    """The pickle of a tensor whose ``size`` numbers are in the file data/``key``."""
    storage = b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(size) + b"tQ"
    given = storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + ORDERED_DICT
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + given + b"tR"


def state_dict(tensors: Mapping[str, bytes]) -> bytes:
    """The pickle of a state dict, protocol 2."""
    items = b"".join(text(key) + value for key, value in tensors.items())
    return b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u."


def write_zip(path: Path, content: bytes, data: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, value in {"data.pkl": content, **{f"data/{k}": v for k, v in data.items()}}.items():
            archive.writestr(f"archive/{entry}", value)
    return path


def save_bin(path: Path, arrays: Arrays) -> Path:
    """float32 arrays as ``torch.save`` writes a state dict."""
    pickled = {}
    for i, (key, values) in enumerate(arrays.items()):
        strides = [step // 4 for step in np.empty(values.shape, np.float32).strides]
        pickled[key] = tensor(str(i), values.shape, strides, size=values.size)
    return write_zip(path, state_dict(pickled), {str(i): v.tobytes() for i, v in enumerate(arrays.values())})


def save_safetensors(path: Path, arrays: Arrays, **changed: object) -> Path:
    """float32 arrays as safetensors; ``changed`` replaces parts of the first one's entry."""
    header: dict[str, dict[str, object]] = {}
    end = 0
    for key, values in arrays.items():
        start, end = end, end + values.nbytes
        header[key] = {"dtype": "F32", "shape": values.shape, "data_offsets": [start, end]}
    if changed:
        header[next(iter(header))] |= changed
    written = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written + b"".join(v.tobytes() for v in arrays.values()))
    return path
