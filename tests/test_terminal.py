"""What people read on a terminal of any width, in a pipe, without colours, and in the log: help, progress, the end."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

import run as entry
from tests.test_configs import ALL_OPTIONS
from zoobot import stages
from zoobot.engine import terminal
from zoobot.errors import FolderError
from zoobot.iterations.files import ExperimentFolder
from zoobot.settings import Settings, command_line, compose, texts
from zoobot.stages import STAGES, simulate

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("quick=true", "survey.n_galaxies=120", "survey.draw_size_px=16", "model=pixels", "tracking=disabled",
         "simulate.iterations=2", "iterate.subjects_per_iteration=2", "model.n_samples=2")  # fmt: skip


def on_a_terminal(columns: int, *command: str, **environment: str) -> str:
    """What a command writes to a terminal of this width."""
    everything = {**os.environ, **environment}
    everything.pop("COLUMNS", None)
    process, ours = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.chdir(ROOT)
        os.execve(command[0], command, everything)  # readline sets COLUMNS behind Python's back
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError as error:
        assert error.errno == errno.EIO, "how Linux says that the other end is closed"
    finally:
        os.close(ours)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, written.decode()
    return written.decode().replace("\r\n", "\n")


# --------------------------------------------------------------- help


def test_help_says_what_every_stage_and_group_and_common_setting_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    lines = [line.split(maxsplit=1) for line in entry.help_text().splitlines() if line.startswith("  ")]
    said = {name: text for name, text in lines if name != "python"}
    groups = {option.split("=")[0] for option in ALL_OPTIONS} - {"stage"}
    assert said.keys() == {*STAGES, *groups, *texts.COMMON}
    assert all(len(text) > 10 for text in said.values())
    for option in ALL_OPTIONS:
        group, name = option.split("=")
        assert group == "stage" or re.search(rf"{group}=.*\b{name}\b", said[group])
    assert said.keys() - {*STAGES, *groups} <= set(command_line._types())


def test_help_in_a_pipe_is_plain_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), "--help"]
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == "" and not list(tmp_path.iterdir())
    assert max(map(len, done.stdout.splitlines())) <= 100 and "\x1b" not in done.stdout
    assert "python run.py stage=simulate quick=true" in done.stdout


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_names_only_what_exists(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    text, parts, own, others = texts.of_stage(stage)
    assert text and list(parts) == ["reads", "writes", "needs"] and all(parts.values())
    help_ = entry.help_of_stage(stage)
    assert help_.startswith(f"stage={stage}: ") and all(part in help_ for part in parts.values())
    known, groups = set(command_line._types()), command_line._groups(None)
    assert own.keys() <= known and set(others) <= known | groups.keys()
    assert {key for key in known if key.startswith(f"{stage}.")} == own.keys()
    owners = "|".join({key.split(".")[0] for key in known if "." in key})
    named = set(re.findall(rf"(?<![\w/{{.])((?:{owners})\.(?!py\b|html\b|csv\b|json\b)[a-z]\w*)", help_))
    assert named <= known, "a setting that does not exist"
    for group, option in re.findall(r"(?<![\w.])(\w+)=(\w+)", help_):
        assert group in known and (group not in groups or option in groups[group] or option.isupper()), (group, option)


def test_help_fits_a_terminal_of_forty_columns() -> None:
    for more in ((), ("stage=shards",), ("stage=reduce",)):
        written = on_a_terminal(40, sys.executable, "run.py", "--help", *more)
        assert "\x1b" not in written
        long = [line for line in written.splitlines() if len(line) > 40 and len(line.split()) > 1]
        assert [line for line in long if not line.startswith("  python")] == []


def test_help_stops_quietly_when_its_reader_does() -> None:
    command = f"{sys.executable} run.py --help | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "Active learning for Galaxy Zoo.\n" and done.stderr == ""


def test_help_of_a_stage_that_does_not_exist() -> None:
    done = subprocess.run(
        [sys.executable, "run.py", "--help", "stage=itrate"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Did you mean stage=iterate?" in done.stderr


def test_columns_keep_commands_and_paths_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"where": "/a/" + "b" * 60, "n": "one two three"}
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal.in_columns(rows) == f"  where  {rows['where']}\n  n      one two three"
    monkeypatch.setenv("COLUMNS", "12")
    assert terminal.in_columns(rows) == f"  where\n    {rows['where']}\n  n\n    one two\n    three"
    assert terminal.in_columns(rows, wrap=False) == f"  where\n    {rows['where']}\n  n\n    one two three"
    assert terminal.in_columns({}) == ""


# --------------------------------------------------------------- completion


def test_the_tab_key_completes_stages_options_and_keys() -> None:
    wanted = {
        "stage=it": "stage=iterate",
        "stage=simulate acquisition=uh": "acquisition=uherding",
        "stage=iterate iterate.su": "iterate.subjects_per_iteration=",
    }
    script = ['eval "$(python run.py --shell-completion install=bash)"', "complete -p python >&2"]
    for typed in wanted:
        line = f"python run.py {typed}"
        script += [
            f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))",
            "COMPREPLY=(); hydra_bash_completion; echo ${COMPREPLY[*]}",
        ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stdout.split("\n")[:-1] == list(wanted.values()), done.stderr


# --------------------------------------------------------------- while it runs


WORK = """
import logging, sys, time
from zoobot.engine import progress
logging.getLogger().setLevel("INFO")
logging.getLogger().addHandler(logging.FileHandler(sys.argv[1]))
progress.LINE_EVERY_S = 0.05
for _ in progress.track(range(40), "uploading a_name_that_is_much_too_long_for_it", 4000, lambda _: 100):
    time.sleep(0.01)
"""


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_progress_fits_the_terminal_and_is_in_the_log_too(columns: int, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    written = on_a_terminal(columns, sys.executable, "-c", WORK, str(log), NO_COLOR="1", TERM="xterm")
    assert not re.search(r"\x1b\[[0-9;]*m", written), "NO_COLOR"
    lines = [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", written)]
    shown = [line for line in lines if line.strip()]
    assert shown and all(len(line) <= columns and line.startswith("uploading") for line in shown)
    assert any("4000/4000" in line and re.search(r"/s|a second", line) for line in shown)
    said = log.read_text().splitlines()
    assert said and all(re.fullmatch(r"uploading \w+: \d+ of 4000, .* a second, \d+ s left", line) for line in said)
    assert "of 4000" not in written, "the line is in the log only"


def test_ctrl_c_is_said_on_the_terminal_and_in_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "main", interrupted)
    monkeypatch.setattr(sys, "argv", ["run.py", "stage=report"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    handler = logging.FileHandler(tmp_path / "run.log")
    logging.getLogger().addHandler(handler)
    try:
        assert entry.cli() == 130
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    said = capsys.readouterr().err
    assert said == (tmp_path / "run.log").read_text() and "goes on: python run.py stage=report" in said


def test_ctrl_c_that_a_library_made_an_error_of_is_ctrl_c(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB does, in the middle of a query; of a damaged file an error of ours would come."""
    monkeypatch.setattr(compose, "from_config", lambda _: settings("stage=report"))
    monkeypatch.setattr(entry, "interrupts", [])
    before = signal.getsignal(signal.SIGINT)
    for error in (RuntimeError("Query interrupted"), FolderError("it cannot be read")):

        def interrupted(_: Settings, error: Exception = error) -> None:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise error from None

        monkeypatch.setattr(stages, "run", interrupted)
        try:
            with pytest.raises(KeyboardInterrupt):
                entry._run(DictConfig({}), is_multirun=False)
        finally:
            signal.signal(signal.SIGINT, before)


def test_one_line_of_each_iteration_has_the_loss_the_gain_and_the_labels(
    settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = settings("stage=simulate", *SMALL)
    simulate.run(made)
    first, second = (folder.summary() for folder in ExperimentFolder(made.experiment_dir).iterations())
    lines = [message for message in caplog.messages if "test loss" in message]
    fell = first.test_loss - second.test_loss
    gain = f"{abs(fell):.3f} {'lower' if fell >= 0 else 'higher'} than in iteration_0"
    assert lines == [
        f"iteration_0: test loss {first.test_loss:.3f}, {first.train_galaxies} labels (0 new), 2 galaxies asked about,"
        " 0 still wait",
        f"iteration_1: test loss {second.test_loss:.3f} ({gain}), {second.train_galaxies} labels"
        f" ({second.labels_received} new), 2 galaxies asked about, {second.still_waiting} still wait",
    ]


# --------------------------------------------------------------- at the end


def run(*arguments: str, columns: str) -> str:
    done = subprocess.run(
        [sys.executable, "run.py", *arguments], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"COLUMNS": columns, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_a_run_ends_with_what_was_made_and_the_next_command_which_works(tmp_path: Path) -> None:
    command = ["stage=master_catalog", *SMALL, f"data_dir={tmp_path / 'my data'}"]
    for columns, following in (("40", "catalogs"), ("200", "shards"), ("200", "instructions")):
        written = run(*command, columns=columns)
        table = written[written.index(" done\n") :]
        assert re.search(r"  made\s", table) and "\x1b" not in written
        where = re.search(r"  where\s+(.*)\n", table)
        assert where and Path(where[1]).exists()
        assert ("  dropped" in table) == (following != "shards") and "{" not in table.replace("{survey}", "")
        log = re.search(r"  log\s+(.*)\n", table)
        assert log and written.strip().splitlines()[-1] in Path(log[1]).read_text(), "the log has the table, too"
        following_command = re.search(r"  next\s+python run\.py (.*)\n", table)
        assert following_command and f"stage={following} " in following_command[1]
        command = shlex.split(following_command[1])


def test_what_a_run_says_stops_quietly_when_its_reader_does(tmp_path: Path) -> None:
    command = f"{sys.executable} run.py stage=master_catalog {' '.join(SMALL)} data_dir={tmp_path} | head -0"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dropped" in "".join(path.read_text() for path in tmp_path.rglob("run.log"))


def test_every_stage_that_follows_exists_and_each_says_where_it_writes() -> None:
    for stage in STAGES:
        module = __import__(f"zoobot.stages.{stage}", fromlist=["NEXT"])
        assert getattr(module, "NEXT", "report") in STAGES
        writes = texts.of_stage(stage)[1]["writes"]
        assert "/: " in writes or writes.startswith("nothing"), stage


def test_the_next_command_leaves_out_what_holds_once() -> None:
    argv = ["run.py", "stage=iterate", "oracle.dry_run=true", "seed=1", "iterate.previous=iteration_2"]
    assert entry._without_once(argv, "finish") == ["run.py", "stage=finish", "seed=1"]


def test_a_stage_that_makes_nothing_has_no_table(settings: Callable[..., Settings], tmp_path: Path) -> None:
    assert stages.ending(settings("stage=verify", f"verify.path={tmp_path}"), tmp_path) == {}
