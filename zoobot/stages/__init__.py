"""The stages of the program, one module each with ``run(settings)``, and the check of a run's settings.

Each stage reads folders and writes one. The packages below the stages do the work.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections import ChainMap
from collections.abc import Collection
from pathlib import Path
from typing import Any

from zoobot.acquisition import ACQUISITIONS
from zoobot.errors import SettingsError
from zoobot.folders import disk
from zoobot.galaxies import filters, table_writers
from zoobot.galaxies.demo import WORLDS
from zoobot.galaxies.surveys import SURVEYS
from zoobot.galaxies.tfrecords import ENCODINGS
from zoobot.iterations import oracle_batch
from zoobot.metrics import LIKELIHOODS
from zoobot.models import architectures
from zoobot.oracles import build
from zoobot.reports import status
from zoobot.settings import Settings, checks, texts

STAGES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
# The values that a setting may take. Each set is defined where its members are implemented.
CHOICES: dict[str, Collection[str]] = {
    "stage": STAGES,
    "survey.kind": SURVEYS,
    "survey.world": WORLDS,
    "shards.encoding": ENCODINGS,
    "predict.format": table_writers.FORMATS,
    "model.architecture": architectures.ARCHITECTURES,
    "model.likelihood": LIKELIHOODS,
    "acquisition.name": ChainMap[str, Any](ACQUISITIONS, {oracle_batch.NAME: None}),  # extensions add more
    "oracle.kind": build.ORACLES,
}


def check_settings(settings: Settings) -> Settings:
    """Load the extensions, check the settings and return them. All problems are reported together."""
    load_extensions(settings)
    problems = checks.problems(settings, CHOICES)
    if settings.model.architecture in architectures.ARCHITECTURES:
        problems += architectures.problems(settings)
    problems += oracle_batch.problems(settings)
    problems += build.problems(settings) + filters.problems(settings.task.filters)
    if problems:
        with status.recorded(settings):  # of a live experiment, whose page would otherwise say that all is well
            raise SettingsError("\n  ".join([f"{len(problems)} setting(s) cannot be used:", *problems]))
    return settings


def load_extensions(settings: Settings) -> None:
    """Run each file of ``extensions`` once in this process. It adds its parts to the program's dictionaries.

    Raises SettingsError if a file does not exist or cannot be run.
    """
    for name in settings.extensions:
        if not isinstance(name, str) or "\0" in name:
            raise SettingsError(f"extensions={settings.extensions}: each part must be the path of a Python file.")
        path = Path(name).resolve()
        module = f"zoobot_extension:{path}"
        if module in sys.modules:
            continue
        if not path.is_file():
            raise SettingsError(f"extensions: {path} does not exist.")
        spec = importlib.util.spec_from_file_location(module, path)
        if not (spec and spec.loader):
            raise SettingsError(f"extensions: {path} is not a Python file; its name must end in .py.")
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except Exception as error:  # the file is the user's: it can raise anything
            del sys.modules[module]
            raise SettingsError(f"extensions: {path} cannot be run: {type(error).__name__}: {error}") from error


def run(settings: Settings) -> Path:
    """Run the stage in the settings. Returns the folder or file that it made."""
    load_extensions(settings)
    with status.recorded(settings):
        try:
            path: Path = importlib.import_module(f"{__name__}.{settings.stage}").run(settings)
        except OSError as error:
            raise disk.of_the_user(error) or error from error
    return path


def ending(settings: Settings, path: Path) -> dict[str, str]:
    """What a stage has made and where, what it dropped, and the stage to run next; empty if it makes nothing."""
    module = importlib.import_module(f"{__name__}.{settings.stage}")
    _, parts = texts.split_docstring(module.__doc__ or "")
    _, _, made = parts["writes"].partition("/: ")
    following, nothing_new = getattr(module, "NEXT", ""), path == settings.experiment_dir
    if not made:
        return {}
    rows = {"made": made.rstrip("."), "where": str(path)}
    if settings.stage == "iterate" and nothing_new:  # a dry run, or a rule of settings.stop holds
        rows, following = (
            {"made": "nothing new", "where": str(path)},
            following if settings.oracle.dry_run else "finish",
        )
    if hasattr(module, "dropped"):
        said = module.dropped(path)
        rows["dropped"] = "nothing" if said.startswith("0 ") else said
    return rows | ({"next": following} if following else {})
