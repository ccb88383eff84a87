"""The expressions of ``task.filters``: comparisons and arithmetic on columns, and nothing that runs code.

pandas would evaluate more: attributes, calls, and variables of the program (``@name``). A setting that somebody passes
on must not be a program.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

_TEXT_OR_COLUMN = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|`([^`\n]+)`""")
_ALLOWED = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.UAdd, ast.BinOp,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr, ast.Compare, ast.Eq,
    ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.List, ast.Tuple,
    ast.Constant,
)  # fmt: skip
_MAY = "column names, numbers, texts, comparisons, and/or/not, & | ~, arithmetic and lists"
LONGEST, HIGHEST_POWER = 2000, 10


def problems(expressions: Sequence[str]) -> list[str]:
    """Why expressions cannot be filters; each problem names the part."""
    return [f"task.filters: {expression!r} {why}" for expression in expressions for why in _problems(str(expression))]


def _problems(expression: str) -> Iterator[str]:
    if "@" in _TEXT_OR_COLUMN.sub("", expression):
        yield f"has an @, which reaches into the program. A filter may have {_MAY}."
        return
    if len(expression) > LONGEST:
        yield f"is longer than {LONGEST} characters. Split it: a galaxy must meet every filter."
        return
    try:
        tree = ast.parse(_TEXT_OR_COLUMN.sub(lambda found: found[1] or " column ", expression).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield f"cannot be read: {getattr(error, 'msg', None) or error}."
        return
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and not _is_plain(node.value)):
            part = ast.unparse(node) or type(node).__name__
            yield f"has {part!r}, which a filter may not have: only {_MAY}."
            return
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not _is_low(node.right):
            yield f"has {ast.unparse(node)!r}: a power is a number up to {HIGHEST_POWER}."
            return


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _is_low(power: ast.expr) -> bool:
    return isinstance(power, ast.Constant) and isinstance(power.value, int | float) and power.value <= HIGHEST_POWER
