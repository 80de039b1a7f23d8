"""The audit finds what is wrong with a workspace, names where, and stays quiet about a sound one."""

import hashlib
import json
import shutil

import pytest
from audits import audit, codes, finding, replace_picture

from pfcvr.cli import data_app, run
from pfcvr.config import MergeConfig
from pfcvr.errors import WorkspaceError
from pfcvr.files import sha256_file
from pfcvr.pipeline import merge
from pfcvr.records import ImageParts, VehicleSplit
from pfcvr.stage import RunOptions


def reseal_with_new_hashes(small, stage: str) -> None:
    """Make a stage's manifest agree with its edited file, as somebody who edits both would."""
    path = small.workspace.folder(stage) / "manifest.json"
    manifest = json.loads(path.read_text())
    for file in manifest["files"]:
        part = small.workspace.folder(stage) / file["name"]
        file["sha256"] = sha256_file(part)
        file["records"] = len(part.read_text().splitlines())
    manifest["kept"] = manifest["rows_in"] = sum(file["records"] for file in manifest["files"])
    joined = "".join(file["sha256"] for file in manifest["files"])
    manifest["records_sha256"] = hashlib.sha256(joined.encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def test_sound_workspace_passes(whole) -> None:
    report = audit(whole)
    assert report.passed
    assert report.images == 14
    assert codes(report) == set()
    assert report.text().startswith("check: passed, 14 images, 0 failures, ")


def test_vehicle_in_two_splits_fails(whole) -> None:
    path = whole.workspace.folder("split") / "part-00000.jsonl"
    row = VehicleSplit.model_validate_json(path.read_text().splitlines()[1])
    other = "test" if row.split != "test" else "train"
    with path.open("a") as file:
        file.write(row.model_copy(update={"split": other}).model_dump_json() + "\n")
    reseal_with_new_hashes(whole, "split")
    report = audit(whole)
    assert not report.passed
    assert finding(report, "identity_leak").examples == (row.vehicle_id,)


def test_same_bytes_in_two_splits_fail_and_name_both_images(small) -> None:
    small.add_images({"1": 3, "2": 3})
    shutil.rmtree(small.workspace.folder("import"))
    for to, of in ((3, 0), (2, 1)):  # one copy under the other vehicle, one under the same
        replace_picture(small, to, (small.source / small.images[of].path).read_bytes())
    source = {"name": "small", "root": str(small.source), "format": "veri-wild", "licence": "CC0-1.0"}
    small.seal("import", type(small.images[0]), small.images, {"sources": [source]})
    small.add_captions()
    small.add_split(ratio=0.5, val=0)
    report = audit(small)
    leak = finding(report, "content_leak")
    assert (leak.severity, leak.count, leak.examples) == ("failure", 1, ("1/000001 = 2/000004",))
    assert "near_duplicates" not in codes(report, "warning")


@pytest.mark.parametrize("stage", ["import", "caption", "split"])
def test_missing_stage_fails_and_is_named(whole, stage) -> None:
    (whole.workspace.folder(stage) / "manifest.json").unlink()
    report = audit(whole)
    assert not report.passed
    assert stage in finding(report, "missing_stage").examples
    assert report.images == 0


def test_missing_parts_fail_only_where_they_are_required(small) -> None:
    small.add_images({"1": 2, "2": 2})
    small.add_captions()
    small.add_split(val=0)
    assert audit(small).passed
    assert "no_parts" in codes(audit(small), "warning")
    assert codes(audit(small, require_parts=True)) == {"missing_stage"}


def test_train_image_without_parts_fails_where_they_are_required(small) -> None:
    small.add_images({f"{number}": 2 for number in range(5)})
    small.add_captions()
    small.add_parts(on=slice(1))
    small.add_split(ratio=0.6, val=0.3, seed=1)
    splits = {row.vehicle_id: row.split for row in small.workspace.records("split", VehicleSplit)}
    empty = {row.image_id for row in small.workspace.records("parts", ImageParts) if not row.instances}
    assert {splits[image_id.split("/")[0]] for image_id in empty} == {"train", "val", "test"}
    assert audit(small).passed
    report = audit(small, require_parts=True)
    assert codes(report) == {"train_without_parts"}
    of_train = {image_id for image_id in empty if splits[image_id.split("/")[0]] == "train"}
    assert set(finding(report, "train_without_parts").examples) == of_train
    assert finding(report, "images_without_parts").count == 9


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            lambda folder: (folder / "part-00000.jsonl").write_bytes(b""),
            "caption: part-00000.jsonl is not the file that",
        ),
        (lambda folder: (folder / "part-00000.jsonl").unlink(), "caption: part-00000.jsonl is gone"),
        (
            lambda folder: (folder / "part-00007.jsonl").write_bytes(b""),
            "caption: part-00007.jsonl is not in the manifest",
        ),
        (lambda folder: (folder / "rejected.jsonl").write_text('{"no": 1}\n'), "caption: rejected.jsonl:1 is damaged"),
        (
            lambda folder: (folder / "rejected.jsonl").write_text(
                '{"stage": "caption", "subject": "x", "reason": "empty"}\n'
            ),
            "caption: rejected.jsonl holds 1 row, the manifest says 0",
        ),
    ],
)
def test_books_that_do_not_balance_fail(whole, damage, sentence) -> None:
    damage(whole.workspace.folder("caption"))
    report = audit(whole)
    assert not report.passed
    assert any(example.startswith(sentence) for example in finding(report, "unbalanced_books").examples)


def test_counts_that_do_not_add_up_fail(whole) -> None:
    path = whole.workspace.folder("parts") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows_in": 99}))
    assert finding(audit(whole), "unbalanced_books").examples == ("parts: 99 rows in are not 14 kept + 0 rejected",)


def test_stage_made_before_a_new_import_fails(whole) -> None:
    shutil.rmtree(whole.workspace.folder("import"))
    images = list(whole.images)
    whole.images.clear()
    whole.add_images({"00001": 3, "00002": 2})
    assert len(images) == 14
    assert set(finding(audit(whole), "stale_stage").examples) == {"caption", "parts", "split"}


def test_source_without_licence_fails(small) -> None:
    small.add_images({"1": 2, "2": 2}, licence=None)
    small.add_captions()
    small.add_split(val=0)
    assert finding(audit(small), "missing_licence").examples == ("small",)


def test_rare_part_warns_with_its_share(whole) -> None:
    assert "doors 0.0%, mirrors 0.0%, lights 0.0%, roof 0.0%" in finding(audit(whole), "low_coverage").sentence


def test_files_that_are_gone_or_changed_warn(whole) -> None:
    (whole.source / whole.images[3].path).unlink()
    (whole.source / whole.images[5].path).write_bytes(b"something else")
    expected = (whole.images[3].image_id, whole.images[5].image_id)
    assert finding(audit(whole), "unavailable_images").examples == expected


def test_report_lists_at_most_twenty_examples_and_counts_all(small) -> None:
    small.add_images({f"{number:03d}": 1 for number in range(30)})
    small.add_captions()
    small.add_split(val=0)
    lone = finding(audit(small), "lone_images")
    assert (lone.count, len(lone.examples)) == (30, 20)
    assert [case.image_ids for case in lone.cases] == [(image.image_id,) for image in small.images]
    report = audit(small)
    assert "every case: --report FILE, or --json" in report.text()
    found = json.loads(json.dumps(report.as_dict()))
    assert found["passed"] is True
    assert {len(one["cases"]) for one in found["findings"] if one["code"] == "lone_images"} == {30}


def test_report_file_names_every_case_with_its_images(small, tmp_path, capsys) -> None:
    small.add_images({f"{number:03d}": 1 for number in range(30)})
    small.add_captions({image.image_id: ["The same words for all."] for image in small.images})
    small.add_split(val=0)
    out = tmp_path / "cases.jsonl"
    assert run(data_app, "pfcvr-data", ["check", "-w", str(small.workspace.root), "--report", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"{out}: {len(rows)} cases" in capsys.readouterr().out
    shared = [row for row in rows if row["code"] == "identical_captions"]
    assert [row["image_ids"] for row in shared] == [[image.image_id] for image in small.images]
    assert {row["detail"] for row in shared} == {f"the words of {small.images[0].image_id}"}
    with pytest.raises(WorkspaceError, match="cannot be written .*; give another --report FILE"):
        audit(small).write_cases(tmp_path)


def test_edits_of_other_bytes_of_an_image_are_listed(whole) -> None:
    path = whole.source / "fixed.jsonl"
    path.write_text(json.dumps({"image_id": whole.images[3].image_id, "caption": "A van, corrected."}) + "\n")
    merge.run(whole.workspace, MergeConfig(file=path), RunOptions(quiet=True))
    assert "outdated_edits" not in codes(audit(whole), "warning")
    part = whole.workspace.folder("merge") / "part-00000.jsonl"
    part.write_text(part.read_text().replace(whole.images[3].sha256, "0" * 64))
    assert finding(audit(whole), "outdated_edits").examples == (whole.images[3].image_id,)
