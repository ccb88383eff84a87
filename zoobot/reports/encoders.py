"""Whether the encoder of a section had seen its test galaxies, from the records of the folders."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from zoobot import folders
from zoobot.galaxies import database, tfrecords
from zoobot.reports.experiments import Experiment, Section


def of_section(section: Section) -> dict[str, Any] | None:
    """What is known of the encoders that were trained before the experiments; None if there are none.

    Returns:
        encoders, pairs: how many different ones, by their digest, for how many pairs of seed and shards.
        test_pictures_seen: the share of a pair's test galaxies whose pictures (no votes) were among those that its
            encoder was trained on, the mean over pairs; most_seen: the highest. None where a record is missing.
    """
    of_pair = {e.pair: e for line in section.lines.values() for e in line}
    digests = {e.instructions.encoder.digest for e in of_pair.values() if e.instructions.encoder}
    if not digests:
        return None
    shares = [share for e in of_pair.values() if (share := _share_seen(e)) is not None]
    return {
        "encoders": len(digests),
        "pairs": len(of_pair),
        "test_pictures_seen": fmean(shares) if len(shares) == len(of_pair) else None,
        "most_seen": max(shares) if len(shares) == len(of_pair) else None,
    }


def _share_seen(e: Experiment) -> float | None:
    """The share of the test galaxies that the encoder was trained on; None if that is not recorded, or was moved."""
    last = e.iterations[-1].folder
    if not e.instructions.encoder or not last.has_test_losses:
        return None
    encoder = e.folder.instructions.source(e.instructions.encoder)
    if not (encoder / folders.MANIFEST).is_file():
        return None
    manifest = folders.read_manifest(encoder)
    shards = manifest.inputs.get("shards")
    path = (encoder / shards.path).resolve() if shards else None
    if not (shards and path and path.is_dir()) or folders.digest_of(path) != shards.digest:
        return None
    seen = _pictures(path, int(str(manifest.settings.get("pretrain.max_galaxies", 0))))
    tested = last.test_losses()["id_str"].to_pylist()
    return sum(id_str in seen for id_str in tested) / len(tested)


def _pictures(shards: Path, at_most: int) -> set[str]:
    """The galaxies of the pool's first shards, as stage=pretrain takes them."""
    config = tfrecords.load_config(shards)
    with database.connect(shards / config.database) as connection:
        wanted = tfrecords.first_shards(database.counts_by_shard(connection, "pool"), at_most)
        return {id_str for shard in wanted for id_str in database.ids_in_shard(connection, shard)}
