"""Parquet shards, one set a split, written as a stream of rows and read back.

``data/<split>-00000-of-0000N.parquet``, rows in the order they come. The same rows give the same bytes.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.exporters.read_back import Tally, WrittenPicture, check_pictures, reading_back
from pfcvr.records import SPLITS, Split

ROWS_PER_GROUP = 200
BYTES_PER_GROUP = 32 << 20
BYTES_PER_SHARD = 512 << 20  # of image files, about the shard size that the datasets library itself writes
SUMMARIZED_COLUMNS = ["image_id", "vehicle_id", "camera_id"]


class SplitCounts:
    """Images, vehicles and captions of each split."""

    def __init__(self) -> None:
        self._images: dict[Split, int] = {}
        self._captions: dict[Split, int] = {}
        self._vehicles: dict[Split, set[str]] = {}

    def add(self, split: Split, vehicle_id: str, captions: int) -> None:
        """One more image."""
        self._images[split] = self._images.get(split, 0) + 1
        self._captions[split] = self._captions.get(split, 0) + captions
        self._vehicles.setdefault(split, set()).add(vehicle_id)

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
        self.counts.add(split, row["vehicle_id"], len(row["captions"]))

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
            verify_shards(paths, self._writers[split].meant)
            files |= {f"{self._folder.name}/{path.name}": path for path in paths}
        return files


class _SplitWriter:
    """The shards of one split; ``meant`` is what is in them, a row group at a time."""

    def __init__(self, folder: Path, split: Split, schema: Any) -> None:
        self.meant = Tally()
        self._folder, self._split, self._schema = folder, split, schema
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._shard_bytes = self._groups = 0
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
        table = table_of(self._rows, self._schema)
        self.meant.add(f"row group {self._groups}", _content(table))
        self._writer.write_table(table)
        self._groups += 1
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


def verify_shards(paths: Sequence[Path], meant: Tally) -> None:
    """Read ``paths``, the shards of a split, back: every column of every row must be what was ``meant``.

    Where there are pixels, the bytes of each image must have their hash and decode to the end at the size that the row
    says. Raises WorkspaceError naming the row that does not, or the shards.
    """
    found = Tally()
    for path in paths:
        with reading_back(path):
            for table in _row_groups(path):
                found.add(f"row group {found.things}", _content(table))
                if "image" in table.column_names:
                    check_pictures(path, _pictures(table))
    meant.check(found, paths[0].parent)


def _row_groups(path: Path) -> Iterator[Any]:
    """Every row group, as an Arrow table."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as shard:
        for number in range(shard.num_row_groups):
            yield shard.read_row_group(number)


def _content(table: Any) -> bytes:
    """Everything in ``table`` but the bytes of its images, whose hashes it holds; equal for equal tables."""
    from pyarrow import compute

    plain = [name for name in table.column_names if name not in ("image", "part_grid")]
    paths = compute.struct_field(table["image"], "path").to_pylist() if "image" in table.column_names else []
    grids = table["part_grid"].combine_chunks()
    cells = _nested_numbers(getattr(grids, "storage", grids))
    return b"\0".join([json.dumps([table.select(plain).to_pylist(), paths]).encode(), *cells])


def _nested_numbers(values: Any) -> Iterator[bytes]:
    """Of lists of lists of numbers, the lengths of each level, then the numbers."""
    from pyarrow import types

    while types.is_list(values.type):
        yield values.value_lengths().to_numpy(zero_copy_only=False).tobytes()
        values = values.flatten()
    yield values.to_numpy(zero_copy_only=False).tobytes()


def _pictures(table: Any) -> Iterator[WrittenPicture]:
    for row in table.select(["image", "image_id", "sha256", "width", "height"]).to_pylist():
        yield WrittenPicture(row["image_id"], row["image"]["bytes"], row["sha256"], row["width"], row["height"])
