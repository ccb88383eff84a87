"""Where a survey's table says its pictures are, when it was written on another machine."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from zoobot.errors import InputError

log = logging.getLogger("zoobot")
_TRIED = 20  # pictures that stand for all
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


def advice(missing: Sequence[str], folder: Path) -> str:
    """What to set, so that these pictures are found in ``folder``; "" if nothing there has their names."""
    if not missing or not folder.is_dir():
        return ""
    if missing[0].startswith(("http://", "https://")):
        return " These are addresses: download the pictures, and give their paths in file_loc."
    found = Counter(filter(None, (_prefix(location, folder) for location in missing[:_TRIED])))
    if found:
        prefix = found.most_common(1)[0][0] or "/"
        return f" They lie there without the beginning of their path: set survey.path_prefix='{prefix}'."
    stems = {Path(location).stem: location for location in missing[:_TRIED]}
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
