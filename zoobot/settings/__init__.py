"""Every setting, what is wrong with one, and which settings a stage's output depends on.

Hydra ends in ``compose``; everything else gets a frozen, checked ``Settings``. No setting acts here.
"""

from zoobot.settings.depends import DEFAULTS, ENCODER_SHAPE, ORACLE_FIXED, flatten, stage_settings
from zoobot.settings.schema import (
    MISSING,
    AcquisitionSettings,
    CatalogsSettings,
    ModelSettings,
    OracleSettings,
    PretrainSettings,
    ReportSettings,
    Settings,
    StopSettings,
    SurveySettings,
    TaskSettings,
)

__all__ = [
    "DEFAULTS",
    "ENCODER_SHAPE",
    "MISSING",
    "ORACLE_FIXED",
    "AcquisitionSettings",
    "CatalogsSettings",
    "ModelSettings",
    "OracleSettings",
    "PretrainSettings",
    "ReportSettings",
    "Settings",
    "StopSettings",
    "SurveySettings",
    "TaskSettings",
    "flatten",
    "stage_settings",
]
