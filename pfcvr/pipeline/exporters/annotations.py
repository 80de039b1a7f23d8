"""``--format annotations``: all that is known of every image but its pixels, for publication beside closed collections.

The columns of ``hf`` without ``image``, and what finds an image in somebody's own copy: ``path`` inside the source,
``sha256`` and ``bytes`` of the file, and ``dhash`` of the picture. ``pfcvr-data rebuild`` joins them.
"""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from pfcvr.config import ExportConfig
from pfcvr.files import sha256_file, write_json
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.card import dataset_card
from pfcvr.pipeline.exporters.rows import annotation_columns, annotation_row
from pfcvr.pipeline.exporters.schema import row_schema
from pfcvr.pipeline.exporters.shards import ParquetSplits
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.pipeline.perceptual import difference_hash

BYTES_OF_A_ROW = 20_000  # about; only decides where a shard ends


class AnnotationsExporter:
    """See the module."""

    needed_stages: tuple[str, ...] = ()

    def __init__(self, config: ExportConfig) -> None:
        pass

    def refuse(self, joined: JoinedImage) -> Refusal | None:
        """Every image can take this form."""
        return None

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """Shards, their schema as JSON Schema, and a card with the terms; every row is read back."""
        with closing(ParquetSplits(folder / "data", features(facts).arrow_schema)) as splits:
            for item in items:
                splits.add(item.split, row_of(item, facts), BYTES_OF_A_ROW)
        counts, files = splits.counts.as_dict(), splits.verified()
        (folder / "README.md").write_text(dataset_card(facts, counts, with_images=False), encoding="utf-8")
        write_json(folder / "schema.json", row_schema(facts.grid.rows, facts.grid.cols))
        files |= {name: folder / name for name in ("README.md", "schema.json")}
        return {"splits": counts, "files": {name: sha256_file(path) for name, path in files.items()}}


def features(facts: ExportFacts) -> Any:
    """The ``datasets.Features`` of a row."""
    from datasets import Features, Value

    columns = annotation_columns(facts.grid.rows, facts.grid.cols)
    return Features({**columns, "path": Value("string"), "bytes": Value("int64"), "dhash": Value("string")})


def row_of(item: ExportItem, facts: ExportFacts) -> dict[str, Any]:
    """``item`` without its pixels, and what finds them again."""
    found_by = {"path": item.image.path, "bytes": len(item.pixels), "dhash": difference_hash(item.pixels)}
    return {**annotation_row(item, facts), **found_by}
