"""What boto3 and AWS say when credentials, clock, region, network or permissions are wrong, and what is made of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from launch import __main__ as launch
from launch.config import Config
from tests.aws import Call, World
from tests.launching import ALL, command

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
SSO = """[default]
sso_start_url = https://example.awsapps.com/start
sso_region = us-east-1
sso_account_id = 123456789012
sso_role_name = admin
"""
PROCESS = "[default]\ncredential_process = false\n"
WRONG: dict[str, tuple[dict[str, str | None], int, str]] = {
    "none": (dict.fromkeys(KEYS), 2, r"There are no AWS credentials\. .*aws configure sso.*AWS_PROFILE"),
    "half": ({"AWS_SECRET_ACCESS_KEY": None}, 2, "Half of the AWS credentials is missing"),
    "profile": ({"AWS_PROFILE": "nowhere"}, 2, r"nowhere.* Look at AWS_PROFILE"),
    "config": ({"AWS_CONFIG_FILE": "x = ["}, 2, "Look at AWS_PROFILE and ~/.aws/config"),
    "sso": ({**dict.fromkeys(KEYS), "AWS_CONFIG_FILE": SSO}, 2, "sign-in to AWS has expired.*aws sso login"),
    "process": ({**dict.fromkeys(KEYS), "AWS_CONFIG_FILE": PROCESS}, 2, "credentials could not be fetched"),
    "endpoint": ({"AWS_ENDPOINT_URL": "nonsense"}, 2, "Invalid endpoint: nonsense.* AWS_ENDPOINT_URL"),
    "away": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "AWS did not answer .*Check the network"),
    "tls": ({"AWS_ENDPOINT_URL": "https"}, 2, "certificate is not trusted.*AWS_CA_BUNDLE"),
    "proxy": ({"AWS_ENDPOINT_URL": "http://example.invalid", "http_proxy": "http://me:hunter2@127.0.0.1:9"}, 2,
              "Look at HTTPS_PROXY"),
}  # fmt: skip


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """boto3 looks for credentials anew, and finds none of this computer."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def settings_file(ec2: Config, folder: Path) -> str:
    text = (Path(__file__).parents[1] / "launch" / "ec2.yaml").read_text()
    (folder / "ec2.yaml").write_text(re.sub(r"(?m)^record: .*$", f"record: {ec2.record}", text))
    return str(folder / "ec2.yaml")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_computer(name: str, world: World, ec2: Config, fresh: pytest.MonkeyPatch, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    environment, status, said = WRONG[name]
    for key, value in environment.items():
        if value is None:
            fresh.delenv(key)
        elif key == "AWS_CONFIG_FILE":
            (tmp_path / "config").write_text(value)
            fresh.setenv(key, str(tmp_path / "config"))
        else:
            fresh.setenv(key, world.endpoint.replace("http", value) if value == "https" else value)
    assert launch.main(["status", "--config", settings_file(ec2, tmp_path)]) == status
    err = capsys.readouterr().err
    assert re.search(said, err) and err.count("\n") == 1 and "hunter2" not in err and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (("ExpiredToken", "ExpiredTokenException"), "credentials have expired. Run `aws sso login`"),
        (("RequestExpired",), r"or the clock is wrong\. The clock of this computer says 20\d\d-"),
        (("RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidSignatureException"),
         r"says 20\d\d-.* UTC; AWS bears five minutes.*copied wrongly"),
        (("AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException"), "has not switched on `region`"),
        (("OptInRequired", "PendingVerification"), "may not do this yet"),
        (("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"), "launch plan --policy daily"),
        (("VcpuLimitExceeded",), "Service Quotas"),
    ],
)  # fmt: skip
def test_what_aws_refuses(codes: tuple[str, ...], said: str, world: World, ec2: Config,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    for code in codes:

        def fault(call: Call, code: str = code) -> str:
            return code

        world.faults = [fault]
        assert command(world, ec2, "status") == 2
        err = capsys.readouterr().err
        assert re.search(said, err) and code in err and err.count("\n") == 1, err


# ----------------------------------------------------------------------------------------------- without credentials


def planned(ec2: Config, folder: Path, *words: str) -> int:
    return launch.main(["plan", *words, "--config", settings_file(ec2, folder)])


def without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    for key in KEYS:
        monkeypatch.delenv(key)


def test_a_plan_without_credentials_is_that_of_an_empty_account(
    world: World, ec2: Config, fresh: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(ec2, tmp_path) == 0
    asked = capsys.readouterr().out
    calls = len(world.calls)
    without_credentials(fresh)
    assert planned(ec2, tmp_path) == 0
    known = capsys.readouterr().out
    assert len(world.calls) == calls, "nothing is sent"
    first, rest = known.split("\n", 1)
    assert first == "There are no AWS credentials, so this is for an empty account."
    without_ids = [re.sub(r"=\S+", "", text) for text in (asked, rest)]
    assert without_ids[0] == without_ids[1] and "create_volume" in rest and "worst month" in rest


@pytest.mark.parametrize("name", ["machine", "scheduler", "daily", "owner"] if ALL else ["owner"])
def test_policies_without_credentials_name_no_account(
    name: str, world: World, ec2: Config, fresh: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(ec2, tmp_path, "--policy", name) == 0
    asked = json.loads(capsys.readouterr().out)
    without_credentials(fresh)
    assert planned(ec2, tmp_path, "--policy", name) == 0
    told = capsys.readouterr()
    assert json.loads(told.out.replace("ACCOUNT", "123456789012")) == asked
    assert told.err == "There are no AWS credentials: put the account's number for ACCOUNT.\n"


def test_a_baked_image_is_planned_without_credentials(
    world: World, ec2: Config, fresh: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_credentials(fresh)
    path = Path(settings_file(ec2, tmp_path))
    path.write_text(re.sub(r"(?m)^ami: .*$", "ami: baked", path.read_text()))
    assert launch.main(["plan", "--config", str(path)]) == 0
    assert "create_launch_template" in capsys.readouterr().out
