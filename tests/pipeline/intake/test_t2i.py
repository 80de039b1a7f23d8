"""The released T2I-VeRW and T2I-VeRI, typed as their owners ship them, become workspaces with everything in them."""

import json
import tracemalloc

import numpy as np
import pytest

from pfcvr.config import PartsConfig, SplitConfig
from pfcvr.errors import SourceError, UsageError, WorkspaceError
from pfcvr.geometry import coverage_grid, grid_array, part_shares
from pfcvr.pipeline import parts, split
from pfcvr.records import PARTS, ImageParts, VehicleSplit
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
NAME = "reid_with_mask_prompt_and_boxes_filepath_prefixid_idsplit_70_30.json"


def cells(*covered: tuple[int, int]) -> list[list[int]]:
    grid = [[0] * 24 for _ in range(24)]
    for row, column in covered:
        grid[row][column] = 1
    return grid


WINDOWS, WHEELS, LIGHTS = cells((3, 4), (3, 5), (4, 4)), cells((20, 2)), cells((10, 0), (11, 23))
ROWS = [
    {
        "id": 12,
        "file_path": "image/00012_000011.jpg",
        "captions": ["A white <b>SUV</b>, dark rear windows."],
        "split": "train",
        "boxes": "boxes\\00012_000011.json",
        "mask": WINDOWS,
        "prompt": "car windows, wheels",
    },
    {
        "id": "13",
        "file_path": "image/00013_000020.jpg",
        "captions": ["A red sedan.", "A sedan."],
        "split": "val",
        "boxes": "boxes/00013_000020.json",
        "mask": [cell for row in WHEELS for cell in row],
        "prompt": "car wheels",
    },
]
PART_FILES = {
    "boxes/00012_000011.json": [
        {"category": "windows", "score": 0.91, "mask": WINDOWS},
        {"category": "lights", "score": 0.5, "mask": cells((10, 0))},
        {"category": "lights", "score": 0.4, "mask": cells((11, 23))},
    ],
    "boxes/00013_000020.json": [{"category": "wheels", "mask": [float(c) for row in WHEELS for c in row]}],
}


@pytest.fixture
def released(intake):
    for number, row in enumerate(ROWS):
        intake.picture(row["file_path"], color=f"rgb({number * 90}, 40, 10)", size=(131, 77))
    intake.write(NAME, "\ufeff" + json.dumps(ROWS))
    for path, content in PART_FILES.items():
        intake.write(path, json.dumps(content))
    return intake


def run_parts(intake, **settings):
    return parts.run(intake.workspace, PartsConfig(detector="import", **settings), QUIET)


def part_records(intake) -> dict[str, ImageParts]:
    return {row.image_id: row for row in intake.workspace.records("parts", ImageParts)}


def test_four_commands_without_a_file_name_take_over_everything(released) -> None:
    summary = released.run_import(strict=True)
    assert summary.notes["recognised"].startswith("t2i-verw: ")
    assert {image_id: image.source_split for image_id, image in released.images().items()} == {
        "00012/000011": "train",
        "00013/000020": "test",
    }
    assert summary.notes["val_is_test"] is True
    assert summary.notes["image_names"] == {"9_9": 2}
    assert summary.notes["part_files"]["keys"] == {"category": 4, "mask": 4, "score": 3}
    assert set(summary.notes["part_files"]["cell_values"]) == {"0", "1", "0.0", "1.0"}
    assert summary.notes["counts"][1] == {
        "part": "train",
        "images": 1,
        "published_images": 10_265,
        "vehicles": 1,
        "published_vehicles": 1_251,
    }
    assert released.run_caption(captioner="import").kept == 2
    assert released.captions()["00012/000011"] == ("A white <b>SUV</b>, dark rear windows.",)
    assert released.captions()["00013/000020"] == ("A red sedan.", "A sedan.")
    split.run(released.workspace, SplitConfig(from_source=True), QUIET)
    splits = {row.vehicle_id: row.split for row in released.workspace.records("split", VehicleSplit)}
    assert splits == {"00012": "train", "00013": "test"}
    assert run_parts(released).rejected == 0


def test_the_cells_arrive_exactly_and_masks_drawn_of_them_give_them_again(released) -> None:
    released.run_import()
    run_parts(released)
    found = part_records(released)
    expected = {"00012/000011": {"windows": WINDOWS, "lights": LIGHTS}, "00013/000020": {"wheels": WHEELS}}
    for image_id, own in expected.items():
        record = found[image_id]
        assert record.grid.rule == "given"
        array = grid_array(record.grid)
        shares = part_shares(record.instances, (77, 131), 24, 24)
        for number, part in enumerate(PARTS):
            wanted = np.array(own.get(part, cells()))
            assert (array[number] == wanted).all()
            if part in own:
                assert (coverage_grid(shares[part], 0.5) == wanted.astype(bool)).all()
    scores = [instance.score for instance in found["00012/000011"].instances]
    assert scores == [0.91, 0.5, 0.4]


def test_another_grid_is_computed_from_the_drawn_masks(released) -> None:
    released.run_import()
    run_parts(released, grid="12x12")
    grid = part_records(released)["00013/000020"].grid
    assert (grid.rows, grid.rule) == (12, "stretch-coverage")
    assert np.argwhere(grid_array(grid)[PARTS.index("wheels")]).tolist() == [[10, 1]]


BAD_PARTS = [
    ([{"category": "hood", "mask": WHEELS}], "unknown_category"),
    ([{"category": "doors", "mask": [[0, 255]]}], "malformed_mask"),
    ([{"category": "doors", "mask": [[2] * 24] * 24}], "malformed_mask"),
    ([{"category": "doors", "mask": cells()}], "empty_mask"),
    ([{"category": "doors", "mask": WHEELS, "score": "high"}], "malformed_score"),
    (["doors"], "malformed_annotation"),
    ({"category": "doors"}, "malformed_annotation"),
]


@pytest.mark.parametrize(("content", "reason"), BAD_PARTS)
def test_a_bad_part_costs_only_itself(released, content, reason: str) -> None:
    released.write("boxes/00012_000011.json", json.dumps(content))
    released.run_import()
    summary = run_parts(released)
    assert (summary.kept, summary.reasons) == (2, {reason: 1})
    assert part_records(released)["00013/000020"].instances[0].part == "wheels"


@pytest.mark.parametrize(("content", "reason"), BAD_PARTS)
def test_a_bad_part_fails_a_strict_import(released, content, reason: str) -> None:
    released.write("boxes/00012_000011.json", json.dumps(content))
    place = "boxes/00012_000011.json" + (":item 1" if isinstance(content, list) else "")
    with pytest.raises(SourceError, match=rf"found 1 surprise: {place} \({reason}\); mend"):
        released.run_import(strict=True)
    found = released.run_import().notes["part_files"]
    assert (found["unusable_parts"], found["unreadable"]) == ((1, 0) if isinstance(content, list) else (0, 1))


@pytest.mark.parametrize(
    ("path", "reason"), [("boxes/absent.json", "missing_file"), ("../../outside.json", "outside_root")]
)
def test_a_part_file_that_is_absent_or_outside_fails_a_strict_import(released, path: str, reason: str) -> None:
    released.write(NAME, json.dumps([ROWS[0], ROWS[1] | {"boxes": path}]))
    with pytest.raises(SourceError, match=rf"found 1 surprise: {path} \({reason}\); mend"):
        released.run_import(strict=True)


@pytest.mark.parametrize(
    ("path", "reason"), [("boxes/absent.json", "missing_file"), ("../../outside.json", "outside_root")]
)
def test_a_part_file_that_is_absent_or_outside_is_refused(released, path: str, reason: str) -> None:
    released.write(NAME, json.dumps([ROWS[0] | {"boxes": path}, ROWS[1]]))
    released.run_import()
    assert run_parts(released).reasons == {reason: 1}


def test_a_part_file_cut_off_is_one_row(released) -> None:
    released.write("boxes/00012_000011.json", '[{"category": "wind')
    released.run_import()
    assert run_parts(released).reasons == {"malformed_annotation": 1}


def test_a_gigantic_part_file_is_one_row_and_takes_no_memory_of_its_size(released) -> None:
    released.write("boxes/00012_000011.json", "[" + "{}, " * 1_500_000 + "{}]")
    tracemalloc.start()
    try:
        assert released.run_import().notes["part_files"]["unreadable"] == 1
        summary = run_parts(released)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()
    assert (summary.kept, summary.reasons) == (2, {"too_large": 1})


def test_a_misspelt_split_is_reported_and_its_vehicle_refused_by_from_source(released) -> None:
    released.write(NAME, json.dumps([ROWS[0], ROWS[1] | {"split": "tset"}]))
    assert released.run_import().notes["splits"] == {"train": 1, "tset": 1}
    with pytest.raises(WorkspaceError, match=r"puts 1 vehicle in none, such as 00013; split without --from-source"):
        split.run(released.workspace, SplitConfig(from_source=True), QUIET)


def test_a_vehicle_in_two_splits_of_the_source_is_refused(released) -> None:
    for name, color in (("00014_000030", "lime"), ("x", "red"), ("y", "navy")):
        released.picture(f"image/{name}.jpg", color=color)
    train, val = ROWS[0] | {"file_path": "image/y.jpg"}, ROWS[1] | {"id": 12, "file_path": "image/x.jpg"}
    other = ROWS[0] | {"id": 14, "file_path": "image/00014_000030.jpg"}
    released.write(NAME, json.dumps([train, val, other]))
    released.run_import()
    with pytest.raises(WorkspaceError, match="1 vehicle in several splits, such as 12"):
        split.run(released.workspace, SplitConfig(from_source=True), QUIET)


def test_t2i_veri_is_known_by_its_file_name_or_its_folder(intake, tmp_path, new_intake) -> None:
    row = {"split": "train", "captions": ["a bus"], "file_path": "image/0001.jpg", "id": 12}
    intake.picture("image/0001.jpg")
    intake.write("T2I_VeRi.json", json.dumps([row]))
    notes = intake.run_import().notes
    assert notes["recognised"].startswith("t2i-veri: ")
    assert "MMIC" in notes["sources"][0]["terms"]
    refixed = new_intake(tmp_path / "other")
    refixed.picture("image/0001.jpg")
    refixed.write("reid_with_mask_prompt_and_boxes_filepath_refixID.json", json.dumps([row | {"mask": WHEELS}]))
    assert refixed.run_import().notes["recognised"].startswith("t2i-veri: ")


def test_a_source_without_parts_or_captions_says_what_to_give(intake) -> None:
    intake.pictures("00001/000001")
    intake.run_import()
    with pytest.raises(UsageError, match="the source of this workspace brings no parts along; give it with --annot"):
        run_parts(intake)
    with pytest.raises(UsageError, match="the source of this workspace brings none along; give it with --captions"):
        intake.run_caption(captioner="import")


def test_vehicles_that_an_export_numbered_get_their_names_back(released) -> None:
    row = ROWS[0] | {"id": 3, "file_path": "image/red%20bus_%23%2F1.jpg"}
    released.picture("image/red%20bus_%23%2F1.jpg", color="lime")
    released.write(NAME, json.dumps([row]))
    released.write("vehicle_ids.json", json.dumps({"red bus": 3}))
    released.run_import()
    assert {image_id: image.vehicle_id for image_id, image in released.images().items()} == {"red bus/#/1": "red bus"}


def test_a_file_name_that_begins_with_another_number_keeps_the_identity_of_its_row(released) -> None:
    released.write(NAME, json.dumps([ROWS[0] | {"id": 77}, ROWS[1]]))
    released.run_import()
    assert list(released.images()) == ["00013/000020", "77/00012_000011"]


def test_a_cell_or_score_of_a_part_file_that_is_no_number_costs_its_part_alone(released) -> None:
    strange = [[float("nan"), *WHEELS[0][1:]], *WHEELS[1:]]
    entries = [
        {"category": "roof", "mask": strange},
        {"category": "doors", "mask": LIGHTS, "score": float("inf")},
        {"category": "wheels", "mask": WHEELS},
    ]
    released.write("boxes/00013_000020.json", json.dumps(entries))
    released.run_import()
    assert run_parts(released).kept == 2
    assert {row.subject: row.reason for row in released.workspace.rejected("parts")} == {
        "00013/000020:boxes/00013_000020.json:item 1": "malformed_mask",
        "00013/000020:boxes/00013_000020.json:item 2": "malformed_score",
    }
    assert [one.part for one in part_records(released)["00013/000020"].instances] == ["wheels"]


def test_a_vehicle_whose_file_names_pad_its_number_differently_stays_one_vehicle(released) -> None:
    names = ["00012_000011", "012_000012", "12_000013", "front"]
    for number, name in enumerate(names[1:]):
        released.picture(f"image/{name}.jpg", color=f"rgb({number * 90}, 90, 200)")
    rows = [ROWS[0] | {"file_path": f"image/{name}.jpg"} for name in names]
    released.write(NAME, json.dumps([*rows, ROWS[1]]))
    released.run_import()
    assert [image_id for image_id, image in released.images().items() if image.vehicle_id == "00012"] == [
        "00012/000011",
        "00012/012_000012",
        "00012/12_000013",
        "00012/front",
    ]
