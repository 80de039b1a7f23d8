"""Each data set's folder, typed line by line as its owners ship it."""

import json

import numpy as np
import pytest
from PIL import Image

from pfcvr import geometry
from pfcvr.config import PartsConfig
from pfcvr.errors import SourceError
from pfcvr.pipeline import import_, parts
from pfcvr.pipeline.part_report import report_text
from pfcvr.pipeline.sources.key_points import read_key_points
from pfcvr.records import ImageParts
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
TRAIN_XML = (
    '<?xml version="1.0" encoding="gb2312" ?>\r\n<TrainingImages Version="1.0"><Items number="3">\r\n'
    '<Item imageName="0001_c001_00016450_0.jpg" vehicleID="0001" cameraID="c001" colorID="1" typeID="4"/>\r\n'
    '<Item imageName="0003_c002_00016451_0.jpg" vehicleID="0003" cameraID="c002" colorID="7" typeID="0"/>\r\n'
    '<Item imageName="0005_c020_00085460_1.jpg" vehicleID="0005" cameraID="c020" colorID="12" typeID="1"/>\r\n'
    "<!-- 训练 --></Items></TrainingImages>\r\n"
).encode("gb2312")
TEST_XML = (
    '<?xml version="1.0" encoding="gb2312" ?><TrainingImages Version="1.0"><Items number="2">'
    '<Item imageName="0002_c002_00030600_0.jpg" vehicleID="0002" cameraID="c002" colorID="10" typeID="9"/>'
    '<Item imageName="0002_c003_00030610_0.jpg" vehicleID="0002" cameraID="c003" colorID="10" typeID="9"/>'
    "</Items></TrainingImages>"
)


def paint(intake, *paths: str) -> None:
    for number, path in enumerate(paths, start=1):
        intake.picture(path, color=f"rgb({number * 29 % 256}, {number * 71 % 256}, 90)")


@pytest.fixture
def veri(intake):
    train = ["0001_c001_00016450_0.jpg", "0003_c002_00016451_0.jpg", "0005_c020_00085460_1.jpg"]
    test = ["0002_c002_00030600_0.jpg", "0002_c003_00030610_0.jpg"]
    paint(intake, *(f"image_train/{name}" for name in train), *(f"image_test/{name}" for name in test))
    query = intake.root / "image_query" / test[0]
    query.parent.mkdir()
    query.write_bytes((intake.root / "image_test" / test[0]).read_bytes())
    intake.write("name_train.txt", "\r\n".join(train) + "\r\n")
    intake.write("name_test.txt", "\n".join(test))
    intake.write("name_query.txt", test[0] + "\n")
    intake.write("train_label.xml", TRAIN_XML)
    intake.write("test_label.xml", TEST_XML)
    intake.write("jk_index.txt", "1 \n")
    intake.write("gt_index.txt", "2 \n")
    return intake


def test_veri_776_keeps_camera_time_color_type_and_split(veri) -> None:
    summary = veri.run_import()
    assert (summary.kept, summary.rejected) == (5, 0)
    images = veri.images()
    image = images["0001/0001_c001_00016450_0"]
    assert (image.camera_id, image.timestamp, image.color, image.type) == ("c001", "00016450", "yellow", "hatchback")
    assert (image.source_split, image.path) == ("train", "image_train/0001_c001_00016450_0.jpg")
    assert images["0003/0003_c002_00016451_0"].type == "suv"
    assert images["0005/0005_c020_00085460_1"].color == "12"
    assert images["0002/0002_c002_00030600_0"].source_split == "test"
    notes = summary.notes
    assert notes["recognised"] == "veri-776: found name_train.txt and image_train/"
    assert notes["labels"] == {
        "items": {"train_label.xml": 3, "test_label.xml": 2},
        "type_0_read_as_suv": 1,
        "surprises": {"colorID '12'": 1},
    }
    assert (notes["queries_also_in_the_gallery"], notes["queries_only_in_image_query"]) == (1, 0)
    assert notes["ignore_lists"]["jk_index.txt"] == {"lines": 1, "queries": 1, "as_the_rule_gives": 1}
    assert notes["cameras"]["distinct"] == 4
    assert notes["time_patterns"] == {"99999999": 5}
    assert "train       3     37,778         3        576" in import_.report(summary)
    assert "query       1      1,678         1        200" in import_.report(summary)


def test_veri_776_in_strict_mode_lists_the_color_nobody_named(veri) -> None:
    with pytest.raises(SourceError, match=r"found 1 surprise: colorID '12' x 1; mend"):
        veri.run_import(strict=True)


def test_veri_776_in_strict_mode_lists_whatever_labels_lists_and_folders_disagree_about(veri) -> None:
    veri.write("train_label.xml", TRAIN_XML.replace(b'"12"', b'"1"').replace(b'cameraID="c002"', b'cameraID="c009"'))
    veri.picture("image_query/0002_c002_00030600_0.jpg", color="red")
    veri.picture("image_train/0009_c001_00000001_0.jpg", color="pink")
    veri.picture("map.png", color="white")
    veri.write("keypoint_train.txt", "broken 1 2\n")
    with pytest.raises(SourceError, match="found 4 surprises"):
        veri.run_import(strict=True)
    assert (veri.workspace.folder("import") / "surprises.txt").read_text().splitlines() == [
        "labels with another cameraID than the name x 1",
        "images in no list x 1",
        "malformed key points x 1",
        "name_query.txt:1 (duplicate_image_id)",
    ]
    summary = veri.run_import()
    assert (summary.kept, summary.reasons) == (5, {"duplicate_image_id": 1})
    assert summary.notes["images_in_no_list"] == {"count": 1, "examples": ["image_train/0009_c001_00000001_0.jpg"]}


def test_veri_776_without_lists_reads_the_folders_and_their_names(veri) -> None:
    for path in [*veri.root.glob("*.txt"), *veri.root.glob("*.xml")]:
        path.unlink()
    veri.picture("image_test/-1_c004_00000001_0.jpg", color="pink")
    summary = veri.run_import()
    assert (summary.kept, summary.reasons) == (5, {"no_identity": 1})
    assert veri.images()["0001/0001_c001_00016450_0"].color is None


@pytest.mark.parametrize(
    ("xml", "detail"),
    [
        (TRAIN_XML[:300], "the XML cannot be read beyond this line"),
        (
            b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb">]><TrainingImages>&b;</TrainingImages>',
            "document type declaration",
        ),
    ],
)
def test_labels_cut_off_or_with_entities_cost_only_the_labels(veri, xml: bytes, detail: str) -> None:
    veri.write("train_label.xml", xml)
    summary = veri.run_import()
    assert (summary.kept, summary.reasons) == (5, {"malformed_line": 1})
    (_, found) = next(iter(veri.rejected().values()))
    assert detail in found


def test_key_points_of_veri_776_name_visible_points_by_part(veri) -> None:
    places = ["30 40", "-1 -1", "60 41", *["-1 -1"] * 7, "5 6", *["-1 -1"] * 9]
    path = veri.write(
        "keypoint_train.txt", f"VeRi/image_train/0001_c001_00016450_0.jpg {' '.join(places)} 3\nbroken 1 2\n"
    )
    (points, broken) = read_key_points(path)
    assert points.points == (("wheels", 30, 40), ("wheels", 60, 41), ("mirrors", 5, 6))
    assert points.orientation == 3
    assert broken is None
    assert veri.run_import().notes["key_points"] == {"keypoint_train.txt": 1, "malformed": 1}


def test_found_parts_are_compared_with_the_key_points(veri) -> None:
    """Two wheel points are visible, a box covers the first; the mirror was not found."""
    places = ["6 18", "-1 -1", "28 18", *["-1 -1"] * 7, "5 6", *["-1 -1"] * 9]
    veri.write("keypoint_train.txt", f"VeRi/image_train/0001_c001_00016450_0.jpg {' '.join(places)} 3\n")
    veri.run_import()
    coco = {
        "images": [{"id": 1, "file_name": "0001_c001_00016450_0.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 15, 6, 6]}],
        "categories": [{"id": 1, "name": "wheels"}],
    }
    path = veri.write("coco.json", json.dumps(coco))
    summary = parts.run(veri.workspace, PartsConfig(detector="import", annotations=path), QUIET)
    assert summary.notes["key_points"] == {"wheels": {"visible": 2, "hit": 1}, "mirrors": {"visible": 1, "hit": 0}}
    assert "key points that lie on their part: wheels 1 of 2, mirrors 0 of 1" in report_text(summary.notes)


def test_vehicleid_takes_colors_and_models_of_identities(intake) -> None:
    paint(intake, "image/0000001.jpg", "image/0000002.jpg", "image/0000077.jpg")
    intake.write("train_test_split/train_list.txt", "0000001 7\r\n")
    intake.write("train_test_split/test_list_800.txt", "0000002 12\n")
    intake.write("attribute/img2vid.txt", "0000001 7\n0000002 12\n0000077 30\nnot a line\n")
    intake.write("attribute/color_attr.txt", "7 1\n12 9\n")
    intake.write("attribute/color_names.txt", "black 1\n")
    intake.write("attribute/model_attr.txt", "7 100\n")
    intake.write("attribute/model_names.txt", "奥迪 A4L 100\n".encode("gb18030"))
    summary = intake.run_import()
    images = intake.images()
    assert summary.notes["recognised"] == "vehicleid: found attribute/img2vid.txt"
    assert (images["7/0000001"].color, images["7/0000001"].model) == ("black", "奥迪 A4L")
    assert (images["12/0000002"].color, images["12/0000002"].source_split) == ("9", "test")
    assert images["30/0000077"].source_split is None
    assert summary.notes["names"]["model_names.txt"] == {"encoding": "gb18030", "entries": 1, "sample": ["奥迪 A4L"]}
    assert intake.reasons() == {"attribute/img2vid.txt:4": "malformed_line"}


def test_vric_takes_camera_and_split_from_its_three_lists(intake) -> None:
    paint(intake, "train_images/a b.jpg", "probe_images/2.jpg", "gallery_images/3.jpg")
    intake.write("vric_train.txt", "\ufeffa b.jpg 1 17\n")
    intake.write("vric_probe.txt", "2.jpg 5 40\n")
    intake.write("vric_gallery.txt", "3.jpg 5 41\n4.jpg 5 41\n")
    summary = intake.run_import()
    found = {image_id: (image.camera_id, image.source_split) for image_id, image in intake.images().items()}
    assert found == {"1/a b": ("17", "train"), "5/2": ("40", "test"), "5/3": ("41", "test")}
    assert summary.notes["recognised"] == "vric: found vric_train.txt"
    assert intake.reasons() == {"5/4": "missing_file"}
    assert "probe         1      2,811         1          -" in import_.report(summary)
    assert "gallery       2      2,811         1          -" in import_.report(summary)


def test_veri_wild_2_finds_its_images_in_the_nested_folders(intake) -> None:
    paint(intake, "gallery/gallery/gallery_final/0001/a.jpg", "query/query/query_final/0001/q.jpg")
    intake.write("test_split_V2/A_gallery.txt", "0001/a.jpg 50001 3\n")
    intake.write("test_split_V2/A_query.txt", "0001/q.jpg 50001 3\n")
    summary = intake.run_import()
    image = intake.images()["50001/q"]
    assert (image.path, image.camera_id) == ("query/query/query_final/0001/q.jpg", "3")
    assert summary.notes["recognised"] == "veri-wild-2: found test_split_V2/A_gallery.txt"
    assert summary.notes["list_overlaps"] == {"A_query.txt and A_gallery.txt": 0}
    assert summary.notes["lists"]["A_query.txt"] == {"images": 1, "columns": 3}


def test_a_tree_of_folders_takes_vehicle_and_split_from_the_folders(intake) -> None:
    paint(intake, "train/red 'van'/1.jpg", "Test/ü/2.png", "loose.jpg")
    summary = intake.run_import()
    found = {image_id: (image.vehicle_id, image.source_split) for image_id, image in intake.images().items()}
    assert found == {"red 'van'/1": ("red 'van'", "train"), "ü/2": ("ü", "test")}
    assert intake.reasons() == {"loose.jpg": "unknown_vehicle"}
    assert summary.notes["recognised"].startswith("folder: found folders of images, such as ")


@pytest.fixture
def masks(intake):
    """Two cars, the first with a mask: a wheel (class 36), windows (28) and a bumper, which is none of our parts."""
    paint(intake, "images/00001_000001.jpg", "images/00002_000011.jpg")
    numbers = np.zeros((24, 32), np.uint8)
    numbers[18:22, 2:7], numbers[4:9, 10:20], numbers[12, 12] = 36, 28, 15
    (intake.root / "mask").mkdir()
    Image.fromarray(numbers).save(intake.root / "mask/00001_000001.png")
    return intake


def check_masks(intake, settings: dict) -> None:
    summary = parts.run(intake.workspace, PartsConfig(detector="import", **settings), QUIET)
    assert summary.rejected == 0
    first, second = intake.workspace.records("parts", ImageParts)
    assert [instance.part for instance in first.instances] == ["windows", "wheels"]
    assert first.instances[1].box_xyxy == (2, 18, 7, 22)
    assert geometry.decode_mask(first.instances[0].mask).sum() == 50
    assert second.instances == ()


def test_mvp_masks_become_parts_of_the_images_beside_them(masks) -> None:
    summary = masks.run_import()
    assert summary.notes["recognised"] == "mvp: found 00001_000001 both as a picture and as a mask (.png)"
    assert (list(masks.images()), summary.notes["images_without_mask"]) == (["00001/000001", "00002/000011"], 1)
    check_masks(masks, {})


def test_mvp_masks_alone_fit_the_images_of_a_workspace(masks, tmp_path, new_intake) -> None:
    wild = new_intake(tmp_path / "wild")
    wild.pictures("00001/000001", "00002/000011")
    wild.run_import()
    check_masks(wild, {"annotations": masks.root / "mask"})


def test_mvp_masks_fit_the_images_of_veri_776_whose_names_begin_with_their_vehicle(veri) -> None:
    veri.run_import()
    (veri.root / "mask").mkdir()
    Image.new("L", (32, 24), 36).save(veri.root / "mask/0001_c001_00016450_0.png")
    Image.new("L", (32, 24), 22).save(veri.root / "mask/c002_00030600_0.png")
    summary = parts.run(veri.workspace, PartsConfig(detector="import", annotations=veri.root / "mask"), QUIET)
    assert summary.rejected == 0
    found = {row.image_id: [own.part for own in row.instances] for row in veri.workspace.records("parts", ImageParts)}
    assert {image_id: named for image_id, named in found.items() if named} == {"0001/0001_c001_00016450_0": ["wheels"]}


def test_a_mask_of_another_size_is_refused(masks) -> None:
    Image.new("L", (10, 10), 36).save(masks.root / "mask/00002_000011.png")
    masks.run_import()
    summary = parts.run(masks.workspace, PartsConfig(detector="import"), QUIET)
    assert (summary.kept, summary.reasons) == (2, {"size_mismatch": 1})


def test_several_layouts_in_one_folder_are_named_instead_of_guessed(veri) -> None:
    veri.write("vric_train.txt", "1.jpg 1 2\n")
    with pytest.raises(SourceError, match=r"several layouts fit \(veri-776: found .*; vric: found vric_train.txt\)"):
        veri.run_import()
    assert veri.run_import(format="veri-776").kept == 5


def strict_surprises(intake) -> list[str]:
    with pytest.raises(SourceError):
        intake.run_import(strict=True)
    return (intake.workspace.folder("import") / "surprises.txt").read_text().splitlines()


def test_vehicleid_in_strict_mode_names_images_of_both_lists_and_of_none(intake) -> None:
    paint(intake, "image/0000001.jpg", "image/0000002.jpg", "image/0000003.jpg")
    intake.write("train_test_split/train_list.txt", "0000001 7\n")
    intake.write("train_test_split/test_list_800.txt", "0000001 7\n0000002 12\n")
    intake.write("train_test_split/test_list_1600.txt", "0000002 12\n")
    assert strict_surprises(intake) == ["images in no list x 1", "test lines of train images x 1"]
    assert intake.run_import().notes["test_lines_of_train_images"] == 1


def test_vric_in_strict_mode_names_images_in_no_list(intake) -> None:
    paint(intake, "train_images/1.jpg", "train_images/1.png", "probe_images/2.jpg", "overview.jpg")
    intake.write("vric_train.txt", "1.jpg 1 17\n1.png 1 17\n")
    assert strict_surprises(intake) == ["images in no list x 1", "vric_train.txt:2 (duplicate_image_id)"]


def test_veri_wild_2_in_strict_mode_names_shared_and_unlisted_images(intake) -> None:
    paint(intake, "gallery/gallery_final/a.jpg", "gallery/gallery_final/b.jpg")
    intake.write("test_split/A_gallery.txt", "a.jpg 1 1\n")
    intake.write("test_split/A_query.txt", "a.jpg 1 1\n")
    assert strict_surprises(intake) == [
        "A_query.txt and A_gallery.txt share 1 image",
        "images in no list x 1",
    ]


def test_mvp_in_strict_mode_names_images_and_masks_that_stand_alone(masks) -> None:
    Image.new("L", (10, 10), 36).save(masks.root / "mask/00003_000021.png")
    assert strict_surprises(masks) == ["images without mask x 1", "masks without image x 1"]


SETS = {
    "reid_raw.json": ("CUHK-PEDES", "imgs/CUHK01/0363004.png", {"file_path": "CUHK01/0363004.png", "captions": ["a"]}),
    "ICFG-PEDES.json": ("ICFG-PEDES", "imgs/test/1.jpg", {"file_path": "test/1.jpg", "captions": ["a"]}),
    "data_captions.json": ("RSTPReid", "imgs/0000_c1_1.jpg", {"img_path": "0000_c1_1.jpg", "captions": ["a", "b"]}),
}


@pytest.mark.parametrize("name", SETS)
def test_text_sets_are_compared_with_their_published_counts(intake, name: str) -> None:
    _, path, row = SETS[name]
    intake.picture(path)
    intake.write(name, json.dumps([row | {"id": 0, "split": "train", "processed_tokens": []}]))
    summary = intake.run_import()
    rows = {row["part"]: (row["images"], row["published_images"]) for row in summary.notes["counts"]}
    published = {"reid_raw.json": 34_054, "ICFG-PEDES.json": 34_674, "data_captions.json": None}
    assert rows["train"] == (1, published[name])
    assert next(iter(intake.images().values())).source_split == "train"
