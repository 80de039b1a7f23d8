"""Masks, run lengths, boxes and grids against slow references and pycocotools itself."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from pfcvr import geometry
from pfcvr.records import PARTS, PartInstance, Rle

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
masks = sizes.flatmap(lambda size: hnp.arrays(bool, size))
coverages = st.sampled_from([Fraction(1, 4), Fraction(1, 3), Fraction(1, 2), Fraction(2, 3), Fraction(1)])


def exact_grid(mask: np.ndarray, rows: int, cols: int, coverage: Fraction) -> np.ndarray:
    """The rule of the design, cell by cell and pixel by pixel, in exact fractions."""
    height, width = mask.shape
    shares = [[Fraction(0)] * cols for _ in range(rows)]
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                for row in range(rows):
                    tall = overlap(Fraction(y * rows, height), Fraction((y + 1) * rows, height), row)
                    for col in range(cols) if tall else ():
                        wide = overlap(Fraction(x * cols, width), Fraction((x + 1) * cols, width), col)
                        shares[row][col] += tall * wide
    grid = np.array([[share >= coverage for share in row] for row in shares])
    best = max(share for row in shares for share in row)
    if not grid.any() and best > 0:
        row, col = next((r, c) for r in range(rows) for c in range(cols) if shares[r][c] == best)
        grid[row, col] = True
    return grid


def overlap(start: Fraction, stop: Fraction, cell: int) -> Fraction:
    return max(min(stop, Fraction(cell + 1)) - max(start, Fraction(cell)), Fraction(0))


@given(masks)
def test_run_lengths_round_trip_and_are_pycocotools_own(mask: np.ndarray) -> None:
    rle = geometry.encode_mask(mask)
    assert np.array_equal(geometry.decode_mask(rle), mask)
    reference = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle.counts == reference["counts"].decode()
    assert geometry.mask_area(rle) == mask.sum()


@given(masks)
def test_plain_runs_become_the_same_mask(mask: np.ndarray) -> None:
    flat = mask.T.ravel()
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    runs = [stop - start for start, stop in pairwise(edges)]
    runs = [0, *runs] if flat[0] else runs
    assert np.array_equal(geometry.decode_mask(geometry.rle_from_runs(runs, *mask.shape)), mask)


@given(masks.filter(np.any))
def test_box_of_a_mask_is_the_smallest_around_it(mask: np.ndarray) -> None:
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    expected = (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
    assert geometry.mask_box(geometry.encode_mask(mask)) == expected


@settings(max_examples=500)
@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=40), st.integers(-2, 30), st.integers(-2, 30)
)
def test_run_lengths_from_outside_are_refused_or_read_exactly(counts: str, height: int, width: int) -> None:
    rle = Rle(size=(height, width), counts=counts)
    try:
        mask = geometry.decode_mask(rle)
    except ValueError:
        return
    assert mask.shape == (height, width)
    assert geometry.rle_runs(counts).sum() == height * width


@given(masks, st.data())
def test_run_lengths_with_one_character_changed_never_give_another_size(mask: np.ndarray, data: st.DataObject) -> None:
    rle = geometry.encode_mask(mask)
    place = data.draw(st.integers(0, len(rle.counts) - 1))
    letter = data.draw(st.characters(min_codepoint=48, max_codepoint=111))
    damaged = Rle(size=rle.size, counts=rle.counts[:place] + letter + rle.counts[place + 1 :])
    try:
        decoded = geometry.decode_mask(damaged)
    except ValueError:
        return
    runs = geometry.rle_runs(damaged.counts).tolist()
    theirs = coco_mask.frPyObjects({"size": list(rle.size), "counts": runs}, *rle.size)
    assert coco_mask.area(theirs) == decoded.sum()
    assert geometry.mask_area(damaged) == decoded.sum()


@pytest.mark.parametrize(
    ("size", "counts", "sentence"),
    [
        ((4, 4), "", "the runs do not fill the 16 pixels of 4 x 4"),
        ((4, 4), "a" * 9, "end in the middle of a number"),
        ((4, 4), "5~", "cannot occur in run-length counts"),
        ((4, 4), "5é", "cannot occur in run-length counts"),
        ((4, 4), "o" * 30 + "0", "too large for any image"),
        ((-2, -8), "`0", "a mask cannot be -2 x -8 pixels"),
        ((0, 4), "", "a mask cannot be 0 x 4 pixels"),
        ((100, 100), "00", "the runs do not fill the 10000 pixels of 100 x 100"),
    ],
)
def test_malformed_run_lengths_are_named(size: tuple[int, int], counts: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        geometry.decode_mask(Rle(size=size, counts=counts))


@pytest.mark.parametrize("runs", [[5], [17], [-1, 17], [20, -4], [True, 15], [8.0, 8.0], []])
def test_plain_runs_that_do_not_fill_the_image_are_refused(runs: list) -> None:
    with pytest.raises(ValueError, match="plain runs do not add up to 4 x 4 = 16"):
        geometry.rle_from_runs(runs, 4, 4)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20))
def test_area_of_a_rectangle_drawn_as_polygon_is_its_area(x: int, y: int, width: int, height: int) -> None:
    rle = geometry.rle_from_polygons([[x, y, x + width, y, x + width, y + height, x, y + height]], 40, 40)
    expected = np.zeros((40, 40), dtype=bool)
    expected[y : y + height, x : x + width] = True
    assert np.array_equal(geometry.decode_mask(rle), expected)


def test_area_of_a_polygon_is_close_to_the_shoelace_area() -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        corners = rng.uniform(5, 195, (3, 2))
        (ax, ay), (bx, by), (cx, cy) = corners
        shoelace = abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2
        sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).sum()
        area = geometry.mask_area(geometry.rle_from_polygons([corners.ravel().tolist()], 200, 200))
        assert abs(area - shoelace) <= sides


def test_polygons_inside_the_image_are_drawn_as_pycocotools_draws_them() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        polygon = rng.uniform(0, 50, 10).tolist()
        theirs = coco_mask.merge(coco_mask.frPyObjects([polygon], 50, 50))
        assert geometry.rle_from_polygons([polygon], 50, 50).counts == theirs["counts"].decode()


def test_polygon_that_leaves_the_image_keeps_its_shape_inside() -> None:
    triangle = [10, 10, 10, 30, 90, 20]
    whole = geometry.decode_mask(geometry.rle_from_polygons([triangle], 40, 100))
    cut = geometry.decode_mask(geometry.rle_from_polygons([triangle], 40, 50))
    differing = (whole[:, :50] != cut).sum()
    assert differing <= 2  # rounding along the new edge
    assert cut[20, 49]
    assert not cut[12, 40]


def test_polygon_outside_the_image_is_an_empty_mask() -> None:
    assert geometry.mask_area(geometry.rle_from_polygons([[60, 5, 70, 5, 65, 30]], 40, 50)) == 0


@pytest.mark.parametrize(
    ("polygons", "sentence"),
    [
        ([], "at least three points"),
        ([[1, 1, 5, 5]], "at least three points"),
        ([[1, 1, 5, 5, 3, 3, 7]], "at least three points"),
        ([[1, 1, 5, float("nan"), 3, 3]], "not a number within"),
        ([[1, 1, 5, 1e300, 3, 3]], "not a number within"),
    ],
)
def test_polygons_that_are_none_are_refused(polygons: list, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        geometry.rle_from_polygons(polygons, 40, 40)


@settings(max_examples=60)
@given(masks, st.integers(1, 7), st.integers(1, 7), coverages)
def test_grid_is_that_of_exact_fractions(mask: np.ndarray, rows: int, cols: int, coverage: Fraction) -> None:
    grid = geometry.coverage_grid(geometry.mask_shares(geometry.encode_mask(mask), rows, cols), float(coverage))
    expected = exact_grid(mask, rows, cols, coverage)
    if expected.sum() > 1 or not expected.any() or grid.sum() != 1:
        assert np.array_equal(grid, expected)
    else:  # one best cell: among cells that are equal but for rounding, either is right
        shares = geometry.mask_shares(geometry.encode_mask(mask), rows, cols)
        assert shares[grid][0] == pytest.approx(shares[expected][0], abs=1e-5)


def test_part_smaller_than_any_cell_keeps_its_best_cell() -> None:
    mask = np.zeros((96, 240), dtype=bool)
    mask[50:52, 101:103] = True
    (rle,) = [geometry.encode_mask(mask)]
    mirror = PartInstance(part="mirrors", box_xyxy=(101, 50, 103, 52), mask=rle)
    grid = geometry.grid_array(geometry.patch_grid([mirror], (96, 240), 24, 24, 0.5))
    assert np.argwhere(grid).tolist() == [[PARTS.index("mirrors"), 12, 10]]


def test_rows_and_columns_are_not_confused_on_a_tall_image() -> None:
    mask = np.zeros((60, 20), dtype=bool)
    mask[:30] = True
    roof = PartInstance(part="roof", box_xyxy=(0, 0, 20, 30), mask=geometry.encode_mask(mask))
    grid = geometry.grid_array(geometry.patch_grid([roof], (60, 20), 6, 4, 0.5))
    expected = np.zeros((6, 6, 4), dtype=np.uint8)
    expected[PARTS.index("roof"), :3] = 1
    assert np.array_equal(grid, expected)


def test_full_frame_part_covers_every_cell_and_an_empty_mask_none() -> None:
    full = PartInstance(part="doors", box_xyxy=(0, 0, 31, 17), mask=geometry.encode_mask(np.ones((17, 31), dtype=bool)))
    none = PartInstance(part="roof", box_xyxy=(0, 0, 1, 1), mask=geometry.encode_mask(np.zeros((17, 31), dtype=bool)))
    grid = geometry.patch_grid([full, none], (17, 31), 5, 7, 1.0)
    assert geometry.grid_array(grid)[PARTS.index("doors")].all()
    assert list(grid.cells) == ["doors"]


@given(sizes, st.lists(st.integers(0, 160), min_size=4, max_size=4), st.integers(1, 6), st.integers(1, 6), coverages)
def test_box_alone_marks_the_cells_that_it_covers(size, quarters, rows, cols, coverage) -> None:
    height, width = size
    x0, x1 = sorted(min(quarter, 4 * width) for quarter in quarters[:2])
    y0, y1 = sorted(min(quarter, 4 * height) for quarter in quarters[2:])
    box = (x0 / 4, y0 / 4, x1 / 4, y1 / 4)
    fine = np.zeros((4 * height, 4 * width), dtype=bool)
    fine[y0:y1, x0:x1] = True
    shares = geometry.boxes_shares([box], size, rows, cols)
    assert np.allclose(shares, geometry.mask_shares(geometry.encode_mask(fine), rows, cols), atol=1e-5)
    expected = exact_grid(fine, rows, cols, coverage) if height * width <= 60 else None
    if expected is not None and expected.sum() != 1:
        assert np.array_equal(geometry.coverage_grid(shares, float(coverage)), expected)


@given(st.lists(st.tuples(*[st.integers(0, 12)] * 4), min_size=1, max_size=5))
def test_boxes_of_one_part_are_united_and_not_added_up(corners: list[tuple[int, int, int, int]]) -> None:
    boxes, union = [], np.zeros((12, 12), dtype=bool)
    for xa, ya, xb, yb in corners:
        boxes.append((min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)))
        union[boxes[-1][1] : boxes[-1][3], boxes[-1][0] : boxes[-1][2]] = True
    expected = union.reshape(3, 4, 4, 3).mean(axis=(1, 3))
    assert np.allclose(geometry.boxes_shares(boxes, (12, 12), 3, 4), expected)


@given(masks.filter(np.any), st.lists(st.integers(-4, 160), min_size=4, max_size=4))
def test_middle_and_inside_of_a_mask_are_those_of_its_pixels(mask: np.ndarray, quarters: list[int]) -> None:
    rle = geometry.encode_mask(mask)
    ys, xs = np.nonzero(mask)
    assert geometry.mask_middle(rle) == pytest.approx((xs.mean() + 0.5, ys.mean() + 0.5))
    x0, x1 = sorted(quarters[:2])
    y0, y1 = sorted(quarters[2:])
    quarter_pixels = np.repeat(np.repeat(mask, 4, axis=0), 4, axis=1)
    inside = quarter_pixels[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].sum() / 16
    assert geometry.mask_area_inside(rle, (x0 / 4, y0 / 4, x1 / 4, y1 / 4)) == pytest.approx(inside)


@given(sizes.flatmap(lambda size: st.lists(hnp.arrays(bool, size), min_size=1, max_size=4)))
def test_union_of_masks_is_that_of_their_pixels(same_size: list[np.ndarray]) -> None:
    union = geometry.union_of_masks([geometry.encode_mask(mask) for mask in same_size])
    assert np.array_equal(geometry.decode_mask(union), np.logical_or.reduce(same_size))


def test_a_mask_of_more_strips_than_are_taken_at_once_gives_the_same_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).random((60, 70)) < 0.5
    rle = geometry.encode_mask(mask)
    at_once = geometry.mask_shares(rle, 6, 7)
    assert np.allclose(at_once, mask.reshape(6, 10, 7, 10).mean(axis=(1, 3)))
    monkeypatch.setattr(geometry, "STRIPS_AT_ONCE", 37)
    assert np.allclose(geometry.mask_shares(rle, 6, 7), at_once)


def test_masks_of_one_part_are_united() -> None:
    left, right = np.zeros((2, 8, 8), dtype=bool)
    left[:, :4] = True
    right[:, 4:] = True
    halves = [
        PartInstance(part="doors", box_xyxy=(0, 0, 4, 8), mask=geometry.encode_mask(mask)) for mask in (left, right)
    ]
    assert geometry.grid_array(geometry.patch_grid(halves, (8, 8), 3, 3, 1.0))[PARTS.index("doors")].all()


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_packed_cells_come_back_as_they_were(rows: int, cols: int, data: st.DataObject) -> None:
    cells = data.draw(hnp.arrays(bool, (rows, cols)))
    mask = np.repeat(np.repeat(cells, 3, axis=0), 2, axis=1)
    instance = PartInstance(part="lights", box_xyxy=(0, 0, 1, 1), mask=geometry.encode_mask(mask))
    grid = geometry.patch_grid([instance], mask.shape, rows, cols, 0.5)
    assert np.array_equal(geometry.grid_array(grid)[PARTS.index("lights")], cells)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        ((-5, -5, 3, 4), (0, 0, 3, 4)),
        ((8, 8, 50, 50), (8, 8, 20, 10)),
        ((20, 0, 25, 5), None),
        ((-5, 0, 0, 5), None),
        ((3, 3, 3, 5), None),
    ],
)
def test_boxes_are_cut_to_the_image(box: tuple, clipped: tuple | None) -> None:
    assert geometry.clip_box(box, height=10, width=20) == clipped
