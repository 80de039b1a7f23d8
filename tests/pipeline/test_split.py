"""The split keeps vehicles whole, reaches the ratio of images and depends on the seed alone."""

import os
import shutil
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfcvr.config import SplitConfig
from pfcvr.errors import StageStopped, WorkspaceError
from pfcvr.identity_draw import carve_validation, draw_order
from pfcvr.pipeline import split
from pfcvr.pipeline.split import split_vehicles
from pfcvr.records import VehicleSplit
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)
vehicle_counts = st.dictionaries(st.text("0123456789ab", min_size=1, max_size=6), st.integers(1, 30), min_size=2)
configs = st.builds(
    SplitConfig,
    ratio=st.floats(0.05, 0.95),
    val=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 5),
)


@given(vehicle_counts, configs)
def test_share_of_images_misses_the_ratio_by_less_than_one_vehicle(images: dict[str, int], config: SplitConfig) -> None:
    splits = split_vehicles(images, config)
    reached = sum(count for vehicle, count in images.items() if splits[vehicle] != "test")
    assert abs(reached - config.ratio * sum(images.values())) <= max(images.values())


@given(vehicle_counts, configs)
def test_every_vehicle_has_one_split_and_both_sides_have_a_vehicle(images: dict[str, int], config: SplitConfig) -> None:
    splits = split_vehicles(images, config)
    assert splits.keys() == images.keys()
    assert {"train", "test"} <= set(splits.values())


@given(vehicle_counts, configs, st.randoms())
def test_split_does_not_depend_on_the_order_of_the_input(images, config, random) -> None:
    shuffled = list(images.items())
    random.shuffle(shuffled)
    assert split_vehicles(dict(shuffled), config) == split_vehicles(images, config)


@given(vehicle_counts, configs)
def test_no_other_cut_of_the_drawn_order_is_closer_to_the_ratio(images: dict[str, int], config: SplitConfig) -> None:
    splits = split_vehicles(images, config)
    order = draw_order(images, config.seed)
    wanted = config.ratio * sum(images.values())
    misses = [abs(sum(images[vehicle] for vehicle in order[:cut]) - wanted) for cut in range(1, len(order))]
    taken = sum(split != "test" for split in splits.values())
    assert {splits[vehicle] for vehicle in order[:taken]} <= {"train", "val"}
    assert misses[taken - 1] == min(misses)


@given(vehicle_counts, configs)
def test_validation_is_the_asked_share_of_train_vehicles(images: dict[str, int], config: SplitConfig) -> None:
    splits = list(split_vehicles(images, config).values())
    train, val = splits.count("train"), splits.count("val")
    if config.val == 0 or train + val == 1:
        assert val == 0
    else:
        assert abs(val - config.val * (train + val)) <= 1
        assert val >= 1


def test_another_seed_draws_other_vehicles() -> None:
    images = {f"{number:05d}": 3 for number in range(60)}
    first, second = (split_vehicles(images, SplitConfig(seed=seed)) for seed in (1, 2))
    assert first != second


def test_carving_again_from_train_and_val_together_gives_the_same_validation_vehicles() -> None:
    images = {f"{number:05d}": 3 for number in range(60)}
    splits = split_vehicles(images, SplitConfig(val=0.2, seed=4))
    both = [vehicle for vehicle, name in splits.items() if name != "test"]
    carved = carve_validation(both, 0.2, 4)
    assert set(carved) == {vehicle for vehicle, name in splits.items() if name == "val"}


def test_stage_records_every_vehicle_with_its_images_and_notes_the_counts(whole) -> None:
    records = list(whole.workspace.records("split", VehicleSplit))
    assert [(record.vehicle_id, record.images) for record in records] == [
        ("00001", 3),
        ("00002", 2),
        ("00003", 4),
        ("00007", 1),
        ("00012", 4),
    ]
    notes = whole.workspace.sealed("split").notes
    assert sum(notes["images"].values()) == 14
    for name, count in notes["images"].items():
        assert count == sum(record.images for record in records if record.split == name)


def test_images_and_vehicles_of_every_split_are_told(whole) -> None:
    vehicles, images = Counter[str](), Counter[str]()
    for row in whole.workspace.records("split", VehicleSplit):
        vehicles[row.split] += 1
        images[row.split] += row.images
    told = split.report(split.run(whole.workspace, SplitConfig(ratio=0.6, val=0.3, seed=1), QUIET))
    assert len(vehicles) == 3
    for name in vehicles:
        several = ("" if images[name] == 1 else "s", "" if vehicles[name] == 1 else "s")
        assert f"{name} {images[name]} image{several[0]} of {vehicles[name]} vehicle{several[1]}" in told


def test_source_whose_lists_are_no_split_is_refused_with_the_command_that_draws_one(small) -> None:
    small.add_images({"00001": 2, "00002": 2})
    with pytest.raises(
        WorkspaceError, match=r"of no vehicle which split it is in.*; draw a split: pfcvr-data split -w"
    ):
        split.run(small.workspace, SplitConfig(from_source=True), QUIET)


def test_one_vehicle_alone_cannot_be_split(small) -> None:
    small.add_images({"00001": 5})
    with pytest.raises(WorkspaceError, match="needs at least two vehicles.*there is one; import or select more"):
        split.run(small.workspace, SplitConfig(), QUIET)


def test_running_again_does_nothing_and_another_seed_is_refused(whole) -> None:
    summary = split.run(whole.workspace, SplitConfig(ratio=0.6, val=0.3, seed=1), QUIET)
    assert summary.already_done
    with pytest.raises(WorkspaceError, match=r"seed \(1 before, 2 now\); rerun with --overwrite"):
        split.run(whole.workspace, SplitConfig(ratio=0.6, val=0.3, seed=2), QUIET)


def test_full_disk_stops_and_the_same_command_finishes(whole, build_small, tmp_path, monkeypatch) -> None:
    other = build_small(tmp_path / "other")
    shutil.rmtree(whole.workspace.folder("split"))
    written: list[int] = []

    def full_after_two(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_after_two)
        with pytest.raises(StageStopped, match="stage 'split': the disk is full.*run the same command to continue"):
            whole.add_split(ratio=0.6, val=0.3, seed=1)
    assert whole.workspace.manifest("split") is None
    whole.add_split(ratio=0.6, val=0.3, seed=1)
    sealed = [small.workspace.folder("split") / "part-00000.jsonl" for small in (whole, other)]
    assert sealed[0].read_bytes() == sealed[1].read_bytes()
