"""stage=check: what it finds in a survey's folder, and that the command it prints runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoobot.errors import InputError
from zoobot.galaxies import demo
from zoobot.settings import Settings
from zoobot.stages import check

ROOT = Path(__file__).resolve().parents[1]
Build = Callable[..., Settings]
FAST = ["model=pixels", "simulate.iterations=1", "tracking=disabled", "oracle.late_fraction=0"]


def survey(folder: Path, n: int = 90, questions: str = "", **columns: object) -> Path:
    """A folder as a new user has it: pictures, catalog.csv and questions.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for galaxy in demo.survey(n, seed=1, size_px=24):
        Image.fromarray(galaxy.image).save(folder / f"{galaxy.id_str}.png")
        rows.append({"id_str": galaxy.id_str, "file_loc": f"{galaxy.id_str}.png", **galaxy.votes})
    pd.DataFrame(rows).assign(**columns).to_csv(folder / "catalog.csv", index=False)
    (folder / "questions.yaml").write_text(questions or (ROOT / "configs/questions/demo.yaml").read_text())
    return folder


def checked(settings: Build, folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    check.run(settings("stage=check", "survey=custom", "survey.name=mine", f"survey.folder={folder}", *more))
    return capsys.readouterr().out


def run(command: str) -> None:
    words = shlex.split(command)
    assert words[:2] == ["python", "run.py"]
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def commands(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("python run.py")]


def test_a_name_that_the_shell_and_hydra_take_apart_is_quoted(
    settings: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = survey(tmp_path / "my galaxies, (é) = #1 'x' & y")
    (command, _) = commands(checked(settings, tmp_path, capsys, f'survey.folder="{folder}"'))
    assert settings(*shlex.split(command)[2:-1]).survey.folder == str(folder)


@pytest.mark.long
def test_the_commands_run_that_it_prints_for_one_consensus_vote_each(
    settings: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = survey(tmp_path / "in", questions="shape: {answers: {smooth: , disk: }}\n")
    table = pd.read_csv(folder / "catalog.csv", dtype=str)[["id_str", "file_loc"]]
    smooth = np.arange(len(table)) % 2
    table.assign(shape_smooth=smooth, shape_disk=1 - smooth).to_csv(folder / "catalog.csv", index=False)
    printed = checked(settings, folder, capsys, f"check.output={tmp_path / 'conf'}")
    assert "90 galaxies from 90 rows, 0 rows dropped" in printed and "90 of 24 x 24 px" in printed
    simulate, report, file = commands(printed)
    for expected in ("oracle=known", "survey.retirement_votes=0", "acquisition.expected_votes=1",
                     "task.name=shape task.questions=[shape] task.label=[smooth]"):  # fmt: skip
        assert expected in simulate
    run(f"{simulate} {shlex.join(FAST)}")
    run(f"{file} {shlex.join(FAST)}")  # finds everything done: the same settings
    assert len(list((tmp_path / "experiments" / "simulations").glob("[!.]*"))) == 1
    assert report == f"python run.py stage=report data_dir={tmp_path}"


def test_few_votes_lower_the_rule_of_retirement(
    settings: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = survey(tmp_path / "in")
    table = pd.read_csv(folder / "catalog.csv")
    counts = table.columns[2:]
    table[counts] = table[counts] // 5
    table.loc[:9, counts] = None
    table.to_csv(folder / "catalog.csv", index=False)
    printed = checked(settings, folder, capsys)
    assert "80 galaxies have votes" in printed
    assert 0 < int(printed.split("survey.retirement_votes=")[1].split()[0]) < 10
    settings(*shlex.split(commands(printed)[0])[2:-1])  # without data_dir, which the fixture gives


def test_what_stops_a_simulation_is_said_all_at_once(settings: Build, tmp_path: Path) -> None:
    folder = survey(tmp_path / "in")
    table = pd.read_csv(folder / "catalog.csv", dtype=str)
    for loc in table["file_loc"][:10]:
        (folder / loc).unlink()
    for loc in table["file_loc"][10:20]:
        (folder / loc).write_bytes(b"no picture")
    table.loc[20:40, "smooth-or-featured_smooth"] = "many"
    table.to_csv(folder / "catalog.csv", index=False)
    with pytest.raises(InputError) as caught:
        check.run(settings("stage=check", "survey=custom", "survey.name=mine", f"survey.folder={folder}"))
    for expected in ("21 of 90 rows cannot be used: 21 x smooth-or-featured_smooth is not a number",
                     "10 of 69 pictures are not in", "10 pictures cannot be used"):  # fmt: skip
        assert expected in str(caught.value)


def test_a_survey_without_votes_is_told_of_live_work(settings: Build, tmp_path: Path) -> None:
    folder = survey(tmp_path / "in")
    table = pd.read_csv(folder / "catalog.csv")
    table[table.columns[2:]] = None
    table.to_csv(folder / "catalog.csv", index=False)
    with pytest.raises(InputError, match=r"0 galaxies have enough votes .* docs/live\.md"):
        check.run(settings("stage=check", "survey=custom", "survey.name=mine", f"survey.folder={folder}"))


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    place = f"survey=custom survey.name=mine survey.folder={survey(tmp_path / 'in')} data_dir={tmp_path}"
    pipe = f"set -o pipefail; {sys.executable} run.py stage=check {place} | true"
    done = subprocess.run(["bash", "-c", pipe], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_writes_nothing(settings: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = survey(tmp_path / "in")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    checked(settings, folder, capsys)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
