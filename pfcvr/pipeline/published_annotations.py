"""Annotations that somebody published with ``pfcvr-data export --format annotations``, read as a stream."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pfcvr.config import GridConfig
from pfcvr.errors import SourceError
from pfcvr.files import read_object, sha256_file
from pfcvr.pipeline.dataset_manifest import absent_shards
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation, known_instance
from pfcvr.pipeline.exporters import ExportFacts
from pfcvr.pipeline.images import UnreadableImage, upright_size
from pfcvr.pipeline.own_copy import Names, names_of
from pfcvr.records import PARTS, SPLITS, PatchGrid, Source, Split

FOUND_BY = ("path", "bytes", "dhash")
NEEDED = ("image_id", "vehicle_id", "captions", "part_grid", "sha256", "width", "height", *FOUND_BY)
ROWS_AT_A_TIME = 200
HASH, DIFFERENCE_HASH = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{16}")
EXPECTED = "a folder written by pfcvr-data export --format annotations, with pfcvr.json and data/SPLIT-*.parquet"


class PublishedAnnotations:
    """The folder of an annotations export; raises SourceError where it is none, or not all of it is there."""

    def __init__(self, folder: Path) -> None:
        self._shards: list[tuple[Split, Path]] = []
        for split in SPLITS:
            self._shards += [(split, path) for path in sorted((folder / "data").glob(f"{split}-*.parquet"))]
        self._manifest = read_object(folder / "pfcvr.json")
        if not self._shards or self._manifest.get("format") != "annotations":
            raise SourceError(f"{folder}: not annotations to rebuild from; expected {EXPECTED}")
        absent = absent_shards(folder, self._manifest)
        if absent:
            raise SourceError(
                f"{folder}: {' and '.join(absent)} of these annotations, which pfcvr.json names, is not there; "
                "get the annotations anew"
            )

    def fingerprint(self) -> dict[str, str]:
        """The hash of every shard by its name."""
        return {path.name: sha256_file(path) for _, path in self._shards}

    @property
    def grid(self) -> dict[str, Any] | None:
        """The recipe of the patch grids, its rule naming all that were met; None where no parts were annotated."""
        return self._manifest.get("grid")

    def facts(self, images: Path) -> ExportFacts:
        """What the publisher's manifest says of sources and grid; ``images`` is where the pixels lie here.

        Raises SourceError where it does not say it.
        """
        try:
            sources = [Source(root=str(images), **own) for own in self._manifest["sources"]]
            grid = self._manifest["grid"]
            recipe = {name: value for name, value in (grid or GridConfig().model_dump()).items() if name != "rule"}
            empty = PatchGrid(**recipe, cells={})
        except (KeyError, TypeError, ValueError):
            raise SourceError("pfcvr.json of the annotations is damaged; get the annotations anew") from None
        return ExportFacts(tuple(sources), empty, has_parts=grid is not None)

    def rows(self) -> Iterator[tuple[Split, dict[str, Any]]]:
        """Every row with its split, in the order published; raises SourceError for a shard that is damaged.

        An export is in order of the image_id within a split; so no image comes twice.
        """
        grid = self._manifest.get("grid") or GridConfig().model_dump()
        cells = (len(PARTS), grid["rows"], grid["cols"])
        last: dict[Split, str] = {}
        for split, path in self._shards:
            with _opened(path) as shard:
                missing = [name for name in NEEDED if name not in shard.schema_arrow.names]
                if missing:
                    raise SourceError(f"{path}: has no column {', '.join(missing)}; expected {EXPECTED}")
                for batch in shard.iter_batches(batch_size=ROWS_AT_A_TIME):
                    for row in _rows_of(batch, path):
                        _check(row, path, cells)
                        if row["image_id"] <= last.get(split, ""):
                            what = f"image {row['image_id']!r} comes twice or out of order"
                            raise SourceError(f"{path}: {what}; get the annotations anew")
                        last[split] = row["image_id"]
                        yield split, row

    def names(self) -> Iterator[Names]:
        """What the file of each image may be called; raises SourceError for a shard that is damaged."""
        columns = ["image_id", "vehicle_id", "path"]
        for _, path in self._shards:
            with _opened(path) as shard:
                for batch in shard.iter_batches(batch_size=ROWS_AT_A_TIME, columns=columns):
                    for row in _rows_of(batch, path):
                        if all(isinstance(row[column], str) for column in columns):
                            yield names_of(*(row[column] for column in columns))

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


def _rows_of(batch: Any, path: Path) -> list[dict[str, Any]]:
    """The rows of an Arrow batch; the column type of patch grids refuses grids of another shape in its own way."""
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, TypeError):
        raise SourceError(
            f"{path}: rows lack their captions or grid, or have them in another shape; get the annotations anew"
        ) from None
    return rows


def _check(row: dict[str, Any], path: Path, cells: tuple[int, ...]) -> None:
    """Raise SourceError unless the row has what it takes to find its image and to describe it.

    ``cells`` is the shape of its patch grid.
    """
    whole = (
        all(isinstance(row[name], str) and row[name] for name in ("image_id", "vehicle_id", "path"))
        and all(isinstance(row[name], int) for name in ("bytes", "width", "height"))
        and HASH.fullmatch(row["sha256"] or "") is not None
        and (row["dhash"] is None or DIFFERENCE_HASH.fullmatch(row["dhash"]) is not None)
        and row["image_id"].startswith(f"{row['vehicle_id']}/")
        and bool(row["captions"])
        and all(row["captions"])
        and _is_grid(row["part_grid"], cells)
    )
    if not whole:
        raise SourceError(
            f"{path}: the row of image {row['image_id']!r} lacks its name, hash, size, captions or grid; "
            "get the annotations anew"
        )


def damage(row: dict[str, Any], pixels: bytes) -> str | None:
    """Why the row cannot describe the picture that it means: its size, or one of its parts; None where it can."""
    try:
        width, height = upright_size(pixels)
    except UnreadableImage as problem:
        return problem.detail
    if (width, height) != (row["width"], row["height"]):
        return f"the annotations say {row['width']} x {row['height']} pixels, the image has {width} x {height}"
    for number, own in enumerate(row.get("parts") or (), start=1):
        try:
            known_instance(own, height, width)
        except BadAnnotation as problem:
            return f"part {number} of the annotations: {problem.reason}, {problem.detail}"
    return None


def _is_grid(grid: Any, cells: tuple[int, ...]) -> bool:
    """Whether ``grid`` is a nested list of that shape, of 0 and 1."""
    try:
        values = np.asarray(grid)
    except ValueError:
        return False
    return values.shape == cells and bool(np.isin(values, (0, 1)).all())
