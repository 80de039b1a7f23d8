"""Annotations that somebody published with ``pfcvr-data export --format annotations``, read as a stream."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pfcvr.config import GridConfig
from pfcvr.errors import SourceError
from pfcvr.files import sha256_file
from pfcvr.pipeline.exporters import ExportFacts
from pfcvr.records import SPLITS, PatchGrid, Source, Split

FOUND_BY = ("path", "bytes", "dhash")
NEEDED = ("image_id", "vehicle_id", "captions", "part_grid", "sha256", "width", "height", *FOUND_BY)
ROWS_AT_A_TIME = 200
HASH, DIFFERENCE_HASH = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{16}")
EXPECTED = "a folder written by pfcvr-data export --format annotations, with pfcvr.json and data/SPLIT-*.parquet"


class PublishedAnnotations:
    """The folder of an annotations export; raises SourceError where it is none."""

    def __init__(self, folder: Path) -> None:
        self._shards: list[tuple[Split, Path]] = []
        for split in SPLITS:
            self._shards += [(split, path) for path in sorted((folder / "data").glob(f"{split}-*.parquet"))]
        self._manifest = _manifest(folder / "pfcvr.json")
        if not self._shards or self._manifest.get("format") != "annotations":
            raise SourceError(f"{folder}: not annotations to rebuild from; expected {EXPECTED}")

    def fingerprint(self) -> dict[str, str]:
        """The hash of every shard by its name."""
        return {path.name: sha256_file(path) for _, path in self._shards}

    def facts(self, images: Path) -> ExportFacts:
        """What the publisher's manifest says of sources and grid; ``images`` is where the pixels lie here.

        Raises SourceError where it does not say it.
        """
        try:
            sources = [Source(root=str(images), **own) for own in self._manifest["sources"]]
            grid = self._manifest["grid"]
            recipe = PatchGrid(**(grid or GridConfig().model_dump()), cells={})
        except (KeyError, TypeError, ValueError):
            raise SourceError("pfcvr.json of the annotations is damaged; get the annotations anew") from None
        return ExportFacts(tuple(sources), recipe, has_parts=grid is not None, vehicle_ids=())

    def rows(self) -> Iterator[tuple[Split, dict[str, Any]]]:
        """Every row with its split, in the order published; raises SourceError for a shard that is damaged."""
        for split, path in self._shards:
            with _opened(path) as shard:
                missing = [name for name in NEEDED if name not in shard.schema_arrow.names]
                if missing:
                    raise SourceError(f"{path}: has no column {', '.join(missing)}; expected {EXPECTED}")
                for batch in shard.iter_batches(batch_size=ROWS_AT_A_TIME):
                    for row in batch.to_pylist():
                        _check(row, path)
                        yield split, row

    def total(self) -> int:
        """Number of rows; raises SourceError for a shard that is damaged."""
        rows = 0
        for _, path in self._shards:
            with _opened(path) as shard:
                rows += shard.metadata.num_rows
        return rows


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as shard:
            yield shard
    except pyarrow.ArrowException as error:
        raise SourceError(f"{path}: cannot be read as Parquet ({error}); get the annotations anew") from None


def _check(row: dict[str, Any], path: Path) -> None:
    """Raise SourceError unless the row has what it takes to find its image and to describe it."""
    whole = (
        all(isinstance(row[name], str) and row[name] for name in ("image_id", "vehicle_id", "path"))
        and all(isinstance(row[name], int) for name in ("bytes", "width", "height"))
        and HASH.fullmatch(row["sha256"] or "") is not None
        and (row["dhash"] is None or DIFFERENCE_HASH.fullmatch(row["dhash"]) is not None)
        and bool(row["captions"])
    )
    if not whole:
        raise SourceError(
            f"{path}: the row of image {row['image_id']!r} lacks its name, hash, size or captions; "
            "get the annotations anew"
        )


def _manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
