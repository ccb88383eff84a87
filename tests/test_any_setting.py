"""Every setting with every kind of wrong value: one message that names the key, no traceback, exit status 2."""

from __future__ import annotations

import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

import run as entry
import zoobot
from zoobot import stages
from zoobot.errors import SettingsError
from zoobot.settings import command_line, compose

ROOT = Path(__file__).resolve().parents[1]
WALK_ALL = "WALK_ALL" in os.environ  # `make fuzz`: every setting with every value; otherwise each with three
TYPES = command_line._types()
LEAVES = {key: kind for key, kind in TYPES.items() if kind in (int, float, bool, str, list[str], list[list[int]], Any)}
GROUPS = command_line._groups(None)
WRONG = (
    "null", "nan", "inf", "-inf", "-1", "''", str(10**30), "some text", "[1,2]", "[]", "[[]]", "['']", "[null]",
    "{a: 1}", "1.5", "true", "~", "9" * 300, "x" * 300, "/dev/null/x", "/nowhere/" + "y" * 300, "'a\x07b'", "'~/x'",
    "''" + "''",
)  # fmt: skip


def config() -> Any:
    """A composed config, to which one value is given at a time; composing anew for each would take half an hour."""
    compose.register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return hydra_compose("config", ["stage=simulate"])


def said_of(base: Any, text: str) -> str:
    """What a run says of an override before its stage begins; empty if it accepts it."""
    if problems := command_line.problems([text]):
        return "\n".join(problems)
    try:
        override = OverridesParser.create().parse_override(text)
        changed = base.copy()
        OmegaConf.update(changed, override.key_or_group, override.value(), merge=True)
        stages.check_settings(compose.from_config(changed))
    except SettingsError as error:
        return str(error)
    return ""


def may_be(key: str, value: str) -> bool:
    """Whether a wrong value is a right one of this setting, so that nothing needs to be said before the stage."""
    kind = LEAVES[key]
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}").value()
    except HydraException:
        return False
    if kind is bool:
        return isinstance(parsed, bool | int) and not isinstance(parsed, float)
    if kind is int:
        return isinstance(parsed, int) and not isinstance(parsed, bool) and abs(parsed) < 10**9
    if kind is float:
        return isinstance(parsed, int | float) and math.isfinite(parsed) and abs(parsed) < 10**9
    if kind is str:
        return isinstance(parsed, str | int | float) and len(str(parsed)) < 250 and "\x07" not in str(parsed)
    texts = isinstance(parsed, list) and all(isinstance(each, str | int) and each != "" for each in parsed)
    return texts or (kind is Any and isinstance(parsed, str))


@pytest.mark.long
def test_a_walk_over_all_settings_and_all_kinds_of_wrong_values(tmp_path: Path) -> None:
    base = config()
    refused = accepted = 0
    for number, key in enumerate(LEAVES):
        for value in WRONG if WALK_ALL else WRONG[number % 8 :: 8]:
            said = said_of(base, f"{key}={value}")
            if said:
                assert (
                    (key in said or (key, "oracle=" in said) == ("oracle.live", True))
                    and "Traceback" not in said
                    and 'File "' not in said
                ), (key, value, said)
                refused += 1
            else:
                assert may_be(key, value), f"{key}={value} is accepted"
                accepted += 1
    signs = 0
    for key in [*TYPES, *GROUPS][:: 1 if WALK_ALL else 4]:
        for text in (f"+{key}=1", f"~{key}", f"++{key}x=1", f"{key}x=1", f"+{key}x=1", f"~{key}x", f"{key}", f"{key}="):
            said = "\n".join(command_line.problems([text]))
            may = text in (f"~{key}", f"{key}=") and (key in ("world", "experiment") or TYPES.get(key) in (str, Any))
            assert (key in said) or may or OmegaConf.is_dict(base.get(key)), (text, said)
            bare = text.strip("+~").partition("=")[0]
            assert bare in TYPES or bare in GROUPS or "there is no such setting" in said
            signs += 1
    print(
        f"\n{len(LEAVES)} settings x {len(WRONG)} values: {refused} refused, {accepted} right; {signs} signs and names"
    )
    assert len(LEAVES) >= 115 and refused > (1500 if WALK_ALL else 150)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("model.hiden=3", "model.hidden"), ("hidden=3", "model.hidden"), ("modle=cnn", "model"), ("+sed=1", "seed"),
        ("stag=simulate", "stage"), ("survey.catalogue=a.csv", "survey.catalog"), ("simulate", "stage=simulate"),
        ("acquisition=bage", "acquisition=badge"), ("stage=simulat", "stage=simulate"),
        ("experiment=demo", "experiment=demo_sweep"),
    ],
)  # fmt: skip
def test_what_was_meant_is_proposed(given: str, meant: str) -> None:
    (problem,) = command_line.problems([given])
    assert meant in problem


ODD = [
    "a=b", "a,b", "a#b", "a&b", "(a", "it's", 'say "hi"', "naïve", "李明", "a b=c", "a|b", "50%", "x@y", "a;b", "<a>",
    "{a", "[a", "a\\", "$HOME/x=1", "`x`", "!x", "a'b\"c", "é\t=", "?", "*", "a:b,c", "ß(1)", "\\", "=",
]  # fmt: skip


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", ["survey.folder", "task.filters", "tracking.project"])
def test_the_quoted_form_works_in_a_shell(key: str, value: str) -> None:
    problems = command_line.problems([f"{key}={value}"])
    if not problems:
        return  # it can be given as it is
    (problem,) = problems
    if "must be a list" in problem:
        return
    proposed = problem.rpartition(": ")[2] if "twice: " in problem else problem.rpartition("give ")[2]
    (argument,) = shlex.split(proposed)
    in_a_shell = subprocess.run(["sh", "-c", f"printf %s {proposed}"], capture_output=True, check=True, text=True)
    assert in_a_shell.stdout == argument
    assert command_line.problems([argument]) == [] or key == "survey.folder"
    given = OverridesParser.create().parse_override(argument).value()
    assert value in (given, given[0] if isinstance(given, list) else "") or isinstance(given, list)


# --------------------------------------------------------------- as a user runs it


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, **environment})  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stage=simulate", "data_dir="], "data_dir=: it is empty"),
        (["stage=simulate", "data_dir=/proc/nowhere"], "data_dir"),
        (["stage=simulate", "data_dir=/" + "x" * 300], "data_dir"),
        (["stage=simulate", "+model.hiden=1"], "model.hidden"),
        (["stage=simulate", "model=null"], "model=null"),
        (["stage=simulate", "survey.name=${experiment_name}"], "experiment_name"),
        (["stage=simulate", "survey.folder=${oc.env:NOPE}"], "survey.folder"),
        (["stage=simulate", "experiment_name=" + "x" * 240], "experiment_name"),
        (["stage=simulate", "survey.questions=/nowhere.yaml"], "/nowhere.yaml"),
        (["stage=simulate", "survey.questions=/proc"], "/proc"),
        (["stage=simulate", "extensions=[/proc/nowhere.py]"], "extensions"),
        (["stage=verify", "verify.path=/nowhere"], "/nowhere"),
        (["stage=reduce", "reduce.export=/nowhere.csv", "reduce.workflow_versions=/v.json"], "/"),
        (["stage=reduce", "reduce.export=/proc", "reduce.workflow_versions=/proc"], "/proc"),
        (["stage=master_catalog", "survey=custom", "survey.name=x", "survey.catalog=/proc/self/mem"], "/proc/self/mem"),
        (["stage=master_catalog", "survey=custom", "survey.name=x", "survey.catalog=/proc"], "/proc"),
        (["stage=report", "report.output=/proc/nowhere"], "/proc/nowhere"),
        (["--config-dir", "/nowhere", "stage=simulate"], "/nowhere"),
        (["stage=iterate", "oracle=panoptes", "oracle.credentials_file=/proc/1"], "oracle"),
    ],
)  # fmt: skip
def test_a_real_run_ends_with_one_message(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = run(*arguments, *([] if "data_dir" in " ".join(arguments) else [f"data_dir={tmp_path}/data"]), cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr + done.stdout and "Traceback" not in done.stderr + done.stdout
    assert done.stderr.strip(), "the message is on stderr"


def test_an_experiment_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    for number, content in enumerate(["a: [1", "# @package _global_\nmodel:\n  hiden: 3\n", "\tx", "a: b: c"]):
        (tmp_path / "experiment" / f"mine{number}.yaml").write_text(content)
        done = run("--config-dir", str(tmp_path), "stage=simulate", f"experiment=mine{number}", cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr + done.stdout, done.stderr
        assert f"mine{number}" in done.stderr or "hiden" in done.stderr


def test_the_version_is_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["run.py", "--version"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    assert entry.cli() == 0 and capsys.readouterr().out == f"zoobot {zoobot.__version__}\n"
    assert f'version = "{zoobot.__version__}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("more", "to_all"),
    [
        ([], True),
        (["-m", "seed=0,1"], False),
        pytest.param([], False, marks=pytest.mark.long),
        pytest.param(["-m", "seed=0,1"], True, marks=pytest.mark.long),
        pytest.param(["-m", "seed=0,1", "hydra/launcher=joblib"], True, marks=pytest.mark.long),  # not to one: a
    ],  # terminal sends Ctrl-C to all processes
)
def test_ctrl_c_ends_in_one_line_that_says_how_to_go_on(more: list[str], to_all: bool, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), *more, "stage=simulate", "quick=true", "tracking=disabled",
               "model=pixels", "simulate.iterations=50", f"data_dir={tmp_path}"]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    experiments = tmp_path / "quick" / "experiments" / "simulations"
    while process.poll() is None and not list(experiments.glob("*/.iteration_0.staging")):
        time.sleep(0.1)
    if to_all:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in out + err, out + err
    assert "the same command goes on: python " in err and len(err.strip().splitlines()) == 1, err
