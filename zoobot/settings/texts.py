"""What ``--help`` says. Each text has one place of its own: the first comment of a file in configs/, the docstring of a
stage or of a group of settings, the comment beside a setting. They are read as text, because nothing is as quick.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

from zoobot.settings.depends import DEPENDS_ON
from zoobot.settings.paths import CONFIGS

# The settings that most commands have.
COMMON = ("data_dir", "quick", "seed", "workers", "experiment_name", "survey.name", "survey.folder",
          "survey.questions", "simulate.iterations", "iterate.subjects_per_iteration", "model.weights",
          "oracle.votes_per_galaxy", "report.experiments")  # fmt: skip
_SCHEMA = Path(__file__).with_name("schema.py")
_STAGES = Path(__file__).parents[1] / "stages"


def stages() -> dict[str, str]:
    """Every stage, and what it does in one line."""
    return {path.stem: first_comment(path) for path in sorted((CONFIGS / "stage").glob("*.yaml"))}


def first_comment(path: Path) -> str:
    """The first comment of a file of settings, without the lines that Hydra reads; one line."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return next(line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line)


def groups() -> dict[str, tuple[str, list[str]]]:
    """Every group but ``stage`` with what it decides, in one line, and its options."""
    said = dict(re.findall(r"^  - (\w+): .*?  # (.*)$", (CONFIGS / "config.yaml").read_text(encoding="utf-8"), re.M))
    described = {name: _docstrings()[cls] for name, cls in _fields("Settings").items() if cls in _docstrings()} | said
    options: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        options.setdefault(path.parent.name, []).append(path.stem)
    del options["questions"], options["stage"]  # data of a survey, and what has a list of its own
    return {name: (described[name], names) for name, names in options.items()}


def common() -> dict[str, str]:
    """The commonest settings, and what each is."""
    return {key: described(key) for key in COMMON}


def described(key: str) -> str:
    """The comment beside a setting."""
    group, _, name = key.rpartition(".")
    return comments()[_fields("Settings")[group] if group else "Settings"][name]


def of_stage(stage: str) -> tuple[str, dict[str, str], dict[str, str], tuple[str, ...]]:
    """What a stage is; what it reads, writes and needs; the settings of its own; what else its output depends on."""
    text, parts = split_docstring(ast.get_docstring(_parsed(_STAGES / f"{stage}.py")) or "")
    owner = _fields("Settings").get(stage, "")
    own = {f"{stage}.{name}": comment for name, comment in comments().get(owner, {}).items()}
    return text, parts, own, tuple(key for key in DEPENDS_ON.get(stage, ()) if key != stage)


def split_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """The text of a stage's docstring, and its last lines: what the stage reads, writes and needs."""
    text, _, last = docstring.partition("\n\nReads: ")
    found = re.findall(r"^(Reads|Writes|Needs): (.*?)(?=^(?:Writes|Needs): |\Z)", f"Reads: {last}", re.M | re.S)
    return text.partition(": ")[2].replace("``", ""), {name.lower(): " ".join(each.split()) for name, each in found}


# --------------------------------------------------------------- the schema, as text


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _classes() -> list[ast.ClassDef]:
    return [node for node in _parsed(_SCHEMA).body if isinstance(node, ast.ClassDef)]


def _docstrings() -> dict[str, str]:
    return {node.name: (ast.get_docstring(node) or "").splitlines()[0] for node in _classes()}


def _fields(cls: str) -> dict[str, str]:
    """The annotation of each field of a class of the schema."""
    node = next(node for node in _classes() if node.name == cls)
    return {
        field.target.id: ast.unparse(field.annotation)
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


@functools.cache
def comments() -> dict[str, dict[str, str]]:
    """The comment beside each field of each class of the schema; a field that is a group of its own has none."""
    lines = _SCHEMA.read_text(encoding="utf-8").splitlines()
    found: dict[str, dict[str, str]] = {}
    for node in _classes():
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                comment = re.search(r"  # (.*)", "\n".join(lines[field.lineno - 1 : field.end_lineno]))
                if comment:
                    found.setdefault(node.name, {})[field.target.id] = comment[1]
    return found
