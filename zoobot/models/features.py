"""Features of stored images from a frozen encoder, and the cache of features.

Axes: N galaxies, H features.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoobot import folders
from zoobot.engine import map as engine
from zoobot.engine.progress import track
from zoobot.errors import SettingsError
from zoobot.galaxies import tfrecords
from zoobot.galaxies.tfrecords import ShardConfig
from zoobot.models import shapes
from zoobot.models.architectures import ARCHITECTURES, Floats32
from zoobot.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from zoobot.models import encoders


GALAXIES_PER_WORKER = 4000  # with fewer, TensorFlow's start in a process takes as long as it saves
_GPU = Path("/proc/driver/nvidia")  # which one process uses best


@dataclass(frozen=True)
class FeatureCache:
    """Features on disk, named by the digests of the encoder's weights, of the TFRecord file and of the features. The
    encoder passes each file once, for any number of samples and acquisition functions. A file is complete or absent,
    may be deleted, and is made again if it was changed.
    """

    folder: Path
    weights_sha256: str
    orientations: int
    encode: Callable[[Path], Floats32]

    def has(self, path: Path) -> bool:
        """Whether there are features of a TFRecord file; ``of`` looks at their content."""
        return bool(self._kept(path))

    def _kept(self, path: Path) -> list[Path]:
        """Files with the features of a TFRecord file, whole or damaged. A folder holds one in 256 of all, because many
        are slow to list; earlier versions kept all in one.
        """
        folder = self._folder(path)
        return [file for at in (folder, folder.parent) for file in sorted(at.glob(f"{self._name(path)}_*.npy"))]

    def _name(self, path: Path) -> str:
        return folders.digest_in(path)[:16]

    def _folder(self, path: Path) -> Path:
        return self.folder / f"{self.weights_sha256[:16]}_{self.orientations}" / self._name(path)[:2]

    def of(self, path: Path) -> Floats32:
        """The features N × H of the galaxies in a TFRecord file, mapped into memory."""
        found = next(filter(_is_whole, self._kept(path)), None)
        if found is None:
            content = io.BytesIO()
            np.save(content, self.encode(path))
            for damaged in self._kept(path):
                if not _is_whole(damaged):
                    damaged.unlink(missing_ok=True)
            digest = hashlib.sha256(content.getvalue()).hexdigest()[:16]
            found = self._folder(path) / f"{self._name(path)}_{digest}.npy"
            folders.publish_file(found, content.getvalue())
        features: Floats32 = np.load(found, mmap_mode="r")
        return features


def _is_whole(file: Path) -> bool:
    """Whether a file of the cache has the content that its name says: a flipped byte would change what is asked."""
    try:
        return folders.digest_file(file)[:16] == file.stem.partition("_")[2]
    except OSError:
        return False


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder that is not trained: its settings, and the images that it takes. Plain values, for any process."""

    model: ModelSettings
    config: ShardConfig
    weights: Path | None  # the path of its weights; None: ImageNet weights, or no weights


def encode(frozen: FrozenEncoder, path: Path) -> Floats32:
    """The features N × H of the galaxies in a TFRecord file."""
    fixed = ARCHITECTURES[frozen.model.architecture].fixed
    if fixed:
        return fixed(frozen.model, tfrecords.read_contents(path, frozen.config.encoding))
    from zoobot.models import encoders  # late: only a network needs TensorFlow

    return encoders.encode(_built(frozen)[1], path, frozen.model.predict_batch_size)


def digest(frozen: FrozenEncoder) -> str:
    """SHA-256 over the weights; for an encoder without weights, over what its features depend on."""
    if not ARCHITECTURES[frozen.model.architecture].fixed:
        record = shapes.read_record(frozen.weights) if frozen.weights else None
        if frozen.weights and record:
            wanted = shapes.shape_of(frozen.model, frozen.config.image_size_px, frozen.config.channels)
            shapes.refuse_another(frozen.weights, record, wanted)
            return record.weights_sha256
        from zoobot.models import encoders  # late: only a network needs TensorFlow

        return encoders.digest(_built(frozen)[0])
    shape = (frozen.model.architecture, frozen.model.final_size_px, frozen.model.colour, frozen.config.image_size_px)
    return hashlib.sha256(repr(shape).encode()).hexdigest()


def refuse_other_shards(model: ModelSettings, config: ShardConfig, shard_dir: Path) -> None:
    """SettingsError: the shards hold pictures and the encoder needs features, or the other way round."""
    there, needed = config.encoding == tfrecords.FEATURES, ARCHITECTURES[model.architecture].takes_features
    if there != needed:
        raise SettingsError(
            f"{shard_dir} holds {'features' if there else 'pictures'}; model.architecture={model.architecture} needs"
            f" {'features' if needed else 'pictures'}. Choose {'model=features' if there else 'another model'}, or make"
            f" shards {'with' if needed else 'without'} survey.features under another shards.name."
        )


def frozen_features(settings: Settings, config: ShardConfig) -> FeatureCache:
    """The features of the encoder in ``model.weights``. It is built only if some features are not in the cache.

    Raises SettingsError if the encoder does not exist, or if its shape is not that in the settings.
    """
    return cached(FrozenEncoder(settings.model, config, settings.weights_path), settings.features_dir)


def cached(frozen: FrozenEncoder, folder: Path) -> FeatureCache:
    """The features of an encoder that is not trained, kept in a folder."""
    return FeatureCache(folder, digest(frozen), frozen.model.orientations, functools.partial(encode, frozen))


def fill(cache: FeatureCache, settings: Settings, shard_size: int, files: Iterable[Path]) -> None:
    """Compute features that are not kept yet in worker processes, if there are so many that this is faster: of any
    network on a cluster, of a large one here. A large one leaves cores idle, a small one uses them all by itself.
    """
    missing = [path for path in dict.fromkeys(files) if not cache.has(path)]
    kind, cluster = ARCHITECTURES[settings.model.architecture], settings.cluster
    if not (kind.has_imagenet or kind.timm or (cluster is not None and kind.layers)):
        return
    if cluster is None and _GPU.exists():
        return
    most = len(missing) * shard_size // GALAXIES_PER_WORKER
    workers = min(len(missing), settings.workers or min(most, engine.cores(cluster)))
    if workers > 1:
        work = ((cache, path) for path in missing)
        done = engine.in_order(_keep, work, workers, lambda item: item[1].name, cluster)
        with closing(done):
            for _ in track(done, "computing features", len(missing)):
                pass


def _keep(work: tuple[FeatureCache, Path]) -> None:
    cache, path = work
    cache.of(path)


def save_encoder(frozen: FrozenEncoder, folder: Path) -> None:
    """Write the encoder's weights, wherever they came from. Fixed features have none."""
    if ARCHITECTURES[frozen.model.architecture].layers:
        from zoobot.models import encoders  # late: only a network needs TensorFlow

        encoders.save(_built(frozen)[0], frozen.model, folder)


_last_built: list[tuple[FrozenEncoder, tuple[Any, encoders.Pass]]] = []


def _built(frozen: FrozenEncoder) -> tuple[Any, encoders.Pass]:
    """The encoder, and its compiled function. The last one is kept from iteration to iteration."""
    from zoobot.models import encoders

    if not _last_built or _last_built[0][0] != frozen:
        encoder = encoders.build(frozen.model, frozen.config.image_size_px, frozen.config.channels)
        if frozen.weights:
            encoders.load(encoder, frozen.weights)
        of_records = encoders.forward_records(encoder, frozen.config, frozen.model)
        _last_built[:] = [(frozen, (encoder, of_records))]
    return _last_built[0][1]
