"""``--format hf``: Parquet shards for ``datasets.load_dataset``, written as a stream and read back before sealing.

``data/<split>-00000-of-0000N.parquet``, one row per image, in order of image_id. The same rows give the same bytes.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr import geometry
from pfcvr.errors import WorkspaceError
from pfcvr.files import sha256_file
from pfcvr.pipeline.exporters import ExportFacts, ExportItem
from pfcvr.pipeline.exporters.card import dataset_card
from pfcvr.records import PARTS, SPLITS, PartInstance, Split

ROWS_PER_GROUP = 200
BYTES_PER_GROUP = 32 << 20
BYTES_PER_SHARD = 512 << 20  # of image files, about the shard size that the datasets library itself writes
SUMMARIZED_COLUMNS = ["image_id", "vehicle_id", "camera_id"]


class HfExporter:
    """See the module."""

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """Shards, data set card and the counts and hashes of them; every row is read back and compared."""
        (folder / "data").mkdir()
        schema = features(facts.grid.rows, facts.grid.cols).arrow_schema
        shards: dict[Split, _SplitWriter] = {}
        try:
            for item in items:
                split = item.joined.split
                assert split is not None
                if split not in shards:
                    shards[split] = _SplitWriter(folder / "data", split, schema)
                shards[split].add(row_of(item, facts), len(item.pixels))
        finally:
            for writer in shards.values():
                writer.close()
        counts = {split: shards[split].counts() for split in SPLITS if split in shards}
        files = {path.relative_to(folder).as_posix(): path for split in counts for path in shards[split].name_shards()}
        rows = sum(verify_shard(path) for path in files.values())
        if rows != sum(split["images"] for split in counts.values()):
            raise WorkspaceError(f"{folder}: {rows} rows read back, more or fewer than written; run the export again")
        (folder / "README.md").write_text(dataset_card(facts, counts), encoding="utf-8")
        hashes = {name: sha256_file(path) for name, path in files.items()}
        return {"splits": counts, "files": hashes | {"README.md": sha256_file(folder / "README.md")}}


def features(rows: int, cols: int) -> Any:
    """The ``datasets.Features`` of an exported row with a ``rows`` x ``cols`` patch grid."""
    from datasets import Array3D, Features, Image, Value

    text, number = Value("string"), Value("float64")
    mask = {"size": [Value("int32")], "counts": text}
    return Features(
        {
            "image": Image(),
            "image_id": text,
            "vehicle_id": text,
            "camera_id": text,
            "timestamp": text,
            "captions": [text],
            "part_texts": dict.fromkeys(PARTS, text),
            "parts": [{"part": text, "box_xyxy": [number], "score": number, "mask": mask}],
            "part_grid": Array3D((len(PARTS), rows, cols), "uint8"),
            "sha256": text,
            "width": Value("int32"),
            "height": Value("int32"),
        }
    )


def row_of(item: ExportItem, facts: ExportFacts) -> dict[str, Any]:
    """``item`` as a row of the table; an image without parts gets an empty list and a grid of zeros."""
    image, caption, parts = item.image, item.joined.caption, item.joined.parts
    assert caption is not None
    grid = facts.grid if parts is None else parts.grid
    return {
        "image": {"bytes": item.pixels, "path": image.path},
        "image_id": image.image_id,
        "vehicle_id": image.vehicle_id,
        "camera_id": image.camera_id,
        "timestamp": image.timestamp,
        "captions": list(caption.texts),
        "part_texts": {part: caption.part_texts.get(part) for part in PARTS},
        "parts": [_part_row(instance) for instance in parts.instances] if parts is not None else [],
        "part_grid": geometry.grid_array(grid),
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
    }


def _part_row(instance: PartInstance) -> dict[str, Any]:
    mask = instance.mask
    return {
        "part": instance.part,
        "box_xyxy": list(instance.box_xyxy),
        "score": instance.score,
        "mask": None if mask is None else {"size": list(mask.size), "counts": mask.counts},
    }


class _SplitWriter:
    """The shards of one split. Memory holds one row group."""

    def __init__(self, folder: Path, split: Split, schema: Any) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._shard_bytes = 0
        self._shards: list[Path] = []
        self._writer: Any = None
        self._images = self._captions = 0
        self._vehicles: set[str] = set()

    def add(self, row: dict[str, Any], size: int) -> None:
        """One more row whose image file has ``size`` bytes."""
        if self._shard_bytes and self._shard_bytes + size > BYTES_PER_SHARD:
            self.close()
        self._rows.append(row)
        self._images += 1
        self._captions += len(row["captions"])
        self._vehicles.add(row["vehicle_id"])
        self._group_bytes += size
        self._shard_bytes += size
        if len(self._rows) >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._write_group()

    def counts(self) -> dict[str, int]:
        return {"images": self._images, "vehicles": len(self._vehicles), "captions": self._captions}

    def close(self) -> None:
        """End the current shard."""
        if self._rows:
            self._write_group()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._shard_bytes = 0

    def name_shards(self) -> list[Path]:
        """Give the shards their final names, which tell how many there are."""
        named = []
        for number, path in enumerate(self._shards):
            final = path.with_name(f"{self._split}-{number:05d}-of-{len(self._shards):05d}.parquet")
            named.append(path.rename(final))
        return named

    def _write_group(self) -> None:
        import pyarrow.parquet as parquet

        if self._writer is None:
            path = self._folder / f"{self._split}-{len(self._shards):05d}.unnamed"
            self._shards.append(path)
            self._writer = parquet.ParquetWriter(
                path,
                self._schema,
                compression="zstd",
                use_dictionary=SUMMARIZED_COLUMNS,
                write_statistics=SUMMARIZED_COLUMNS,
            )
        self._writer.write_table(_table(self._rows, self._schema))
        self._rows = []
        self._group_bytes = 0


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    columns = []
    for column in schema:
        values = [row[column.name] for row in rows]
        if column.name == "part_grid":
            columns.append(pyarrow.ExtensionArray.from_storage(column.type, _nested_lists(np.stack(values))))
        else:
            columns.append(pyarrow.array(values, column.type))
    return pyarrow.Table.from_arrays(columns, schema=schema)


def _nested_lists(grids: NDArray[np.uint8]) -> Any:
    """``grids`` [images, 6, rows, cols] as a column of lists of lists of lists, without a Python object a cell."""
    import pyarrow

    values = pyarrow.array(grids.ravel())
    for size in reversed(grids.shape[1:]):
        offsets = np.arange(0, len(values) + 1, size, dtype=np.int32)
        values = pyarrow.ListArray.from_arrays(offsets, values)
    return values


def verify_shard(path: Path) -> int:
    """Read ``path`` back: its number of rows, once the bytes of each image have their hash and open as an image.

    Raises WorkspaceError naming the row that does not.
    """
    import pyarrow.parquet as parquet
    from PIL import Image, UnidentifiedImageError

    rows = 0
    with parquet.ParquetFile(path) as shard:
        for image_id, content, sha256 in _pixels_in(shard):
            rows += 1
            if hashlib.sha256(content).hexdigest() != sha256:
                raise WorkspaceError(f"{path}: the image of {image_id} was not written whole; run the export again")
            try:
                Image.open(io.BytesIO(content)).close()
            except (UnidentifiedImageError, OSError) as error:
                raise WorkspaceError(f"{path}: the image of {image_id} cannot be opened ({error})") from None
        if rows != shard.metadata.num_rows:
            raise WorkspaceError(f"{path}: {rows} rows read back of {shard.metadata.num_rows}; run the export again")
    return rows


def _pixels_in(shard: Any) -> Iterator[tuple[str, bytes, str]]:
    """image_id, file bytes and hash of each row."""
    for batch in shard.iter_batches(batch_size=ROWS_PER_GROUP, columns=["image", "image_id", "sha256"]):
        for row in batch.to_pylist():
            yield row["image_id"], row["image"]["bytes"], row["sha256"]
