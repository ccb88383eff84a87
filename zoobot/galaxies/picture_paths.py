"""Where a survey's pictures are, and whether they are there; also when its table was written on another machine."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import stat
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from zoobot.errors import InputError
from zoobot.galaxies import remote_pictures
from zoobot.galaxies.repeats import Ints
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
TRIED = 20  # pictures that stand for all
_LISTED = 20_000  # files of a folder that are looked at


def below_folder(locations: pd.Series, prefix: str, where: str) -> pd.Series:
    """``file_loc`` relative to the survey's folder: without ``prefix``, and with / between folders."""
    locations = locations.astype("string").str.strip()
    if locations.str.contains("\\", regex=False).any():
        locations = locations.str.replace("\\", "/", regex=False)
    if not prefix:
        return locations
    prefix = prefix.replace("\\", "/").rstrip("/") + "/"
    begins = locations.str.startswith(prefix).fillna(False).astype(bool)
    if not begins.any():
        first = locations.dropna().iloc[0] if locations.notna().any() else "(none)"
        raise InputError(f"{where}: no file_loc begins with survey.path_prefix={prefix}; the first is {first}.")
    return locations.mask(begins, locations.str.slice(len(prefix)))


def missing(locations: pd.Series, settings: Settings) -> list[str]:
    """The locations without a picture. InputError: one leads out of survey.folder."""
    return [str(each) for each, n_bytes in zip(locations, sizes(locations, settings), strict=True) if n_bytes < 0]


def sources(settings: Settings, locations: Sequence[str]) -> Generator[Path | bytes | str]:
    """Each picture: the path of its file, or the content of one in an object store, or (text) why it cannot be had."""
    if settings.survey.pictures:
        store = remote_pictures.opened(settings.survey.pictures)
        yield from store.read(locations, settings.survey.max_pixels)
        return
    for location in locations:
        try:
            yield settings.image_path(location)
        except InputError as error:
            yield str(error)


def source(settings: Settings, location: str) -> Path | bytes:
    """One of ``sources``. InputError: it cannot be had."""
    found = next(sources(settings, [location]))
    if isinstance(found, str):
        raise InputError(found)
    return found


def sizes(locations: pd.Series, settings: Settings, *, may_lead_out: bool = False) -> Iterable[int]:
    """The bytes of each picture; -1 for one that is not there. InputError: one leads out of survey.folder, unless that
    counts as not there.
    """
    if settings.survey.pictures:
        found: list[int] = remote_pictures.opened(settings.survey.pictures).sizes(locations, may_lead_out).tolist()
        return found
    return _sizes_of_files(locations, settings, may_lead_out)


def _sizes_of_files(locations: pd.Series, settings: Settings, may_lead_out: bool) -> Iterator[int]:
    """The way to a file is looked at once for each folder; after that, only whether it is a plain file, and no link."""
    known = set[str]()
    for location in map(str, locations):
        place = os.path.join(settings.source_dir, location.lstrip("/"))  # noqa: PTH118  # ten times as fast
        folder = place.rpartition("/")[0]
        n_bytes = _plain_size(place)
        if n_bytes is not None and folder in known:
            yield n_bytes
            continue
        try:
            path = settings.image_path(location)
        except InputError:
            if not may_lead_out:
                raise
            yield -1
            continue
        if n_bytes is not None:
            known.add(folder)
        yield path.stat().st_size if path.is_file() else -1


def _plain_size(place: str) -> int | None:
    """The bytes of a plain file; -1 if nothing is there; None for a link, a folder, and what cannot be looked at."""
    try:
        found = os.lstat(place)
    except FileNotFoundError:
        return -1
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def same_pictures(settings: Settings, locations: pd.Series) -> list[Ints]:
    """The rows, for each picture that is there more than once, whose files are the same to the byte. Only files of
    equal size are read; in an object store none is, because that would fetch nearly all.
    """
    if settings.survey.pictures:
        log.info(
            "%s: pictures are not compared with one another, only file_loc and positions", settings.survey.pictures
        )
        return []
    size_N = np.fromiter(sizes(locations, settings, may_lead_out=True), np.int64, len(locations))
    order = np.argsort(size_N, kind="stable")
    size_N = size_N[order]
    alike = np.zeros(len(order), dtype=bool)
    alike[1:] = (size_N[1:] == size_N[:-1]) & (size_N[1:] >= 0)
    alike[:-1] |= alike[1:]
    rows = np.sort(order[alike])
    digest_K = np.array([_digest(settings.image_path(str(each))) for each in locations.iloc[rows]], dtype="V32")
    _, at_K, count = np.unique(digest_K, return_inverse=True, return_counts=True)
    by_digest = np.split(rows[np.argsort(at_K, kind="stable")], np.cumsum(count)[:-1])
    return [same for same in by_digest if len(same) > 1]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def advice(missing: Sequence[str], settings: Settings) -> str:
    """What to set, so that these pictures are found in the survey's folder; "" if nothing there has their names."""
    folder = settings.source_dir
    if settings.survey.pictures:
        return " file_loc, without survey.path_prefix, is what follows survey.pictures in the address of a picture."
    if not missing or not folder.is_dir():
        return ""
    if missing[0].startswith(("http://", "https://")):
        return " These are addresses: download the pictures, and give their paths in file_loc."
    found = Counter(filter(None, (_prefix(location, folder) for location in missing[:TRIED])))
    if found:
        prefix = found.most_common(1)[0][0] or "/"
        return f" They lie there without the beginning of their path: set survey.path_prefix='{prefix}'."
    stems = {Path(location).stem: location for location in missing[:TRIED]}
    near = ""
    for path in itertools.islice(folder.rglob("*"), _LISTED):
        there, wanted = path.relative_to(folder).as_posix(), stems.get(path.stem, "")
        if wanted and there.endswith("/" + wanted):
            place = there.removesuffix("/" + wanted)
            return f" {there} is there: set survey.file_loc='{place}/{{file_loc}}', or move the pictures."
        if wanted and not near and path.is_file():
            near = f" There is {there} instead of {wanted}: correct file_loc, or make it by survey.file_loc."
    return near


def _prefix(location: str, folder: Path) -> str:
    """The beginning of a path without which it is below ``folder``; "" if there is none."""
    parts = location.split("/")
    for start in range(1, len(parts)):
        if (folder / "/".join(parts[start:])).is_file():
            return "/".join(parts[:start])
    return ""
