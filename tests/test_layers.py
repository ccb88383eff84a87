"""The layers of the program, read from its imports: who may import whom, and what a light stage never loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Which rooms each room may import, besides itself and `errors`. CONTRIBUTING.md shows the same table.
CELLARS = {"engine", "settings", "folders"}
MAY_IMPORT = {
    "engine": set(),
    "settings": set(),
    "folders": {"settings"},
    "galaxies": CELLARS,
    "votes": {*CELLARS, "galaxies"},
    "metrics": {*CELLARS, "galaxies"},
    "acquisition": {*CELLARS, "galaxies", "metrics"},
    "oracles": {*CELLARS, "galaxies", "votes"},
    "models": {*CELLARS, "galaxies", "metrics"},
    "iterations": {*CELLARS, "galaxies", "votes", "metrics", "acquisition", "oracles", "models"},
    "reports": {*CELLARS, "galaxies", "metrics", "acquisition", "iterations"},
}
EVERYTHING = {*MAY_IMPORT, "stages", "sweep"}
MAY_IMPORT |= {"stages": EVERYTHING, "sweep": EVERYTHING, "run": EVERYTHING}
ONLY_IMPORTERS = {
    "hydra": {"run", "zoobot.settings.compose", "zoobot.settings.command_line", "zoobot.sweep"},
    "omegaconf": {"run", "zoobot.settings.compose", "zoobot.settings.command_line", "zoobot.sweep"},
    "wandb": {"zoobot.reports.dashboard"},
    "wandb_workspaces": {"zoobot.reports.workspace"},
    "panoptes_client": {"zoobot.oracles.panoptes"},
    "ray": {"zoobot.engine.cluster"},
    "vl_convert": {"zoobot.reports.vega"},
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
# ``from room import module`` is an import of the module, not of the room's face.
INTERNAL = {
    module: {
        name for name in names & MODULES.keys() if not any(n.startswith(f"{name}.") for n in names & MODULES.keys())
    }
    for module, names in IMPORTS.items()
}


def room(module: str) -> str:
    return module.removeprefix("zoobot.").split(".")[0]


def wrong_imports(internal: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Every import that the table does not allow."""
    return [
        (module, name)
        for module, names in internal.items()
        for name in names
        if room(module) != room(name) and room(name) != "errors" and room(name) not in MAY_IMPORT[room(module)]
    ]


def test_the_reader_of_imports_finds_all_kinds() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    import e as g\n"
    assert imported_names(source) == {"a.b", "c", "c.d", "e"}
    assert INTERNAL["zoobot.galaxies.questions"] == {
        "zoobot.errors", "zoobot.galaxies.question_file", "zoobot.settings.paths",
    }  # fmt: skip


def test_every_room_has_a_row_and_every_row_a_room() -> None:
    here = {room(module) for module in MODULES} - {"zoobot", "errors"}
    assert here == set(MAY_IMPORT)


def test_rooms_import_what_the_table_allows() -> None:
    assert wrong_imports(INTERNAL) == []
    tuple(TopologicalSorter(INTERNAL).static_order())  # raises CycleError
    assert wrong_imports({"zoobot.metrics.x": {"zoobot.models.encoders", "zoobot.errors", "zoobot.metrics.y"}})


def test_every_room_says_what_lives_there_and_what_does_not() -> None:
    for name in set(MAY_IMPORT) - {"sweep", "run"}:
        docstring = ast.get_docstring(ast.parse((ROOT / "zoobot" / name / "__init__.py").read_text(encoding="utf-8")))
        assert docstring and len(re.findall(r"[.:](?:\s|$)", docstring)) >= 2, name


def test_stages_do_not_import_each_other() -> None:
    stages = {m: {n for n in names if n.startswith("zoobot.stages.")} for m, names in INTERNAL.items()}
    importers = {m for m, names in stages.items() if m != "run" and names}
    assert importers == {"zoobot.stages.simulate", "zoobot.stages.check"}
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


def test_tests_of_zoobot_load_nothing_of_launch() -> None:
    assert not {"launch", "boto3", "botocore"} & loaded("-c", "import tests.conftest")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job", "stage=simulate"]])
def test_help_and_config_load_nothing_heavy(arguments: list[str]) -> None:
    packages = loaded("run.py", *arguments)
    assert "zoobot" in packages and not packages & HEAVY
