"""Annotations and somebody's own copy of the images give the data set back, and every image is accounted for."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from rebuilding import join, report_of, rows_of

from pfcvr.config import ExportConfig
from pfcvr.errors import NothingKept, SealedError, SourceError
from pfcvr.pipeline import export
from pfcvr.records import ImageParts, ImageRecord, PartsOrigin, PatchGrid
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)


def test_own_copy_gives_the_very_data_set_that_an_export_with_pixels_gives(whole, published, tmp_path) -> None:
    export.run(whole.workspace, ExportConfig(out=tmp_path / "hf"), QUIET)
    summary = join(published, whole.source, tmp_path / "out")
    assert (summary.rows_in, summary.kept, summary.statuses["ok"]) == (14, 14, 14)
    for path in (tmp_path / "hf" / "data").iterdir():
        assert (tmp_path / "out" / "data" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "out" / "README.md").read_bytes() == (tmp_path / "hf" / "README.md").read_bytes()
    assert summary.splits == json.loads((tmp_path / "hf" / "pfcvr.json").read_text())["splits"]


def test_grids_of_several_rules_are_joined_and_the_manifest_still_names_them_all(small, tmp_path) -> None:
    small.add_images({"1": 2, "2": 2})
    small.add_captions()
    rules: list[Literal["given", "stretch-coverage"]] = ["given", "stretch-coverage"]
    rows = [
        ImageParts(
            image_id=image.image_id,
            instances=(),
            grid=PatchGrid(rows=2, cols=2, coverage=0.5, rule=rules[number % 2], cells={"roof": "f0"}),
            origin=PartsOrigin(detector="import"),
        )
        for number, image in enumerate(small.images)
    ]
    small.seal("parts", ImageParts, rows, settings={"grid": {"rows": 2, "cols": 2}})
    small.add_split(val=0)
    small.export(tmp_path / "hf")
    export.run(small.workspace, ExportConfig(out=tmp_path / "annotations", format="annotations"), QUIET)
    join(tmp_path / "annotations", small.source, tmp_path / "out")
    exported, joined = (json.loads((tmp_path / name / "pfcvr.json").read_text()) for name in ("hf", "out"))
    assert joined["grid"]["rule"] == "given, stretch-coverage"
    assert joined["grid"] == exported["grid"]


@pytest.mark.parametrize(
    "place", ["{stem}.png", "{vehicle}_{stem}.png", "images_part01/{vehicle}/{stem}.PNG", "{vehicle}/{stem}.png"]
)
def test_copies_in_other_folders_are_found(whole, published, tmp_path, place) -> None:
    copy = tmp_path / "copy"
    for image in whole.images:
        file = copy / place.format(vehicle=image.vehicle_id, stem=image.image_id.partition("/")[2])
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(whole.source / image.path, file)
    assert join(published, copy, tmp_path / "out").statuses == {
        "ok": 14,
        "reencoded": 0,
        "ambiguous": 0,
        "different": 0,
        "missing": 0,
        "damaged": 0,
    }


def test_same_stem_in_many_folders_is_told_apart_by_folder_and_bytes(whole, published, tmp_path) -> None:
    copy = tmp_path / "copy"
    for number in range(40):
        decoy = copy / f"a{number:02d}" / "000005.png"
        decoy.parent.mkdir(parents=True)
        shutil.copy(whole.source / whole.images[number % 3].path, decoy)
    shutil.copytree(whole.source / "images", copy / "z")
    assert join(published, copy, tmp_path / "out").statuses["ok"] == 14


def smooth(number: int) -> Image.Image:
    cells = np.random.default_rng(number).integers(0, 256, (8, 9, 3), np.uint8)
    return Image.fromarray(cells).resize((180, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def pictures(small, tmp_path) -> Path:
    """Annotations of six smooth pictures, whose hash survives re-encoding."""
    small.add_images({"1": 3, "2": 3}, size=(180, 120))
    shutil.rmtree(small.workspace.folder("import"))
    for number, image in enumerate(small.images):
        smooth(number).save(small.source / image.path)
        sha256 = hashlib.sha256((small.source / image.path).read_bytes()).hexdigest()
        small.images[number] = image.model_copy(update={"sha256": sha256})
    small.add_images({})
    small.add_captions()
    small.add_split(val=0)
    export.run(small.workspace, ExportConfig(out=tmp_path / "annotations", format="annotations"), QUIET)
    return tmp_path / "annotations"


def damaged_copy(small, folder: Path) -> Path:
    """One image whole, one as poor JPEG, one halved, one replaced, one cut off, one absent."""
    files = [folder / f"{image.image_id}.jpg" for image in small.images]
    for number in range(6):
        files[number].parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(small.source / small.images[0].path, files[0].with_suffix(".png"))
    smooth(1).save(files[1], quality=30)
    smooth(2).resize((90, 60)).save(files[2])
    smooth(99).save(files[3])
    content = io.BytesIO()
    smooth(4).save(content, "JPEG")
    files[4].write_bytes(content.getvalue()[:400])
    return folder


def test_each_image_is_ok_reencoded_different_or_missing(small, pictures, tmp_path) -> None:
    summary = join(pictures, damaged_copy(small, tmp_path / "copy"), tmp_path / "out")
    assert summary.statuses == {"ok": 1, "reencoded": 2, "ambiguous": 0, "different": 2, "missing": 1, "damaged": 0}
    assert (summary.kept, summary.rejected) == (1, 5)
    report = report_of(tmp_path / "out")
    assert [report[image.image_id]["status"] for image in small.images] == [
        "ok",
        "reencoded",
        "reencoded",
        "different",
        "different",
        "missing",
    ]
    assert "90 x 60 pixels, boxes and masks are for 180 x 120" in report["1/000003"]["detail"]
    text = (tmp_path / "out" / "report.txt").read_text()
    assert "missing    '2/000006'" in text
    assert text.endswith("1 ok, 2 reencoded, 0 ambiguous, 2 different, 1 missing, 0 damaged\n")
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == ["1/000001"]


def test_reencoded_images_of_the_same_size_are_taken_on_request_under_their_own_hash(small, pictures, tmp_path) -> None:
    copy = damaged_copy(small, tmp_path / "copy")
    summary = join(pictures, copy, tmp_path / "out", accept_reencoded=True)
    assert (summary.kept, summary.reasons) == (2, {"different": 2, "missing": 1, "reencoded": 1})
    row = next(row for row in rows_of(tmp_path / "out") if row["image_id"] == "1/000002")
    assert row["image"]["bytes"] == (copy / "1" / "000002.jpg").read_bytes()
    assert row["sha256"] == hashlib.sha256(row["image"]["bytes"]).hexdigest()


def test_running_again_does_nothing_until_the_copy_has_more(small, pictures, tmp_path) -> None:
    copy = damaged_copy(small, tmp_path / "copy")
    join(pictures, copy, tmp_path / "out")
    assert join(pictures, copy, tmp_path / "out").already_done
    shutil.copy(small.source / small.images[5].path, copy / "2" / "000006.png")
    again = join(pictures, copy, tmp_path / "out")
    assert (again.kept, again.statuses["missing"], again.already_done) == (2, 0, False)


def test_other_annotations_do_not_replace_a_data_set_unasked(small, pictures, tmp_path) -> None:
    join(pictures, small.source, tmp_path / "out")
    with pytest.raises(SealedError, match=r"made from other inputs: .* now\); rerun with --overwrite"):
        join(pictures, small.source, tmp_path / "out", accept_reencoded=True)


def test_copy_without_any_of_the_images_is_one_sentence_and_no_data_set(published, tmp_path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(SourceError, match="no image files here"):
        join(published, tmp_path / "copy", tmp_path / "out")
    smooth(1).save(tmp_path / "copy" / "holiday.jpg")
    with pytest.raises(
        NothingKept, match="0 ok, 0 reencoded, 0 ambiguous, 0 different, 14 missing, 0 damaged.; give the root of the"
    ):
        join(published, tmp_path / "copy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_link_out_of_the_copy_is_not_followed(whole, published, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole.source, copy)
    outside = tmp_path / "outside.png"
    target = copy / whole.images[0].path
    target.rename(outside)
    target.symlink_to(outside)
    summary = join(published, copy, tmp_path / "out")
    assert summary.statuses == {"ok": 13, "reencoded": 0, "ambiguous": 0, "different": 1, "missing": 0, "damaged": 0}


KILLED_REBUILD = """
import sys
from pathlib import Path
import datasets, pyarrow.parquet
from folders import files_of
from killing import in_child, killed_at_every_change
from pfcvr.config import RebuildConfig
from pfcvr.pipeline import rebuild
from pfcvr.stage import RunOptions

annotations, images, base = (Path(argument) for argument in sys.argv[1:])

def joined(number):
    config = RebuildConfig(annotations=annotations, images=images, out=base / str(number))
    return lambda: rebuild.run(config, RunOptions(quiet=True)), base

call, _ = joined(0)
assert in_child(call, base) == 0
for killed in killed_at_every_change(joined, step=2):
    assert files_of(base / str(killed)) == files_of(base / "0"), killed
assert not list(base.glob(".*")), list(base.glob(".*"))
print(killed)
"""


def test_rebuild_killed_before_changes_to_files_ends_in_the_same_bytes(whole, published, tmp_path) -> None:
    (whole.source / whole.images[3].path).unlink()
    base = tmp_path / "joined"
    base.mkdir()
    arguments = [sys.executable, "-c", KILLED_REBUILD, str(published), str(whole.source), str(base)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 12


def annotated_pictures(small, numbers: list[int], out: Path) -> Path:
    """Annotations of ``images/a/0001.png``, ``images/b/0001.png`` and so on: smooth pictures of these numbers."""
    for compression, (vehicle, number) in enumerate(zip("abc", numbers, strict=False)):
        path = f"images/{vehicle}/0001.png"
        file = small.source / path
        file.parent.mkdir(parents=True)
        smooth(number).save(file, compress_level=compression + 1)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        known = {"source": "small", "path": path, "sha256": sha256, "width": 180, "height": 120}
        small.images.append(ImageRecord(image_id=f"{vehicle}/0001", vehicle_id=vehicle, **known))
    small.add_images({})
    small.add_captions()
    small.add_split(val=0)
    export.run(small.workspace, ExportConfig(out=out, format="annotations"), QUIET)
    return out


def copy_in_jpeg(folder: Path, files: dict[str, int]) -> Path:
    """Files of other bytes than those annotated: path to the number of the smooth picture there."""
    for quality, (path, number) in enumerate(files.items(), start=60):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        smooth(number).save(folder / path, quality=quality)
    return folder


@pytest.mark.parametrize(
    ("numbers", "files", "statuses"),
    [
        ([0, 1], {"images/a/0001.jpg": 0, "images/b/0001.jpg": 1}, ["reencoded", "reencoded"]),
        ([0, 0], {"images/a/0001.jpg": 0, "images/b/0001.jpg": 0}, ["reencoded", "reencoded"]),
        ([0, 1], {"images/a/0001.jpg": 0, "more/a/0001.jpg": 0, "b/0001.jpg": 1}, ["reencoded", "reencoded"]),
        ([0, 1], {"x/a/0001.jpg": 0, "y/a/0001.jpg": 0, "b_0001.jpg": 1}, ["ambiguous", "reencoded"]),
        ([0, 1], {"x/0001.jpg": 0, "b/0001.jpg": 1}, ["ambiguous", "reencoded"]),
        ([0, 0], {"b/0001.jpg": 0}, ["ambiguous", "reencoded"]),
        ([0, 1], {"x/0001.jpg": 5, "b/0001.jpg": 1}, ["different", "reencoded"]),
    ],
    ids=[
        "in their places",
        "twins in their places",
        "and a second copy elsewhere",
        "two copies elsewhere",
        "moved to where its name says nothing",
        "only its twin is there",
        "another picture of that name",
    ],
)
def test_a_look_alike_is_taken_where_it_lies_in_its_place_or_its_name_means_it_alone(
    small, tmp_path, numbers: list[int], files: dict[str, int], statuses: list[str]
) -> None:
    published, out = annotated_pictures(small, numbers, tmp_path / "annotations"), tmp_path / "out"
    summary = join(published, copy_in_jpeg(tmp_path / "copy", files), out, accept_reencoded=True)
    assert [report_of(out)[image_id]["status"] for image_id in ("a/0001", "b/0001")] == statuses
    assert [row["image_id"] for row in rows_of(out)] == [
        image_id for image_id, status in zip(("a/0001", "b/0001"), statuses, strict=True) if status == "reencoded"
    ]
    assert summary.statuses["ambiguous"] == statuses.count("ambiguous")


def test_what_is_ambiguous_is_listed_with_its_files_and_what_to_do(small, tmp_path) -> None:
    published, out = annotated_pictures(small, [0, 1, 2], tmp_path / "annotations"), tmp_path / "out"
    places = {"x/a/0001.jpg": 0, "y/a/0001.jpg": 0, "z/0001.jpg": 1, "images/c/0001.jpg": 2}
    copy = copy_in_jpeg(tmp_path / "copy", places)
    summary = join(published, copy, out, accept_reencoded=True)
    assert summary.reasons == {"ambiguous": 2}
    report = report_of(out)
    assert report["a/0001"]["detail"] == (
        "looks like x/a/0001.jpg and y/a/0001.jpg, but these are 2 pictures; put the right file at images/a/0001.png"
    )
    assert report["b/0001"]["detail"] == (
        "looks like z/0001.jpg, but 3 annotated images may be called 0001; put the right file at images/b/0001.png"
    )
    assert "ambiguous  'a/0001' 'x/a/0001.jpg' (looks like" in (out / "report.txt").read_text()
    (copy / "images" / "b").mkdir()
    (copy / "z" / "0001.jpg").rename(copy / "images" / "b" / "0001.jpg")
    assert join(published, copy, out, accept_reencoded=True).statuses["reencoded"] == 2


def test_a_flat_copy_whose_names_occur_once_is_taken(small, pictures, tmp_path) -> None:
    files = {f"{image.image_id.partition('/')[2]}.jpg": number for number, image in enumerate(small.images)}
    summary = join(pictures, copy_in_jpeg(tmp_path / "copy", files), tmp_path / "out", accept_reencoded=True)
    assert (summary.kept, summary.statuses["reencoded"]) == (6, 6)
