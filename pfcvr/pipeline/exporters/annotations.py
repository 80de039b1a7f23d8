"""``--format annotations``: all that is known of every image but its pixels, for publication beside closed collections.

The columns of ``hf`` without ``image``, and what finds an image in somebody's own copy: ``path`` inside the source,
``sha256`` and ``bytes`` of the file, and ``dhash`` of the picture. ``pfcvr-data rebuild`` joins them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pfcvr.config import ExportConfig
from pfcvr.files import sha256_file, write_json
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.rows import annotation_columns, annotation_row
from pfcvr.pipeline.exporters.schema import row_schema
from pfcvr.pipeline.exporters.table import write_table
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.pipeline.perceptual import difference_hash

SCHEMA = "schema.json"
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
        rows = ((item.split, row_of(item, facts), BYTES_OF_A_ROW) for item in items)
        written = write_table(rows, features(facts), facts, folder)
        write_json(folder / SCHEMA, row_schema(facts.grid.rows, facts.grid.cols))
        return {**written, "files": {**written["files"], SCHEMA: sha256_file(folder / SCHEMA)}}


def features(facts: ExportFacts) -> Any:
    """The ``datasets.Features`` of a row."""
    from datasets import Features, Value

    columns = annotation_columns(facts.grid.rows, facts.grid.cols)
    return Features({**columns, "path": Value("string"), "bytes": Value("int64"), "dhash": Value("string")})


def row_of(item: ExportItem, facts: ExportFacts) -> dict[str, Any]:
    """``item`` without its pixels, and what finds them again."""
    found_by = {"path": item.image.path, "bytes": len(item.pixels), "dhash": difference_hash(item.pixels)}
    return {**annotation_row(item, facts), **found_by}
