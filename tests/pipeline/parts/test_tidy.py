"""What is done to every model's answers: cutting, dropping duplicates, flagging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfcvr import geometry
from pfcvr.pipeline.pictures import Found
from pfcvr.pipeline.tidy_parts import flagged, tidy
from pfcvr.records import BoxXyxy, PartInstance

SIZE = (60, 100)
numbers = st.floats(-30, 130, allow_nan=False)
boxes = st.tuples(numbers, numbers, numbers, numbers)
instances = st.builds(
    PartInstance, part=st.sampled_from(["doors", "roof"]), box_xyxy=boxes, score=st.sampled_from([0.3, 0.5, 0.9])
)


def instance(part: str, box: BoxXyxy, score: float = 0.5, mask: np.ndarray | None = None) -> PartInstance:
    return PartInstance(part=part, box_xyxy=box, score=score, mask=None if mask is None else geometry.encode_mask(mask))


def overlap_of(one: BoxXyxy, other: BoxXyxy) -> float:
    """Intersection over union, counted on a fine grid."""
    ys, xs = np.mgrid[0:60:0.25, 0:100:0.25] + 0.125
    first, second = ((xs > b[0]) & (xs < b[2]) & (ys > b[1]) & (ys < b[3]) for b in (one, other))
    return float((first & second).sum() / max((first | second).sum(), 1))


@given(st.lists(instances, max_size=8))
def test_boxes_lie_on_the_picture_and_no_two_of_a_part_are_nearly_the_same(found: list[PartInstance]) -> None:
    kept = tidy(Found(tuple(found)), SIZE, overlap=0.5).instances
    for own in kept:
        x0, y0, x1, y1 = own.box_xyxy
        assert 0 <= x0 < x1 <= 100
        assert 0 <= y0 < y1 <= 60
    for number, own in enumerate(kept):
        for other in kept[:number]:
            if own.part == other.part:
                assert own.score <= other.score
                assert overlap_of(own.box_xyxy, other.box_xyxy) < 0.56
    assert [own.part for own in kept] == sorted((own.part for own in kept), key=("doors", "roof").index)


def test_of_near_equal_boxes_the_better_scored_stays_within_a_part_only() -> None:
    box, near = (10.0, 10.0, 50.0, 50.0), (11.0, 10.0, 51.0, 50.0)
    found = (instance("doors", near, 0.6), instance("doors", box, 0.7), instance("roof", near, 0.4))
    kept = tidy(Found(found), SIZE, overlap=0.6).instances
    assert [(own.part, own.box_xyxy) for own in kept] == [("doors", box), ("roof", near)]
    assert len(tidy(Found(found), SIZE, overlap=0.99).instances) == 3


def test_coordinates_and_scores_are_rounded_and_the_vehicle_is_cut() -> None:
    found = Found((instance("doors", (1.23456, 2.0, 30.98765, 40.0), 0.123456789),), (-5.0, -5.0, 300.0, 30.0))
    tidied = tidy(found, SIZE, 0.6)
    assert tidied.instances[0].box_xyxy == (1.23, 2.0, 30.99, 40.0)
    assert tidied.instances[0].score == 0.1235
    assert tidied.vehicle == (0.0, 0.0, 100.0, 30.0)


def mask_of(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("found", "flags"),
    [
        ([instance("doors", (10, 10, 40, 40))], [()]),
        ([instance("doors", (10, 10, 40, 40), mask=mask_of(0, 0, 0, 0))], [("empty_mask",)]),
        ([instance("doors", (0, 0, 100, 60))], [("whole_picture",)]),
        ([instance("doors", (10, 10, 20, 20), mask=mask_of(0, 60, 0, 95))], [("whole_picture", "outside_box")]),
        ([instance("doors", (10, 10, 40, 40), mask=mask_of(10, 40, 26, 56))], [("outside_box",)]),
        ([instance("doors", (10, 10, 40, 40), mask=mask_of(10, 40, 24, 54))], [()]),
        ([instance("doors", (0, 0, 100, 60), mask=mask_of(0, 60, 0, 50))], [()]),
        ([instance("wheels", (10, 45, 20, 55)), instance("roof", (10, 5, 60, 15))], [(), ()]),
        (
            [instance("wheels", (10, 5, 20, 15)), instance("roof", (10, 40, 60, 50))],
            [("wheel_above_roof",), ("roof_below_wheels",)],
        ),
        ([instance("wheels", (0, 5, 9, 15)), instance("wheels", (20, 50, 29, 59)), instance("roof", (10, 20, 60, 30))],
         [("wheel_above_roof",), (), ()]),
        (
            [instance("wheels", (0, 0, 99, 59), mask=mask_of(50, 59, 0, 9)), instance("roof", (10, 20, 60, 30))],
            [(), ()],
        ),
    ],
)  # fmt: skip
def test_the_implausible_is_flagged_and_kept(found: list[PartInstance], flags: list[tuple[str, ...]]) -> None:
    result = flagged(Found(tuple(found)), SIZE)
    assert [own.flags for own in result] == flags
    assert [own.model_copy(update={"flags": ()}) for own in result] == found


def test_what_lies_mostly_outside_the_vehicle_is_flagged() -> None:
    vehicle = (20.0, 10.0, 80.0, 50.0)
    inside, half, outside = (25, 15, 75, 45), (0, 15, 41, 45), (0, 15, 39, 45)
    found = Found(tuple(instance("doors", box) for box in (inside, half, outside)), vehicle)
    assert [own.flags for own in flagged(found, SIZE)] == [(), (), ("outside_vehicle",)]
    masked = Found((instance("doors", (0, 10, 80, 50), mask=mask_of(10, 50, 0, 25)),), vehicle)
    assert flagged(masked, SIZE)[0].flags == ("outside_vehicle",)
    assert flagged(Found(found.instances, None), SIZE) == found.instances
