"""Turn a composed config into settings. Only this file, run.py and sweep.py import hydra and omegaconf."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoobot.errors import SettingsError
from zoobot.settings import checks
from zoobot.settings.depends import flatten
from zoobot.settings.schema import MISSING, Settings


def register() -> None:
    """Register the schema with Hydra, so that it refuses unknown keys and wrong types."""
    ConfigStore.instance().store(name="schema", node=writable_schema())


def writable_schema() -> DictConfig:
    """The types and defaults of all settings. Frozen dataclasses make read-only nodes, which Hydra cannot compose
    into, so these are writable.
    """
    schema: DictConfig = OmegaConf.structured(Settings)
    _set_writable(schema)
    return schema


def _set_writable(node: DictConfig) -> None:
    OmegaConf.set_readonly(node, None)
    for key in node:
        if OmegaConf.is_missing(node, key):
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            _set_writable(child)


def from_config(cfg: DictConfig) -> Settings:
    """The settings of a composed config, with the right types. ``stages.check_settings`` checks their values."""
    written: Any = OmegaConf.to_container(cfg)
    missing = sorted(key for key, value in flatten(written).items() if value == MISSING)
    if missing:
        raise SettingsError("These settings have no value: " + ", ".join(missing) + ". Give each as key=value.")
    try:
        settings = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise SettingsError(f"{error.full_key} cannot be used: {error.msg}.") from error
    assert isinstance(settings, Settings)
    return checks.quick(settings) if settings.quick else settings
