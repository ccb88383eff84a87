"""Nothing comes from outside, and nothing goes there: pictures, filters, sockets, and files in the user's home."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoobot.errors import InputError, SettingsError
from zoobot.galaxies import demo, filters
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import Task
from zoobot.settings import Settings
from zoobot.stages import master_catalog, shards, simulate

ROOT = Path(__file__).resolve().parents[1]
Custom = Callable[..., Settings]
SMALL = ("shards.eval_size=8", "shards.test_size=8", "catalogs.mock_labelled=30", "model=pixels",
         "shards.image_size_px=16", "model.final_size_px=16", "simulate.iterations=1", "tracking=disabled")  # fmt: skip


# --------------------------------------------------------------- pictures and tables


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """The table of a survey whose pictures are there."""
    rows = []
    (tmp_path / "survey").mkdir()
    for galaxy in demo.survey(60, seed=0, size_px=16):
        Image.fromarray(galaxy.image).save(tmp_path / "survey" / f"{galaxy.id_str}.png")
        rows.append({"id_str": galaxy.id_str, "file_loc": f"{galaxy.id_str}.png", **galaxy.votes})
    private = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    (tmp_path / "private").mkdir()
    Image.fromarray(private).save(tmp_path / "private" / "face.png")
    return pd.DataFrame(rows)


def lead_by_dots(survey: Path, private: Path) -> str:
    return "../private/face.png"


def lead_by_a_link(survey: Path, private: Path) -> str:
    (survey / "link.png").symlink_to(private / "face.png")
    return "link.png"


def lead_by_a_relative_link(survey: Path, private: Path) -> str:
    (survey / "link.png").symlink_to("../private/face.png")
    return "link.png"


def lead_by_a_linked_folder(survey: Path, private: Path) -> str:
    (survey / "more").symlink_to(private)
    return "more/face.png"


def lead_by_a_folder_and_back(survey: Path, private: Path) -> str:
    (survey / "deep").mkdir()
    return "/deep/../../private/face.png"


@pytest.mark.parametrize(
    "lead",
    [lead_by_dots, lead_by_a_link, lead_by_a_relative_link, lead_by_a_linked_folder, lead_by_a_folder_and_back],
)
def test_a_picture_outside_of_the_surveys_folder_is_refused(
    lead: Callable[[Path, Path], str], table: pd.DataFrame, custom_survey: Custom, tmp_path: Path
) -> None:
    table.loc[0, "file_loc"] = lead(tmp_path / "survey", tmp_path / "private")
    settings = custom_survey(table, "survey.catalog=catalog.csv", "survey.questions=demo", *SMALL)
    with pytest.raises(InputError, match=rf"leads to {tmp_path}/private/face\.png, out of {tmp_path}/survey"):
        simulate.run(settings)
    assert not settings.shard_dir.exists()


def test_links_are_read_if_a_setting_says_so(table: pd.DataFrame, custom_survey: Custom, tmp_path: Path) -> None:
    more = ("survey.catalog=catalog.csv", "survey.questions=demo", "survey.allow_links=true", *SMALL)
    table.loc[0, "file_loc"] = lead_by_a_linked_folder(tmp_path / "survey", tmp_path / "private")
    simulate.run(custom_survey(table, *more))
    table.loc[0, "file_loc"] = lead_by_dots(tmp_path / "survey", tmp_path / "private")
    with pytest.raises(InputError, match="leads to"):
        shards._check_images_exist({"a": table}, custom_survey(table, *more))


def test_the_surveys_folder_may_be_a_link_and_hold_links_to_itself(
    table: pd.DataFrame, custom_survey: Custom, tmp_path: Path
) -> None:
    settings = custom_survey(table, "survey.catalog=catalog.csv", "survey.questions=demo", *SMALL)
    (tmp_path / "survey").rename(tmp_path / "elsewhere")
    (tmp_path / "survey").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again.png").symlink_to(table["file_loc"][0])
    assert settings.image_path("again.png").is_file()
    master_catalog.run(settings)
    for name in ("../survey2/a.png", "a\0b", "", "..", "."):
        with pytest.raises(InputError):
            settings.image_path(name)


@pytest.mark.parametrize("key", ["catalog", "classifications"])
def test_a_table_outside_of_the_surveys_folder_is_refused(
    key: str, table: pd.DataFrame, custom_survey: Custom, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=rf"survey\.{key}=\.\./private/t\.csv: .* leads to {tmp_path}/private"):
        custom_survey(table, "survey.questions=demo", f"survey.{key}=../private/t.csv")


# --------------------------------------------------------------- filters


PROGRAMS = [
    "@pd.io.common.os.system('id')", "@os", "a.b", "a.__class__", "`a`.str.len() > 1", "__import__('os').system('id')",
    "eval('1')", "(lambda: 1)() > 0", "[x for x in a]", "a[0] > 1", "a if b else c", "{1: 2}", "{1, 2}", "f'{a}' == b",
    "a := 3", "(a := 3) > 1", "a = 3", "a; b", "import os", "a is None", "sin(a) > 0", "a @ b", "*a", "b'x' == a",
    "1j > a", "... == a", "None == a", "9**9**9**9 > a", "a ** b > 1", "a << 999999999", "await a", "yield",
    "a > 1 # @x\n@y",
    "'\\'' == `x` + @y", "\"'\" == '\"' + @z", "(" * 5000, "not " * 3000 + "a", "`a", "'a", "", "a >", "\0",
    "`a`b`.c`", "print(a)", "a.eval('x')", "type(a)", "a == `b.__class__`.mro",
]  # fmt: skip
PLAIN = {
    "a > 1": [False, True, True], "`has spaces_and-dash` == 'x'": [True, False, True],
    "a in [1, 3]": [True, False, True],
    "a not in (1, 3)": [False, True, False], "(a > 1) & ~(b < 0.5) | (a == 1)": [True, True, True],
    "a > 1 and not b < 0.5": [False, True, True], "-a ** 2 + b // 1 % 2 < -3.5": [False, True, True],
    "`e@mail` == 'me@there'": [True, True, False], "1 < a < 3": [False, True, False], "ok": [True, False, True],
    "ok == True": [True, False, True], "`has spaces_and-dash` != \"it's\"": [True, True, True],
}  # fmt: skip


@pytest.mark.parametrize("expression", PROGRAMS)
def test_a_filter_that_is_a_program_is_refused(expression: str, tmp_path: Path) -> None:
    (problem, *_) = filters.problems([expression])
    assert problem.startswith("task.filters: ") and "\nTraceback" not in problem
    task = Task("t", load_questions("demo"), (), (expression,))
    with pytest.raises(SettingsError, match=r"task\.filters"):
        task.apply_filters(pd.DataFrame({"a": [1], "b": [2]}))


@pytest.mark.parametrize("expression", PLAIN)
def test_a_plain_filter_is_evaluated(expression: str) -> None:
    table = pd.DataFrame({
        "a": [1, 2, 3], "b": [0.1, 0.6, 0.7], "has spaces_and-dash": ["x", "y", "x"], "ok": [True, False, True],
        "e@mail": ["me@there", "me@there", "you"],
    })  # fmt: skip
    assert filters.problems([expression]) == []
    kept, lost = Task("t", load_questions("demo"), (), (expression,)).apply_filters(table)
    assert [n in kept.index for n in range(3)] == PLAIN[expression] and lost == {expression: 3 - len(kept)}


# --------------------------------------------------------------- sockets and files


@pytest.mark.skipif(not shutil.which("strace") or os.geteuid() != 0, reason="needs strace and a network namespace")
@pytest.mark.long
@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_no_socket_is_opened_and_nothing_is_written_but_in_the_data_folder(mode: str, tmp_path: Path) -> None:
    """A simulation with a neural network, under strace, with a home that is empty and read-only."""
    home, log, data = tmp_path / "home", tmp_path / "strace.log", tmp_path / "data"
    home.mkdir(mode=0o555)
    left = ("KERAS_HOME", "MPLCONFIGDIR", "WANDB", "XDG", "ASTROPY")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left)} | {"HOME": str(home)}
    command = [sys.executable, "run.py", "stage=simulate", "quick=true", "simulate.iterations=1", f"data_dir={data}",
               "model.max_epochs=1", f"tracking={mode}"]  # fmt: skip
    calls = "trace=socket,connect,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat"
    trace = ["unshare", "-n", "strace", "-f", "-qq", "-e", calls, "-o", str(log), *command]
    done = subprocess.run(trace, cwd=ROOT, env=environment, capture_output=True, text=True)
    if "Operation not permitted" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    lines = log.read_text(errors="replace").splitlines()
    assert [line for line in lines if re.search(r"AF_INET6?\b|AF_PACKET", line)] == []
    assert sum("openat(" in line for line in lines) > 1000, "the test sees what is done"
    written = [line for line in lines if re.search(r"O_CREAT|O_WRONLY|O_RDWR|\b(mkdir|rename|symlink)\w*\(", line)]
    paths = {found[1] for line in written if "= -1" not in line and (found := re.search(r'"([^"]*)"', line))}
    allowed = (str(data), "/tmp", "/dev/", "/proc/", "zoobot_")
    assert {path for path in paths if path.startswith("/") and not path.startswith(allowed)} == set()
    assert any(path.startswith(str(data)) for path in paths) and list(home.iterdir()) == []
    assert mode == "disabled" or list(data.rglob("*.wandb"))


@pytest.mark.long
def test_tensorflow_leaves_no_line_on_the_terminal_and_the_same_weights(tmp_path: Path) -> None:
    code = (
        "import sys, keras; import tensorflow as tf; from zoobot.models import encoders; "
        "from zoobot.settings import ModelSettings; keras.utils.set_random_seed(0); "
        "e = encoders.build(ModelSettings(name='a', blocks=[[4], [8]], final_size_px=16), 16, 3); "
        "e.compile('adam', 'mse'); x = tf.random.stateless_uniform((8, 16, 16, 3), (1, 2), 0, 255, tf.int32); "
        "e.fit(tf.cast(x, tf.uint8), tf.ones((8, e.output_shape[1])), verbose=0); print(encoders.digest(e))"
    )

    def digest(first: str) -> tuple[str, str]:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run([sys.executable, "-c", first + code], cwd=ROOT, env=environment, capture_output=True,
                              text=True, check=True)  # fmt: skip
        return done.stdout, done.stderr

    loud, quiet = digest("import tensorflow; "), digest("import zoobot.models; ")
    assert loud[0] == quiet[0] and len(quiet[0]) > 60
    assert quiet[1] == ""
