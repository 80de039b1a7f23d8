"""The exported data set as other programs read it: equal to the workspace bit by bit."""

import json

import numpy as np
import pytest
from folders import files_of

from pfcvr import geometry
from pfcvr.errors import WorkspaceError
from pfcvr.pipeline.exporters import shards
from pfcvr.records import (
    PARTS,
    Caption,
    CaptionOrigin,
    ImageParts,
    PartInstance,
    PartsOrigin,
    PatchGrid,
    VehicleSplit,
)


def test_load_dataset_gives_back_bytes_captions_masks_and_grids_unchanged(whole, tmp_path, load) -> None:
    import datasets

    out = tmp_path / "out"
    whole.export(out)
    loaded = load(out)
    splits = {row.vehicle_id: row.split for row in whole.workspace.records("split", VehicleSplit)}
    parts = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    images = {image.image_id: image for image in whole.images}
    seen = []
    for name, rows in loaded.items():
        for row in rows.cast_column("image", datasets.Image(decode=False)):
            image, own = images[row["image_id"]], parts[row["image_id"]]
            seen.append(row["image_id"])
            assert name == splits[row["vehicle_id"]]
            assert row["image"]["bytes"] == (whole.source / image.path).read_bytes()
            assert row["captions"] == [f"A vehicle that looks like {image.image_id}."]
            assert row["part_texts"] == dict.fromkeys(PARTS) | {"roof": "plain roof"}
            assert (row["width"], row["height"], row["sha256"]) == (40, 24, image.sha256)
            assert (row["camera_id"], row["timestamp"]) == (image.camera_id, None)
            assert np.array_equal(np.array(row["part_grid"]), geometry.grid_array(own.grid))
            assert [part["box_xyxy"] for part in row["parts"]] == [list(one.box_xyxy) for one in own.instances]
            for part, instance in zip(row["parts"], own.instances, strict=True):
                assert (part["part"], part["score"]) == (instance.part, instance.score)
                assert part["mask"] == (
                    None if instance.mask is None else {**instance.mask.model_dump(), "size": [24, 40]}
                )
    assert sorted(seen) == sorted(images)


def test_load_dataset_decodes_the_images_and_knows_the_grid_shape(whole, tmp_path, load) -> None:
    whole.export(tmp_path / "out")
    rows = load(tmp_path / "out")["train"]
    assert rows[0]["image"].size == (40, 24)
    assert rows.features["part_grid"].shape == (6, 5, 4)


def test_other_parquet_readers_see_the_grid_as_part_by_row_by_column(whole, tmp_path) -> None:
    import pyarrow.parquet as parquet

    whole.export(tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "data" / "test-00000-of-00001.parquet")
    parts = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    for image_id, grid in zip(table["image_id"].to_pylist(), table["part_grid"].to_pylist(), strict=True):
        assert np.array_equal(np.array(grid), geometry.grid_array(parts[image_id].grid))
    storage = table["part_grid"].combine_chunks().storage
    assert [len(storage[0]), len(storage[0][0]), len(storage[0][0][0])] == [6, 5, 4]


def test_same_workspace_in_other_folders_gives_identical_files(tmp_path, build_small) -> None:
    outs = []
    for name in ("a", "some/where/else"):
        folder = tmp_path / name
        build_small(folder).export(folder / "out")
        outs.append(files_of(folder / "out"))
    assert outs[0] == outs[1]
    assert not any(str(tmp_path).encode() in content for content in outs[0].values())


def test_manifest_names_recipe_source_terms_books_and_hashes(whole, tmp_path) -> None:
    out = tmp_path / "out"
    whole.export(out)
    manifest = json.loads((out / "pfcvr.json").read_text())
    assert manifest["grid"] == {"rows": 5, "cols": 4, "coverage": 0.5, "rule": "stretch-coverage"}
    assert manifest["sources"][0]["licence"] == "CC0-1.0"
    assert "root" not in manifest["sources"][0]
    assert manifest["books"] == {"rows_in": 14, "kept": 14, "rejected": 0, "reasons": {}}
    assert manifest["stages"]["caption"]["records_sha256"] == whole.workspace.sealed("caption").records_sha256
    assert set(manifest["files"]) == {
        "README.md",
        *(f"data/{name}-00000-of-00001.parquet" for name in manifest["splits"]),
    }


def test_readme_says_whether_images_may_be_published(whole, tmp_path) -> None:
    whole.export(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "licence: CC0-1.0" in card
    assert "made for tests. The source allows publishing its images." in card
    assert '- "small" (veri-wild)' in card
    assert card.startswith("---\n")
    assert "license: cc0-1.0" in card


def test_attributes_flags_and_what_the_source_knows_travel_with_the_row(small, tmp_path, load) -> None:
    small.images_known = {"color": "dark gray", "type": "SUV", "model": "Škoda Kodiaq", "timestamp": "2018-03-14 07:59"}
    small.add_images({"1": 1, "2": 1})
    small.add_split(val=0)
    origin = CaptionOrigin(captioner="vllm", model="some/model", prompt="vehicle-json", seed=7, completion_tokens=80)
    attributes = {"color": "gray", "viewpoint": "rear left"}
    small.seal(
        "caption",
        Caption,
        [Caption(image_id=i.image_id, texts=("A car.",), attributes=attributes, origin=origin) for i in small.images],
    )
    grid = PatchGrid(rows=2, cols=2, coverage=0.5, cells={"roof": "f0"})
    roof = PartInstance(part="roof", box_xyxy=(0.1, 0.2, 30, 20), score=0.3, flags=("large", "low"))
    parts_origin = PartsOrigin(detector="grounding-dino", detector_model="some/detector")
    small.seal(
        "parts",
        ImageParts,
        [ImageParts(image_id=i.image_id, instances=(roof,), grid=grid, origin=parts_origin) for i in small.images],
        settings={"grid": {"rows": 2, "cols": 2}},
    )
    small.export(tmp_path / "out")
    row = load(tmp_path / "out")["train"][0]
    assert {name: row[name] for name in small.images_known} == small.images_known
    assert row["attributes"] == {"color": "gray", "type": None, "viewpoint": "rear left"}
    assert row["parts"][0]["flags"] == ["large", "low"]
    assert json.loads((tmp_path / "out" / "pfcvr.json").read_text())["made_by"] == [
        {"images": 2, "what": "captions", "captioner": "vllm", "model": "some/model", "prompt": "vehicle-json"},
        {"images": 2, "what": "parts", "detector": "grounding-dino", "detector_model": "some/detector"},
    ]


def test_captions_are_required_and_parts_are_not(small, tmp_path, load) -> None:
    small.add_images({"1": 2, "2": 2})
    small.add_split(val=0)
    told = r"stage 'caption' is missing; run: pfcvr-data caption --captioner NAME -w .*\(NAME: import, openai, vllm or"
    with pytest.raises(WorkspaceError, match=told):
        small.export(tmp_path / "out")
    small.add_captions()
    small.export(tmp_path / "out")
    row = load(tmp_path / "out")["train"][0]
    assert row["parts"] == []
    assert np.array(row["part_grid"]).sum() == 0
    assert json.loads((tmp_path / "out" / "pfcvr.json").read_text())["grid"] is None
    assert "No parts were annotated" in (tmp_path / "out" / "README.md").read_text()


def test_many_row_groups_and_shards_hold_every_row_once(whole, tmp_path, load, monkeypatch) -> None:
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(shards, "BYTES_PER_SHARD", 1200)
    summary = whole.export(tmp_path / "out")
    written = list((tmp_path / "out" / "data").glob("train-*.parquet"))
    assert len(written) > 1
    assert {path.name.rpartition("-of-")[2] for path in written} == {f"{len(written):05d}.parquet"}
    loaded = load(tmp_path / "out")
    assert {name: len(rows) for name, rows in loaded.items()} == {
        name: counts["images"] for name, counts in summary.splits.items()
    }
    assert sorted(row for rows in loaded.values() for row in rows["image_id"]) == [i.image_id for i in whole.images]
