"""A known data set that lacks its list, or lies deeper, is never taken for a folder a vehicle without being asked."""

import json
import re

import pytest

from pfcvr.errors import SourceError

ROW = {"file_path": "a.jpg", "id": 1, "captions": ["a white van"], "split": "train"}
WITHOUT_LISTS = {
    "vric": ("train_images/1.jpg", "probe_images/2.jpg", "gallery_images/3.jpg"),
    "veri-776": ("image_train/0001_c001_00016450_0.jpg", "image_test/0002_c001_00016450_0.jpg"),
    "veri-wild-2": ("gallery/gallery/gallery_final/0001/a.jpg", "query/query/query_final/b.jpg"),
    "t2i-verw": ("image/a.jpg", "Darkimage/dark_a.jpg"),
    "reid-json": ("imgs/cam_a/000.png", "imgs/CUHK01/001.png"),
}


@pytest.mark.parametrize("layout", WITHOUT_LISTS)
def test_image_folders_of_a_known_data_set_without_its_lists_are_no_vehicles(intake, layout: str) -> None:
    for path in WITHOUT_LISTS[layout]:
        intake.picture(path)
    with pytest.raises(
        SourceError, match=rf"is one of layout {layout}, and nothing here lists .* with --format {layout}"
    ):
        intake.run_import()
    assert intake.run_import(format="folder").kept == len(WITHOUT_LISTS[layout])


@pytest.mark.parametrize("folder", ["image", "Images", "imgs", "images_part01", "train", "query"])
def test_images_right_in_a_folder_for_many_vehicles_are_not_given_to_one(intake, folder: str) -> None:
    intake.picture(f"{folder}/a.jpg")
    intake.picture("red van/b.jpg", color="red")
    with pytest.raises(SourceError, match=f"the folder {folder} looks like one for images of many vehicles"):
        intake.run_import()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("reid_raw.json", json.dumps([ROW, ROW])[:40]),
        ("rows.json", json.dumps(ROW)[:40]),
        ("rows.jsonl", json.dumps(ROW)[:40]),
        ("empty.json", ""),
        ("wide.json", json.dumps([ROW]).encode("utf-16")),
    ],
)
def test_a_captions_file_that_is_cut_off_in_its_first_row_does_not_make_folders_vehicles(
    intake, name: str, content: str | bytes
) -> None:
    intake.picture("imgs/one/a.jpg")
    intake.picture("imgs/two/b.jpg", color="red")
    file = intake.write(name, content)
    for source in (intake.root, file):
        with pytest.raises(SourceError, match=re.escape(name)):
            intake.run_import(source=source)


def test_other_json_beside_a_tree_of_folders_does_no_harm(intake) -> None:
    intake.picture("red van/a.jpg")
    intake.write("source.json", json.dumps({"name": "mine", "licence": "CC0-1.0"}, indent=1))
    intake.write("lengths.json", "[1.5, 2]")
    intake.write("left_out.jsonl", "")
    intake.write("captions.jsonl", json.dumps({"image_id": "red van/a", "captions": ["a red van"]}))
    intake.write("boxes.json", json.dumps({"images": [], "annotations": [["x" * 1000] * 17_000]}))
    assert intake.run_import().kept == 1
    assert intake.images()["red van/a"].source == "mine"


@pytest.mark.parametrize("folder", ["VeRi", "nest/VeRi"])
def test_a_data_set_in_a_folder_below_is_named_with_its_path(intake, folder: str) -> None:
    name = "0001_c001_00016450_0.jpg"
    intake.picture(f"{folder}/image_train/{name}")
    intake.write(f"{folder}/name_train.txt", f"{name}\n")
    there = intake.root / folder
    with pytest.raises(SourceError, match=f"a veri-776 data set lies in the folder {folder}; give {there}$"):
        intake.run_import()
    assert intake.run_import(source=there).kept == 1


def test_two_captions_files_are_both_named(intake) -> None:
    intake.picture("imgs/one/a.jpg")
    for name in ("reid_raw.json", "released.jsonl"):
        intake.write(name, json.dumps(ROW | {"file_path": "one/a.jpg", "boxes": "a.json"}))
    sentence = r"several captions files lie here \(reid_raw.json, released.jsonl\); give the file itself as the source"
    with pytest.raises(SourceError, match=sentence):
        intake.run_import()
    assert intake.run_import(source=intake.root / "reid_raw.json").kept == 1
