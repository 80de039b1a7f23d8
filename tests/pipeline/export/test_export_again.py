"""Exporting once more: nothing is done twice, nothing is replaced unasked, and what was left out is taken up."""

import json
import shutil
from pathlib import Path

import pytest
from folders import files_of

from pfcvr.errors import NothingKept, SealedError, WorkspaceError


def test_running_again_does_nothing(whole, tmp_path) -> None:
    out = tmp_path / "out"
    first = whole.export(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = whole.export(out)
    assert second.already_done
    assert not first.already_done
    assert (second.kept, second.splits) == (first.kept, first.splits)
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_other_captions_are_refused_until_overwrite_is_given(whole, tmp_path) -> None:
    out = tmp_path / "out"
    whole.export(out)
    shutil.rmtree(whole.workspace.folder("caption"))
    whole.add_captions({image.image_id: ["Another sentence."] for image in whole.images})
    before = files_of(out)
    told = (
        r"made from other inputs: caption \([0-9a-f]{8} before, [0-9a-f]{8} now\); rerun with --overwrite to replace it"
    )
    with pytest.raises(SealedError, match=told):
        whole.export(out)
    assert files_of(out) == before
    whole.export(out, overwrite=True)
    assert files_of(out) != before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name or "replaced" in path.name] == []


def test_folder_of_somebody_else_is_refused_even_with_overwrite(whole, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(WorkspaceError, match="exists and was not written by this command; give the path of a new"):
            whole.export(out, overwrite=overwrite)
    assert files_of(out) == {"thesis.txt": b"mine"}


def test_altered_data_set_is_not_taken_for_finished(whole, tmp_path) -> None:
    out = tmp_path / "out"
    whole.export(out)
    (out / "README.md").write_text("corrected by hand")
    with pytest.raises(SealedError, match=r"README.md was removed or altered since it was written"):
        whole.export(out)
    assert (out / "README.md").read_text() == "corrected by hand"


def test_records_altered_by_hand_are_not_exported(whole, tmp_path) -> None:
    part = whole.workspace.folder("caption") / "part-00000.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[1:]))
    with pytest.raises(
        WorkspaceError, match=r"caption: its records were altered since they were sealed; .*--overwrite"
    ):
        whole.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_gone_or_changed_or_without_caption_are_left_out_and_counted(small, tmp_path, load) -> None:
    small.add_images({"1": 3, "2": 3})
    small.add_captions({image.image_id: ["A car."] for image in small.images[1:]})
    small.add_split(val=0)
    (small.source / small.images[1].path).unlink()
    (small.source / small.images[2].path).write_bytes((small.source / small.images[3].path).read_bytes())
    summary = small.export(tmp_path / "out")
    assert (summary.rows_in, summary.kept, summary.rejected) == (6, 3, 3)
    assert summary.reasons == {"changed_file": 1, "missing_caption": 1, "missing_file": 1}
    left_out = [json.loads(line) for line in (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()]
    assert [row["subject"] for row in left_out] == [image.image_id for image in small.images[:3]]
    assert "3 left out (changed_file: 1, missing_caption: 1, missing_file: 1)" in summary.text()
    assert sum(len(rows) for rows in load(tmp_path / "out").values()) == 3


def test_image_whose_file_comes_back_is_taken_up_by_the_next_run(whole, tmp_path) -> None:
    whole.export(tmp_path / "undisturbed")
    file, out = whole.source / whole.images[2].path, tmp_path / "out"
    content = file.read_bytes()
    file.unlink()
    assert whole.export(out).reasons == {"missing_file": 1}
    assert whole.export(out).already_done
    file.write_bytes(content[:-1])
    assert whole.export(out).already_done
    file.write_bytes(content)
    again = whole.export(out)
    assert (again.kept, again.rejected, again.already_done) == (14, 0, False)
    assert files_of(out) == files_of(tmp_path / "undisturbed")


def test_nothing_to_export_is_an_error_and_leaves_no_data_set(small, tmp_path) -> None:
    small.add_images({"1": 2, "2": 2})
    small.add_captions()
    small.add_split()
    shutil.rmtree(small.source / "images")
    with pytest.raises(NothingKept, match=r"nothing to export \(4 x missing_file\); put the image files back"):
        small.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stage_made_from_images_that_were_imported_anew_is_refused(whole, tmp_path) -> None:
    shutil.rmtree(whole.workspace.folder("import"))
    whole.images.clear()
    whole.add_images({"00001": 3, "00002": 2})
    with pytest.raises(WorkspaceError, match="stage 'caption' was made before .* --overwrite"):
        whole.export(tmp_path / "out")


def test_link_to_the_data_set_stays_a_link_and_the_folder_it_names_is_replaced(whole, tmp_path) -> None:
    whole.export(tmp_path / "real")
    expected = files_of(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert not whole.export(tmp_path / "link", overwrite=True).already_done
    assert (tmp_path / "link").is_symlink()
    assert files_of(tmp_path / "real") == expected


def test_the_current_folder_can_be_the_data_set_when_it_is_empty(whole, tmp_path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    whole.export(Path())
    assert (tmp_path / "here" / "pfcvr.json").is_file()
