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
    ImageInputConfig,
    ImportConfig,
    PartsConfig,
    PartsDetector,
    SelectConfig,
    ShowConfig,
    SplitConfig,
    SynthConfig,
)
from pfcvr.config.methods import METHODS, Method
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
    ResampledUnit,
    ScheduleConfig,
    SearchConfig,
    TowerSizes,
    TrainConfig,
)
from pfcvr.config.variants import SWITCHES, Switch, Variant, variant_values

__all__ = [
    "METHODS",
    "AugmentConfig",
    "BuildConfig",
    "CaptionConfig",
    "Captioner",
    "CheckConfig",
    "DeviceSettings",
    "EvalConfig",
    "ExportConfig",
    "GridConfig",
    "ImageInputConfig",
    "ImportConfig",
    "IndexConfig",
    "LossWeights",
    "Method",
    "ModelConfig",
    "OptimizerConfig",
    "PartsConfig",
    "PartsDetector",
    "Protocol",
    "Recipe",
    "ResampledUnit",
    "ScheduleConfig",
    "SWITCHES",
    "SearchConfig",
    "SelectConfig",
    "Settings",
    "ShowConfig",
    "SplitConfig",
    "Switch",
    "SynthConfig",
    "TowerSizes",
    "TrainConfig",
    "Variant",
    "parse",
    "read_toml",
    "variant_values",
]
