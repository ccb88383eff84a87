"""Every setting of launch/ec2.yaml with every kind of wrong value, and every kind of broken file: one message that
names file and key (or line), or the value is what stands there. As tests/test_any_setting.py for run.py.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch import __main__ as launch
from launch import config as launch_config
from launch import cost
from launch.config import Config
from launch.errors import LaunchError
from tests.launching import ALL

ROOT = Path(__file__).resolve().parents[1]
GOOD = {
    key: list(value) if isinstance(value, tuple) else value
    for key, value in dataclasses.asdict(launch_config.load(ROOT / "launch" / "ec2.yaml")).items()
}
FIELDS = {field.name: str(field.type) for field in dataclasses.fields(Config)}
WRONG = (
    ".inf", "-.inf", ".nan", "nan", "inf", "1e999", "9" * 5000, "-1", "0", "1.5", "010", "0o10", "0x10", "1_000",
    "1:30", "1,000", "²", "no", "on", "Yes", "true", "2026-11-26", "null", "~", "", "''", "[]", "[1, 2]", "[[1]]",
    "[[[[[1]]]]]", "{}", "{a: 1}", "{1: 2}", "[~]", "x" * 300, '"a\\ab"', '"\\x1b[31m"', '"\\ud800"', "&x 1", "*x",
    "!!int 3", "!!python/object:os.system x", "<<", "| x", "@x", "`x`", "%x", "a: b: c", "/dev/null/x", "é", "李明",
    '"a\\nb"', "'2026'", "cron(0 3 * * ?)", f"cron(0 {'9' * 5000} * * ? *)", "cron(² 3 * * ? *)", "cron(0 3 ²/² * ? *)",
    "https://user:pass@example.org/x", "s3://x", "ami-XYZ", "../..", "-x", "us-east-1",
)  # fmt: skip


def lines(**changed: str) -> str:
    """The settings as YAML, these with other text for their value."""
    return "".join(f"{key}: {changed.get(key, json.dumps(value))}\n" for key, value in GOOD.items())


def said_of(path: Path, content: str | bytes) -> tuple[Config | None, str]:
    """The settings in a file with this content, or what is said of it."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        return launch_config.load(path), ""
    except LaunchError as error:
        text = str(error)
        assert error.exit_status == 2 and str(path) in text and text.encode().isascii() >= 0
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text) and len(text) < 1500, text
        return None, text


def test_a_walk_over_all_settings_and_all_kinds_of_wrong_values(tmp_path: Path) -> None:
    refused = accepted = 0
    for number, (key, kind) in enumerate(FIELDS.items()):
        for value in WRONG if ALL else WRONG[number % 2 :: 2]:
            config, text = said_of(tmp_path / "ec2.yaml", lines(**{key: value}))
            if config is None:
                named = f"\n  {key}: " in text or (key.endswith("_gb") and "\n  budget_usd: " in text)
                assert named or ", line " in text or "is not YAML" in text, (key, value, text)
                refused += 1
            else:
                assert as_written(getattr(config, key), kind, value), (key, value, getattr(config, key))
                accepted += 1
    print(f"\n{len(FIELDS)} settings, {len(WRONG)} values: {refused} refused, {accepted} taken as they stand there")
    assert refused > (1000 if ALL else 500) and accepted > (50 if ALL else 25)


def as_written(taken: Any, kind: str, text: str) -> bool:
    """Whether a value that is taken is the one that stands there, to the letter or to the number."""
    if kind in ("int", "float"):
        return type(taken).__name__ == kind and math.isfinite(taken) and float(text.strip("'")) == taken
    if kind == "str":
        return bool(taken == (json.loads(text) if text.startswith('"') else text.strip("'")))
    return taken in ((), {}, ("1", "2"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "should be lines of"), (b"# nothing\n", "should be lines of"), (b"- a\n- b\n", "should be lines of"),
        (b"text", "should be lines of"), (b"region: a\nregion: b\n", "line 2: region is there twice"),
        (b"a: 1\n---\nb: 2\n", "line 2: a second document"), (b"\tregion: a\n", "in line 1"),
        ("experiment: caf\xe9\n".encode("latin-1"), "line 1: not UTF-8"), ("region: a\n".encode("utf-16"), "not UTF-8"),
        (b"a: " + b"[" * 10_000 + b"]" * 10_000, "line 1: more than 4 lists"),
        (b"a: " + b"{a: " * 10_000 + b"}" * 10_000, "line 1: more than 4 lists"),
        ("\n".join(f"{' ' * n}a:" for n in range(1000)).encode(), "line 5: more than 4 lists"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "line 1: anchors"), (b"a: *b\n", "line 1: anchors"),
        (b"? [a]\n: 1\n", "line 1: a key should be a name"), (b"? {a: 1}\n: 1\n", "line 1: a key should be a name"),
        (b"? ~\n: 1\n", "line 1: a key should be a name"), (b"12: 1\n", "\n  12: there is no such setting"),
        (b"a: \x00\n", "is not YAML"), (b"a: [1\n", "is not YAML"), (b"a: 'b\n", "is not YAML"),
        (b"a: " + b"x" * 1_000_001, "more than 1,000,000 bytes"), (b"<<: {a: 1}\n", "there is no such setting"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(content: bytes, said: str, tmp_path: Path) -> None:
    config, text = said_of(tmp_path / "ec2.yaml", content)
    assert config is None and said in text


def test_a_file_of_any_editor_is_read_alike(tmp_path: Path) -> None:
    plain = lines().encode()
    read = [said_of(tmp_path / "x.yaml", each)[0] for each in (plain, b"\xef\xbb\xbf" + plain.replace(b"\n", b"\r\n"))]
    assert read[0] == read[1] != None and read[0] == launch_config.check(GOOD, "x")  # noqa: E711
    numbers = said_of(tmp_path / "x.yaml", lines(root_gb="200.0", max_runtime_h='"2"', experiment="no"))[0]
    assert numbers and (numbers.root_gb, numbers.max_runtime_h, numbers.experiment) == (200, 2.0, "no")
    assert type(numbers.root_gb) is int
    commit = said_of(tmp_path / "x.yaml", lines(revision="12345678e9012345678901234567890123456789"))[0]
    assert commit and commit.revision == "12345678e9012345678901234567890123456789", "no number"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.yaml", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(LaunchError, match=re.escape(str(path))):
            launch_config.load(path)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_with_a_reason(tmp_path: Path, content: bytes) -> None:
    config, text = said_of(tmp_path / "ec2.yaml", content)
    assert config is None and text


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES, min_size=1, max_size=2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_of_any_setting_is_taken_or_refused_with_its_key(tmp_path: Path, changed: dict[str, Any]) -> None:
    for config, text in (
        said_of(tmp_path / "ec2.yaml", lines(**{key: json.dumps(value) for key, value in changed.items()})),
        checked({**GOOD, **changed}),
    ):
        named = any(f"\n  {key}: " in text for key in FIELDS)
        assert config or named or ", line " in text or "is not YAML" in text, text


def checked(found: dict[Any, Any]) -> tuple[Config | None, str]:
    try:
        return launch_config.check(found, "ec2.yaml"), ""
    except LaunchError as error:
        return None, str(error)


def test_a_secret_in_the_wrong_place_is_not_printed(tmp_path: Path) -> None:
    wrong = ({"secrets": '{wandb_api_key: "hunter2 hunter2"}'}, {"secrets": "hunter2"}, {"secrets": "{a: [hunter2]}"},
             {"arguments": '["oracle.password=hunter2"]'}, {"arguments": '["oracle={password: hunter2}"]'},
             {"arguments": '["oracle.x=hunter2\\u0007"]'})  # fmt: skip
    for changed in wrong:
        config, text = said_of(tmp_path / "ec2.yaml", lines(**changed))
        assert config is None and "hunter2" not in text, text


def test_a_record_that_cannot_be_written_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in ("/proc/nowhere", str(tmp_path / "ec2.yaml"), "/dev/null"):
        (tmp_path / "ec2.yaml").write_text(lines(record=json.dumps(record)))
        assert launch.main(["up", "--config", str(tmp_path / "ec2.yaml")]) == 2
        assert f"record: {record} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("change", [("spot: 0.7", "spot: .nan"), ("0.526", ".inf"), ("0.08", "-1"), ("0.005", "cheap"),
                                    ("spot: 0.7\n", ""), ("0.526", "0.526, x")])  # fmt: skip
def test_a_price_that_would_let_every_budget_pass_is_refused(change: tuple[str, str], tmp_path: Path) -> None:
    text = (ROOT / "launch" / "prices.yaml").read_text()
    (tmp_path / "prices.yaml").write_text(text.replace(*change))
    assert text.count(change[0]) >= 1
    with pytest.raises(LaunchError, match=r"prices\.yaml"):
        cost.read_prices(tmp_path / "prices.yaml")
