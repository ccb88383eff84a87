"""Shared by the test files: settings composed as run.py composes them, and no access to real services."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import hypothesis
import pandas as pd
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from tests.launch_host import code, host, loop_devices  # noqa: F401  # fixtures
from zoobot.galaxies.questions import load_questions
from zoobot.settings import Settings
from zoobot.settings.compose import from_config, register
from zoobot.stages import check_settings

if TYPE_CHECKING:
    from launch.config import Config
    from tests.aws import World
    from zoobot.oracles.rehearsal.server import PanoptesServer

# Set before anything imports wandb or panoptes_client: a test never reaches the real services.
os.environ |= {
    "WANDB_MODE": "offline",
    "WANDB_BASE_URL": "http://127.0.0.1:9",
    "PANOPTES_ENDPOINT": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",  # otherwise `requests` would send local requests through http_proxy
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}
for name in ("USERNAME", "PASSWORD", "CLIENT_ID", "CLIENT_SECRET"):
    os.environ.pop(f"PANOPTES_{name}", None)  # and never with real credentials
# CI always tries the same examples; on other machines hypothesis looks for new ones. A slow machine is not a failure.
hypothesis.settings.register_profile("zoobot", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("zoobot")
CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"


@pytest.fixture(scope="session")
def compose() -> Callable[..., Settings]:
    """``compose("stage=shards", …, data_dir=PATH)``: the checked settings of a run with these overrides."""
    register()

    def compose_settings(*overrides: str, data_dir: Path) -> Settings:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return check_settings(from_config(hydra_compose("config", [*overrides, f"data_dir={data_dir}"])))

    return compose_settings


@pytest.fixture
def settings(compose: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    """``settings("stage=shards", …)``: the same, with the data in the test's own folder."""
    return lambda *overrides: compose(*overrides, data_dir=tmp_path)


@pytest.fixture
def custom_survey(settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    """``custom_survey(table, "stage=shards", …)``: the settings of a survey with this source table."""

    def write_and_compose(table: pd.DataFrame, *overrides: str) -> Settings:
        folder = tmp_path / "survey"
        folder.mkdir(exist_ok=True)
        table.to_csv(folder / "catalog.csv", index=False)
        stage = [] if any(o.startswith("stage=") for o in overrides) else ["stage=simulate"]
        return settings("survey=custom", "survey.name=mine", f"survey.folder={folder}", *stage, *overrides)

    return write_and_compose


@pytest.fixture
def server() -> Iterator[PanoptesServer]:
    """The stand-in for Zooniverse with the questions of the demo survey, and nothing in it yet."""
    from zoobot.oracles.rehearsal.server import PanoptesServer

    with PanoptesServer(load_questions("demo"), {}) as running:
        yield running


@pytest.fixture(scope="session")
def aws_server() -> Iterator[World]:
    """A simulated AWS on 127.0.0.1, shared by all tests of a process."""
    from tests.aws import World

    with World() as world:
        yield world


@pytest.fixture
def world(aws_server: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty account. Every boto3 client in this process and its children talks to it, and botocore retries without
    waiting.
    """
    from tests import aws, launching

    monkeypatch.setattr("launch.words._outline", launching.outline)
    for name, value in {**aws.CREDENTIALS, "AWS_ENDPOINT_URL": aws_server.endpoint}.items():
        monkeypatch.setenv(name, value)
    no_sleep = SimpleNamespace(sleep=lambda _: None)  # for botocore alone: its `time` is everybody's
    monkeypatch.setattr("botocore.endpoint.time", no_sleep)
    aws_server.reset()
    return aws_server


@pytest.fixture
def ec2(tmp_path: Path) -> Config:
    """The settings in launch/ec2.yaml, with a commit, an e-mail address, and the record in the test's own folder."""
    from launch.config import load

    return dataclasses.replace(
        load(CONFIG_DIR.parent / "launch" / "ec2.yaml"), record=str(tmp_path / "record"), revision="0123456789" * 4,
        budget_email="astronomer@example.org",
    )  # fmt: skip
