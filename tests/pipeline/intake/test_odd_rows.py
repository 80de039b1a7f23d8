"""Rows of captions files that can mean more than one thing: read in one way, counted, refused by a strict import."""

import json

import pytest

from pfcvr.errors import SourceError


def surprises(intake) -> list[str]:
    with pytest.raises(SourceError):
        intake.run_import(strict=True)
    lines = (intake.workspace.folder("import") / "surprises.txt").read_text().splitlines()
    return [json.loads(f'"{line}"') for line in lines]


def rows_of(intake, json_lines, *said: dict) -> None:
    """One picture a row, all in ``image``; the first row is as it should be."""
    for number in range(len(said)):
        intake.picture(f"image/{number}.jpg", color=f"rgb({number * 40}, 90, 10)")
    rows = ({"file_path": f"image/{number}.jpg", "id": number + 10, "caption": "car"} for number in range(len(said)))
    intake.write("rows.jsonl", json_lines(*(row | own for row, own in zip(rows, said, strict=True))))


@pytest.mark.parametrize(("value", "shown"), [(7, "7"), (["train"], '["train"]'), ("Trane", "trane")])
def test_a_split_that_is_none_is_counted_as_it_is_written(intake, json_lines, value: object, shown: str) -> None:
    rows_of(intake, json_lines, {"split": "Train "}, {"split": value}, {"split": None}, {})
    assert surprises(intake) == [f"split '{shown}' x 1"]
    assert intake.run_import().notes["splits"] == {"none": 2, "train": 1, shown: 1}


def test_numbers_of_vehicles_that_differ_in_zeros_alone_are_named(intake, json_lines) -> None:
    rows_of(intake, json_lines, {"id": 2, "split": "train"}, {"id": "02", "split": "test"}, {"id": "0x2"}, {"id": 20})
    assert surprises(intake) == ["vehicles 02 and 2 differ in leading zeros alone"]
    assert intake.run_import().notes["vehicles_that_differ_in_zeros"] == [["02", "2"]]


def test_images_beside_the_named_ones_that_no_row_names_are_counted(intake, json_lines) -> None:
    rows_of(intake, json_lines, {}, {"id": True})
    intake.picture("image/beside.jpg", color="red")
    intake.picture("elsewhere/copy.jpg", color="pink")
    assert surprises(intake) == ["images in no list x 1", "rows.jsonl:2 (no_identity)"]
    assert intake.run_import().notes["images_in_no_list"] == {"count": 1, "examples": ["image/beside.jpg"]}


def test_an_image_whose_rows_disagree_about_its_split_is_counted(intake, json_lines) -> None:
    again = {"file_path": "image/0.jpg", "id": 10}
    rows_of(intake, json_lines, {"split": "train"}, again | {"split": "test"}, again | {"split": "training"})
    for name in ("1", "2"):
        (intake.root / f"image/{name}.jpg").unlink()
    assert surprises(intake) == ["rows with another split than before x 1"]
    assert intake.run_import().kept == 1


FLOATS = {
    "rows.json": '[{"file_path": "a.jpg", "id": 2.0, "caption": "a"}, {"file_path": "b.jpg", "id": 2, "caption": "b"}]',
    "rows.csv": "file_path,id,caption\na.jpg,2.0,car\nb.jpg,2,car\n",
    "vehicles.csv": "file_path,vehicle_id,caption\na.jpg,2.0,car\nb.jpg,2,car\n",
}


@pytest.mark.parametrize("name", FLOATS)
def test_a_whole_number_with_a_fraction_is_that_number_in_every_form(intake, name: str) -> None:
    intake.picture("a.jpg")
    intake.picture("b.jpg", color="red")
    intake.write(name, FLOATS[name])
    assert surprises(intake) == ["ids written with a fraction x 1"]
    assert intake.run_import().notes["ids_written_with_a_fraction"] == 1
    assert list(intake.images()) == ["2/a", "2/b"]
    assert intake.run_caption(captioner="import").kept == 2


@pytest.mark.parametrize("identity", ["2.5", "1e300", "NaN", "-Infinity"])
def test_a_number_that_is_not_whole_is_no_identity_in_json(intake, identity: str) -> None:
    intake.picture("a.jpg")
    intake.picture("b.jpg", color="red")
    good = json.dumps({"file_path": "b.jpg", "id": "2.5", "caption": "car"})
    intake.write("rows.jsonl", f'{{"file_path": "a.jpg", "id": {identity}, "caption": "car"}}\n{good}\n')
    assert intake.run_import().reasons == {"no_identity": 1}
    assert list(intake.images()) == ["2.5/b"]
