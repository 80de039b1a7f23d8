"""The audit finds what is wrong, names where, and stays quiet about a sound workspace."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from pfcvr import clip_vocabulary
from pfcvr.cli import data_app, run
from pfcvr.config import CheckConfig, MergeConfig
from pfcvr.errors import WorkspaceError
from pfcvr.files import sha256_file
from pfcvr.pipeline import check, merge
from pfcvr.pipeline.audit import captions, look_alikes
from pfcvr.pipeline.pair_sheet import MARGIN, SIDE, draw_pairs
from pfcvr.records import Caption, CaptionOrigin, ImageParts, VehicleSplit
from pfcvr.stage import RunOptions


def audit(small, **settings) -> check.CheckReport:
    return check.run(small.workspace, CheckConfig(**settings))


def finding(report: check.CheckReport, code: str):
    (found,) = [one for one in report.findings if one.code == code]
    return found


def codes(report: check.CheckReport, severity: str = "failure") -> set[str]:
    return {one.code for one in report.findings if one.severity == severity}


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
            "caption: rejected.jsonl holds 1 rows, the manifest says 0",
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


def test_caption_of_a_model_without_its_prompt_fails(small) -> None:
    small.add_images({"1": 1, "2": 1})
    origin = CaptionOrigin(captioner="vllm", model="some-model")
    rows = [
        Caption(image_id=image.image_id, texts=("a white car " + image.image_id,), origin=origin)
        for image in small.images
    ]
    small.seal("caption", Caption, rows)
    small.add_split(val=0)
    assert finding(audit(small), "missing_provenance").count == 2


def test_blank_captions_fail_and_poor_ones_warn(small) -> None:
    small.add_images({"1": 3, "2": 3})
    ids = [image.image_id for image in small.images]
    texts = [
        "  \n ",
        "!!!!!!",
        "car car car car red",
        "a car",
        "A white van with dark windows.",
        "A red bus on the road.",
    ]
    small.add_captions({image_id: [text] for image_id, text in zip(ids, texts, strict=True)})
    small.add_split(val=0)
    report = audit(small)
    assert finding(report, "empty_captions").examples == (ids[0],)
    assert finding(report, "degenerate_captions").examples == (ids[1], ids[2], ids[3])


def test_same_words_for_different_vehicles_warn_but_not_for_one_vehicle(small) -> None:
    small.add_images({"1": 2, "2": 1, "3": 1})
    ids = [image.image_id for image in small.images]
    texts = ["A red van, seen here.", "A red van, seen here.", "a RED van seen here", "A blue bus seen there."]
    small.add_captions({image_id: [text] for image_id, text in zip(ids, texts, strict=True)})
    small.add_split(val=0)
    same = finding(audit(small), "identical_captions")
    assert (same.count, same.examples) == (3, (f"{ids[0]} = {ids[2]}",))


def test_template_captions_and_missing_captions_and_lone_images_warn(small) -> None:
    small.add_images({"1": 2, "2": 1})
    small.add_captions({small.images[0].image_id: ["a white car on a road"]}, captioner="template")
    small.add_split(val=0)
    report = audit(small)
    assert report.passed
    assert finding(report, "templated_captions").count == 1
    assert finding(report, "missing_captions").count == 2
    assert finding(report, "lone_images").examples == ("2",)
    strict = audit(small, strict=True)
    assert not strict.passed
    assert "warnings count (--strict)" in strict.text()


def test_captions_over_77_tokens_warn_and_those_of_77_do_not(small) -> None:
    small.add_images({"1": 1, "2": 1})
    ids = [image.image_id for image in small.images]
    words = "white car with roof rails and a dark window "
    small.add_captions({ids[0]: [(words * 9)[: len(words) * 9].strip()], ids[1]: [" ".join((words * 9).split()[:75])]})
    small.add_split(val=0)
    long = finding(audit(small), "truncated_captions")
    assert (long.count, long.examples) == (1, (ids[0],))


def test_token_counts_are_those_of_clips_own_tokenizer() -> None:
    texts = [
        "A white SUV, it's parked; roof-rails & 5-spoke wheels!",
        "&lt;b&gt; taxi &amp;amp; bus",
        "",
        "naïve café 白色轿车 🚗  tabs\tand\nlines",
        "antidisestablishmentarianism-class pickup 12345",
    ]
    program = (
        "import json, sys; from open_clip.tokenizer import SimpleTokenizer; t = SimpleTokenizer(); "
        "print(json.dumps([len(t.encode(t.clean_fn(text))) + 2 for text in json.loads(sys.argv[1])]))"
    )
    theirs = subprocess.run(
        [sys.executable, "-c", program, json.dumps(texts)], capture_output=True, text=True, check=True
    )
    assert clip_vocabulary.token_counts(clip_vocabulary.clip_bpe(), texts) == json.loads(theirs.stdout)


def test_counting_tokens_does_not_load_torch() -> None:
    program = (
        "import sys; from pfcvr.pipeline.audit.captions import CaptionAudit; CaptionAudit(); "
        "print({'torch', 'open_clip'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_without_the_vocabulary_the_report_says_that_tokens_were_not_counted(whole, monkeypatch) -> None:
    monkeypatch.setattr(captions, "clip_bpe", lambda: None)
    report = audit(whole)
    assert finding(report, "tokens_not_counted").severity == "note"
    assert audit(whole, strict=True).findings
    assert "pip install 'pfcvr[model]'" in report.text()


def test_rare_part_warns_with_its_share(whole) -> None:
    assert "doors 0.0%, mirrors 0.0%, lights 0.0%, roof 0.0%" in finding(audit(whole), "low_coverage").sentence


def test_files_that_are_gone_or_changed_warn(whole) -> None:
    (whole.source / whole.images[3].path).unlink()
    (whole.source / whole.images[5].path).write_bytes(b"something else")
    expected = (whole.images[3].image_id, whole.images[5].image_id)
    assert finding(audit(whole), "unavailable_images").examples == expected


def scene(seed: int, size: int = 96) -> np.ndarray:
    """A smooth random picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def replace_picture(small, index: int, content: bytes) -> None:
    image = small.images[index]
    (small.source / image.path).write_bytes(content)
    small.images[index] = image.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})


@pytest.fixture
def copied(small):
    """Image 5 copies image 1 of the other vehicle, and so of the other split; 2 copies 3 of its own vehicle."""
    small.add_images({"1": 4, "2": 4})
    shutil.rmtree(small.workspace.folder("import"))
    for index in range(8):
        replace_picture(small, index, cv2.imencode(".png", scene(index))[1].tobytes())
    for to, (of, quality) in {4: (0, 40), 1: (2, 60)}.items():
        replace_picture(small, to, cv2.imencode(".jpg", scene(of), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    source = {"name": "small", "root": str(small.source), "format": "veri-wild", "licence": "CC0-1.0"}
    images = [image.model_copy(update={"width": 96, "height": 96}) for image in small.images]
    small.seal("import", type(small.images[0]), images, {"sources": [source]})
    small.add_captions()
    small.add_split(ratio=0.5, val=0)
    return small


def test_reencoded_copy_in_another_split_warns_and_one_in_the_same_split_does_not(copied) -> None:
    near = finding(audit(copied), "near_duplicates")
    assert near.examples == ("1/000001 = 2/000005",)
    (case,) = near.cases
    assert case.image_ids == ("1/000001", "2/000005")
    assert re.fullmatch(r"[0-2] of 64 bits, [0-3]\.\d of 255 grey levels apart", case.detail)


def test_pairs_are_drawn_side_by_side_where_there_are_any(copied, whole_elsewhere, tmp_path, capsys) -> None:
    out = tmp_path / "pairs.png"
    command = ["check", "-w", str(copied.workspace.root), "--pairs", str(out)]
    assert run(data_app, "pfcvr-data", command) == 0
    assert "pairs.png: 1 pairs" in capsys.readouterr().out
    drawn = cv2.imread(str(out)).astype(int)
    left = drawn[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE]
    right = drawn[MARGIN : MARGIN + SIDE, 2 * MARGIN + SIDE : 2 * MARGIN + 2 * SIDE]
    expected = cv2.resize(scene(0), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(int)
    assert np.abs(left - expected).mean() < 3
    assert np.abs(right - expected).mean() < 12
    none = tmp_path / "none.png"
    run(data_app, "pfcvr-data", ["check", "-w", str(whole_elsewhere.workspace.root), "--pairs", str(none)])
    assert "no near-duplicates to draw" in capsys.readouterr().out
    assert not none.exists()


@pytest.fixture
def whole_elsewhere(build_small, tmp_path):
    return build_small(tmp_path / "elsewhere")


def test_pair_whose_file_is_gone_is_drawn_without_it(copied, tmp_path) -> None:
    cases = list(audit(copied).near_duplicates())
    (copied.source / copied.images[0].path).unlink()
    assert draw_pairs(copied.workspace, cases, tmp_path / "pairs.png") == 1
    drawn = cv2.imread(str(tmp_path / "pairs.png"))
    assert (drawn[MARGIN : MARGIN + SIDE, MARGIN : MARGIN + SIDE] == 255).all()


def test_look_alikes_equal_a_comparison_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 40, dtype=np.uint64)
    rows = []
    for number in range(320):
        value = int(base[number % 40])
        for bit in rng.choice(64, rng.integers(0, 4), replace=False):
            value ^= 1 << int(bit)
        signed = value - 2**64 if value >= 2**63 else value
        thumbnail = bytes([number % 7 // 4 * 20] * 128 + [0] * 128)
        rows.append((f"{number:03d}", f"v{number}", ("train", "test")[number % 3 == 0], f"{number}", signed, thumbnail))
    table = look_alikes.AuditTable()
    table._rows.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?)", rows)
    pairs = list(look_alikes.look_alikes(table))
    found = sorted(tuple(sorted(pair[:2])) for pair in pairs)
    table.close()
    expected = sorted(
        (one[0], other[0])
        for number, one in enumerate(rows)
        for other in rows[number + 1 :]
        if one[2] != other[2] and ((one[4] ^ other[4]) & (2**64 - 1)).bit_count() <= 2 and one[5] == other[5]
    )
    assert len(expected) > 20
    assert found == expected


def test_flat_pictures_are_not_called_copies_of_each_other() -> None:
    assert look_alikes.fingerprint_of(cv2.imencode(".png", np.full((40, 40, 3), 90, np.uint8))[1].tobytes()) is None
    assert look_alikes.fingerprint_of(b"not a picture") is None


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
