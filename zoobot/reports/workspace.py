"""A workspace of Weights & Biases, made from the panels. Only this module imports wandb_workspaces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from zoobot.engine import quiet
from zoobot.errors import InputError
from zoobot.reports.panels import Panel, Section
from zoobot.settings import Settings

NAME = "zoobot"


def build(settings: Settings, sections: Sequence[Section]) -> Any:
    """The workspace. Its internal name follows from the project, so that saving it again replaces it. It shows the runs
    of the test mode only to those who use it.
    """
    quiet.imports()
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise InputError(
            "wandb-workspaces, which makes a dashboard on Weights & Biases, is not installed. Run: pip install"
            " wandb-workspaces"
        ) from error
    tracking = settings.tracking
    workspace = ws.Workspace(
        entity=tracking.entity,
        project=tracking.project,
        name=f"{NAME}, quick" if settings.quick else NAME,
        sections=[
            ws.Section(name=section.name, panels=[_panel(panel) for panel in section.panels], is_open=True)
            for section in sections
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(filters=f"Config('quick') = {settings.quick}"),
    )
    digest = hashlib.sha256(f"{tracking.entity}/{tracking.project}/{settings.quick}".encode()).hexdigest()
    workspace._internal_name = f"nw-{digest[:10]}-v"
    return workspace


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2.interface as wr

    if panel.kind in ("bars", "table"):
        return wr.MediaBrowser(title=panel.title, media_keys=list(panel.keys), num_columns=1)
    group: dict[str, Any] = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    return wr.LinePlot(
        title=panel.title, x=panel.x, y=list(panel.keys), title_y=panel.unit, **(group if panel.kind == "band" else {})
    )


def definition(workspace: Any) -> dict[str, Any]:
    """What W&B stores of a workspace, to be read and compared."""
    view = workspace._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    return {"name": view.display_name, "project": view.project, "entity": view.entity, "view": view.name, "spec": spec}
