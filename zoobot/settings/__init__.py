"""Every setting, the checks of their values, and which settings a stage's output depends on.

``compose`` turns Hydra's config into a frozen ``Settings``, which all other code uses. Nothing here acts on a setting.
"""

from zoobot.settings.depends import DEFAULTS, ENCODER_SHAPE, ORACLE_FIXED, flatten, stage_settings
from zoobot.settings.schema import (
    MISSING,
    PUBLISHED,
    AcquisitionSettings,
    CatalogsSettings,
    EngineSettings,
    ModelSettings,
    OracleSettings,
    PredictSettings,
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
    "PUBLISHED",
    "AcquisitionSettings",
    "CatalogsSettings",
    "EngineSettings",
    "ModelSettings",
    "OracleSettings",
    "PredictSettings",
    "PretrainSettings",
    "ReportSettings",
    "Settings",
    "StopSettings",
    "SurveySettings",
    "TaskSettings",
    "flatten",
    "stage_settings",
]
