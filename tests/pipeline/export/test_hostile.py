"""Names and texts that are out to break something: safe on disk, inert in cards, unchanged in the data."""

import errno
import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as parquet
import pytest
from folders import files_of
from PIL import Image

from pfcvr.config import ExportConfig
from pfcvr.errors import StageStopped
from pfcvr.pipeline import export
from pfcvr.pipeline.exporters import shards, webdataset
from pfcvr.records import Caption, CaptionOrigin, ImageParts, ImageRecord, PartInstance, PartsOrigin, PatchGrid
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
PAYLOAD = "<script>alert('x')</script> ](javascript:x) `|\u202e\x07 车 \"quoted\", ; &amp;"
VEHICLES = ["..", "Ä 车", "a\tb\u202e", "con.", "image", "<b>'\"", "-rf"]
FORMS = ["hf", "annotations", "official", "coco", "webdataset"]
FILE = "reid_with_mask_prompt_and_boxes_filepath_prefixid_idsplit_70_30.json"


def sealed(small, names: list[tuple[str, str]]) -> None:
    """An image a (vehicle_id, stem), every stage sealed, hostile captions on all."""
    for number, (vehicle, stem) in enumerate(names):
        file = small.source / f"{number}.png"
        Image.new("RGB", (16, 16), (number * 9 % 256, number // 25, 0)).save(file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        known = {"source": "small", "path": file.name, "sha256": sha256, "width": 16, "height": 16}
        small.images.append(ImageRecord(image_id=f"{vehicle}/{stem}", vehicle_id=vehicle, camera_id=PAYLOAD, **known))
    small.images.sort(key=lambda image: image.image_id)
    small.add_images({}, licence="<img src=x onerror=alert(1)>")
    origin = CaptionOrigin(captioner="import")
    said = [
        Caption(image_id=i.image_id, texts=(PAYLOAD,), part_texts={"roof": PAYLOAD}, origin=origin)
        for i in small.images
    ]
    small.seal("caption", Caption, said)
    grid = PatchGrid(rows=24, cols=24, coverage=0.5, cells={"roof": "80" + "00" * 71})
    roof = PartInstance(part="roof", box_xyxy=(0, 0, 8, 8))
    found = [
        ImageParts(image_id=i.image_id, instances=(roof,), grid=grid, origin=PartsOrigin(detector="import"))
        for i in small.images
    ]
    small.seal("parts", ImageParts, found, settings={"grid": {"rows": 24, "cols": 24}})
    small.add_split(val=0)


def written(small, out: Path, form: str, **settings: Any) -> export.ExportSummary:
    return export.run(small.workspace, ExportConfig.model_validate({"out": out, "format": form, **settings}), QUIET)


def captions_in(out: Path, form: str) -> list[str]:
    if form in ("hf", "annotations"):
        tables = [parquet.read_table(path).to_pylist() for path in out.glob("data/*.parquet")]
        return [caption for table in tables for row in table for caption in row["captions"]]
    if form == "official":
        return [caption for entry in json.loads((out / FILE).read_text()) for caption in entry["captions"]]
    if form == "coco":
        files = [json.loads(path.read_text()) for path in out.glob("annotations/captions_*.json")]
        return [one["caption"] for file in files for one in file["annotations"]]
    rows = []
    for path in out.glob("*.tar"):
        with tarfile.open(path) as shard:
            rows += [json.load(shard.extractfile(name)) for name in shard.getnames() if name.endswith(".json")]
    return [caption for row in rows for caption in row["captions"]]


@pytest.mark.parametrize("form", FORMS)
def test_hostile_names_and_texts_are_kept_to_the_letter_and_stay_inside_the_folder(small, tmp_path, form) -> None:
    sealed(small, [(vehicle, f"{number}.x /y"[:4]) for number, vehicle in enumerate(VEHICLES)])
    out = tmp_path / "deep" / "out"
    assert written(small, out, form).kept == len(VEHICLES)
    assert captions_in(out, form) == [PAYLOAD] * len(VEHICLES)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    for path in out.rglob("*"):
        assert path.resolve().is_relative_to(out)
        assert path.name.isascii()
        assert path.name.isprintable()
        assert not set(path.name) & set("<>'\" \\:|?*")
    card = out / "README.md"
    if card.exists():
        assert "<img" not in card.read_text()


@pytest.mark.parametrize("form", ["official", "coco"])
def test_file_names_can_be_read_back_to_vehicle_and_stem(small, tmp_path, form) -> None:
    sealed(small, [(vehicle, "x 1") for vehicle in VEHICLES])
    written(small, tmp_path / "out", form)
    stems = {path.stem for path in (tmp_path / "out").glob("image*/*")}
    assert {unquote(stem) for stem in stems} == {f"{vehicle}_x 1" for vehicle in VEHICLES}


@pytest.mark.parametrize("form", ["official", "coco", "webdataset"])
def test_two_images_that_would_have_one_file_name_are_told_apart_or_refused(small, tmp_path, form) -> None:
    sealed(small, [("a", "b_c"), ("a_b", "c"), ("A", "b_C"), ("d", "e" * 300), ("f", "1"), ("g", "1")])
    summary = written(small, tmp_path / "out", form)
    assert summary.reasons == {"name_collision": 2, "name_too_long": 1}
    rows = map(json.loads, (tmp_path / "out" / "left_out.jsonl").read_text().splitlines())
    assert {row["subject"] for row in rows} == {"a/b_c", "a_b/c", "d/" + "e" * 300}


@pytest.mark.parametrize("form", FORMS)
def test_full_disk_stops_every_form_with_a_sentence_and_the_next_run_is_whole(
    small, tmp_path, monkeypatch, form
) -> None:
    sealed(small, [(str(vehicle), "1") for vehicle in range(4)])

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "file")

    with monkeypatch.context() as broken:
        broken.setattr(shards, "table_of", full)
        broken.setattr(Path, "write_bytes", full)
        broken.setattr(webdataset.tarfile.TarFile, "addfile", full)
        with pytest.raises(
            StageStopped, match="out: export: the disk is full at file; free some space and run the same"
        ):
            written(small, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()
    assert written(small, tmp_path / "out", form).kept == 4
    assert written(small, tmp_path / "out", form).already_done
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


@pytest.mark.parametrize("form", FORMS)
def test_the_same_workspace_gives_the_same_bytes_in_every_form(small, tmp_path, form) -> None:
    sealed(small, [(str(vehicle), "1") for vehicle in range(4)])
    files = []
    for name in ("a", "b"):
        written(small, tmp_path / name, form)
        files.append(files_of(tmp_path / name))
    assert files[0] == files[1]
