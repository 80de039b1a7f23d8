"""Which images take part: the rule, its draw, the list, and the reason for everything left out."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfcvr.config import SplitConfig
from pfcvr.errors import NothingKept, SealedError, SourceError, StageStopped, UsageError, WorkspaceError
from pfcvr.pipeline.select import draw_vehicles, report
from pfcvr.pipeline.split import split_vehicles
from pfcvr.stage import RunOptions


@pytest.fixture
def six(intake):
    """Vehicles with 1, 2, 3, 4, 5 and 3 images; the last one seen by one camera only."""
    counts = {"00001": 1, "00002": 2, "00003": 3, "00004": 4, "00005": 5, "00006": 3}
    lines, number = [], 0
    for vehicle_id, count in counts.items():
        for camera in range(count):
            number += 1
            intake.pictures(f"{vehicle_id}/{number:06d}")
            lines.append(f"{vehicle_id}/{number:06d};{0 if vehicle_id == '00006' else camera};t;;sedan;white")
    intake.info(*lines)
    intake.run_import()
    return intake


def vehicles(intake) -> dict[str, int]:
    return dict(Counter(image_id.partition("/")[0] for image_id in intake.selected()))


def test_without_a_wish_everything_is_kept(six) -> None:
    summary = six.run_select()
    assert (summary.kept, summary.rejected) == (18, 0)
    assert list(six.workspace.images()) == list(six.images().values())


def test_vehicles_with_too_little_are_left_out_whole_and_say_why(six) -> None:
    summary = six.run_select(min_images=3, min_cameras=2)
    assert vehicles(six) == {"00003": 3, "00004": 4, "00005": 5}
    assert summary.reasons == {"too_few_cameras": 3, "too_few_images": 3}
    assert "too_few_cameras: 3, too_few_images: 3" in summary.text()
    assert six.rejected("select")["00001/000001"] == ("too_few_images", "the vehicle has 1, 3 wanted")
    assert six.rejected("select")["00006/000016"] == ("too_few_cameras", "the vehicle has 1, 2 wanted")
    assert [image.image_id for image in six.workspace.images()] == six.selected()


def test_identities_and_images_are_both_reached_when_the_sizes_allow_it(six) -> None:
    summary = six.run_select(identities=3, images=9, seed=4)
    assert len(vehicles(six)) == 3
    assert summary.kept == 9
    assert summary.reasons == {"not_drawn": 9}
    assert summary.notes["wanted"] == {"identities": 3, "images": 9}
    assert (summary.notes["identities"], summary.notes["images"]) == (3, 9)


def test_a_number_of_images_alone_is_met_as_nearly_as_whole_vehicles_can(six) -> None:
    assert abs(six.run_select(images=10, seed=1).kept - 10) <= 2


def test_more_than_there_is_takes_all_and_says_how_many(six) -> None:
    summary = six.run_select(identities=50)
    assert (summary.notes["wanted"], summary.notes["identities"]) == ({"identities": 50}, 6)


def test_people_are_told_of_numbers_that_were_not_met_and_of_nothing_else(six) -> None:
    def told(**settings: int) -> list[str]:
        return report(six.run_select(RunOptions(overwrite=True, quiet=True), **settings)).splitlines()

    assert told(identities=1796, images=14668, min_images=2) == [
        "1,796 identities wanted, 5 kept: every vehicle that qualifies was taken",
        "14,668 images wanted, 17 kept: every vehicle that qualifies was taken",
    ]
    assert told(identities=1, images=6, seed=1) == ["6 images wanted, 5 kept: as near as whole vehicles allow"]
    assert told(identities=3, images=9, seed=1) == []
    assert told() == []


def test_people_are_told_of_entries_of_the_list_that_were_not_found(six) -> None:
    six.pictures("00002/000009", "00003/000009")
    six.run_import()
    found = six.run_select(list=six.write("found.txt", "00003\n"))
    assert report(found) == ""
    wanted = six.write("wanted.txt", "00003\nnobody\n000009\n")
    summary = six.run_select(RunOptions(overwrite=True, quiet=True), list=wanted)
    assert report(summary) == (
        "entries of the list that name no image or vehicle here or mean several (1): 2 of 3, such as nobody, 000009"
    )


def test_the_seed_decides_and_the_same_seed_repeats(six) -> None:
    def drawn(seed: int) -> list[str]:
        six.run_select(RunOptions(overwrite=True, quiet=True), identities=2, seed=seed)
        return six.selected()

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(6)}) > 1


def test_a_list_may_name_images_vehicles_and_paths(six) -> None:
    wanted = six.write(
        "wanted.txt",
        "\ufeff00003\r\n\r\n00004/000008\nimages/00005/000011.jpg\n00002_000002\n000016\n"
        "11542/119083.jpg 0 23\nnobody\n00003\n",
    )
    summary = six.run_select(list=wanted)
    assert six.selected() == [
        "00002/000002",
        "00003/000004",
        "00003/000005",
        "00003/000006",
        "00004/000008",
        "00005/000011",
        "00006/000016",
    ]
    assert summary.reasons == {"not_listed": 11}
    assert summary.notes["list_entries"] == 7
    assert summary.notes["unmatched_list_entries"] == {
        "count": 2,
        "ambiguous": 0,
        "examples": ["11542/119083.jpg", "nobody"],
    }
    assert six.rejected("select")["00001/000001"][1] == "wanted.txt names neither the image nor its vehicle"


def test_a_list_of_three_columns_takes_the_first(six) -> None:
    six.run_select(list=six.write("train_list_start0.txt", "00003/000004.jpg 0 23\n00003/000005.jpg 0 61\n"))
    assert six.selected() == ["00003/000004", "00003/000005"]


def test_a_list_may_be_the_released_json_with_flat_names(six) -> None:
    rows = [
        {"id": 3, "file_path": "image/00003_000004.jpg", "captions": ["a"], "split": "train"},
        {"id": 4, "file_path": "image/000008.jpg", "captions": ["b"], "split": "val"},
        {"id": 4, "file_path": "image/000008.jpg", "captions": ["another"], "split": "val"},
        {"id": 9, "file_path": "image/00009_000099.jpg", "captions": ["c"], "split": "val"},
    ]
    summary = six.run_select(list=six.write("released.json", json.dumps(rows)))
    assert six.selected() == ["00003/000004", "00004/000008"]
    assert summary.notes["unmatched_list_entries"]["examples"] == ["00009_000099.jpg"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"file_path": "image/000008.jpg"}, {"file_path": "im', "released.json:item 2: the JSON is cut off"),
        ('[{"file_path": "image/000008.jpg"}, {"id": 5}]', "released.json:item 2: no image under any of image_id"),
    ],
)
def test_a_json_list_is_taken_whole_or_not_at_all(six, content, sentence) -> None:
    with pytest.raises(SourceError, match=sentence):
        six.run_select(list=six.write("released.json", content))
    assert six.workspace.manifest("select") is None


def test_a_new_selection_of_nothing_leaves_the_earlier_one(six) -> None:
    six.run_select(identities=2)
    before = six.selected()
    with pytest.raises(
        NothingKept, match=r"kept nothing \(18 x too_few_images\).*what was sealed before is still there"
    ):
        six.run_select(RunOptions(overwrite=True, quiet=True), min_images=99)
    assert six.selected() == before
    assert six.run_select(identities=2).already_done


def test_full_disk_stops_and_the_same_command_finishes_with_the_same_bytes(six, monkeypatch) -> None:
    files_written = []

    def full_after_three(descriptor: int) -> None:
        files_written.append(descriptor)
        if len(files_written) > 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_three)
        with pytest.raises(StageStopped, match="stage 'select': the disk is full.*run the same command to continue"):
            six.run_select(identities=3)
    assert six.workspace.manifest("select") is None
    six.run_select(identities=3)
    continued = (six.workspace.folder("select") / "part-00000.jsonl").read_bytes()
    six.run_select(RunOptions(overwrite=True, quiet=True), identities=2)
    six.run_select(RunOptions(overwrite=True, quiet=True), identities=3)
    assert (six.workspace.folder("select") / "part-00000.jsonl").read_bytes() == continued


def test_published_proportions_come_from_any_copy_with_enough_vehicles() -> None:
    """T2I-VeRW: 1,796 identities, 14,668 images, 70 % of the images in train (paper, section IV and Table II)."""
    sizes = np.random.default_rng(5).geometric(0.1, 40_671).clip(2, 60)  # about ten images each, as VERI-Wild has
    images = {f"{number:05d}": int(size) for number, size in enumerate(sizes, start=1)}
    for copy in (images, dict(list(images.items())[:6000])):
        drawn = draw_vehicles(copy, 1796, 14_668, seed=1)
        assert (len(drawn), sum(copy[vehicle_id] for vehicle_id in drawn)) == (1796, 14_668)
        chosen = {vehicle_id: copy[vehicle_id] for vehicle_id in drawn}
        split = split_vehicles(chosen, SplitConfig(ratio=0.7, val=0, seed=1))
        train = sum(size for vehicle_id, size in chosen.items() if split[vehicle_id] == "train")
        assert abs(train / 14_668 - 0.7) < 0.002
        assert set(split) == drawn


def test_mistakes_are_one_sentence(six, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="select takes either --list or --identities/--images; leave one of them out"):
        six.run_select(list=tmp_path / "l.txt", identities=3)
    with pytest.raises(SourceError, match="no such list; expected one image_id, vehicle_id or path a line"):
        six.run_select(list=tmp_path / "l.txt")
    with pytest.raises(NothingKept, match="18 x too_few_images"):
        six.run_select(min_images=99)


def test_selecting_before_importing_names_the_missing_command(intake) -> None:
    with pytest.raises(WorkspaceError, match="stage 'import' is missing; run: pfcvr-data import"):
        intake.run_select()


def test_another_rule_needs_overwrite(six) -> None:
    six.run_select(identities=2)
    with pytest.raises(SealedError, match=r"identities \(2 before, none now\)"):
        six.run_select()
    with pytest.raises(SealedError, match=r"identities \(2 before, 3 now\)"):
        six.run_select(identities=3)


def test_images_of_unknown_cameras_add_no_camera_to_the_known_ones(intake) -> None:
    """They may all be from the one camera that is known."""
    intake.pictures("00001/000001", "00001/000002", "00002/000003")
    intake.info("00001/000001;23;t;;sedan;white")
    intake.run_import()
    with pytest.raises(NothingKept, match="3 x too_few_cameras"):
        intake.run_select(min_cameras=2)
    assert intake.run_select(min_cameras=1).kept == 3


SIZES = st.dictionaries(st.from_regex(r"[0-9]{5}", fullmatch=True), st.integers(1, 30), min_size=1, max_size=60)


@given(SIZES, st.integers(1, 60), st.integers(1, 900), st.integers(0, 9))
def test_the_draw_is_exact_in_identities_and_no_exchange_of_two_gets_nearer(
    images: dict[str, int], identities: int, wanted: int, seed: int
) -> None:
    drawn = draw_vehicles(images, identities, wanted, seed)
    assert drawn <= images.keys()
    assert len(drawn) == min(identities, len(images))
    distance = abs(sum(images[v] for v in drawn) - wanted)
    rest = images.keys() - drawn
    total = sum(images[v] for v in drawn)
    assert all(abs(total - images[out] + images[new] - wanted) >= distance for out in drawn for new in rest)


@given(SIZES, st.integers(1, 900), st.integers(0, 9))
def test_images_alone_cut_the_drawn_order_at_the_nearest_place(images: dict[str, int], wanted: int, seed: int) -> None:
    drawn = draw_vehicles(images, None, wanted, seed)
    by_count = [draw_vehicles(images, count, None, seed) for count in range(1, len(images) + 1)]
    assert drawn in by_count
    distances = [abs(sum(images[v] for v in some) - wanted) for some in by_count]
    assert abs(sum(images[v] for v in drawn) - wanted) == min(distances)


@given(SIZES, st.integers(1, 30), st.integers(0, 9))
def test_more_vehicles_in_the_source_never_change_the_order_of_the_others(
    images: dict[str, int], identities: int, seed: int
) -> None:
    drawn = draw_vehicles(images, identities, None, seed)
    fewer = {vehicle_id: size for vehicle_id, size in images.items() if vehicle_id in drawn}
    assert draw_vehicles(fewer, identities, None, seed) == drawn
