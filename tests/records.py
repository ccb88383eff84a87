"""Records with values that a test does not care about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoobot import folders
from zoobot.folders import manifest
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.iterations.files import Instructions, Source, Summary
from zoobot.settings import AcquisitionSettings, ModelSettings, TaskSettings


def a_summary(**values: Any) -> Summary:
    """The summary of an iteration, with these values."""
    return Summary(
        **{
            "number": 0, "previous": None, "train_files": [], "train_galaxies": 0, "labels_received": 0,
            "control_labels_received": 0, "classifications_received": 0, "last_classification_id": 0,
            "still_waiting": 0, "predicted_shards": [], "predicted_galaxies": 0, "requested": 0, "epochs": 0,
            "weights_sha256": "", "worse_than_previous_by": None, "kept_previous_model": False, "temperature": 1.0,
            "test_loss": 1.0, "requested_control": 0, "timings_s": {}, "votes_spent": 0, "volunteer_minutes": 0.0,
            "next_100_labels_buy": None, **values,
        }
    )  # fmt: skip


def a_shard_config(**values: Any) -> ShardConfig:
    """A shard_config.json, with these values."""
    return ShardConfig(
        **{
            "survey": "demo", "task": "smooth", "image_size_px": 16, "channels": 3, "encoding": "raw",
            "shard_size": 4, "seed": 0, "splits": {}, "galaxies": {}, "dropped": [], "database": "shards.db", **values,
        }
    )  # fmt: skip


def some_instructions(**values: Any) -> Instructions:
    """An instructions.json, with these values."""
    return Instructions(
        **{
            "experiment": "e", "survey": "demo", "catalogs": Source("", ""), "shards": Source("", ""), "questions": {},
            "retirement_votes": 36, "task": TaskSettings(questions=[]), "answers": [],
            "model": ModelSettings(blocks=[]), "acquisition": AcquisitionSettings(), "oracle": {},
            "iterations": 9, "subjects_per_iteration": 10, "shards_per_iteration": 1,
            "initial_size_px": 16, "final_size_px": 16, "warm_start": False, "seed": 0,
            "catalog_seed": 0, "last_classification_id": 0, **values,
        }
    )  # fmt: skip


def another_manifest(folder: Path, **values: Any) -> None:
    """Give a folder a manifest with other values and the seal that fits: that of another folder, under its name."""
    content = folders.read_json(folder / folders.MANIFEST) | values
    del content["seal"]
    (folder / folders.MANIFEST).chmod(0o644)
    folders.write_json(folder / folders.MANIFEST, content | {"seal": manifest._sha256(content)})
