"""Annotations without pixels: every row, what finds its image again, and not one byte of a picture."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as parquet

from pfcvr.config import ExportConfig
from pfcvr.pipeline import export
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted(folder.glob("data/*.parquet")) for row in parquet.read_table(path).to_pylist()]


def test_rows_are_those_of_the_hf_form_without_the_picture(whole, tmp_path) -> None:
    for form in ("hf", "annotations"):
        export.run(whole.workspace, ExportConfig(out=tmp_path / form, format=form), QUIET)
    with_pixels, without = rows_of(tmp_path / "hf"), rows_of(tmp_path / "annotations")
    images = {image.image_id: image for image in whole.images}
    for row in without:
        image = images[row["image_id"]]
        assert row.pop("path") == image.path
        assert row.pop("bytes") == (whole.source / image.path).stat().st_size
        row.pop("dhash")
    for row in with_pixels:
        row.pop("image")
    assert without == with_pixels


def test_hash_of_a_picture_is_brighter_than_the_right_neighbour_on_nine_by_eight_cells(whole, tmp_path) -> None:
    export.run(whole.workspace, ExportConfig(out=tmp_path / "out", format="annotations"), QUIET)
    images = {image.image_id: image for image in whole.images}
    for row in rows_of(tmp_path / "out"):
        grey = cv2.imread(str(whole.source / images[row["image_id"]].path), cv2.IMREAD_GRAYSCALE)
        cells = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).tolist()
        bits = "".join("1" if line[c] > line[c + 1] else "0" for line in cells for c in range(8))
        number = bytes(int(bits[start : start + 8], 2) for start in range(0, 64, 8))
        assert row["dhash"] == f"{int.from_bytes(number, 'little'):016x}"


def test_no_file_of_the_folder_holds_an_image_and_load_dataset_reads_it(whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    out = tmp_path / "out"
    summary = export.run(whole.workspace, ExportConfig(out=out, format="annotations"), QUIET)
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"\x89PNG" not in content
            assert b"IHDR" not in content
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {
        name: counts["images"] for name, counts in summary.splits.items()
    }
    assert np.array(loaded["train"][0]["part_grid"]).shape == (6, 5, 4)


def test_schema_names_every_column_and_the_card_names_terms_and_the_way_back(whole, tmp_path) -> None:
    out = tmp_path / "out"
    export.run(whole.workspace, ExportConfig(out=out, format="annotations"), QUIET)
    schema = json.loads((out / "schema.json").read_text())
    for row in rows_of(out):
        assert set(row) == set(schema["required"])
        assert len(row["part_grid"]) == schema["properties"]["part_grid"]["minItems"]
    card = (out / "README.md").read_text()
    assert "licence: CC0-1.0" in card
    assert "pfcvr-data rebuild THIS_FOLDER --images YOUR_COPY" in card
    assert "`image`" not in card
