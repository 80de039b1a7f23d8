"""``--format hf``: Parquet shards for ``datasets.load_dataset``, written as a stream and read back before sealing.

One row per image, in order of image_id within a split. The same rows give the same bytes.
"""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from pfcvr.config import ExportConfig
from pfcvr.files import sha256_file
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.card import dataset_card
from pfcvr.pipeline.exporters.rows import annotation_columns, annotation_row
from pfcvr.pipeline.exporters.shards import ParquetSplits
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
        with closing(ParquetSplits(folder / "data", features(facts).arrow_schema)) as splits:
            for item in items:
                splits.add(item.split, row_of(item, facts), len(item.pixels))
        counts, files = splits.counts.as_dict(), splits.verified()
        (folder / "README.md").write_text(dataset_card(facts, counts), encoding="utf-8")
        hashes = {name: sha256_file(path) for name, path in files.items()}
        return {"splits": counts, "files": hashes | {"README.md": sha256_file(folder / "README.md")}}


def features(facts: ExportFacts) -> Any:
    """The ``datasets.Features`` of an exported row."""
    from datasets import Features, Image

    return Features({"image": Image(), **annotation_columns(facts.grid.rows, facts.grid.cols)})


def row_of(item: ExportItem, facts: ExportFacts) -> dict[str, Any]:
    """``item`` as a row of the table; its file byte by byte, with its path inside the source."""
    return {"image": {"bytes": item.pixels, "path": item.image.path}, **annotation_row(item, facts)}
