"""stage=dashboard: no panel without data, and no logged key without a panel or a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.wandb_records import read_back
from tests.wandb_server import WandbServer
from zoobot.errors import InputError, SettingsError
from zoobot.reports import history, panels
from zoobot.settings import Settings
from zoobot.stages import dashboard, simulate

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "stage=simulate", "quick=true", "survey.n_galaxies=120", "survey.draw_size_px=16", "simulate.iterations=2",
    "iterate.subjects_per_iteration=6", "tracking.table_galaxies=2", "model=pixels", "task=demo_tree",
    "oracle.late_fraction=0.5", "oracle.control_per_iteration=2",
)  # fmt: skip
# Logged by other experiments: with a network, with a gate, after more iterations, or when random is there.
ELSEWHERE = {"difference/loss", "difference/bar/rmse", "difference/number", "difference/votes_spent",
             history.DIFFERENCE_LABELS,
             "training/epoch", "training/iteration", "training/train_loss", "training/eval_loss",
             "model/worse_than_previous_by", "cost/next_100_labels_buy"}  # fmt: skip


@pytest.fixture(scope="module")
def done(compose: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two experiments of a pair, random's last, so that the other's differences are not logged yet."""
    data = tmp_path_factory.mktemp("dashboard")
    simulate.run(compose(*TINY, data_dir=data))
    simulate.run(compose(*TINY, "acquisition=random", data_dir=data))
    return replace(compose(*TINY, data_dir=data), stage="dashboard")


def logged_keys(settings: Settings) -> set[str]:
    """The keys in the records of all runs, as wandb has written them."""
    found = settings.experiments_dir.glob("*/*/tracking/wandb/offline-run-*")
    return {key for folder in found for row in read_back(folder)["history"] for key in row if key[0] != "_"}


def shown(sections: list[panels.Section]) -> set[str]:
    return {key for section in sections for panel in section.panels for key in panel.keys}


def in_workspace(spec: dict[str, Any]) -> set[str]:
    """The keys that the panels of a workspace draw."""
    of = [panel["config"] for each in spec["section"]["panelBankConfig"]["sections"] for panel in each["panels"]]
    return {key for config in of for key in (*config.get("metrics", []), *config.get("mediaKeys", []))}


@pytest.mark.long
def test_the_stage_logs_what_came_later_and_shows_everything(done: Settings) -> None:
    pytest.importorskip("wandb_workspaces")
    assert not any(key.startswith("difference/") for key in logged_keys(done))
    page = dashboard.run(done)
    keys, sections = logged_keys(done), panels.sections(logged_keys(done))
    assert "difference/loss" in keys and len(keys) > 150
    assert page.read_text().count("<figure>") == sum(len(section.panels) for section in sections)
    definition = json.loads(page.with_name("wandb_workspace.json").read_text())
    assert in_workspace(definition["spec"]) == shown(sections) <= keys
    assert dashboard.run(done) == page and logged_keys(done) == keys


def test_every_logged_key_has_a_panel_or_a_reason_and_every_panel_data(done: Settings) -> None:
    keys = logged_keys(done) | ELSEWHERE
    assert panels.unshown(keys) == []
    assert shown(panels.sections(keys)) <= keys
    templates = [t for of in panels._TEMPLATES.values() for t in of]
    titles = {panel.title.split(":")[0] for section in panels.sections(keys) for panel in section.panels}
    assert {t.title.split(":")[0] for t in templates} == titles, "a panel that nothing is logged for"
    assert panels.unshown({*keys, "counts/unheard_of"}) == ["counts/unheard_of"]
    for reason in panels.WITHOUT:
        without = {key: why for key, why in panels.WITHOUT.items() if key != reason}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(panels, "WITHOUT", without)
            assert panels.unshown(keys), f"{reason} is no reason for any key"


def test_a_panel_is_drawn_only_with_its_axis() -> None:
    assert panels.sections({"test/all/loss"}) == []
    (section,) = panels.sections({"test/all/loss", history.LABELS})
    assert [(panel.title, panel.x) for panel in section.panels] == [("Test loss", history.LABELS)]


def test_bands_are_of_the_runs_that_differ_in_their_seed(done: Settings) -> None:
    wr = pytest.importorskip("wandb_workspaces.reports.v2")
    from zoobot.reports import workspace

    made = workspace.build(done, panels.sections({"test/all/loss", history.LABELS}))
    (plot,) = made.sections[0].panels
    assert isinstance(plot, wr.LinePlot)
    assert (plot.groupby, plot.groupby_rangefunc, plot.x) == ("Group", "stddev", history.LABELS)
    names = {history.tracking_of(path).read().run.group for path in (done.experiments_dir / "simulations").glob("d*")}
    assert names == {"quick_demo_demo_tree_pixels_badge", "quick_demo_demo_tree_pixels_random"}


@pytest.mark.long
def test_saving_again_replaces_the_workspace(done: Settings) -> None:
    pytest.importorskip("wandb_workspaces")
    command = [sys.executable, "run.py", *TINY, "stage=dashboard", "tracking=online", "tracking.entity=someone",
               f"data_dir={Path(done.data_dir).parent}"]  # fmt: skip
    with WandbServer() as server:
        environment = {**os.environ, **server.environment, "WANDB_MODE": "online"}
        environment.pop("WANDB_SERVICE", None)
        for _ in range(2):
            said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
            assert said.returncode == 0 and "not logged" not in said.stdout + said.stderr, said.stdout + said.stderr
    (view,) = server.views.values()
    assert (view["entityName"], view["displayName"]) == ("someone", "zoobot, quick")
    sent = {key for run in server.runs.values() for line in run.lines for key in line if key[0] != "_"}
    assert len(server.runs) == 2 and in_workspace(json.loads(view["spec"])) <= sent


def test_what_cannot_be_shown_is_one_sentence(done: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose tracking=offline"):
        dashboard.run(replace(done, tracking=replace(done.tracking, mode="disabled")))
    with pytest.raises(SettingsError, match=r"tracking\.entity"):
        dashboard.run(replace(done, tracking=replace(done.tracking, mode="online")))
    with pytest.raises(InputError, match="no experiment"):
        dashboard.run(replace(done, data_dir=str(tmp_path)))


def test_without_the_package_the_message_says_what_to_install(done: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb_workspaces", "wandb_workspaces.workspaces"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install wandb-workspaces"):
        dashboard.run(done)
