"""A column made from others by a template, such as ``{brickid}_{objid}`` or ``images/{iauname:.4}/{iauname}.png``.

``{name:.4}`` takes the first four characters; ``{name:neg}`` writes a minus sign as NEG. A template without braces
names a column.
"""

from __future__ import annotations

import re
import string
from pathlib import Path

import pandas as pd

from zoobot.errors import InputError, SettingsError
from zoobot.galaxies.tables import require_columns


def columns_of(template: str, key: str) -> list[str]:
    """The columns that a template reads. ``key`` is the setting that has it."""
    return [name for _, name, _ in _pieces(template, key) if name]


def made(template: str, table: pd.DataFrame, path: Path, key: str) -> pd.Series:
    """The texts that the template gives for each row; missing where one of its columns is."""
    require_columns(table, columns_of(template, key), path, f" {key}={template} needs it.")
    text = pd.Series("", index=table.index, dtype="string")
    for literal, name, spec in _pieces(template, key):
        text = text + literal
        if name:
            text = text + _as_text(table[name], name, path, spec)
    return text


def _pieces(template: str, key: str) -> list[tuple[str, str, str]]:
    """The literal, the column and the format of each part."""
    template = template if "{" in template else f"{{{template}}}"
    try:
        parts = [(literal, name or "", spec or "") for literal, name, spec, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise SettingsError(f"{key}={template}: {error}. Write it such as '{{brickid}}_{{objid}}'.") from error
    wrong = [spec for _, _, spec in parts if not re.fullmatch(r"|\.\d+|neg", spec)]
    if wrong:
        raise SettingsError(f"{key}={template}: only :.4 (the first 4 characters) and :neg are known, not :{wrong[0]}.")
    return parts


def _as_text(column: pd.Series, name: str, path: Path, spec: str) -> pd.Series:
    if pd.api.types.is_float_dtype(column):
        raise InputError(
            f"{path}: {name} holds numbers with a fraction, which lose the last digits of an id. Store text."
        )
    text = column.astype("string").str.strip()
    if spec == "neg":
        return text.str.replace("-", "NEG", regex=False)
    return text.str.slice(0, int(spec[1:])) if spec else text
