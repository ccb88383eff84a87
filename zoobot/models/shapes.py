"""The shape of an encoder, as in its record beside the weights; without TensorFlow, so that it can be checked early."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoobot import folders
from zoobot.errors import SettingsError
from zoobot.settings import ENCODER_SHAPE, ModelSettings


@dataclass(frozen=True)
class Shape:
    """Everything that the shape of an encoder depends on, as in encoder.json."""

    architecture: str
    blocks: list[list[int]]
    hidden: int
    colour: bool
    final_size_px: int
    image_size_px: int
    channels: int


@dataclass(frozen=True)
class EncoderRecord(Shape):
    """The content of encoder.json, the file beside the weights."""

    weights_sha256: str


def shape_of(model: ModelSettings, image_size_px: int, channels: int) -> Shape:
    """The shape of the encoder in these settings."""
    return Shape(**{key: getattr(model, key) for key in ENCODER_SHAPE}, image_size_px=image_size_px, channels=channels)


def read_record(folder: Path, name: str = "encoder") -> EncoderRecord | None:
    """The record of an encoder in a folder; None if there is none, as beside a single file of weights."""
    path = folder / f"{name}.json"
    return folders.parse(folders.read_json(path), EncoderRecord, str(path)) if path.is_file() else None


def refuse_another(path: Path, record: EncoderRecord, wanted: Shape) -> None:
    """SettingsError: the encoder at ``path`` does not have the shape in the settings; it names what differs."""
    there = {key: value for key, value in vars(record).items() if key in vars(wanted)}
    differences = folders.differing_keys(there, vars(wanted))
    if differences:
        opening = f"model.weights: the encoder in {path} does not have the shape in the settings:"
        raise SettingsError(
            "\n  ".join([opening, *differences])
            + "\nUse those settings (model.…; image_size_px and channels are of shards), or another encoder."
        )
