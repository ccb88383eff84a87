"""Every setting, what is wrong with one, and which settings a stage's output depends on.

Hydra ends in ``compose``; everything else gets a frozen, checked ``Settings``. No setting acts here.
"""

from zoobot.settings.depends import ENCODER_SHAPE, ORACLE_FIXED, flatten, stage_settings
from zoobot.settings.schema import (
    MISSING,
    Acquisition,
    Catalogs,
    Model,
    Oracle,
    Pretrain,
    Report,
    Settings,
    Stop,
    Survey,
    Task,
)

__all__ = [
    "ENCODER_SHAPE",
    "MISSING",
    "ORACLE_FIXED",
    "Acquisition",
    "Catalogs",
    "Model",
    "Oracle",
    "Pretrain",
    "Report",
    "Settings",
    "Stop",
    "Survey",
    "Task",
    "flatten",
    "stage_settings",
]
