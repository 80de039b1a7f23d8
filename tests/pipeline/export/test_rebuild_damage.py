"""Bad files in the reader's copy and annotations that are damaged: what each of them costs, and in which words."""

import shutil

import pyarrow.parquet as parquet
import pytest
from claimed_size import png_of_claimed_size
from rebuilding import join, report_of

from pfcvr.config import ExportConfig
from pfcvr.errors import SourceError
from pfcvr.pipeline import export
from pfcvr.pipeline.perceptual import difference_hash
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "the file has no bytes"),
        (b"not a picture", "the content is not a picture, whatever its name says"),
        (png_of_claimed_size(60_000, 60_000), "Image size (3600000000 pixels) exceeds limit"),
        (png_of_claimed_size(9_000, 9_000), "9000 x 9000 pixels, more than 50,000,000"),
    ],
    ids=["no bytes", "text", "a bomb for Pillow", "larger than any import takes"],
)
def test_a_bad_file_in_the_copy_costs_its_own_image_alone_and_is_told_with_its_reason(
    whole, published, tmp_path, content: bytes, detail: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.source, copy)
    (copy / whole.images[2].path).write_bytes(content)
    summary = join(published, copy, tmp_path / "out")
    assert (summary.kept, summary.reasons) == (13, {"different": 1})
    told = report_of(tmp_path / "out")[whole.images[2].image_id]
    assert (told["status"], told["file"]) == ("different", whole.images[2].path)
    assert told["detail"].startswith(detail)


@pytest.mark.parametrize("content", [b"", png_of_claimed_size(60_000, 60_000)])
def test_what_opencv_refuses_to_open_has_no_difference_hash(content: bytes) -> None:
    assert difference_hash(content) is None


def test_annotations_that_are_none_or_damaged_are_one_sentence(whole, published, tmp_path) -> None:
    export.run(whole.workspace, ExportConfig(out=tmp_path / "hf"), QUIET)
    with pytest.raises(SourceError, match="hf: not annotations to rebuild from; expected a folder written by"):
        join(tmp_path / "hf", whole.source, tmp_path / "out")
    shard = next((published / "data").glob("train-*"))
    whole_shard = shard.read_bytes()
    shard.write_bytes(whole_shard[: len(whole_shard) // 2])
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        join(published, whole.source, tmp_path / "out")
    shard.write_bytes(whole_shard)
    table = parquet.read_table(shard)
    place = table.schema.get_field_index("path")
    parquet.write_table(table.set_column(place, "path", [[None] * len(table)]), shard)
    with pytest.raises(SourceError, match="the row of image '.*' lacks its name, hash, size, captions or grid"):
        join(published, whole.source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"part_grid": [[[1, 2]]]}, "captions or grid"),
        ({"part_grid": None}, "captions or grid"),
        ({"captions": [None]}, "captions or grid"),
        ({"vehicle_id": "another"}, "captions or grid"),
        ({"image_id": "00000/000000", "vehicle_id": "00000"}, "comes twice or out of order"),
    ],
)
def test_row_that_no_export_writes_is_one_sentence_and_no_data_set(
    whole, published, tmp_path, changes: dict, sentence: str
) -> None:
    shard = next((published / "data").glob("train-*.parquet"))
    table = parquet.read_table(shard)
    rows = table.to_pylist()
    rows[1] |= changes
    parquet.write_table(type(table).from_pylist(rows, table.schema), shard)
    with pytest.raises(SourceError, match=sentence):
        join(published, whole.source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"width": 41}, "the annotations say 41 x 24 pixels, the image has 40 x 24"),
        (
            {"box_xyxy": [1.0, 2.0, float("nan"), 9.0]},
            "part 1 of the annotations: malformed_box, box_xyxy [1.0, 2.0, nan",
        ),
        ({"box_xyxy": [9.0, 2.0, 1.0, 9.0]}, "part 1 of the annotations: malformed_box, box_xyxy (9.0, 2.0, 1.0, 9.0)"),
        (
            {"mask": {"size": [24, 39], "counts": "0"}},
            "part 1 of the annotations: size_mismatch, mask of size [24, 39]",
        ),
    ],
)
def test_annotations_that_do_not_fit_their_image_are_named_and_cost_it_alone(
    whole, published, tmp_path, changes: dict, detail: str
) -> None:
    shard = next((published / "data").glob("train-*.parquet"))
    table = parquet.read_table(shard)
    rows = table.to_pylist()
    (rows[1] if "width" in changes else rows[1]["parts"][0]).update(changes)
    parquet.write_table(type(table).from_pylist(rows, table.schema), shard)
    summary = join(published, whole.source, tmp_path / "out")
    assert (summary.kept, summary.reasons) == (13, {"damaged": 1})
    told = report_of(tmp_path / "out")[rows[1]["image_id"]]
    assert told["status"] == "damaged"
    assert told["detail"].startswith(detail)
    text = (tmp_path / "out" / "report.txt").read_text()
    assert f"damaged    {rows[1]['image_id']!r} " in text
    assert text.endswith("0 missing, 1 damaged\n")


def test_image_that_comes_twice_is_refused(whole, published, tmp_path) -> None:
    shard = next((published / "data").glob("train-*.parquet"))
    table = parquet.read_table(shard)
    rows = table.to_pylist()
    parquet.write_table(type(table).from_pylist([*rows[:2], rows[1], *rows[2:]], table.schema), shard)
    with pytest.raises(SourceError, match="comes twice or out of order"):
        join(published, whole.source, tmp_path / "out")


def test_annotations_with_a_missing_shard_are_refused_instead_of_giving_a_part_of_the_data_set(
    whole, published, tmp_path
) -> None:
    (published / "data" / "val-00000-of-00001.parquet").unlink()
    with pytest.raises(SourceError, match=r"annotations: data/val-00000-of-00001.parquet of these .* get the .* anew"):
        join(published, whole.source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
