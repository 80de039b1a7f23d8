"""Edits by people: over what models said, under no rerun, and never lost to another edit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pfcvr import geometry
from pfcvr.config import CheckConfig, ExportConfig, MergeConfig
from pfcvr.errors import NothingKept, SourceError, StageStopped, WorkspaceError
from pfcvr.pipeline import check, export, merge, stats
from pfcvr.pipeline.joined import joined_images
from pfcvr.pipeline.status import workspace_status
from pfcvr.records import Caption, HumanEdit, ImageParts, ImageRecord
from pfcvr.stage import RunOptions, StageSummary

TESTS = Path(__file__).parents[2]
QUIET = RunOptions(quiet=True)
OVER = RunOptions(overwrite=True, quiet=True)


def merged(small, name: str, content: str, options: RunOptions = QUIET, editor: str | None = None) -> StageSummary:
    path = small.source / name
    path.write_text(content)
    return merge.run(small.workspace, MergeConfig(file=path, editor=editor), options)


def lines(**captions: str) -> str:
    """Captions by the number of the image in vehicle 00001."""
    rows = [{"image_id": f"00001/{number[1:]:0>6}", "caption": text} for number, text in captions.items()]
    return "".join(json.dumps(row) + "\n" for row in rows)


def captions(small) -> dict[str, tuple[str, ...]]:
    return {joined.image.image_id: joined.caption.texts for joined in joined_images(small.workspace)}


def wheels_coco(image_id: str, *boxes: list[float]) -> str:
    annotations = [{"id": n, "image_id": 1, "category_id": 7, "bbox": box} for n, box in enumerate(boxes)]
    images = [{"id": 1, "file_name": f"{image_id}.png"}, {"id": 2, "file_name": "00001/000002.png"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "wheels"}]})


def sealed_bytes(small, stage: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(small.workspace.folder(stage).glob("*.json*"))}


def test_corrected_captions_replace_those_of_the_model_and_say_who_and_from_which_bytes(whole) -> None:
    before = sealed_bytes(whole, "caption")
    summary = merged(whole, "fixed.jsonl", lines(i1="A white van with a dent."), editor="Li")
    assert (summary.kept, summary.rejected) == (1, 0)
    assert captions(whole)["00001/000001"] == ("A white van with a dent.",)
    assert captions(whole)["00001/000002"] == ("A vehicle that looks like 00001/000002.",)
    (edit,) = whole.workspace.records("merge", HumanEdit)
    assert edit.caption.origin.human
    assert (edit.caption.origin.file, edit.caption.origin.editor) == ("fixed.jsonl", "Li")
    assert edit.caption.origin.file_sha256 == summary.notes["sha256"]
    assert edit.parts is None
    assert sealed_bytes(whole, "caption") == before


def test_part_annotations_of_people_replace_all_parts_of_an_image_and_make_its_grid_anew(whole) -> None:
    merged(whole, "parts.json", wheels_coco("00001/000001", [0, 0, 10, 24], [30, 0, 10, 24]))
    joined = next(iter(joined_images(whole.workspace)))
    assert [(one.part, one.box_xyxy) for one in joined.parts.instances] == [
        ("wheels", (0, 0, 10, 24)),
        ("wheels", (30, 0, 40, 24)),
    ]
    # The recipe of the stage parts: 5 x 4 cells, of which the boxes cover the first and the last column.
    grid = geometry.grid_array(joined.parts.grid)
    assert grid[1].tolist() == [[1, 0, 0, 1]] * 5
    assert grid[[0, 2, 3, 4, 5]].sum() == 0


def test_image_listed_without_annotations_keeps_the_parts_of_the_model(whole) -> None:
    machine = {row.image_id: row.instances for row in whole.workspace.records("parts", ImageParts)}
    merged(whole, "parts.json", wheels_coco("00001/000001", [0, 0, 10, 24]))
    after = {joined.image.image_id: joined.parts.instances for joined in joined_images(whole.workspace)}
    assert after["00001/000002"] == machine["00001/000002"]


def test_captions_and_parts_of_one_image_come_from_two_files(whole) -> None:
    merged(whole, "fixed.jsonl", lines(i1="A white van with a dent."))
    merged(whole, "parts.json", wheels_coco("00001/000001", [0, 0, 10, 24]))
    (edit,) = whole.workspace.records("merge", HumanEdit)
    assert (edit.caption.origin.file, edit.parts.origin.file) == ("fixed.jsonl", "parts.json")
    assert whole.workspace.manifest("merge").kept == 1


def test_second_file_that_disagrees_leaves_the_first_and_lists_the_conflict(whole) -> None:
    merged(whole, "a.jsonl", lines(i1="A white van.", i2="A white van from behind."))
    summary = merged(whole, "b.jsonl", lines(i1="A grey van.", i2="A white van from behind.", i3="New words here."))
    assert (summary.notes["added"], summary.notes["unchanged"], summary.notes["conflicts"]) == (1, 1, 1)
    assert captions(whole)["00001/000001"] == ("A white van.",)
    assert captions(whole)["00001/000003"] == ("New words here.",)
    (row,) = whole.workspace.rejected("merge")
    assert (row.subject, row.reason) == ("b.jsonl:00001/000001", "human_edit_kept")
    assert "caption as in a.jsonl; --overwrite takes b.jsonl's word" in row.detail
    assert "left as people said before: 1 image (00001/000001)" in merge.report_text(summary)


def test_overwrite_takes_the_newer_word_and_forgets_the_conflict(whole) -> None:
    merged(whole, "a.jsonl", lines(i1="A white van."))
    merged(whole, "b.jsonl", lines(i1="A grey van.", i2="More."))
    summary = merged(whole, "b.jsonl", lines(i1="A grey van.", i2="More."), OVER)
    assert (summary.notes["replaced"], summary.notes["unchanged"], summary.notes["conflicts"]) == (1, 1, 0)
    assert captions(whole)["00001/000001"] == ("A grey van.",)
    assert list(whole.workspace.rejected("merge")) == []
    assert [entry["file"] for entry in whole.workspace.manifest("merge").notes["files"]] == ["a.jsonl", "b.jsonl"]


def test_file_whose_every_edit_disagrees_is_refused_and_still_listed(whole) -> None:
    merged(whole, "a.jsonl", lines(i1="A white van."))
    with pytest.raises(NothingKept, match=r"1 x human_edit_kept, such as b.jsonl:00001/000001.*give --overwrite"):
        merged(whole, "b.jsonl", lines(i1="A grey van."))
    assert [row.subject for row in whole.workspace.rejected("merge")] == ["b.jsonl:00001/000001"]
    assert captions(whole)["00001/000001"] == ("A white van.",)
    with pytest.raises(NothingKept, match="not one edit was taken"):
        merged(whole, "b.jsonl", (whole.source / "b.jsonl").read_text())


def test_problems_of_two_files_of_one_name_stand_side_by_side(whole) -> None:
    def rejected() -> dict[str, str]:
        return {row.subject: row.reason for row in whole.workspace.rejected("merge")}

    for folder, image_id in (("li", "00001/000001"), ("wang", "00002/000004")):
        (whole.source / folder).mkdir()
        rows = [{"image_id": image_id, "caption": "A car."}, {"image_id": f"{folder}/9", "caption": "A van."}, "torn"]
        summary = merged(whole, f"{folder}/fixed.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        assert summary.rejected == 2
    assert (summary.notes["file"], len(rejected())) == ("fixed.jsonl (2)", 4)
    assert rejected()["fixed.jsonl:3"] == rejected()["fixed.jsonl (2):3"] == "malformed_line"
    mended = [{"image_id": "00002/000004", "caption": "A car."}, {"image_id": "00002/000005", "caption": "A van."}]
    merged(whole, "wang/fixed.jsonl", "".join(json.dumps(row) + "\n" for row in mended))
    assert [subject for subject in rejected() if "(2)" in subject] == []
    assert len(rejected()) == 2


def test_same_file_again_does_nothing(whole) -> None:
    merged(whole, "a.jsonl", lines(i1="A white van.", i99="Nobody."))
    before = sealed_bytes(whole, "merge")
    summary = merged(whole, "a.jsonl", lines(i1="A white van.", i99="Nobody."))
    assert summary.already_done
    assert (summary.kept, summary.reasons) == (1, {"unknown_image": 1})
    assert sealed_bytes(whole, "merge") == before


def test_same_file_again_takes_up_images_that_came_since_and_leaves_edits_of_other_bytes_aside(whole) -> None:
    everything = list(whole.images)
    notes = whole.workspace.sealed("import").notes

    def imported(images: list[ImageRecord]) -> None:
        shutil.rmtree(whole.workspace.folder("import"))
        whole.seal("import", ImageRecord, images, notes)

    imported(everything[:2])
    said = lines(i1="A white van.", i2="A red van.") + json.dumps(
        {"image_id": everything[-1].image_id, "caption": "A late van."}
    )
    assert merged(whole, "a.jsonl", said).reasons == {"unknown_image": 1}
    imported([everything[0].model_copy(update={"sha256": "0" * 64}), *everything[1:]])
    summary = merged(whole, "a.jsonl", said)
    assert (summary.already_done, summary.notes["added"], summary.reasons) == (False, 1, {})
    edits = {edit.image_id: edit.image_sha256 for edit in whole.workspace.records("merge", HumanEdit)}
    assert edits == {image.image_id: image.sha256 for image in (*everything[:2], everything[-1])}
    assert merged(whole, "a.jsonl", said).already_done


def test_rerun_of_captions_and_parts_keeps_the_edits_on_top(whole) -> None:
    merged(whole, "fixed.jsonl", lines(i1="A white van with a dent."))
    merged(whole, "parts.json", wheels_coco("00001/000001", [0, 0, 10, 24]))
    shutil.rmtree(whole.workspace.folder("caption"))
    shutil.rmtree(whole.workspace.folder("parts"))
    whole.add_captions({image.image_id: ["New machine words."] for image in whole.images})
    whole.add_parts(rows=2, cols=2)
    joined = next(iter(joined_images(whole.workspace)))
    assert joined.caption.texts == ("A white van with a dent.",)
    assert geometry.grid_array(joined.parts.grid)[1].tolist() == [[1, 0], [1, 0]]
    assert captions(whole)["00001/000002"] == ("New machine words.",)
    states = {row.stage: row.state for row in workspace_status(whole.workspace)}
    assert states["merge"] == states["caption"] == "sealed"


def test_edit_of_other_bytes_of_the_image_is_put_aside_until_it_is_made_anew(whole) -> None:
    merged(whole, "fixed.jsonl", lines(i1="A white van with a dent."))
    shutil.rmtree(whole.workspace.folder("import"))
    changed = [whole.images[0].model_copy(update={"sha256": "0" * 64}), *whole.images[1:]]
    source = {"name": "small", "root": str(whole.source), "format": "veri-wild", "licence": "CC0-1.0"}
    whole.seal("import", type(whole.images[0]), changed, {"sources": [source]})
    assert captions(whole)["00001/000001"] == ("A vehicle that looks like 00001/000001.",)
    assert workspace_status(whole.workspace)[4].state == "sealed"
    merged(whole, "again.jsonl", lines(i1="Another white van."))
    assert captions(whole)["00001/000001"] == ("Another white van.",)


def test_export_holds_what_people_said_and_is_made_anew_after_a_merge(whole, tmp_path) -> None:
    config = ExportConfig(out=tmp_path / "data")
    export.run(whole.workspace, config, QUIET)
    merged(whole, "fixed.jsonl", lines(i1="A white van with a dent."))
    with pytest.raises(WorkspaceError, match="--overwrite"):
        export.run(whole.workspace, config, QUIET)
    export.run(whole.workspace, config, OVER)
    import pyarrow.parquet as parquet

    rows = [row for path in (tmp_path / "data/data").glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    (row,) = [row for row in rows if row["image_id"] == "00001/000001"]
    assert row["captions"] == ["A white van with a dent."]


def test_parts_of_people_alone_are_exported_with_the_recipe_of_their_grids(small, tmp_path) -> None:
    small.add_images({"00001": 2, "00002": 2})
    small.add_captions()
    small.add_split(val=0)
    export.run(small.workspace, ExportConfig(out=tmp_path / "bare"), QUIET)
    assert json.loads((tmp_path / "bare/pfcvr.json").read_text())["grid"] is None
    merged(small, "parts.json", wheels_coco("00001/000001", [0, 0, 10, 24]))
    export.run(small.workspace, ExportConfig(out=tmp_path / "drawn"), QUIET)
    recipe = json.loads((tmp_path / "drawn/pfcvr.json").read_text())["grid"]
    assert (recipe["rows"], recipe["cols"], recipe["rule"]) == (24, 24, "stretch-coverage")
    assert stats.run(small.workspace).coverage["wheels"] == 0.25


def test_check_is_content_with_edits_and_their_books(whole) -> None:
    merged(whole, "fixed.jsonl", lines(i1="A white van with a dent.", i99="Nobody."))
    merged(whole, "parts.json", wheels_coco("00001/000001", [0, 0, 10, 24]))
    assert check.run(whole.workspace, CheckConfig()).passed


def test_kill_before_the_manifest_leaves_the_earlier_edits_and_the_next_run_finishes(whole, monkeypatch) -> None:
    merged(whole, "a.jsonl", lines(i1="A white van."))

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merge, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            merged(whole, "b.jsonl", lines(i2="A grey van.", i77="Nobody."))
    assert captions(whole)["00001/000001"] == ("A white van.",)
    assert captions(whole)["00001/000002"] == ("A vehicle that looks like 00001/000002.",)
    merged(whole, "b.jsonl", lines(i2="A grey van.", i77="Nobody."))
    assert captions(whole)["00001/000002"] == ("A grey van.",)
    assert len(list(whole.workspace.folder("merge").glob("part-*.jsonl"))) == 1
    assert check.run(whole.workspace, CheckConfig()).passed


KILLED_MERGE = """
import shutil, sys
from pathlib import Path
from folders import files_of
from killing import in_child, killed_at_every_change
from pfcvr.config import MergeConfig
from pfcvr.pipeline import merge
from pfcvr.pipeline.edit_files import captions
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

start, base, file = (Path(argument) for argument in sys.argv[1:])

def fresh(number):
    workspace = shutil.copytree(start, base / str(number))
    return lambda: merge.run(Workspace(workspace), MergeConfig(file=file), RunOptions(quiet=True)), workspace / "merge"

call, folder = fresh(0)
assert in_child(call, folder) == 0
for killed in killed_at_every_change(fresh):
    assert files_of(base / str(killed) / "merge") == files_of(folder), killed
print(killed)
"""


@pytest.mark.parametrize("earlier", [True, False])
def test_merge_killed_before_any_change_to_a_file_ends_in_the_same_bytes(whole, tmp_path, earlier) -> None:
    if earlier:
        merged(whole, "a.jsonl", lines(i1="A white van.", i2="A red van.", i98="Nobody."))
    file = whole.source / "b.jsonl"
    file.write_text(lines(i1="A white van.", i2="A grey van.", i3="A bus.", i77="Nobody."))
    arguments = [sys.executable, "-c", KILLED_MERGE, str(whole.workspace.root), str(tmp_path / "copies"), str(file)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 6


def test_full_disk_leaves_the_earlier_edits(whole, monkeypatch) -> None:
    merged(whole, "a.jsonl", lines(i1="A white van."))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StageStopped, match="stage 'merge': the disk is full"):
            merged(whole, "b.jsonl", lines(i2="A grey van."))
    assert captions(whole)["00001/000001"] == ("A white van.",)
    assert merged(whole, "b.jsonl", lines(i2="A grey van.")).kept == 1


def test_first_file_without_a_usable_edit_leaves_no_stage_behind(whole) -> None:
    with pytest.raises(NothingKept, match=r"not one edit was taken \(1 x unknown_image, such as a.jsonl:1: "):
        merged(whole, "a.jsonl", lines(i99="Nobody."))
    assert workspace_status(whole.workspace)[4].state == "absent"


def test_same_edits_through_other_merges_give_the_same_records(whole, build_small, tmp_path) -> None:
    merged(whole, "a.jsonl", lines(i1="One.", i3="Three."))
    merged(whole, "b.jsonl", lines(i2="Two."))
    other = build_small(tmp_path / "other")
    merged(other, "b.jsonl", lines(i2="Two."))
    merged(other, "a.jsonl", lines(i1="One.", i3="Three."))
    manifests = [small.workspace.manifest("merge") for small in (whole, other)]
    assert manifests[0].records_sha256 == manifests[1].records_sha256


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("e.json", "", "not readable as JSON"),
        ("e.json", "[]", "nothing here says what it is; expected captions as JSON"),
        ("e.json", '[{"image": "a", "label": [], "annotator": 1, "annotation_id": 3}]', "JSON-MIN, which says too"),
        ("e.json", '{"images": [', "not readable as JSON"),
        ("e.zip", "PK\x03\x04", "is a zip archive; unpack it"),
    ],
)
def test_what_is_no_file_of_edits_is_refused_in_one_sentence(whole, name, content, sentence) -> None:
    with pytest.raises(SourceError, match=sentence):
        merged(whole, name, content)


def test_missing_file_is_named(whole, tmp_path) -> None:
    with pytest.raises(SourceError, match="no such file of edits"):
        merge.run(whole.workspace, MergeConfig(file=tmp_path / "none.json"), QUIET)


def test_machine_captions_keep_their_attributes_under_corrected_words(small) -> None:
    small.add_images({"00001": 1, "00002": 1})
    origin = {"captioner": "vllm", "model": "m", "prompt_sha256": "0"}
    rows = [
        Caption.model_validate(
            {"image_id": image.image_id, "texts": ["Machine words."], "attributes": {"color": "red"}, "origin": origin}
        )
        for image in small.images
    ]
    small.seal("caption", Caption, rows)
    merged(small, "a.jsonl", lines(i1="A red van, as somebody sees it."))
    first = next(iter(joined_images(small.workspace)))
    assert (first.caption.attributes, first.caption.origin.captioner) == ({"color": "red"}, "people")
