"""Thumbnails of galaxies, small enough that a page of hundreds of experiments can be sent by mail."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from zoobot.galaxies import database, tfrecords

PICTURE_PX, _QUALITY = 80, 70
MOST = 3_000  # pictures on a page, 2 kB each: with more rows of them, each row has fewer


def per_row(n_rows: int, wanted: int) -> int:
    """How many galaxies each of the page's rows shows: as many as wanted, as long as the page stays small."""
    return min(wanted, max(2, MOST // max(n_rows, 1))) if wanted else 0


def of_file(path: Path) -> str | None:
    """The thumbnail of a picture file, as an address; None if there is none."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return _address(image)


def of_shards(shard_dir: Path, ids: Sequence[str]) -> dict[str, str]:
    """The thumbnails of these galaxies of some shards; none if the shards are gone, or hold features."""
    if not ids or not (shard_dir / tfrecords.SHARD_CONFIG).is_file():
        return {}
    config = tfrecords.load_config(shard_dir)
    if config.encoding == tfrecords.FEATURES or not (shard_dir / config.database).is_file():
        return {}
    with database.connect(shard_dir / config.database) as connection:
        places = database.shards_of(connection, ids)
    found = {}
    for shard, by_position in places.items():
        offsets = tfrecords.find_records(shard_dir / shard)[list(by_position)]
        for record in tfrecords.read_at(shard_dir / shard, offsets):
            id_str, pixels, _ = tfrecords.decode(record, config.encoding)
            found[id_str] = _address(Image.fromarray(np.squeeze(pixels)))
    return found


def _address(image: Image.Image) -> str:
    """A WebP of at most ``PICTURE_PX`` pixels a side, in a data URL."""
    small, buffer = image.convert("RGB"), io.BytesIO()
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    small.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
