"""The tensors in a file of weights from torch: safetensors, or the zip of ``torch.save``. numpy only, without torch.

Nothing of a file is run. A zip of torch holds a pickle, which could call anything; only the few names of a state dict
are known here, and they stand for functions of this module. Everything that a file says about sizes is checked against
the file itself, so a damaged file costs no more memory than it is long.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoobot.errors import InputError

FLOATS = ("float64", "float32", "float16", "bfloat16")
_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
# What the pickle of a state dict is made of (protocol 2). NEWOBJ, EXT1, STACK_GLOBAL and others are refused.
_OPCODES = {
    "PROTO", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "STOP", "MARK", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT",
    "BINGET", "LONG_BINGET", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "NEWTRUE", "NEWFALSE", "NONE",
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes: the limit of the safetensors format; the largest encoder here has 50,000


class Stored(NamedTuple):
    """A tensor in a file: its shape, its type, and a function that reads its values as float32."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], npt.NDArray[np.float32]]


def read(path: Path) -> dict[str, Stored]:
    """The tensors in a file, by their names; the values are read later. The content tells the format.

    Raises InputError if it is damaged, of another format, or holds anything but tensors.
    """
    with _reading(path):
        with path.open("rb") as file:
            start = file.read(64)
        return _reader(start)(path)


class _Refused(Exception):
    """Why a file is not read, as people should see it."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a pickle or a zip that was tampered with can raise nearly anything
        why = str(error) if isinstance(error, _Refused) else f"it is damaged ({type(error).__name__}: {error})"
        why = why.replace("\n", " ")[:300]
        raise InputError(
            f"{path} cannot be read as weights: {why}. Nothing in it was run. Get it again from where it was published."
        ) from error


def _reader(start: bytes) -> Callable[[Path], dict[str, Stored]]:
    """The function for a file that starts so. _Refused: no function reads it."""
    if start.startswith(b"PK\x03\x04"):
        return _read_zip
    if start.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."):
        raise _Refused(
            "torch before 1.6 wrote it (the legacy format), which is not read; a newer torch can save it again"
        )
    if start.startswith(b"version https://git-lfs"):
        raise _Refused("it is a pointer of Git LFS, not the file; `git lfs pull` gets the file")
    if start[8:9] == b"{":
        return _read_safetensors
    raise _Refused("it is neither a safetensors file nor a zip of torch.save")


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _floats(raw: bytes, dtype: str) -> npt.NDArray[np.float32]:
    """Little-endian values as float32. A bfloat16 is the upper half of a float32."""
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).astype(np.float32)


def _are_sizes(values: object) -> bool:
    return isinstance(values, (list, tuple)) and all(type(v) is int and 0 <= v < 2**48 for v in values)


# --------------------------------------------------------------- safetensors


def _read_safetensors(path: Path) -> dict[str, Stored]:
    """A length (8 bytes), a header in JSON, and the values, one tensor after the other without gaps."""
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(_LONGEST_HEADER, total - 8):
            raise _Refused(f"its header would have {length} bytes, the file has {total}: it was cut off")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    spans, found = [], {}
    for name, entry in header.items():
        dtype, shape, span = _SAFETENSORS.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
        if not dtype or not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2:
            raise _Refused(f"{name} has type {entry['dtype']}, shape {shape} and place {span}")
        if span[1] - span[0] != math.prod(shape) * _itemsize(dtype):
            raise _Refused(f"{name} of shape {shape} cannot fill the bytes {span}")
        spans.append(tuple(span))
        found[name] = Stored(tuple(shape), dtype, functools.partial(_part, path, 8 + length, entry))
    ends = [0, *(end for _, end in sorted(spans))]
    if [start for start, _ in sorted(spans)] != ends[:-1] or 8 + length + ends[-1] != total:
        raise _Refused(f"its tensors do not fill it: they end at byte {8 + length + ends[-1]} of {total}")
    return found


def _part(path: Path, offset: int, entry: dict[str, list[int]]) -> npt.NDArray[np.float32]:
    start, end = entry["data_offsets"]
    with _reading(path), path.open("rb") as file:
        file.seek(offset + start)
        return _floats(file.read(end - start), _SAFETENSORS[str(entry["dtype"])]).reshape(entry["shape"])


# --------------------------------------------------------------- the zip of torch.save


class _Storage(NamedTuple):
    """A file in the zip: numbers of one type, which tensors are views of."""

    entry: str
    dtype: str
    size: int


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _read_zip(path: Path) -> dict[str, Stored]:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise _Refused("it is compressed, as torch.save never does")
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _Refused("it is a zip without data.pkl, so torch.save did not write it")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise _Refused("a big-endian machine wrote it")
        views = _Pickle(archive.read(pickles[0]), folder).state()
    for name, view in views.items():
        if not isinstance(name, str) or not isinstance(view, _View):
            raise _Refused(f"{name} is a {type(view).__name__}, not a tensor: it is no state dict")
        _check(name, view, entries)
    return {name: Stored(v.shape, v.storage.dtype, functools.partial(_strided, path, v)) for name, v in views.items()}


class _Rebuild:
    """Stands for torch's function of this purpose. It can hold no attributes, so that no file leaves any here."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> _View:
        return _View(storage, offset, shape, strides)  # what it was given is checked when all is read


class _Pickle(pickle.Unpickler):
    """Reads the pickle of a state dict; every name that is not part of one is refused."""

    def __init__(self, content: bytes, folder: str) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")
        self._content, self._folder = content, folder

    def state(self) -> dict[Any, Any]:
        """The dictionary in the pickle."""
        for opcode, argument, _ in pickletools.genops(self._content):
            if opcode.name not in _OPCODES:
                raise _Refused(f"its pickle uses {opcode.name}, as no state dict does")
            if opcode.name.endswith("BINPUT") and int(argument or 0) > len(self._content):
                raise _Refused("its pickle asks for more memory than it could use")
        found = self.load()
        if not isinstance(found, dict):
            raise _Refused(f"it holds a {type(found).__name__}, not a state dict")
        return found

    def find_class(self, module: str, name: str) -> object:
        """What a name in the pickle stands for."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Rebuild()
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _Refused(f"its pickle asks for {module}.{name}, which no state dict needs")

    def persistent_load(self, pid: object) -> _Storage:
        """The numbers that a tensor is a view of: ("storage", type, name, device, size)."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not _are_sizes(pid[4:]):
            raise _Refused("its pickle refers to something other than numbers")
        return _Storage(f"{self._folder}data/{pid[2]}", str(pid[1]), pid[4])


def _check(name: str, view: _View, entries: dict[str, zipfile.ZipInfo]) -> None:
    """_Refused: a tensor would read outside its numbers, or repeat them."""
    storage, offset, shape, strides = view
    if not isinstance(storage, _Storage) or storage.dtype not in _STORAGES.values():
        raise _Refused(f"{name} has no numbers")
    there = entries.get(storage.entry)
    if there is None or there.file_size != storage.size * _itemsize(storage.dtype):
        raise _Refused(f"{name}: {storage.entry} does not hold {storage.size} numbers of type {storage.dtype}")
    if not _are_sizes((offset,)) or not _are_sizes(shape) or not _are_sizes(strides) or len(shape) != len(strides):
        raise _Refused(f"{name} has shape {shape}, strides {strides} and offset {offset}")
    n = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if n > storage.size or (n and last >= storage.size):
        raise _Refused(f"{name} of shape {shape}, strides {strides} and offset {offset} lies outside its numbers")


def _strided(path: Path, view: _View) -> npt.NDArray[np.float32]:
    """The values of a tensor, as an array of its own. The zip's checksum is compared."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        values = _floats(archive.read(view.storage.entry), view.storage.dtype)
        if len(values) != view.storage.size:
            raise _Refused(f"{view.storage.entry} ends early")
        strides = [4 * stride for stride in view.strides]
        return np.lib.stride_tricks.as_strided(values[view.offset :], view.shape, strides).copy()
