"""The layers of the program, read from its imports: who may import whom, and what a light stage never loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the bottom up; every other module of zoobot/ is a part: above these, below the stages.
LOW_LAYERS = (
    {"errors", "progress", "seeds"},
    {"settings"},
    {"checks"},
    {"config"},
    {"disk", "provenance", "questions"},
    {"manifest"},
    {"folders"},
    {"tasks"},
)
PARTS, STAGES, ENTRY = len(LOW_LAYERS), len(LOW_LAYERS) + 1, len(LOW_LAYERS) + 2
ONLY_IMPORTERS = {
    "hydra": {"run", "zoobot.config", "zoobot.sweep"},
    "omegaconf": {"run", "zoobot.config", "zoobot.sweep"},
    "wandb": {"zoobot.tracking"},
    "panoptes_client": {"zoobot.panoptes"},
    "ray": {"zoobot.engine"},
    "boto3": set(),  # launch/ alone, which is no part of the package
    "botocore": set(),
}
HEAVY = {"tensorflow", "keras", "wandb", "pandas"}
LIGHT_STAGES = ("reduce", "master_catalog", "catalogs", "instructions", "report", "verify")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in (ROOT / "run.py", *sorted((ROOT / "zoobot").rglob("*.py")))}


def imported_names(source: str) -> set[str]:
    """Every module that a source file imports, anywhere in it; ``from a import b`` names ``a`` and ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


IMPORTS = {module: imported_names(path.read_text(encoding="utf-8")) for module, path in MODULES.items()}
INTERNAL = {module: {name for name in names if name in MODULES} - {"zoobot"} for module, names in IMPORTS.items()}


def layer(module: str) -> int:
    if module == "run":
        return ENTRY
    if module.startswith("zoobot.stages"):
        return STAGES
    return next((i for i, names in enumerate(LOW_LAYERS) if module.removeprefix("zoobot.") in names), PARTS)


def test_the_reader_of_imports_finds_all_kinds() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    import e as g\n"
    assert imported_names(source) == {"a.b", "c", "c.d", "e"}
    assert len(MODULES) > 25 and INTERNAL["zoobot.tasks"] == {"zoobot.settings", "zoobot.errors", "zoobot.questions"}
    assert all(f"zoobot.{name}" in MODULES for names in LOW_LAYERS for name in names)


def test_imports_go_upward_only() -> None:
    wrong = [(m, name) for m, names in INTERNAL.items() for name in names if layer(name) > layer(m)]
    assert wrong == []
    tuple(TopologicalSorter(INTERNAL).static_order())  # raises CycleError


def test_stages_do_not_import_each_other() -> None:
    stages = {m: {n for n in names if n.startswith("zoobot.stages.")} for m, names in INTERNAL.items()}
    importers = {m for m, names in stages.items() if m != "run" and names}
    assert importers == {"zoobot.stages.simulate"}
    assert not stages["run"], "run.py imports a stage only when it runs it"


@pytest.mark.parametrize("package", ONLY_IMPORTERS)
def test_exclusive_importers(package: str) -> None:
    importers = {m for m, names in IMPORTS.items() if package in {name.split(".")[0] for name in names}}
    assert importers <= ONLY_IMPORTERS[package]


def test_launch_imports_nothing_of_zoobot() -> None:
    for path in (ROOT / "launch").rglob("*.py"):
        assert not {n for n in imported_names(path.read_text(encoding="utf-8")) if n.split(".")[0] == "zoobot"}, path


def loaded(*arguments: str) -> set[str]:
    """The top-level packages that a fresh Python imports when it is called so."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}


def test_light_stages_load_no_tensorflow() -> None:
    code = "import run, " + ", ".join(f"zoobot.stages.{stage}" for stage in LIGHT_STAGES)
    assert HEAVY & loaded("-c", code) == {"pandas"}
    assert HEAVY & loaded("-c", "import wandb") >= {"wandb"}, "the test sees what is loaded"


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job", "stage=simulate"]])
def test_help_and_config_load_nothing_heavy(arguments: list[str]) -> None:
    packages = loaded("run.py", *arguments)
    assert "zoobot" in packages and not packages & HEAVY
