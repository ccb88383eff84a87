"""Figures of the code without its tests, as a table. With two checkouts, their figures stand side by side.

    python -m benchmarks.figures                  # of this repository
    python -m benchmarks.figures BEFORE AFTER     # of two folders, each a checkout with any layout of zoobot/

Decorators do not count as lines of a function, nor a method's self as a parameter. ``Any`` counts in imports too. A
repeat is a pair of places that share six or more lines in a row; each longest run counts once. White space, blank
lines, comments, imports, docstrings and lines of punctuation are ignored there.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import resolve_name
from itertools import combinations
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("run.py", "zoobot", "launch", "benchmarks")
NO_ENTRIES = {"__init__.py", "errors.py", "__pycache__"}
REPEATED = 6
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Module:
    """A Python file: ``name`` is its import name, and its relative imports start from ``package``."""

    name: str
    package: str
    lines: list[str]
    tree: ast.Module


def modules(folder: Path, part: str) -> list[Module]:
    """All modules in a part (a folder or a file) of a checkout; none if it does not exist."""
    found = []
    for path in filter(Path.is_file, [folder / part, *sorted((folder / part).rglob("*.py"))]):
        names, text = path.relative_to(folder).with_suffix("").parts, path.read_text(encoding="utf-8")
        package = ".".join(names[:-1])
        name = package if names[-1] == "__init__" else ".".join(names)
        found.append(Module(name, package, text.splitlines(), ast.parse(text)))
    return found


def functions(module: Module) -> Iterator[tuple[int, int]]:
    """The number of lines and of parameters of each function, inner functions included."""
    for f in ast.walk(module.tree):
        if isinstance(f, FUNCTIONS):
            named = [p.arg for p in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
            n_parameters = len(named) + (f.args.vararg is not None) + (f.args.kwarg is not None)
            yield (f.end_lineno or f.lineno) - f.lineno + 1, n_parameters - (named[:1] in (["self"], ["cls"]))


def n_without_docstring(body: list[ast.stmt]) -> int:
    """The number of public functions, classes, and methods of public classes without a docstring."""
    public = [d for d in body if isinstance(d, (*FUNCTIONS, ast.ClassDef)) and not d.name.startswith("_")]
    inner = sum(n_without_docstring(d.body) for d in public if isinstance(d, ast.ClassDef))
    return inner + sum(ast.get_docstring(d) is None for d in public)


def n_any(module: Module) -> int:
    """How often the name ``Any`` occurs in the code."""
    nodes = list(map(vars, ast.walk(module.tree)))
    return sum("Any" in (node.get("id"), node.get("attr"), node.get("name")) for node in nodes)


def code_lines(module: Module) -> list[str]:
    """The lines that are searched for repeats, without white space."""
    passed_over: set[int] = set()
    for node in (n for n in ast.walk(module.tree) if isinstance(n, ast.stmt)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            passed_over.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = ((n, "".join(line.split())) for n, line in enumerate(module.lines, start=1))
    return [line for n, line in numbered if n not in passed_over and line[:1] != "#" and re.search(r"\w", line)]


def n_repeats(part: list[Module]) -> int:
    """The number of pairs of places, in one file or two, that share a run of lines."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)  # lines -> number of module, first line
    for number, lines in enumerate(map(code_lines, part)):
        for first in range(len(lines) - REPEATED + 1):
            places[tuple(lines[first : first + REPEATED])].append((number, first))
    pairs = {(a, b) for alike in places.values() for a, b in combinations(alike, 2)
             if a[0] != b[0] or b[1] - a[1] >= REPEATED}  # fmt: skip
    return sum(((i, a - 1), (j, b - 1)) not in pairs for (i, a), (j, b) in pairs)


def imported(module: Module, known: Iterable[str]) -> set[str]:
    """What a module imports, anywhere in it: ``from a import b`` is a.b if that is a module, else a."""
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), module.package)
            names |= {name if (name := f"{base}.{alias.name}") in known else base for alias in node.names}
    return names


def n_circles(imports: dict[str, set[str]]) -> int:
    """The number of groups of modules that import each other, directly or through others."""
    reached: dict[str, set[str]] = {}
    for module in imports:
        waiting, reached[module] = [module], set()
        while waiting:
            new = imports.get(waiting.pop(), set()) - reached[module]
            reached[module] |= new
            waiting += new
    return len({frozenset(n for n in seen if m in reached.get(n, ())) for m, seen in reached.items() if m in seen})


def figures(part: list[Module]) -> dict[str, str]:
    """The figures of some modules, by name."""
    file_lines, found = sorted(len(m.lines) for m in part), [f for m in part for f in functions(m)]
    lines, known = sorted(n for n, _ in found) or [0], {m.name for m in part}
    return {
        "files": f"{len(part)}",
        "file lines: median / longest": f"{median(file_lines):.0f} / {file_lines[-1]}",
        "functions": f"{len(found)}",
        "function lines: median / 90 % / longest": f"{median(lines):.0f} / {lines[len(lines) * 9 // 10]} / {lines[-1]}",
        "functions over 40 lines": f"{sum(n > 40 for n in lines)}",
        "functions with over 6 parameters": f"{sum(n > 6 for _, n in found)}",
        "public without docstring": f"{sum(n_without_docstring(m.tree.body) for m in part)}",
        "Any per 1,000 lines": f"{1000 * sum(map(n_any, part)) / sum(file_lines):.1f}",
        "repeats of six lines or more": f"{n_repeats(part)}",
        "import circles": f"{n_circles({m.name: imported(m, known) for m in part})}",
    }


def importers(part: list[Module]) -> dict[str, list[str]]:
    """Library -> the modules that import it, without Python's own libraries and parts of the checkout."""
    own = {m.name.split(".")[0] for m in part} | {"tests"}
    found: dict[str, list[str]] = defaultdict(list)
    for module in part:
        for library in {name.split(".")[0] for name in imported(module, ())} - own - sys.stdlib_module_names:
            found[library].append(module.name)
    return found


def main() -> None:
    """Print the figures, then which modules import each library."""
    paths = list(map(Path, sys.argv[1:])) or [ROOT]
    columns: dict[str, dict[str, str]] = {}
    importing: dict[str, dict[str, list[str]]] = {}
    for label, path in zip((" before", " after") if len(paths) == 2 else ("",), paths, strict=True):
        parts = {part: found for part in PARTS if (found := modules(path, part))}
        everything = [m for found in parts.values() for m in found]
        columns |= {name + label: figures(found) for name, found in {"all": everything, **parts}.items()}
        importing[label] = importers(everything)
        print(f"entries in zoobot/{label}: {len({e.name for e in (path / 'zoobot').glob('*')} - NO_ENTRIES)}")
    order = sorted(columns, key=lambda name: ("all", *PARTS).index(name.split()[0]))  # the same parts side by side
    for name in ("", *columns[order[0]]):
        print(f"{name:40}" + "".join((columns[c][name] if name else c).rjust(19) for c in order))
    print("\nlibraries, and the modules that import them")
    for library in sorted({library for of in importing.values() for library in of}):
        for label, of in importing.items():
            line = f"{library}{label} ({len(of[library])}): {', '.join(of[library])}"
            print(textwrap.fill(line, 120, subsequent_indent="    "))


if __name__ == "__main__":
    main()
