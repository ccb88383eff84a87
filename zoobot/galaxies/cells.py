"""What a cell of a table says: that it is empty, a number, true or false; or that a program has spoilt an id.

Tables are read as text, digit for digit. A cell becomes a number only here, where votes, positions or filters need one.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from zoobot.galaxies.repeats import parts_of

# How databases, R, pandas and astropy write an empty cell. A galaxy may have any of these names; a number may not.
_EMPTY = ("", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "nil", "nat", "--", "-", "masked", "\\n")
_TRUTH = {"true": True, "false": False}
_EXACT_DIGITS = 15  # of a number in a spreadsheet; further digits become zeros
_MIN_ROUNDED_DIGITS = 6  # so many zeros behind the 15th digit are no chance
_WITH_POINT, _ENDS_IN_ZERO, _LONG = r"[+-]?\d+\.\d*", r"[+-]?\d+\.0*", rf"\d{{{_EXACT_DIGITS + 1},}}"


def numbers(column: pd.Series) -> pd.Series:
    """The cells as float64; NaN for an empty one, and for one that is no number."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype("float64")
    text = column.astype("string")
    try:  # a tenth of the time of pandas
        found = pa.array(text).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return pd.to_numeric(text, errors="coerce").astype("float64")
    return pd.Series(found, index=column.index, name=column.name)


def is_empty(column: pd.Series) -> pd.Series:
    """Which cells are empty, where a number is expected."""
    empty = numbers(column).isna()
    if empty.any() and not pd.api.types.is_numeric_dtype(column):
        text = column[empty].astype("string").str.strip()
        empty[empty] = (text.isna() | text.str.lower().isin(_EMPTY)).to_numpy(dtype=bool)
    return empty


def no_text(column: pd.Series) -> pd.Series:
    """Which cells are empty, where a text is expected: NA may be the name of a picture."""
    return column.isna() | (column.astype(str).str.strip() == "")


def is_true(column: pd.Series) -> pd.Series:
    """Which cells say true, yes or 1."""
    return column.astype("string").str.strip().str.lower().isin(("true", "t", "yes", "y", "1", "1.0"))


def typed(column: pd.Series) -> pd.Series:
    """The column as numbers or truth values, if every cell that is not empty is one; otherwise as it is."""
    if not pd.api.types.is_string_dtype(column):
        return column
    filled = column[~is_empty(column)].str.strip()
    if filled.empty:
        return column
    if filled.str.lower().isin(_TRUTH).all():
        return column.str.strip().str.lower().map(_TRUTH).eq(True)
    exact = pd.to_numeric(filled, errors="coerce")
    if exact.isna().any():
        return column
    whole = len(filled) == len(column) and pd.api.types.is_integer_dtype(exact)
    return exact.astype("int64") if whole else exact.astype("float64").reindex(column.index)


def spoilt(ids: pd.Series, prefix: str = "") -> pd.Series:
    """Why each id (without ``prefix``) is not the one that the survey gave, because a program has changed it; "" for a
    sound id.
    """
    parts = [ids.iloc[part] for part in parts_of(len(ids))]
    points, zeros, n_behind, behind = zip(*(_counted(_text(part, prefix)) for part in parts), strict=True)
    all_end_in_zero = 0 < sum(zeros) == sum(points)
    all_rounded = sum(n_behind) >= _MIN_ROUNDED_DIGITS and sum(n_behind) == sum(behind)
    why: pd.Series = pd.concat([_spoilt(_text(part, prefix), all_end_in_zero, all_rounded) for part in parts])
    return why


def _text(ids: pd.Series, prefix: str) -> pd.Series:
    text: pd.Series = ids.astype("string").fillna("").str.removeprefix(prefix).str.strip()
    return text


def _counted(text: pd.Series) -> tuple[int, int, int, int]:
    """How many numbers have a point, and how many of these end in .0; of digits behind the 15th: all, and zeros."""
    behind = text[text.str.fullmatch(_LONG)].str.slice(_EXACT_DIGITS)
    n_points, n_zeros = (int(text.str.fullmatch(form).sum()) for form in (_WITH_POINT, _ENDS_IN_ZERO))
    return n_points, n_zeros, int(behind.str.len().sum()), int(behind.str.count("0").sum())


def _spoilt(text: pd.Series, all_end_in_zero: bool, all_rounded: bool) -> pd.Series:
    why = pd.Series("", index=text.index, dtype="object")
    ask = "read the column as text and write the table again"
    exponent = r"[+-]?\d+(?:[.,]\d+[eE][+-]?\d+|[eE][+-]\d+)"
    error = r"#(?:NAME\?|REF!|VALUE!|NUM!|DIV/0!|NULL!)|#{2,}"
    cut = f"is a rounded number: a spreadsheet or pandas has cut its last digits; take the original table, {ask}"
    _note(why, text.str.fullmatch(exponent), cut)
    if all_end_in_zero:
        point = f"ends in .0: pandas has read the ids as numbers with a fraction; {ask} (dtype=str)"
        _note(why, text.str.fullmatch(_ENDS_IN_ZERO), point)
    _note(why, text.str.fullmatch(r'="?.*"?'), f"is a formula of a spreadsheet; {ask}, without =")
    _note(why, text.str.startswith("'"), f"begins with the apostrophe by which a spreadsheet marks text; {ask} without")
    _note(why, text.str.fullmatch(error), f"is an error of a spreadsheet; {ask}")
    _note(why, text.str.fullmatch(r"\d{1,3}(?:,\d{3})+"), f"has commas between its digits, from a spreadsheet; {ask}")
    if all_rounded:
        zeros = f"has only zeros behind its 15th digit, as have all: a spreadsheet has rounded them; {ask}"
        _note(why, text.str.fullmatch(_LONG), zeros)
    return why


def _note(why: pd.Series, where: pd.Series, text: str) -> None:
    why[(why == "") & where.fillna(False).astype(bool)] = text
