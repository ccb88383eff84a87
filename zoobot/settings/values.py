"""Values that no setting can have, whatever it is for: without a limit, without a name, or impossible to store."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from zoobot.settings.depends import DEFAULTS

MOST, MOST_PX, MOST_ID = 10**9, 2**14, 2**63 - 1
NAME_BYTES = 200  # of a folder that we make: hidden ones beside it have longer names, and a disk allows 255
_NUMBERS_OF_THEIR_OWN = ("seed", "survey.draw_seed", "catalogs.seed", "pretrain.seed", "oracle.last_classification_id")
_NOT_EMPTY = {
    "data_dir": "it is empty. Was a variable of the shell not set? Give the folder for all output",
    "survey.questions": "name a question set in configs/questions, or a YAML file",
    "task.questions": "name the questions to learn",
    "task.name": "give it a name",
    "model.name": "give it a name",
}
_TEXTS = ("reduce.export", "reduce.api_dump")  # one or several paths


def problems(flat: Mapping[str, object]) -> list[str]:
    """What is wrong with the values, by full key; only the first problem of each."""
    found = {}
    for key, value in flat.items():
        why = next(_problems(key, value), None)
        if why:
            text = str(value)
            found[key] = f"{key}={text if len(text) <= 80 else text[:77] + '…'}: {why}"
    return list(found.values())


def _problems(key: str, value: object) -> Iterator[str]:
    if key in _NOT_EMPTY and not value:
        yield _NOT_EMPTY[key]
    if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= MOST):
        yield f"must be a number up to {MOST:,}"
    if isinstance(value, int) and not isinstance(value, bool):
        most = MOST_ID if key in _NUMBERS_OF_THEIR_OWN else MOST_PX if key.endswith("_px") else MOST
        if value > most:
            yield f"must be at most {most:,}"
    if key not in DEFAULTS:  # a part of a value that is a dictionary
        yield f"{key.rpartition('.')[0]} is no group of settings"
    if key in _TEXTS and not isinstance(value, str | list):
        yield "must be a path, or several: [a.csv,b.csv]"
    if isinstance(value, str):
        yield from _text_problems(value)
    if isinstance(value, list):
        yield from _list_problems(key, value)


def _list_problems(key: str, values: list[object]) -> Iterator[str]:
    for each in values:
        if key == "model.blocks":
            if isinstance(each, list) and any(filters > MOST_PX for filters in each):
                yield f"a convolution has at most {MOST_PX:,} filters"
        elif not isinstance(each, str) or not each.strip():
            yield "each of its parts must be a text that is not empty"
        else:
            yield from _text_problems(each)


def _text_problems(text: str) -> Iterator[str]:
    if any(ord(character) < 32 and character not in "\t\n" for character in text):
        yield "it has a control character"
    try:
        text.encode()
    except UnicodeEncodeError:
        yield "it is not UTF-8"
        return
    if text.startswith("~/"):
        yield f"~ is not replaced by your home folder here. Write {Path(text).expanduser()}"
    if any(len(part.encode()) > 255 for part in text.split("/")) and " " not in text:
        yield "it has a part of more than 255 bytes, which no disk takes as a name"
