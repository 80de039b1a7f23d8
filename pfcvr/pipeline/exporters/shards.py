"""Parquet shards, one set a split, written as a stream of rows and read back.

``data/<split>-00000-of-0000N.parquet``, rows in the order they come. The same rows give the same bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.errors import WorkspaceError
from pfcvr.pipeline.images import UnreadableImage, open_rgb
from pfcvr.records import SPLITS, Split

ROWS_PER_GROUP = 200
BYTES_PER_GROUP = 32 << 20
BYTES_PER_SHARD = 512 << 20  # of image files, about the shard size that the datasets library itself writes
DECODERS = 4
SUMMARIZED_COLUMNS = ["image_id", "vehicle_id", "camera_id"]


class SplitCounts:
    """Images, vehicles and captions of each split, and a hash of the image_ids in their order."""

    def __init__(self) -> None:
        self._images: dict[Split, int] = {}
        self._captions: dict[Split, int] = {}
        self._vehicles: dict[Split, set[str]] = {}
        self._ids: dict[Split, Any] = {}

    def add(self, split: Split, image_id: str, vehicle_id: str, captions: int) -> None:
        """One more image."""
        self._images[split] = self._images.get(split, 0) + 1
        self._captions[split] = self._captions.get(split, 0) + captions
        self._vehicles.setdefault(split, set()).add(vehicle_id)
        self._ids.setdefault(split, hashlib.sha256()).update(id_line(image_id))

    def as_dict(self) -> dict[Split, dict[str, int]]:
        """By split, in the order of SPLITS; a split without an image is absent."""
        return {
            split: {
                "images": self._images[split],
                "vehicles": len(self._vehicles[split]),
                "captions": self._captions[split],
            }
            for split in SPLITS
            if split in self._images
        }

    def ids_sha256(self, split: Split) -> str:
        """Of the image_ids of ``split``, one a line."""
        return str(self._ids[split].hexdigest())


def id_line(image_id: str) -> bytes:
    """What an image adds to the hash of a list of images."""
    return image_id.encode() + b"\n"


class ParquetSplits:
    """The shards of every split below ``folder``. Memory holds one row group a split."""

    def __init__(self, folder: Path, schema: Any) -> None:
        self._folder, self._schema = folder, schema
        folder.mkdir()
        self._writers: dict[Split, _SplitWriter] = {}
        self.counts = SplitCounts()

    def add(self, split: Split, row: dict[str, Any], size: int) -> None:
        """One more row, about ``size`` bytes of it pixels."""
        if split not in self._writers:
            self._writers[split] = _SplitWriter(self._folder, split, self._schema)
        self._writers[split].add(row, size)
        self.counts.add(split, row["image_id"], row["vehicle_id"], len(row["captions"]))

    def close(self) -> None:
        """End all shards."""
        for writer in self._writers.values():
            writer.close()

    def verified(self) -> dict[str, Path]:
        """Give the shards their final names and read them back; the files by name.

        Raises WorkspaceError when what is read is not what was written.
        """
        files: dict[str, Path] = {}
        for split in self.counts.as_dict():
            paths = self._writers[split].name_shards()
            if verify_shards(paths) != self.counts.ids_sha256(split):
                raise WorkspaceError(
                    f"{self._folder}: the images read back of split '{split}' are not those written; "
                    "run the export again"
                )
            files |= {f"{self._folder.name}/{path.name}": path for path in paths}
        return files


class _SplitWriter:
    """The shards of one split."""

    def __init__(self, folder: Path, split: Split, schema: Any) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._shard_bytes = 0
        self._shards: list[Path] = []
        self._writer: Any = None

    def add(self, row: dict[str, Any], size: int) -> None:
        if self._shard_bytes and self._shard_bytes + size > BYTES_PER_SHARD:
            self.close()
        self._rows.append(row)
        self._group_bytes += size
        self._shard_bytes += size
        if len(self._rows) >= ROWS_PER_GROUP or self._group_bytes >= BYTES_PER_GROUP:
            self._write_group()

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
        self._writer.write_table(table_of(self._rows, self._schema))
        self._rows = []
        self._group_bytes = 0


def table_of(rows: list[dict[str, Any]], schema: Any) -> Any:
    """``rows`` as an Arrow table of ``schema``."""
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


def verify_shards(paths: Sequence[Path]) -> str:
    """Read ``paths`` back, every column of them; hash of the image_ids in their order, as SplitCounts has it.

    Where there are pixels, the bytes of each image must have their hash and decode to the end at the size that the row
    says. Raises WorkspaceError naming the row that does not.
    """
    ids = hashlib.sha256()
    with ThreadPoolExecutor(DECODERS) as pool:
        for path in paths:
            for rows in _batches(path):
                for row in rows:
                    ids.update(id_line(row["image_id"]))
                for row, problem in zip(rows, pool.map(_problem, rows), strict=True):
                    if problem is not None:
                        raise WorkspaceError(f"{path}: the image of {row['image_id']} {problem}; run the export again")
    return ids.hexdigest()


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows with what is needed to judge their pixels. The other columns are decoded and dropped."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as shard:
        names = set(shard.schema_arrow.names)
        for batch in shard.iter_batches(batch_size=ROWS_PER_GROUP):
            yield batch.select(
                [n for n in ("image", "image_id", "sha256", "width", "height") if n in names]
            ).to_pylist()


def _problem(row: dict[str, Any]) -> str | None:
    """What is wrong with the pixels of ``row``, in words; None where nothing is, or where it has none."""
    if "image" not in row:
        return None
    content = row["image"]["bytes"]
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        return "was not written whole"
    try:
        size = open_rgb(content).size
    except UnreadableImage as error:
        return f"cannot be opened ({error.detail})"
    if size != (row["width"], row["height"]):
        return f"has {size[0]} x {size[1]} pixels, not the {row['width']} x {row['height']} that were imported"
    return None
