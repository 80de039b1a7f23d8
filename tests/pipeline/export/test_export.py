"""The exported data set: complete, equal to the workspace bit by bit, and never half there."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfcvr import geometry
from pfcvr.config import ExportConfig
from pfcvr.errors import LockedError, NothingKept, SealedError, StageStopped, WorkspaceError
from pfcvr.pipeline import export
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
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Any]:
    """``datasets.load_dataset`` without network or a shared cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    return lambda out: datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_export(small, out: Path, **options: Any) -> export.ExportSummary:
    return export.run(small.workspace, ExportConfig(out=out), RunOptions(quiet=True, **options))


def test_load_dataset_gives_back_bytes_captions_masks_and_grids_unchanged(whole, tmp_path, load) -> None:
    import datasets

    out = tmp_path / "out"
    run_export(whole, out)
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
    run_export(whole, tmp_path / "out")
    rows = load(tmp_path / "out")["train"]
    assert rows[0]["image"].size == (40, 24)
    assert rows.features["part_grid"].shape == (6, 5, 4)


def test_other_parquet_readers_see_the_grid_as_part_by_row_by_column(whole, tmp_path) -> None:
    import pyarrow.parquet as parquet

    run_export(whole, tmp_path / "out")
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
        run_export(build_small(folder), folder / "out")
        outs.append(files_of(folder / "out"))
    assert outs[0] == outs[1]
    assert not any(str(tmp_path).encode() in content for content in outs[0].values())


def test_manifest_names_recipe_source_terms_books_and_hashes(whole, tmp_path) -> None:
    out = tmp_path / "out"
    run_export(whole, out)
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
    run_export(whole, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "licence: CC0-1.0" in card
    assert "They allow publishing its images" in card
    assert card.startswith("---\n")
    assert "license: cc0-1.0" in card


def test_running_again_does_nothing(whole, tmp_path) -> None:
    out = tmp_path / "out"
    first = run_export(whole, out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = run_export(whole, out)
    assert second.already_done
    assert not first.already_done
    assert (second.kept, second.splits) == (first.kept, first.splits)
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_other_captions_are_refused_until_overwrite_is_given(whole, tmp_path) -> None:
    out = tmp_path / "out"
    run_export(whole, out)
    shutil.rmtree(whole.workspace.folder("caption"))
    whole.add_captions({image.image_id: ["Another sentence."] for image in whole.images})
    before = files_of(out)
    with pytest.raises(SealedError, match="made from other inputs; rerun with --overwrite to replace it"):
        run_export(whole, out)
    assert files_of(out) == before
    run_export(whole, out, overwrite=True)
    assert files_of(out) != before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name or "replaced" in path.name] == []


def test_folder_of_somebody_else_is_refused_even_with_overwrite(whole, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(WorkspaceError, match="exists and was not written by this command; give the path of a new"):
            run_export(whole, out, overwrite=overwrite)
    assert files_of(out) == {"thesis.txt": b"mine"}


def test_altered_data_set_is_not_taken_for_finished(whole, tmp_path) -> None:
    out = tmp_path / "out"
    run_export(whole, out)
    (out / "README.md").write_text("corrected by hand")
    with pytest.raises(SealedError, match=r"README.md was removed or altered since it was written"):
        run_export(whole, out)
    assert (out / "README.md").read_text() == "corrected by hand"


def test_records_altered_by_hand_are_not_exported(whole, tmp_path) -> None:
    part = whole.workspace.folder("caption") / "part-00000.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(
        WorkspaceError, match=r"caption: its records were altered since they were sealed; .*--overwrite"
    ):
        run_export(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_killed_half_way_leaves_no_data_set_and_the_next_one_is_whole(whole, tmp_path, monkeypatch) -> None:
    run_export(whole, tmp_path / "undisturbed")
    out = tmp_path / "out"
    monkeypatch.setattr(shards, "verify_shards", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_export(whole, out)
    assert not out.exists()
    monkeypatch.undo()
    run_export(whole, out)
    assert files_of(out) == files_of(tmp_path / "undisturbed")
    assert not (tmp_path / ".out.partial").exists()


def test_images_gone_or_changed_or_without_caption_are_left_out_and_counted(small, tmp_path, load) -> None:
    small.add_images({"1": 3, "2": 3})
    small.add_captions({image.image_id: ["A car."] for image in small.images[1:]})
    small.add_split(val=0)
    (small.source / small.images[1].path).unlink()
    (small.source / small.images[2].path).write_bytes((small.source / small.images[3].path).read_bytes())
    summary = run_export(small, tmp_path / "out")
    assert (summary.rows_in, summary.kept, summary.rejected) == (6, 3, 3)
    assert summary.reasons == {"changed_file": 1, "missing_caption": 1, "missing_file": 1}
    left_out = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert [row["subject"] for row in left_out] == [image.image_id for image in small.images[:3]]
    assert "3 left out (changed_file: 1, missing_caption: 1, missing_file: 1)" in summary.text()
    assert sum(len(rows) for rows in load(tmp_path / "out").values()) == 3


def test_image_whose_file_comes_back_is_taken_up_by_the_next_run(whole, tmp_path) -> None:
    run_export(whole, tmp_path / "undisturbed")
    file, out = whole.source / whole.images[2].path, tmp_path / "out"
    content = file.read_bytes()
    file.unlink()
    assert run_export(whole, out).reasons == {"missing_file": 1}
    assert run_export(whole, out).already_done
    file.write_bytes(content[:-1])
    assert run_export(whole, out).already_done
    file.write_bytes(content)
    again = run_export(whole, out)
    assert (again.kept, again.rejected, again.already_done) == (14, 0, False)
    assert files_of(out) == files_of(tmp_path / "undisturbed")


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
    run_export(small, tmp_path / "out")
    row = load(tmp_path / "out")["train"][0]
    assert {name: row[name] for name in small.images_known} == small.images_known
    assert row["attributes"] == {"color": "gray", "type": None, "viewpoint": "rear left"}
    assert row["parts"][0]["flags"] == ["large", "low"]
    assert json.loads((tmp_path / "out" / "pfcvr.json").read_text())["made_by"] == [
        {"images": 2, "what": "captions", "captioner": "vllm", "model": "some/model", "prompt": "vehicle-json"},
        {"images": 2, "what": "parts", "detector": "grounding-dino", "detector_model": "some/detector"},
    ]


def test_nothing_to_export_is_an_error_and_leaves_no_data_set(small, tmp_path) -> None:
    small.add_images({"1": 2, "2": 2})
    small.add_captions()
    small.add_split()
    shutil.rmtree(small.source / "images")
    with pytest.raises(NothingKept, match=r"nothing to export \(4 x missing_file\); put the image files back"):
        run_export(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_captions_are_required_and_parts_are_not(small, tmp_path, load) -> None:
    small.add_images({"1": 2, "2": 2})
    small.add_split(val=0)
    with pytest.raises(WorkspaceError, match="stage 'caption' is missing; run: pfcvr-data caption"):
        run_export(small, tmp_path / "out")
    small.add_captions()
    run_export(small, tmp_path / "out")
    row = load(tmp_path / "out")["train"][0]
    assert row["parts"] == []
    assert np.array(row["part_grid"]).sum() == 0
    assert json.loads((tmp_path / "out" / "pfcvr.json").read_text())["grid"] is None
    assert "No parts were annotated" in (tmp_path / "out" / "README.md").read_text()


def test_stage_made_from_images_that_were_imported_anew_is_refused(whole, tmp_path) -> None:
    shutil.rmtree(whole.workspace.folder("import"))
    whole.images.clear()
    whole.add_images({"00001": 3, "00002": 2})
    with pytest.raises(WorkspaceError, match="stage 'caption' was made before .* --overwrite"):
        run_export(whole, tmp_path / "out")


def test_many_row_groups_and_shards_hold_every_row_once(whole, tmp_path, load, monkeypatch) -> None:
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(shards, "BYTES_PER_SHARD", 1200)
    summary = run_export(whole, tmp_path / "out")
    written = list((tmp_path / "out" / "data").glob("train-*.parquet"))
    assert len(written) > 1
    assert {path.name.rpartition("-of-")[2] for path in written} == {f"{len(written):05d}.parquet"}
    loaded = load(tmp_path / "out")
    assert {name: len(rows) for name, rows in loaded.items()} == {
        name: counts["images"] for name, counts in summary.splits.items()
    }
    assert sorted(row for rows in loaded.values() for row in rows["image_id"]) == [i.image_id for i in whole.images]


KILLED_EXPORT = """
import os, signal, sys
from pathlib import Path
from pfcvr.config import ExportConfig
from pfcvr.pipeline import export, output_folder
from pfcvr.pipeline.exporters import hf, shards
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
moment = sys.argv[3]
if moment == "writing":
    hf.row_of = die
elif moment == "verifying":
    shards.verify_shards = die
elif moment == "renaming":
    rename = Path.rename
    Path.rename = lambda path, to: (rename(path, to), path.name == "out" and die())[0]
export.run(Workspace(Path(sys.argv[1])), ExportConfig(out=Path(sys.argv[2])), RunOptions(overwrite=True, quiet=True))
"""


@pytest.mark.parametrize("moment", ["writing", "verifying", "renaming"])
def test_export_killed_with_sigkill_is_made_whole_by_the_next_run(whole, tmp_path, moment) -> None:
    run_export(whole, tmp_path / "undisturbed")
    out = tmp_path / "out"
    run_export(whole, out)
    arguments = [str(whole.workspace.root), str(out), moment]
    killed = subprocess.run([sys.executable, "-c", KILLED_EXPORT, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert out.exists() == (moment != "renaming")
    run_export(whole, out, overwrite=True)
    assert files_of(out) == files_of(tmp_path / "undisturbed")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


KILLED_EVERYWHERE = """
import itertools, os, signal, sys
from pathlib import Path
import datasets, pyarrow.parquet
from pfcvr.config import ExportConfig
from pfcvr.pipeline import export
from pfcvr.pipeline.exporters import hf, shards
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
workspace, base = Workspace(Path(sys.argv[1])), Path(sys.argv[2])

def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

def run_in_child(out, kill_before):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = 0
    def count(event, arguments):
        nonlocal changes
        writes = event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(arguments[0]).startswith(str(base)):
            changes += 1
            if changes == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    export.run(workspace, ExportConfig(out=out), RunOptions(overwrite=True, quiet=True))
    os._exit(0)

assert run_in_child(base / "whole", 0) == 0
expected, kills = files_of(base / "whole"), 0
for before in ("nothing", "older"):
    for kill_before in itertools.count(1):
        out = base / f"{before}-{kill_before}"
        if before == "older":
            assert run_in_child(out, 0) == 0
        killed = run_in_child(out, kill_before)
        assert run_in_child(out, 0) == 0, out
        assert files_of(out) == expected, out
        if killed == 0:
            break
        kills += 1
assert not list(base.glob(".*")), list(base.glob(".*"))
print(kills)
"""


def test_export_killed_before_any_change_to_a_file_is_made_whole_by_the_next_run(whole, tmp_path) -> None:
    base = tmp_path / "exports"
    base.mkdir()
    arguments = [sys.executable, "-c", KILLED_EVERYWHERE, str(whole.workspace.root), str(base)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_second_export_to_the_same_folder_is_refused_with_the_pid_of_the_first(whole, tmp_path) -> None:
    waiting = KILLED_EXPORT.replace(
        "export.run(", "hf.row_of = lambda *_: (print(flush=True), signal.pause())\nexport.run("
    )
    command = [sys.executable, "-c", waiting, str(whole.workspace.root), str(tmp_path / "out"), ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        try:
            sentence = f"process {first.pid} is writing this data set; wait for it or stop it"
            with pytest.raises(LockedError, match=sentence):
                run_export(whole, tmp_path / "out")
        finally:
            first.kill()
    assert not run_export(whole, tmp_path / "out").already_done


def test_link_to_the_data_set_stays_a_link_and_the_folder_it_names_is_replaced(whole, tmp_path) -> None:
    run_export(whole, tmp_path / "real")
    expected = files_of(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert not run_export(whole, tmp_path / "link", overwrite=True).already_done
    assert (tmp_path / "link").is_symlink()
    assert files_of(tmp_path / "real") == expected


def test_the_current_folder_can_be_the_data_set_when_it_is_empty(whole, tmp_path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run_export(whole, Path())
    assert (tmp_path / "here" / "pfcvr.json").is_file()


def test_full_disk_stops_the_export_with_a_sentence_and_no_data_set(whole, tmp_path, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "shard")

    monkeypatch.setattr(shards, "table_of", full)
    with pytest.raises(StageStopped, match="out: export: the disk is full at shard; free some space and run the same"):
        run_export(whole, tmp_path / "out")
    assert not (tmp_path / "out").exists()
