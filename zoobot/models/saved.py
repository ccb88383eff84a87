"""The files in every model folder: its architecture, and how it was trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zoobot import folders

ARCHITECTURE = "architecture.json"
_TRAINING = "training.json"


@dataclass(frozen=True)
class Training:
    """What the program reads from training.json: epochs (0: no gradient descent), and the digest of the weights."""

    epochs: int
    weights_sha256: str


@dataclass(frozen=True)
class Losses:
    """The losses of a network's epochs, in nats per galaxy."""

    train_loss: list[float]
    eval_loss: list[float]


def read_losses(folder: Path) -> list[Losses]:
    """The losses of each network in a model folder; none of a head, which has no epochs."""
    path = folder / _TRAINING
    content = folders.read_json(path)
    networks = [content, *content.get("members", [])] if "train_loss" in content else []
    return [folders.parse({key: each[key] for key in Losses.__annotations__}, Losses, str(path)) for each in networks]


def write_training(folder: Path, history: Mapping[str, object]) -> Training:
    """Write training.json: the history, which must include the fields of ``Training``."""
    folders.write_json(folder / _TRAINING, history)
    return read_training(folder)


def read_training(folder: Path) -> Training:
    """Read training.json."""
    path = folder / _TRAINING
    return folders.parse(folders.read_json(path), Training, str(path))


def digest_arrays(arrays: Sequence[npt.NDArray[np.generic]]) -> str:
    """SHA-256 over types, shapes and values of arrays, in order."""
    found = hashlib.sha256()
    for values in arrays:
        found.update(f"{values.dtype}{values.shape}".encode())
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
