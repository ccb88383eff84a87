"""A new acquisition function, encoder, oracle, survey, question set and task: each is one file and one option.

Each file stands here as docs/extending.md shows it, is written outside the package, and runs in a real simulation.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoobot import folders, stages
from zoobot.errors import SettingsError
from zoobot.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MOST_LINES = 20
RUN = ["stage=simulate", "quick=true", "model=pixels", "tracking=disabled", "simulate.iterations=2"]


def pieces() -> dict[str, list[tuple[str, str]]]:
    """The files of each section of the guide, ``{section: [(name, content)]}``: a block names its file in line one."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in re.split(r"^## ", GUIDE, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"```(?:python|yaml)\n# (\S+)[^\n]*\n(.*?)```", section, re.DOTALL)
        if blocks:
            found[section.split("\n")[0]] = blocks
    return found


def command(section: str) -> list[str]:
    """The settings in the section's line of text that begins with ``python run.py``."""
    text = next(s for s in re.split(r"^## ", GUIDE, flags=re.MULTILINE) if s.startswith(section))
    line = re.search(r"```text\npython run\.py (.*?)```", text, re.DOTALL)
    assert line, section
    return line[1].split()


@pytest.mark.parametrize(
    "section", [name if "acqui" in name else pytest.param(name, marks=pytest.mark.long) for name in pieces()]
)
def test_each_is_added_from_outside_in_a_few_lines(section: str, tmp_path: Path) -> None:
    files = pieces()[section]
    assert sum(content.count("\n") for _, content in files) <= MOST_LINES
    for name, content in files:
        path = tmp_path / "my" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    overrides = [*RUN, *command(section), f"data_dir={tmp_path / 'data'}"]
    words = [word.replace("my/", f"{tmp_path / 'my'}/") for word in overrides]
    config_dir = ["--config-dir", str(tmp_path / "my" / "configs")] if (tmp_path / "my" / "configs").is_dir() else []
    done = subprocess.run([sys.executable, "run.py", *config_dir, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (newest,) = (tmp_path / "data").rglob("iteration_1")
    chain = folders.with_inputs([newest])
    assert [problem for folder in chain for problem in folders.verify(folder)] == []
    settings = folders.read_manifest(newest).settings
    if any(word.startswith("extensions=") for word in words):
        assert settings["extensions"], "the file that was used is part of what an experiment never changes"


def test_the_guide_shows_all_six() -> None:
    assert len(pieces()) == 6


@pytest.mark.long
def test_an_extension_that_changed_or_is_missing_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("from zoobot.acquisition import ACQUISITIONS\nACQUISITIONS['mine'] = ACQUISITIONS['random']\n")
    run = [sys.executable, "run.py", *RUN, f"data_dir={tmp_path / 'data'}", "acquisition.name=mine"]
    assert subprocess.run([*run, f"extensions=[{mine}]"], cwd=ROOT, capture_output=True).returncode == 0
    mine.write_text(mine.read_text() + "# another\n")
    for extensions, said in (
        (f"[{mine}]", "extensions:"),
        (f"[{tmp_path}/none.py]", "does not exist"),
        ("[]", "choose one of"),
    ):
        done = subprocess.run([*run, f"extensions={extensions}"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.py", "import nothing_of_that_name\n", "broken.py cannot be run: ModuleNotFoundError"),
        ("broken.py", "def (\n", "broken.py cannot be run: SyntaxError"),
        ("notes.txt", "", "notes.txt is not a Python file"),
    ],
)
def test_a_file_that_cannot_be_run_is_refused_in_one_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError, match=re.escape(said)):
        stages.load_extensions(Settings(extensions=[str(tmp_path / name)]))


def test_two_files_of_one_name_are_both_loaded(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"import sys\nsys.modules['loaded_{folder}'] = sys\n")
    stages.load_extensions(Settings(extensions=[str(tmp_path / folder / "mine.py") for folder in ("a", "b")]))
    assert sys.modules.pop("loaded_a") and sys.modules.pop("loaded_b")
