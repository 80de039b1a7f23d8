"""A data set that was exported comes back as a workspace with everything in it, and goes out again the same."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
import pytest

from pfcvr.config import CaptionConfig, ExportConfig, ImportConfig, PartsConfig, SplitConfig
from pfcvr.errors import NothingKept, SourceError
from pfcvr.pipeline import caption, export, import_, parts, split
from pfcvr.pipeline.sources import pfcvr_set
from pfcvr.records import ImageRecord
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

QUIET = RunOptions(quiet=True)


def exported(workspace: Workspace, out: Path) -> Path:
    export.run(workspace, ExportConfig(out=out), QUIET)
    return out


def taken_back(source: Path, root: Path, grid: str = "5x4") -> Workspace:
    workspace = Workspace(root, create=True)
    import_.run(workspace, ImportConfig(source=source), QUIET)
    caption.run(workspace, CaptionConfig(captioner="import"), QUIET)
    parts.run(workspace, PartsConfig.model_validate({"grid": grid}), QUIET)
    split.run(workspace, SplitConfig(from_source=True), QUIET)
    return workspace


def rows(folder: Path) -> dict[str, list[dict]]:
    return {path.name: parquet.read_table(path).to_pylist() for path in sorted((folder / "data").glob("*.parquet"))}


def test_export_import_export_gives_the_same_rows_and_pixels(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    workspace = taken_back(first, tmp_path / "again")
    notes = workspace.sealed("import").notes
    assert notes["recognised"] == "pfcvr: found pfcvr.json"
    assert notes["sources"][0]["redistribute_images"] is True
    assert notes["sources"][0]["licence"] == "CC0-1.0"
    second = exported(workspace, tmp_path / "second")
    assert rows(first) == rows(second)
    assert sum(map(len, rows(first).values())) == 14


def test_rows_without_pixels_or_with_strange_names_are_refused_one_by_one(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    (shard,) = sorted((first / "data").glob("test-*.parquet"))
    table = parquet.read_table(shard)
    changed = table.to_pylist()
    changed[0]["image"] = None
    changed[1]["image_id"] = "elsewhere/000001"
    changed[2]["image"]["path"] = "../../outside.png"
    parquet.write_table(type(table).from_pylist(changed, table.schema), shard)
    workspace = Workspace(tmp_path / "again", create=True)
    summary = import_.run(workspace, ImportConfig(source=first), QUIET)
    assert summary.reasons == {"missing_file": 1, "malformed_line": 1}
    images = {image.image_id: image.path for image in workspace.records("import", ImageRecord)}
    assert images[changed[2]["image_id"]] == f"images/{changed[2]['image_id']}.png"
    assert not list(tmp_path.rglob("outside.png"))


def test_rows_whose_paths_cannot_stand_side_by_side_cost_nothing_else(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    (shard,) = sorted((first / "data").glob("test-*.parquet"))
    table = parquet.read_table(shard)
    changed = table.to_pylist()
    vehicle = changed[3]["vehicle_id"]
    changed[0]["image"]["path"], changed[1]["image"]["path"] = "a.png", "a.png/b.png"
    changed[2]["image"]["path"] = "x" * 300 + ".png"
    changed[3] |= {"image_id": f"{vehicle}/{'y' * 300}", "image": {**changed[3]["image"], "path": None}}
    changed += [{**changed[0], "image_id": "/x", "vehicle_id": ""}, {**changed[0], "image_id": "p/", "vehicle_id": "p"}]
    changed += [{**changed[0], "image_id": "p/q/r", "vehicle_id": "p/q"}]
    parquet.write_table(type(table).from_pylist(changed, table.schema), shard)
    workspace = Workspace(tmp_path / "again", create=True)
    summary = import_.run(workspace, ImportConfig(source=first), QUIET)
    assert summary.reasons == {"bad_name": 1, "malformed_line": 2, "no_identity": 1}
    images = {image.image_id: image.path for image in workspace.records("import", ImageRecord)}
    assert images[changed[0]["image_id"]] == "a.png"
    assert [images[row["image_id"]] for row in changed[1:3]] == [
        f"images/{row['image_id']}.png" for row in changed[1:3]
    ]
    assert summary.kept == 13


def test_cameras_that_are_numbers_are_taken_as_text(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    for shard in sorted((first / "data").glob("*.parquet")):
        table = parquet.read_table(shard)
        numbers = pyarrow.array(range(table.num_rows), pyarrow.int64())
        parquet.write_table(table.set_column(table.schema.get_field_index("camera_id"), "camera_id", numbers), shard)
    workspace = Workspace(tmp_path / "again", create=True)
    assert import_.run(workspace, ImportConfig(source=first), QUIET).rejected == 0
    assert {image.camera_id for image in workspace.records("import", ImageRecord)} >= {"0", "1"}


def test_a_shard_that_is_cut_off_is_one_sentence(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    shard = next((first / "data").glob("train-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(SourceError, match=r"train-00000-of-00001.parquet: cannot be read as Parquet .* anew"):
        import_.run(Workspace(tmp_path / "again", create=True), ImportConfig(source=first), QUIET)


def test_a_damaged_manifest_leaves_the_images_but_not_the_right_to_publish_them(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    (first / "pfcvr.json").write_text(json.dumps({"sources": None}))
    workspace = Workspace(tmp_path / "again", create=True)
    assert import_.run(workspace, ImportConfig(source=first), QUIET).kept == 14
    assert workspace.sealed("import").notes["sources"][0]["redistribute_images"] is False


def test_the_datasets_library_reads_the_same_rows_as_the_shards_hold(whole, tmp_path: Path, monkeypatch) -> None:
    """Stands in for the Hub: the same call, given the folder instead of the name."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    first = exported(whole.workspace, tmp_path / "first")
    by_library = {row["image_id"]: (split, row, pixels()) for split, row, pixels in pfcvr_set.hub_rows(str(first))}
    by_shard = {row["image_id"]: (split, row, pixels()) for split, row, pixels in pfcvr_set.local_rows(first)}
    assert by_library.keys() == by_shard.keys()
    for image_id, (split_name, row, content) in by_shard.items():
        found_split, found, found_content = by_library[image_id]
        assert (found_split, found_content) == (split_name, content)
        found["image"].pop("bytes")
        assert {name: found[name] for name in row} == row


@pytest.fixture
def pixels_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows whose pixels are read from now on, by their number in their row group."""
    read: list[int] = []
    real = pfcvr_set._GroupPixels.of
    monkeypatch.setattr(pfcvr_set._GroupPixels, "of", lambda own, number: (read.append(number), real(own, number))[1])
    return read


def test_importing_a_grown_data_set_again_unpacks_what_is_new_alone(whole, tmp_path: Path, pixels_read) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    workspace = Workspace(tmp_path / "again", create=True)
    config = ImportConfig(source=first)
    import_.run(workspace, config, QUIET)
    unpacked = {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "unpacked" / "images").rglob("*.png")}
    sealed = workspace.sealed("import")
    assert len(pixels_read) == len(unpacked) == 14
    pixels_read.clear()
    assert import_.run(workspace, config, QUIET).already_done
    assert pixels_read == []
    (shard,) = sorted((first / "data").glob("test-*.parquet"))
    table = parquet.read_table(shard)
    rows = table.to_pylist()
    new = {**rows[0], "image_id": f"{rows[0]['vehicle_id']}/new", "image": {**rows[0]["image"], "path": "new.png"}}
    parquet.write_table(type(table).from_pylist([*rows[:2], new, *rows[2:]], table.schema), shard, row_group_size=2)
    grown = import_.run(workspace, config, QUIET)
    assert grown.notes["since_last_import"]["added"] == 1
    assert (grown.kept, pixels_read) == (15, [0])
    assert {path: path.stat().st_mtime_ns for path in unpacked} == unpacked
    assert (tmp_path / "again" / "unpacked" / "new.png").read_bytes() == rows[0]["image"]["bytes"]
    assert sealed.records_sha256 != workspace.sealed("import").records_sha256


def test_unpacked_files_that_were_altered_or_lost_are_unpacked_anew(whole, tmp_path: Path, pixels_read) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    workspace = Workspace(tmp_path / "again", create=True)
    import_.run(workspace, ImportConfig(source=first), QUIET)
    altered, lost, *_ = sorted((tmp_path / "again" / "unpacked" / "images").rglob("*.png"))
    before = altered.read_bytes(), lost.read_bytes()
    altered.write_bytes(before[1])
    lost.unlink()
    pixels_read.clear()
    assert import_.run(workspace, ImportConfig(source=first), QUIET).kept == 14
    assert (altered.read_bytes(), lost.read_bytes()) == before
    assert len(pixels_read) == 2


def test_a_picture_that_changed_in_the_data_set_replaces_the_unpacked_one(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    workspace = Workspace(tmp_path / "again", create=True)
    import_.run(workspace, ImportConfig(source=first), QUIET)
    (shard,) = sorted((first / "data").glob("test-*.parquet"))
    table = parquet.read_table(shard)
    rows = table.to_pylist()
    rows[0] |= {"image": {**rows[0]["image"], "bytes": rows[1]["image"]["bytes"]}, "sha256": rows[1]["sha256"]}
    parquet.write_table(type(table).from_pylist(rows, table.schema), shard)
    assert import_.run(workspace, ImportConfig(source=first), QUIET).notes["since_last_import"]["changed"] == 1
    assert (tmp_path / "again" / "unpacked" / rows[0]["image"]["path"]).read_bytes() == rows[1]["image"]["bytes"]


def test_columns_of_strange_types_cost_what_they_should_hold_and_no_image(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    for shard in sorted((first / "data").glob("*.parquet")):
        table = parquet.read_table(shard)
        for name, values in (
            ("part_texts", [["roof"]] * len(table)),
            ("attributes", [7] * len(table)),
            ("parts", [3] * len(table)),
            ("part_grid", [b"grid"] * len(table)),
            ("captions", [b"A car."] * len(table)),
        ):
            table = table.set_column(table.schema.get_field_index(name), name, pyarrow.array(values))
        parquet.write_table(table, shard)
    workspace = Workspace(tmp_path / "again", create=True)
    assert import_.run(workspace, ImportConfig(source=first), QUIET).kept == 14
    with pytest.raises(SourceError, match="the source brings no part that fits an image"):
        parts.run(workspace, PartsConfig(), QUIET)
    with pytest.raises((SourceError, NothingKept)):
        caption.run(workspace, CaptionConfig(captioner="import"), QUIET)


def test_a_missing_shard_fails_a_strict_import_and_shows_in_the_counts_of_a_lenient_one(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    missing = len(rows(first)["val-00000-of-00001.parquet"])
    (first / "data" / "val-00000-of-00001.parquet").unlink()
    sentences = (
        "data/val-00000-of-00001.parquet is named by pfcvr.json and not there; "
        f"split val: 0 rows, pfcvr.json says {missing}"
    )
    with pytest.raises(SourceError, match=f"a strict import found 2 surprises: {re.escape(sentences)}"):
        import_.run(Workspace(tmp_path / "strict", create=True), ImportConfig(source=first, strict=True), QUIET)
    summary = import_.run(Workspace(tmp_path / "again", create=True), ImportConfig(source=first), QUIET)
    assert (summary.kept, summary.notes["absent_shards"]) == (14 - missing, ["data/val-00000-of-00001.parquet"])
    val = next(line.split() for line in import_.report(summary).splitlines() if line.startswith("val"))
    assert val[:3] == ["val", "0", str(missing)]


def test_a_whole_data_set_passes_a_strict_import(whole, tmp_path: Path) -> None:
    config = ImportConfig(source=exported(whole.workspace, tmp_path / "first"), strict=True)
    assert import_.run(Workspace(tmp_path / "again", create=True), config, QUIET).kept == 14


def test_rows_that_a_shard_gained_or_lost_fail_a_strict_import(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    shard = first / "data" / "train-00000-of-00001.parquet"
    table = parquet.read_table(shard)
    parquet.write_table(table.slice(1), shard)
    with pytest.raises(SourceError, match=rf"split train: {len(table) - 1} rows, pfcvr.json says {len(table)}"):
        import_.run(Workspace(tmp_path / "strict", create=True), ImportConfig(source=first, strict=True), QUIET)


def test_pixels_that_are_not_those_of_their_row_are_refused(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    (shard,) = sorted((first / "data").glob("test-*.parquet"))
    table = parquet.read_table(shard)
    changed = table.to_pylist()
    changed[0]["image"]["bytes"] = changed[1]["image"]["bytes"]
    parquet.write_table(type(table).from_pylist(changed, table.schema), shard)
    workspace = Workspace(tmp_path / "again", create=True)
    summary = import_.run(workspace, ImportConfig(source=first), QUIET)
    assert (summary.kept, summary.reasons) == (13, {"changed_file": 1})
    assert not (tmp_path / "again" / "unpacked" / changed[0]["image"]["path"]).exists()


def test_annotations_without_pixels_are_told_how_they_become_a_data_set(whole, tmp_path: Path) -> None:
    export.run(whole.workspace, ExportConfig(out=tmp_path / "annotations", format="annotations"), QUIET)
    with pytest.raises(SourceError, match=r"annotations without pixels; .* pfcvr-data rebuild .*annotations --images"):
        import_.run(Workspace(tmp_path / "again", create=True), ImportConfig(source=tmp_path / "annotations"), QUIET)


def test_an_image_that_comes_twice_once_without_its_pixels_is_there_and_refused(whole, tmp_path: Path) -> None:
    first = exported(whole.workspace, tmp_path / "first")
    (shard,) = sorted((first / "data").glob("test-*.parquet"))
    table = parquet.read_table(shard)
    there = table.to_pylist()
    twice = [*there, {**there[0], "image": None}, {**there[1], "image": {**there[1]["image"], "bytes": b"other"}}]
    parquet.write_table(type(table).from_pylist(twice, table.schema), shard)
    summary = import_.run(Workspace(tmp_path / "again", create=True), ImportConfig(source=first), QUIET)
    assert (summary.kept, summary.reasons) == (14, {"missing_file": 1, "changed_file": 1})


def test_however_many_rows_have_pixels_of_others_the_import_goes_on(whole, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("pfcvr.stage.BREAKER_WINDOW", 4)
    first = exported(whole.workspace, tmp_path / "first")
    (shard,) = sorted((first / "data").glob("train-*.parquet"))
    table = parquet.read_table(shard)
    changed = table.to_pylist()
    for row in changed:
        row["image"]["bytes"] += b"0"
    parquet.write_table(type(table).from_pylist(changed, table.schema), shard)
    summary = import_.run(Workspace(tmp_path / "again", create=True), ImportConfig(source=first), QUIET)
    assert len(changed) >= 4
    assert (summary.kept, summary.reasons) == (14 - len(changed), {"changed_file": len(changed)})
