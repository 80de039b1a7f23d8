"""A data set as a table: Parquet shards of its rows, and the card that names their files to ``load_dataset``."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from pfcvr.files import sha256_file
from pfcvr.pipeline.exporters import ExportFacts
from pfcvr.pipeline.exporters.card import dataset_card
from pfcvr.pipeline.exporters.shards import ParquetSplits
from pfcvr.records import Split

CARD = "README.md"


def write_table(
    rows: Iterable[tuple[Split, dict[str, Any], int]], features: Any, facts: ExportFacts, folder: Path
) -> dict[str, Any]:
    """Counts of the splits and hashes of the files, for the manifest; every row is read back.

    ``rows`` are split, row and its size in bytes, which only decides where a shard ends; ``features`` are the
    ``datasets.Features`` of a row. Raises WorkspaceError when what is read is not what was written.
    """
    with closing(ParquetSplits(folder / "data", features.arrow_schema)) as splits:
        for split, row, size in rows:
            splits.add(split, row, size)
    counts, files = splits.counts.as_dict(), splits.verified()
    hashes = {name: sha256_file(path) for name, path in files.items()}
    card = dataset_card(facts, counts, hashes, with_images="image" in features)
    (folder / CARD).write_text(card, encoding="utf-8")
    return {"splits": counts, "files": {**hashes, CARD: sha256_file(folder / CARD)}}
