"""What ``--help`` says. Each text has one place of its own: the first comment of a file in configs/, the docstring of a
stage or of a group of settings, the comment beside a setting. They are read as text, because nothing is as quick.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

from zoobot.settings import schema
from zoobot.settings.depends import DEPENDS_ON
from zoobot.settings.paths import CONFIGS
from zoobot.settings.schema import Settings

# The settings that most commands have.
COMMON = ("data_dir", "quick", "seed", "workers", "experiment_name", "survey.name", "survey.folder",
          "survey.questions", "simulate.iterations", "iterate.subjects_per_iteration", "model.weights",
          "oracle.votes_per_galaxy", "report.experiments")  # fmt: skip
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
    options: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.glob("*/*.yaml")):
        options.setdefault(path.parent.name, []).append(path.stem)
    del options["questions"], options["stage"]  # data of a survey, and what has a list of its own
    return {name: (said.get(name) or _docstring(_class_of(name)), names) for name, names in options.items()}


def common() -> dict[str, str]:
    """The commonest settings, and what each is."""
    return {key: described(key) for key in COMMON}


def described(key: str) -> str:
    """The comment beside a setting."""
    group, _, name = key.rpartition(".")
    return comments()[_class_of(group) if group else "Settings"][name]


def of_stage(stage: str) -> tuple[str, dict[str, str], dict[str, str], tuple[str, ...]]:
    """What a stage is; what it reads, writes and needs; the settings of its own; what else its output depends on."""
    text, parts = split_docstring((_STAGES / f"{stage}.py").read_text(encoding="utf-8").split('"""')[1])
    own = {f"{stage}.{name}": comment for name, comment in comments().get(_class_of(stage), {}).items()}
    return text, parts, own, tuple(key for key in DEPENDS_ON.get(stage, ()) if key != stage)


def split_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """The text of a stage's docstring, and its last lines: what the stage reads, writes and needs."""
    text, _, last = docstring.partition("\n\nReads: ")
    found = re.findall(r"^(Reads|Writes|Needs): (.*?)(?=^(?:Writes|Needs): |\Z)", f"Reads: {last}", re.M | re.S)
    return text.partition(": ")[2].replace("``", ""), {name.lower(): " ".join(each.split()) for name, each in found}


# --------------------------------------------------------------- the schema


def _class_of(group: str) -> str:
    """The name of the class of a group of settings; empty if there is none."""
    return next((str(field.type) for field in dataclasses.fields(Settings) if field.name == group), "")


def _docstring(cls: str) -> str:
    return (getattr(schema, cls).__doc__ or "").splitlines()[0]


@functools.cache
def comments() -> dict[str, dict[str, str]]:
    """The comment beside each field of each class of the schema; a field that is a group of its own has none."""
    found: dict[str, dict[str, str]] = {}
    cls = name = ""
    for line in Path(schema.__file__).read_text(encoding="utf-8").splitlines():
        if opening := re.match(r"class (\w+)", line):
            cls, found[opening[1]] = opening[1], {}
        if field := re.match(r"    (\w+): ", line):
            name = field[1]
        comment = line.partition("  # ")[2]
        if name and comment:
            found[cls][name] = comment
        if comment or not line:
            name = ""
    return found
