"""The figures of code, on a tiny package whose numbers were counted by hand."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.figures import Module

ROOT = Path(__file__).resolve().parents[1]

REPEAT = """
    first = 1
    second = 2

    third = 3  {comment}
    )
    fourth   = 4
    fifth = 5
    sixth = 6
"""
FILES = {
    "run.py": "import zoobot.a\n\nprint(zoobot.a)\n",
    "zoobot/__init__.py": '"""The package."""\n',
    "zoobot/errors.py": '"""Errors."""\n',
    "zoobot/report.html.j2": "",
    "zoobot/a.py": '''"""First module."""
import os
from typing import Any

import duckdb.typing
from zoobot import b, errors


class Public:
    """A class."""

    def method(self, one: Any, two: int, three: int, four: int, five: int, six: int) -> "Any":
        return os.name, duckdb

    @staticmethod
    def seven(one, two, three, four, five, *six, **seven):
        """Seven parameters."""
        def inner(): return b
        return inner


class _Private:
    def method(self):
        pass


Alias = dict[str, Any] | list[errors.Any]
''',
    "zoobot/b.py": "import duckdb\n\n\nasync def undocumented():\n    from .c import d\n    return d\n",
    "zoobot/c/__init__.py": "",
    "zoobot/c/d.py": "import zoobot.a as a\n\n\nx = a, 1\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_modules_are_named_as_they_are_imported(checkout: Path) -> None:
    found = [(m.name, m.package) for m in figures.modules(checkout, "zoobot")]
    assert found == [
        ("zoobot", "zoobot"), ("zoobot.a", "zoobot"), ("zoobot.b", "zoobot"), ("zoobot.c", "zoobot.c"),
        ("zoobot.c.d", "zoobot.c"), ("zoobot.errors", "zoobot"),
    ]  # fmt: skip
    assert [(m.name, m.package) for m in figures.modules(checkout, "run.py")] == [("run", "")]
    assert figures.modules(checkout, "launch") == []


def test_figures_as_counted_by_hand(checkout: Path) -> None:
    assert figures.figures(figures.modules(checkout, "zoobot")) == {
        "files": "6",
        "file lines: median / longest": "2 / 27",  # 0, 1, 1, 4, 6, 27
        "functions": "5",
        "function lines: median / 90 % / longest": "2 / 4 / 4",  # 1, 2, 2, 3, 4
        "functions over 40 lines": "0",
        "functions with over 6 parameters": "1",  # seven; six and self are six
        "public without docstring": "2",  # Public.method and undocumented
        "Any per 1,000 lines": "102.6",  # 4 of 39 lines: the import, one in a method, two in an alias
        "repeats of six lines or more": "0",
        "import circles": "1",  # a, b, c.d
    }


def test_importers_are_those_of_libraries_of_others(checkout: Path) -> None:
    everything = [m for part in figures.PARTS for m in figures.modules(checkout, part)]
    assert figures.importers(everything) == {"duckdb": ["zoobot.a", "zoobot.b"]}


def module_of(name: str, text: str) -> Module:
    return Module(name, "", text.splitlines(), ast.parse(text))


def repeating(*comments: str) -> str:
    """A function for each comment, all with the same six lines but for it."""
    return "\n".join(f"def f{i}(\n):" + REPEAT.format(comment=c).replace("    )\n", "") for i, c in enumerate(comments))


def test_repeats_are_pairs_of_places() -> None:
    once, other = module_of("a", repeating("")), module_of("b", '"""Text\nof two lines."""\n' + repeating(""))
    assert figures.n_repeats([once]) == 0
    assert figures.n_repeats([once, other]) == 1
    assert figures.n_repeats([once, other, once]) == 3
    assert figures.n_repeats([module_of("a", repeating("", ""))]) == 1
    assert figures.n_repeats([module_of("a", repeating("", "# differs"))]) == 0
    assert figures.n_repeats([module_of("a", "x = 1\n" * 11)]) == 0  # they would overlap
    assert figures.n_repeats([module_of("a", "x = 1\n" * 12)]) == 1


@pytest.mark.parametrize("imports, n_circles", [
    ({"a": {"b"}, "b": {"c"}, "c": {"json"}}, 0),
    ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, 1),
    ({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}}, 2),
    ({"a": {"a"}}, 1),
])  # fmt: skip
def test_circles(imports: dict[str, set[str]], n_circles: int) -> None:
    assert figures.n_circles(imports) == n_circles


def test_both_tables_are_printed_side_by_side(checkout: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.figures", str(checkout), str(checkout)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "entries in zoobot/ after: 4" in printed  # a.py, b.py, c, report.html.j2
    assert re.search(r"all before +all after +run\.py before +run\.py after +zoobot before +zoobot after\n", printed)
    assert re.search(r"^files +7 +7 +1 +1 +6 +6$", printed, re.MULTILINE)
    assert "duckdb before (2): zoobot.a, zoobot.b\nduckdb after (2): zoobot.a, zoobot.b\n" in printed
