"""Bytes of a data set that changed after the export: one sentence, whoever reads them."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claimed_size import png_of_claimed_size
from pyarrow import parquet

from pfcvr.config import EvalConfig, IndexConfig
from pfcvr.errors import DataError, StageStopped
from pfcvr.model.data import Rows, open_data
from pfcvr.model.evaluate import evaluate
from pfcvr.model.gallery import index
from pfcvr.model.loading import decode, image_loader
from pfcvr.model.memory import kernel_bytes

MARK = "MARKED"
NO_TEXT = b"\xff\xfe\x80" + MARK[3:].encode()
MakeData = Callable[..., Path]
MakeRows = Callable[..., list[dict[str, Any]]]


def marked(row: dict[str, Any], column: str) -> dict[str, Any]:
    """``row`` with a text in ``column`` that can be found again in a file."""
    places: dict[str, Callable[[], None]] = {
        "image": lambda: row["image"].update(path=MARK),
        "captions": lambda: row["captions"].append(MARK),
        "part_texts": lambda: row.update(part_texts={**row["part_texts"], "roof": MARK}),
        "parts": lambda: row["parts"][0]["mask"].update(counts=MARK),
    }
    places.get(column, lambda: row.update({column: MARK}))()
    return row


def damage(data: Path) -> None:
    """Overwrite the marked text with bytes that are none, as a failing disk may; no checksum guards them."""
    (shard,) = (data / "data").glob("test-*.parquet")
    parquet.write_table(parquet.read_table(shard), shard, compression="NONE", use_dictionary=False)
    shard.write_bytes(shard.read_bytes().replace(MARK.encode(), NO_TEXT))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("column", ["image", "captions", "vehicle_id", "image_id"])
def test_text_that_is_none_any_more_is_named_by_its_column(
    column: str, workers: int, make_data: MakeData, rows_of: MakeRows, finished_run: Path
) -> None:
    rows = rows_of(range(4))
    data = make_data(test=[*rows[:5], marked(rows[5], column), *rows[6:]])
    damage(data)
    with pytest.raises(DataError) as refused:
        evaluate(EvalConfig(run=finished_run, data=str(data), workers=workers), quiet=True)
    reason = "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
    assert str(refused.value) == f"{data} (test): column {column} is damaged ({reason}); export the data set again"


@pytest.mark.parametrize("column", ["part_texts", "parts", "camera_id", "sha256"])
def test_text_that_not_every_command_reads_is_named_too(column: str, make_data: MakeData, rows_of: MakeRows) -> None:
    rows = rows_of(range(2))
    data = make_data(test=[marked(rows[0], column), *rows[1:]])
    damage(data)
    test = open_data(str(data)).split("test")
    reads = {
        "part_texts": lambda: test.part_texts,
        "parts": lambda: test.parts(0),
        "camera_id": lambda: test.camera_ids,
        "sha256": test.duplicates,
    }
    with pytest.raises(DataError, match=rf"\(test\): column {column} is damaged \('utf-8' codec .*\); export the data"):
        reads[column]()


def test_columns_of_another_kind_are_refused(rows_of: MakeRows, tmp_path: Path) -> None:
    from datasets import Dataset

    kept = ("image_id", "vehicle_id", "captions")
    rows = [{name: row[name] for name in kept} | {"image": b"png", "part_texts": "roof"} for row in rows_of(range(2))]
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows).to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    test = open_data(str(tmp_path)).split("test")
    with pytest.raises(DataError, match=r"\(test\): image '000/0' has no pixels; export the data set with images"):
        test.image_bytes(0)
    with pytest.raises(DataError, match=r"\(test\): column part_texts has no names of parts; expected a text for each"):
        _ = test.part_texts


def test_a_file_that_claims_more_pixels_than_any_image_has_cannot_be_decoded(
    make_data: MakeData, rows_of: MakeRows
) -> None:
    rows = rows_of(range(2))
    rows[1]["image"]["bytes"] = png_of_claimed_size(50_000, 50_000)
    test = open_data(str(make_data(test=rows))).split("test")
    with pytest.raises(DataError, match=r"\(test\): image '000/1' cannot be decoded; export the data set again$"):
        list(image_loader(test, (32, 32), workers=1))


@contextmanager
def limited(kind: int, most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def test_an_image_for_which_there_is_no_memory_says_so(make_data: MakeData, rows_of: MakeRows) -> None:
    """A limit on the process's addresses makes the kernel refuse, as full memory does."""
    rows = rows_of(range(2))
    rows[1]["image"]["bytes"] = png_of_claimed_size(30_000, 30_000)
    test = open_data(str(make_data(test=rows))).split("test")
    decode(test, 0)
    addresses = kernel_bytes(Path("/proc/self/status"), "VmSize") + 2**28
    with limited(resource.RLIMIT_AS, addresses), pytest.raises(MemoryError):
        decode(test, 1)


def too_much(rows: Rows, row: int) -> np.ndarray:
    """What numpy really raises where memory does not suffice."""
    return np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize("workers", [0, 1])
def test_full_memory_stops_the_command_which_can_be_run_again(
    workers: int, painted: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfcvr.model.loading.decode", too_much)
    config = IndexConfig(run=finished_run, data=str(painted), split="test", out=tmp_path / "gallery", workers=workers)
    with pytest.raises(StageStopped) as stopped:
        index(config, quiet=True)
    assert str(stopped.value) == (
        f"{painted} (test): the memory of this machine is full; end other programs, or run the same command with a "
        "lower --workers"
    )


def test_a_full_disk_under_the_copy_that_is_read_is_not_the_data_sets_fault(
    make_data: MakeData, rows_of: MakeRows
) -> None:
    """A limit on file size makes the kernel refuse a write, as a full disk does."""
    data = make_data(test=rows_of(range(4)))
    with (
        limited(resource.RLIMIT_FSIZE, 10_000),
        pytest.raises(StageStopped, match=r"the disk is full on which the datasets library keeps its copies .* again$"),
    ):
        open_data(str(data))
    assert len(open_data(str(data)).split("test")) == 12
