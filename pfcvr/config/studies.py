"""Settings of what works on several runs: ablation tables and comparisons."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from pfcvr.config.base import Seed, SeedList
from pfcvr.config.model import ComputeSettings, DeviceSettings, Protocol, ResampledUnit
from pfcvr.config.variants import Variant

TableName = Literal["3", "4", "5", "6", "7", "8", "extended", "methods"]
PublishedData = Literal["t2i-veri", "t2i-verw"]


class AblateConfig(SeedList, ComputeSettings):
    """One ablation table: every row trained by ``recipe`` from every seed, measured on ``split``."""

    data: str
    out: Path
    table: TableName
    recipe: str = "tiny"
    overrides: tuple[str, ...] = ()  # KEY=VALUE, of all rows
    variant: Variant | None = None
    protocol: Protocol = "clean"
    seeds: tuple[Seed, ...] = Field((1, 2, 3), min_length=1)  # five are better; three show the spread
    split: str = "test"


class CompareConfig(DeviceSettings):
    """Runs side by side. A folder of seeds, as ``pfcvr train --seeds`` makes it, counts as one entry."""

    runs: tuple[Path, ...] = Field(min_length=1)
    data: str | None = None  # needed where a run was not evaluated on ``split`` yet
    split: str = "test"
    unit: ResampledUnit = "identities"  # queries of one vehicle depend on each other
    published: PublishedData | None = None
    out: Path | None = None  # folder for compare-SPLIT.md and .csv
    seed: Seed = 0  # of the draws
