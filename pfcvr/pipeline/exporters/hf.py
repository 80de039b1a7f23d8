"""``--format hf``: Parquet shards for ``datasets.load_dataset``, written as a stream and read back before sealing.

One row per image, in order of image_id within a split. The same rows give the same bytes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pfcvr.config import ExportConfig
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.rows import annotation_columns, annotation_row
from pfcvr.pipeline.exporters.table import write_table
from pfcvr.pipeline.joined import JoinedImage


class HfExporter:
    """See the module."""

    needed_stages: tuple[str, ...] = ()

    def __init__(self, config: ExportConfig) -> None:
        pass

    def refuse(self, joined: JoinedImage) -> Refusal | None:
        """Every image can take this form."""
        return None

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """Shards, data set card and the counts and hashes of them; every row is read back and compared."""
        rows = ((item.split, row_of(item, facts), len(item.pixels)) for item in items)
        return write_table(rows, features(facts), facts, folder)


def features(facts: ExportFacts) -> Any:
    """The ``datasets.Features`` of an exported row."""
    from datasets import Features, Image

    return Features({"image": Image(), **annotation_columns(facts.grid.rows, facts.grid.cols)})


def row_of(item: ExportItem, facts: ExportFacts) -> dict[str, Any]:
    """``item`` as a row of the table; its file byte by byte, with its path inside the source."""
    return {"image": {"bytes": item.pixels, "path": item.image.path}, **annotation_row(item, facts)}
