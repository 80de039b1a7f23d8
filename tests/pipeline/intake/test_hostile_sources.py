"""What every importer does with hostile or damaged sources: one typed row or one sentence, and nothing else lost."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pfcvr.errors import NothingKept, SourceError


@dataclass(frozen=True)
class Layout:
    """How a layout names one more image: ``claim`` writes the line for image ``name`` of vehicle number ``vehicle``."""

    folder: str
    list_file: str
    line: Callable[[str, int], str]
    good: str = "a.jpg"

    def rows(self, names: list[str]) -> list[str]:
        return [self.line(name, number) for number, name in enumerate(names, start=1)]


def as_json(name: str, vehicle: int) -> str:
    row = {"file_path": f"image/{name}", "id": vehicle, "captions": ["<script>alert(1)</script>"], "split": "train"}
    return json.dumps(row)


def as_json_with_parts(name: str, vehicle: int) -> str:
    return json.dumps(json.loads(as_json(name, vehicle)) | {"boxes": "boxes/none.json", "mask": [], "prompt": "car"})


LAYOUTS = {
    "vric": Layout("train_images", "vric_train.txt", lambda name, vehicle: f"{name} {vehicle} 7"),
    "vehicleid": Layout("image", "attribute/img2vid.txt", lambda name, vehicle: f"{name} {vehicle}"),
    "veri-wild-2": Layout("gallery", "test_split/A_gallery.txt", lambda name, vehicle: f"{name} {vehicle} 1"),
    "reid-json": Layout("image", "rows.jsonl", as_json),
    "t2i-verw": Layout("image", "rows.json", as_json_with_parts),
}
NAMED = {
    **LAYOUTS,
    "veri-776": Layout("image_train", "name_train.txt", lambda name, vehicle: name, "0001_c001_00016450_0.jpg"),
    "veri-wild": Layout("images/00001", "train_test_split/train_list.txt", lambda name, _: f"00001/{name}"),
}


def write_source(intake, layout: Layout, *extra: str) -> None:
    """One good picture, claimed first, and the names ``extra`` claimed after it."""
    intake.picture(f"{layout.folder}/{layout.good}", color="teal")
    intake.write(layout.list_file, "\n".join(layout.rows([layout.good, *extra])) + "\n")


@pytest.mark.parametrize("name", NAMED)
def test_a_listed_file_that_is_absent_is_one_row(intake, name: str) -> None:
    absent = "0001_c001_00016451_0.jpg" if name == "veri-776" else "absent.jpg"
    write_source(intake, NAMED[name], absent)
    summary = intake.run_import(format=name)
    assert (summary.kept, summary.reasons) == (1, {"missing_file": 1})


@pytest.mark.parametrize("name", NAMED)
def test_a_link_out_of_the_source_is_never_followed(intake, name: str) -> None:
    linked = "0001_c001_00016451_0.jpg" if name == "veri-776" else "linked.jpg"
    write_source(intake, NAMED[name], linked)
    secret = intake.picture("../elsewhere/secret.jpg")
    os.symlink(secret, intake.root / NAMED[name].folder / linked)
    summary = intake.run_import(format=name)
    assert (summary.kept, summary.reasons) == (1, {"outside_root": 1})


@pytest.mark.parametrize("path", ["../../elsewhere/secret.jpg", "{absolute}"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_path_that_leaves_the_source_is_refused(intake, name: str, path: str) -> None:
    secret = intake.picture("../elsewhere/secret.jpg")
    write_source(intake, LAYOUTS[name], path.format(absolute=secret))
    summary = intake.run_import(format=name)
    assert summary.kept == 1
    assert set(summary.reasons) <= {"outside_root", "missing_file"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_with_blanks_quotes_and_other_scripts_arrive_as_they_are(intake, name: str) -> None:
    odd = ['it\'s "red".jpg', "车辆 é.jpg", "a,b;c.jpg"]
    write_source(intake, LAYOUTS[name], *odd)
    for number, own in enumerate(odd):
        intake.picture(f"{LAYOUTS[name].folder}/{own}", color=f"rgb({number * 80}, 10, 200)")
    summary = intake.run_import(format=name)
    assert (summary.kept, summary.rejected) == (4, 0)
    assert {image.path.rpartition("/")[2] for image in intake.images().values()} == {"a.jpg", *odd}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_control_character_in_a_listed_name_costs_only_its_line(intake, name: str) -> None:
    write_source(intake, LAYOUTS[name], "bell\x07.jpg")
    summary = intake.run_import(format=name)
    assert (summary.kept, summary.reasons) == (1, {"malformed_line": 1})


@pytest.mark.parametrize("name", NAMED)
def test_bytes_that_are_no_text_in_a_list_cost_only_their_line(intake, name: str) -> None:
    layout = NAMED[name]
    write_source(intake, layout)
    path = intake.root / layout.list_file
    path.write_bytes(path.read_bytes() + b"\xff\xfe\xff bad \xff 1 2\n")
    summary = intake.run_import(format=name)
    assert (summary.kept, summary.reasons) == (1, {"malformed_line": 1})


@pytest.mark.parametrize("name", [*NAMED, "folder"])
def test_a_file_name_that_is_no_text_costs_only_that_file(intake, name: str) -> None:
    if name == "folder":
        intake.picture("00001/a.jpg")
        folder = "00001"
    else:
        write_source(intake, NAMED[name])
        folder = NAMED[name].folder
    good = next((intake.root / folder).iterdir())
    bad = os.fsencode(intake.root / folder) + b"/\xff\xfe.jpg"
    with open(bad, "wb") as file:
        file.write(good.read_bytes())
    summary = intake.run_import(format=name)
    assert summary.kept == 1
    assert set(summary.reasons) <= {"bad_name"}


def test_a_source_whose_own_name_is_no_text_is_one_sentence(intake) -> None:
    odd = os.fsdecode(os.fsencode(intake.root) + b"/\xff")
    os.mkdir(odd)
    with pytest.raises(SourceError, match="the path is not Unicode text; rename the folder"):
        intake.run_import(source=odd)


@pytest.mark.parametrize("name", ["vric", "vehicleid", "t2i-verw", "reid-json"])
def test_a_name_that_differs_in_letter_case_is_not_guessed(intake, name: str) -> None:
    layout = LAYOUTS[name]
    write_source(intake, layout, "Second.JPG")
    intake.picture(f"{layout.folder}/second.jpg", color="red")
    summary = intake.run_import(format=name)
    assert (summary.kept, summary.reasons) == (1, {"missing_file": 1})


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_bytes_under_two_vehicles_are_reported_and_fail_a_strict_import(intake, name: str) -> None:
    layout = LAYOUTS[name]
    write_source(intake, layout, "b.jpg")
    content = (intake.root / layout.folder / layout.good).read_bytes()
    (intake.root / layout.folder / "b.jpg").write_bytes(content)
    notes = intake.run_import(format=name).notes
    assert notes["same_bytes_under_two_vehicles"] == {"count": 1, "examples": [["1/a", "2/b"]]}


def test_a_strict_import_fails_on_the_same_bytes_and_writes_every_surprise_down(intake) -> None:
    write_source(intake, LAYOUTS["vric"], "b.jpg")
    (intake.root / "train_images/b.jpg").write_bytes((intake.root / "train_images/a.jpg").read_bytes())
    with pytest.raises(SourceError, match=r"found 1 surprise: same bytes: 1/a and 2/b; mend"):
        intake.run_import(strict=True)
    (intake.root / "train_images/b.jpg").unlink()
    write_source(intake, LAYOUTS["vric"], *(f"absent{number}.jpg" for number in range(9)))
    with pytest.raises(SourceError, match=r"found 9 surprises: .*; all of them are in .*surprises.txt; mend"):
        intake.run_import(strict=True, source=intake.root)
    listed = (intake.workspace.folder("import") / "surprises.txt").read_text().splitlines()
    assert sorted(listed) == sorted(f"{number + 2}/absent{number} (missing_file)" for number in range(9))


def test_a_source_without_any_good_image_is_no_success(intake) -> None:
    intake.write("vric_train.txt", "a.jpg 1 2\n")
    with pytest.raises(NothingKept, match="1 x missing_file"):
        intake.run_import()


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("veri-776", "no VeRi-776 data set; expected a folder that holds image_train or image_test or image_query"),
        ("vric", "no VRIC data set; expected a folder that holds vric_train.txt or"),
        ("vehicleid", "no VehicleID data set; expected a folder that holds attribute/img2vid.txt or"),
        ("veri-wild-2", "no VERI-Wild 2.0 lists; expected test_split_V2/ or test_split/ in a folder"),
        ("t2i-verw", "expected a JSON list, .* found no such file"),
        ("pfcvr", "no data set of pfcvr; expected a folder with data/"),
    ],
)
def test_a_folder_that_is_not_of_the_named_layout_is_one_sentence(intake, layout: str, sentence: str) -> None:
    intake.write("notes.txt", "nothing")
    with pytest.raises(SourceError, match=sentence):
        intake.run_import(format=layout)


def test_ids_as_text_and_as_numbers_and_a_split_with_a_blank_are_understood(intake) -> None:
    intake.picture("image/a.jpg")
    intake.picture("image/b.jpg", color="red")
    rows = [
        {"file_path": "image/a.jpg", "id": 7, "caption": "a car", "split": "Train "},
        {"file_path": "image/b.jpg", "id": "7", "caption": "a car", "split": " TEST"},
    ]
    intake.write("rows.json", json.dumps(rows))
    assert intake.run_import().kept == 2
    assert {image.vehicle_id for image in intake.images().values()} == {"7"}
    assert [image.source_split for image in intake.images().values()] == ["train", "test"]


def test_a_link_in_a_circle_costs_only_itself(intake) -> None:
    names = [f"00001/{number:06d}" for number in range(20)]
    intake.pictures(*names)
    folder = intake.root / "images/00001"
    for number in range(5):  # folders are listed in no fixed order, so one link might happen to come last
        (folder / f"circle{number}.jpg").symlink_to(f"circle{number}.jpg")
    (folder / "circle").symlink_to("circle")
    summary = intake.run_import(format="folder")
    assert sorted(intake.images()) == names
    assert summary.reasons == {"missing_file": 5}
    assert intake.rejected()["images/00001/circle0.jpg"][0] == "missing_file"


def test_a_list_cut_off_in_its_first_entry_does_not_make_its_image_folder_a_vehicle(intake) -> None:
    intake.picture("image/a.jpg")
    intake.picture("image/b.jpg")
    intake.write("rows.json", "[" + as_json_with_parts("a.jpg", 1)[:60])
    with pytest.raises(SourceError, match="rows.json is cut off or no JSON in UTF-8"):
        intake.run_import()
    assert intake.run_import(format="folder").kept == 2


@pytest.mark.parametrize("name", NAMED)
def test_a_source_named_by_a_relative_path_is_read_like_any_other(intake, name: str, monkeypatch) -> None:
    write_source(intake, NAMED[name])
    monkeypatch.chdir(intake.root.parent)
    summary = intake.run_import(source=Path(intake.root.name))
    assert summary.kept == 1
    assert summary.notes["recognised"].startswith(f"{name}: ")
    assert summary.notes["sources"][0]["root"] == str(intake.root.resolve())
