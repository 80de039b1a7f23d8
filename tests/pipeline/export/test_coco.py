"""The COCO form, read by pycocotools and by our own import of parts."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from pfcvr import geometry
from pfcvr.config import ExportConfig, PartsConfig
from pfcvr.errors import SourceError, UsageError
from pfcvr.pipeline import export, parts
from pfcvr.records import PARTS, ImageParts
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)


def export_to(small, out: Path, **settings) -> export.ExportSummary:
    return export.run(small.workspace, ExportConfig(out=out, format="coco", **settings), QUIET)


def test_pycocotools_finds_every_image_part_and_caption(whole, tmp_path, capsys) -> None:
    summary = export_to(whole, tmp_path / "out")
    found = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    seen = []
    for split in summary.splits:
        instances = COCO(tmp_path / "out" / "annotations" / f"instances_{split}.json")
        captions = COCO(tmp_path / "out" / "annotations" / f"captions_{split}.json")
        assert [category["name"] for category in instances.dataset["categories"]] == list(PARTS)
        for number, entry in instances.imgs.items():
            seen.append(entry["image_id"])
            own = instances.loadAnns(instances.getAnnIds(imgIds=[number]))
            expected = found[entry["image_id"]].instances
            assert [instances.cats[one["category_id"]]["name"] for one in own] == [one.part for one in expected]
            for annotation, instance in zip(own, expected, strict=True):
                x, y, wide, tall = annotation["bbox"]
                assert (x, y, x + wide, y + tall) == instance.box_xyxy
                if instance.mask is not None:
                    runs = instances.annToRLE(annotation)
                    assert (runs["size"], runs["counts"]) == (list(instance.mask.size), instance.mask.counts)
                    assert annotation["area"] == geometry.decode_mask(instance.mask).sum()
            texts = [one["caption"] for one in captions.loadAnns(captions.getAnnIds(imgIds=[number]))]
            assert texts == [f"A vehicle that looks like {entry['image_id']}."]
            assert (tmp_path / "out" / "images" / entry["file_name"]).is_file()
    assert sorted(seen) == [image.image_id for image in whole.images]


@pytest.mark.parametrize("images", ["copy", "link", "reference"])
def test_images_are_copied_linked_or_only_named(whole, tmp_path, images) -> None:
    out = tmp_path / "out"
    export_to(whole, out, images=images)
    content = json.loads((out / "annotations" / "instances_train.json").read_text())
    sources = {image.image_id: whole.source / image.path for image in whole.images}
    for entry in content["images"]:
        source = sources[entry["image_id"]]
        if images == "reference":
            assert whole.source / entry["file_name"] == source
        else:
            file = out / "images" / entry["file_name"]
            assert file.read_bytes() == source.read_bytes()
            assert file.samefile(source) == (images == "link")
    assert (out / "images").exists() == (images != "reference")


def test_links_across_disks_are_refused_with_what_to_do(whole, tmp_path, monkeypatch) -> None:
    def other_disk(*_: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    with pytest.raises(SourceError, match=r"cannot be hard-linked into .* or with --images copy or reference"):
        export_to(whole, tmp_path / "out", images="link")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("images", ["copy", "reference"])
def test_parts_imported_from_the_export_are_the_parts_that_were_exported(whole, tmp_path, images) -> None:
    export_to(whole, tmp_path / "out", images=images)
    before = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    file = tmp_path / "out" / "annotations" / "instances_train.json"
    in_train = {entry["image_id"] for entry in json.loads(file.read_text())["images"]}
    shutil.rmtree(whole.workspace.folder("parts"))
    config = PartsConfig.model_validate({"annotations": file, "grid": {"rows": 5, "cols": 4}})
    parts.run(whole.workspace, config, QUIET)
    after = {row.image_id: row for row in whole.workspace.records("parts", ImageParts)}
    assert {key: (after[key].instances, after[key].grid) for key in in_train} == {
        key: (before[key].instances, before[key].grid) for key in in_train
    }


def test_option_of_another_form_is_refused(tmp_path) -> None:
    from pfcvr.config import parse

    with pytest.raises(UsageError, match="'images': this is for format 'coco' alone; leave it out"):
        parse(ExportConfig, {"out": tmp_path, "format": "hf", "images": "link"}, "pfcvr-data export")
