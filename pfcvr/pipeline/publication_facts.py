"""What is measured of a data set before it is published: the facts that its card states."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.pipeline import stats
from pfcvr.pipeline.check import CheckReport
from pfcvr.pipeline.joined import joined_images
from pfcvr.records import SPLITS, CaptionOrigin, Part, PartsOrigin, Source
from pfcvr.store import Workspace

Named = tuple[tuple[str, str], ...]
"""What an origin says, as pairs of field and value."""
CAPTION_FACTS = ("captioner", "model", "revision", "prompt", "prompt_sha256")
PART_FACTS = ("detector", "detector_model", "segmenter", "segmenter_model", "phrases", "phrases_sha256")


@dataclass(frozen=True)
class PublicationFacts:
    """Measured facts. ``captions_by`` and ``parts_by`` count images by where their annotation came from.

    ``splits`` are images, vehicles and captions of each; ``columns`` those of the files, in order; ``grid`` the recipe
    of the patch grids, none without parts; ``reviewed`` the share of images with a word or a part set by people, in
    [0, 1]; ``weaknesses`` what the check warned of.
    """

    sources: tuple[Source, ...]
    splits: dict[str, dict[str, int]]
    columns: tuple[str, ...]
    grid: dict[str, Any] | None
    left_out: dict[str, int]
    captions_by: dict[Named, int]
    parts_by: dict[Named, int]
    reviewed: float
    words_per_caption: float | None
    coverage: dict[Part, float] | None
    weaknesses: tuple[str, ...]

    @property
    def images(self) -> int:
        return sum(split["images"] for split in self.splits.values())


def measure(workspace: Workspace, export: dict[str, Any], files: list[Path], report: CheckReport) -> PublicationFacts:
    """The facts of ``workspace``, of its sealed ``export`` (the manifest and its Parquet files), and of its check."""
    import pyarrow.parquet as parquet

    captions_by: Counter[Named] = Counter()
    parts_by: Counter[Named] = Counter()
    images = reviewed = 0
    for joined in joined_images(workspace):
        images += 1
        reviewed += joined.human is not None
        if joined.caption is not None:
            captions_by[_named(joined.caption.origin, CAPTION_FACTS)] += 1
        if joined.parts is not None:
            parts_by[_named(joined.parts.origin, PART_FACTS)] += 1
    statistics = stats.run(workspace)
    return PublicationFacts(
        sources=tuple(source for _, source in sorted(workspace.sources().items())),
        splits={split: export["splits"][split] for split in SPLITS if split in export["splits"]},
        columns=tuple(parquet.read_schema(files[0]).names),
        grid=export["grid"],
        left_out=export["books"]["reasons"],
        captions_by=dict(captions_by.most_common()),
        parts_by=dict(parts_by.most_common()),
        reviewed=reviewed / images,
        words_per_caption=statistics.words_per_caption,
        coverage=statistics.coverage,
        weaknesses=tuple(f"{finding.count:,} {finding.sentence}" for finding in report.findings),
    )


def _named(origin: CaptionOrigin | PartsOrigin, names: tuple[str, ...]) -> Named:
    values = origin.model_dump()
    return tuple((name, str(values[name])) for name in names if values.get(name) is not None)
