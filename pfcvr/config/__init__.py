"""Settings of every stage and recipe: frozen pydantic models, TOML in, resolved TOML out.

Unknown keys are errors. This package imports pydantic and the standard library only, so that ``--help`` stays fast.
"""

from pfcvr.config.base import (
    Settings,
    parse,
    read_toml,
)
from pfcvr.config.data import (
    BuildConfig,
    CaptionConfig,
    Captioner,
    CheckConfig,
    ExportConfig,
    GridConfig,
    ImportConfig,
    PartsConfig,
    PartsDetector,
    SelectConfig,
    ShowConfig,
    SplitConfig,
    SynthConfig,
)
from pfcvr.config.model import (
    AugmentConfig,
    DeviceSettings,
    EvalConfig,
    IndexConfig,
    LossWeights,
    ModelConfig,
    OptimizerConfig,
    Protocol,
    Recipe,
    ScheduleConfig,
    SearchConfig,
    TowerSizes,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "BuildConfig",
    "CaptionConfig",
    "Captioner",
    "CheckConfig",
    "DeviceSettings",
    "EvalConfig",
    "ExportConfig",
    "GridConfig",
    "ImportConfig",
    "IndexConfig",
    "LossWeights",
    "ModelConfig",
    "OptimizerConfig",
    "PartsConfig",
    "PartsDetector",
    "Protocol",
    "Recipe",
    "ScheduleConfig",
    "SearchConfig",
    "SelectConfig",
    "Settings",
    "ShowConfig",
    "SplitConfig",
    "SynthConfig",
    "TowerSizes",
    "TrainConfig",
    "parse",
    "read_toml",
]
