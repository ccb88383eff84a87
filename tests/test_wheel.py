"""The package as it is installed: a wheel has everything that the guides use from Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

from zoobot.galaxies.questions import load_questions
from zoobot.votes.classifications import workflow_of

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_listed() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = content["tool"]["setuptools"]["packages"]
    assert {name for name in listed if ".configs" not in name} == set(find_packages(str(ROOT), include=["zoobot*"]))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("zoobot", "configs"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "-w", str(folder)], cwd=folder / "source", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def test_votes_are_reduced_as_the_guide_shows(installed: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "votes.md").read_text(encoding="utf-8"), re.DOTALL)
    row = {
        "id": "1", "annotations": [{"task": "T0", "value": 0}], "metadata": {"workflow_version": "1.1"},
        "links": {"user": None, "workflow": "1", "subjects": ["7"]},
    }  # fmt: skip
    for day in ("monday", "tuesday"):
        (tmp_path / f"{day}.jsonl").write_text(json.dumps(row) + "\n")
    versions = {"workflow_versions": [workflow_of(load_questions("decals"))]}
    (tmp_path / "versions.json").write_text(json.dumps(versions))
    check = "import zoobot; assert 'installed' in zoobot.__file__, zoobot.__file__\nassert votes.to_numpy().sum() == 2"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    subprocess.run([sys.executable, "-c", example + check], cwd=tmp_path, check=True, env=environment)
