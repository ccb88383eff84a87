"""What the guides say is true: their commands run, their targets and links exist, and no setting is left out.

``python -m tests.test_docs`` writes docs/settings.md anew.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from zoobot import settings, stages
from zoobot.galaxies import demo, surveys
from zoobot.galaxies.questions import load_questions
from zoobot.settings import texts
from zoobot.votes.classifications import workflow_of

ROOT = Path(__file__).resolve().parents[1]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUICK = ["quick=true", "simulate.iterations=1", "model.max_epochs=1"]
# What a reader does around the commands.
_PLAIN = (
    "source .venv/bin/activate",
    'eval "$(python run.py --shell-completion install=bash)"',  # tests/test_terminal.py tries it
)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands(guides: list[Path]) -> Iterator[str]:
    """Every command line of these guides, in order, each once, without its comment."""
    lines = [line for guide in guides for block in blocks(guide, "bash") for line in block.splitlines()]
    yield from dict.fromkeys(re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Surveys as a reader would have them, of galaxies drawn by the program: mine, gz2 and decals."""
    folder = tmp_path_factory.mktemp("reader")
    galaxies = list(demo.survey(120, seed=0, size_px=32))
    for name in ("mine", "gz2/images", "decals"):
        (folder / name).mkdir(parents=True)
        for g in galaxies:
            Image.fromarray(g.image).save(folder / name / f"{g.id_str}.jpg")
    (folder / "mine" / "questions.yaml").write_text((ROOT / "configs/questions/demo.yaml").read_text())
    rows = [{"id_str": g.id_str, "file_loc": f"{g.id_str}.jpg", **g.votes} for g in galaxies]
    pd.DataFrame(rows).to_csv(folder / "mine" / "catalog.csv", index=False)
    features = [[float(x) for x in g.image.mean(axis=(0, 1))] for g in galaxies]
    pd.DataFrame({"id_str": [g.id_str for g in galaxies], "embedding": features}).to_parquet(
        folder / "mine" / "features.parquet"
    )
    counts = {f"{old}_count": new for old, new in surveys._GZ2_VOTES.items()}
    votes = [{old: g.votes.get(new, 0) for old, new in counts.items()} for g in galaxies]
    hart = pd.DataFrame(votes).assign(dr7objid=[str(587722981746540000 + n) for n in range(120)], sample="original")
    hart.to_csv(folder / "gz2" / "gz2_hart16.csv.gz", index=False)
    files = pd.DataFrame({"objid": hart["dr7objid"], "sample": "original", "asset_id": [g.id_str for g in galaxies]})
    files.to_csv(folder / "gz2" / "gz2_filename_mapping.csv", index=False)
    names = [f"J0000{n:02}.00+000000.0" for n in range(120)]
    _write_fits({"iauname": names, "fits_loc": [f"{g.id_str}.jpg" for g in galaxies]}, folder / "decals")
    _write_classifications(folder, ["classifications.jsonl", "gz2/monday.jsonl", "gz2/tuesday.jsonl"])
    decals = [{k: v for k, v in g.votes.items() if k.startswith("smooth-or-featured")} for g in galaxies]
    pd.DataFrame(decals).assign(iauname=names).to_csv(folder / "decals" / "votes.csv", index=False)
    return folder


def _write_classifications(folder: Path, names: list[str]) -> None:
    """One classification in each file, and the versions of its workflow beside them."""
    versions = json.dumps({"workflow_versions": [workflow_of(load_questions("decals"))]})
    for number, name in enumerate(names):
        row = {
            "id": str(number + 1), "annotations": [{"task": "T0", "value": 0}],
            "metadata": {"workflow_version": "1.1"}, "links": {"user": None, "workflow": "1", "subjects": ["7"]},
        }  # fmt: skip
        (folder / name).write_text(json.dumps(row) + "\n")
        (folder / name).with_name("versions.json").write_text(versions)


def _write_fits(columns: dict[str, list[str]], folder: Path) -> None:
    from astropy.table import Table

    Table(columns).write(folder / "joint_catalog.fits")


@pytest.fixture(scope="module")
def python_ran(folder: Path) -> int:
    """How many pieces of Python of the guides ran: one makes a table that commands read."""
    guides = [guide for guide in GUIDES if guide.name != "extending.md"]  # which has a test of its own
    pieces = [piece for guide in guides for piece in blocks(guide, "python")]
    for piece in pieces:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", piece], cwd=folder / "gz2", check=True, env=environment)
    return len(pieces)


def test_python_in_the_guides_runs(python_ran: int, folder: Path) -> None:
    assert python_ran and len(pd.read_csv(folder / "gz2" / "gz2_classifications_and_subjects.csv")) == 120


def test_commands_in_the_readme_run(folder: Path) -> None:
    assert run_commands([ROOT / "README.md"], folder)


@pytest.mark.long
def test_commands_in_the_guides_run(folder: Path, python_ran: int) -> None:
    own_tests = ("live.md", "ec2.md", "cluster.md")
    assert run_commands([guide for guide in GUIDES if guide.name not in own_tests], folder) >= 8


def run_commands(guides: list[Path], folder: Path) -> int:
    """All of them, one after the other, on small data, as a reader with a data folder of their own. How many."""
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    ran = 0
    for command in commands(guides):
        words = shlex.split(
            command.replace("/path/to", str(folder)).replace("verify.path=data", f"verify.path={folder}")
        )
        words = [re.sub(r"^seed=(\d),.*", r"seed=\1", word) for word in words]  # one seed of a sweep is enough
        if words[0] == "make":
            assert set(words[1:]) <= targets, command
        elif words[:2] == ["python", "run.py"]:
            more = [] if {"--help", "--cfg"} & set(words) else [*QUICK, f"data_dir={folder / 'data'}"]
            if more and not any(word.startswith(("experiment=", "stage=pretrain")) for word in words):
                words = [word for word in words if word != "model=pretrained"]
                more += [] if "model=features" in words else ["model=pixels"]  # the command is tested, not a network
            done = subprocess.run([sys.executable, *words[1:], *more], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            ran += 1
        else:
            assert command in _PLAIN, f"no test runs {command!r}"
    return ran


def test_links_and_names_of_files_exist() -> None:
    for guide in GUIDES:
        text = re.sub(r"```.*?```", "", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#]+?)\)", text):
            assert (guide.parent / link).exists(), f"{guide.name}: {link}"
        for name in re.findall(r"`((?:configs|docs|zoobot|tests|benchmarks)/[\w/.]+)`", text):
            assert (ROOT / name).exists(), f"{guide.name}: {name}"


def test_tests_that_a_guide_names_exist() -> None:
    for guide in GUIDES:
        for file, name in re.findall(r"`?(test_\w+\.py)::(test_\w+)", guide.read_text(encoding="utf-8")):
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{guide.name}: {name}"


def test_every_stage_is_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [stage for stage in stages.STAGES if f"| `{stage}` |" not in table] == []


def test_the_page_of_settings_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page(), "run `make docs`"


def settings_page() -> str:
    """Every setting with its default and the comment in zoobot/settings/schema.py, as Markdown."""
    lines = ["# Settings", "", "Give them as `key=value`. The values of a config group are in its folder in configs/."]
    for group in dataclasses.fields(settings.Settings):
        nested = group.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            lines += ["", f"## {group.name}", "", f"{nested.__doc__}", "", *_table(nested, f"{group.name}.")]
    lines[3:3] = ["", *_table(settings.Settings, "")]
    return "\n".join(lines) + "\n"


def _table(of: type, prefix: str) -> list[str]:
    comments = texts.comments()[of.__name__]
    rows = []
    for field in dataclasses.fields(of):
        if not dataclasses.is_dataclass(field.default_factory):
            assert field.name in comments, f"{of.__name__}.{field.name}: no comment"
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            shown = "" if default in ("???", dataclasses.MISSING) else f"`{default}`"
            shown = {"``": "empty", "`True`": "`true`", "`False`": "`false`"}.get(shown, shown)
            said = comments[field.name].replace("|", "\\|")
            rows.append(f"| `{prefix}{field.name}` | {shown} | {said} |")
    return ["| setting | default | |", "|---|---|---|", *rows]


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page(), encoding="utf-8")
