"""Image and part masks must see the same geometry: an image that paints its own mask shows whether they do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pfcvr.config import AugmentConfig
from pfcvr.model.augment import (
    LOOKS,
    MEAN,
    STD,
    Draw,
    apply_geometry,
    apply_look,
    draw_geometry,
    normalise,
    stretch,
)
from pfcvr.model.part_masks import layers_of_grid, layers_of_instances, part_grids

SIZE, GRID = (64, 48), (8, 6)
WINDOWS, WHEELS = 0, 1


def instance(mask: np.ndarray, part: str = "windows") -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    size = {"size": list(mask.shape), "counts": rle["counts"].decode()}
    return {"part": part, "box_xyxy": [0.0, 0.0, 1.0, 1.0], "score": 1.0, "mask": size}


def random_mask(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    top, left = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8)
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + rng.integers(2, 30), left : left + rng.integers(2, 30)] = True
    return mask ^ (rng.random(shape) < 0.02)


def grid_seen_in(painted: np.ndarray, coverage: float) -> np.ndarray:
    """The grid rule on the pixels of an image that is white where the part is, cell by cell."""
    shares = np.zeros(GRID)
    height, width = SIZE[0] // GRID[0], SIZE[1] // GRID[1]
    for row in range(GRID[0]):
        for col in range(GRID[1]):
            cell = painted[row * height : (row + 1) * height, col * width : (col + 1) * width]
            shares[row, col] = round(cell.mean(), 5)
    grid = shares >= coverage - 1e-6
    if not grid.any() and shares.max() > 0:
        grid.flat[shares.argmax()] = True
    return grid


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3]), st.sampled_from([0.25, 0.5]))
def test_after_any_draw_the_grid_is_the_one_seen_in_the_image(seed: int, factor: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, (SIZE[0] * factor, SIZE[1] * factor))
    config = AugmentConfig(crop_padding=int(rng.integers(0, 20)), erase=0.5)
    draw = draw_geometry(config, SIZE, rng)

    # An average over factor x factor pixels is exact, so the painted image carries the mask without rounding.
    small = mask.reshape(SIZE[0], factor, SIZE[1], factor).mean(axis=(1, 3))
    painted = apply_geometry(np.repeat((small * 36).round().astype(np.uint8)[:, :, None], 3, axis=2), draw)
    shown = painted[:, :, 0] / 36
    if draw.erased is not None:
        shown[draw.erased[0] : draw.erased[2], draw.erased[1] : draw.erased[3]] = 0

    grids = part_grids(layers_of_instances([instance(mask)], mask.shape), draw, GRID, coverage)
    assert grids.shape == (6, *GRID)
    assert np.array_equal(grids[WINDOWS], grid_seen_in(shown, coverage))
    assert not grids[1:].any()


def test_a_flip_alone_mirrors_the_grid() -> None:
    mask = random_mask(np.random.default_rng(1), SIZE)
    layers = layers_of_instances([instance(mask)], SIZE)
    plain = part_grids(layers, Draw(SIZE), GRID, 0.5)
    flipped = part_grids(layers, Draw(SIZE, flip=True), GRID, 0.5)
    assert plain.any()
    assert np.array_equal(flipped, plain[:, :, ::-1])


def test_masks_of_a_part_are_united_and_boxes_stand_beside_them() -> None:
    left, right = np.zeros((2, *SIZE), dtype=bool)
    left[:16, :16], right[:16, 16:32] = True, True
    box = {"part": "wheels", "box_xyxy": [8.0, 40.0, 24.0, 64.0], "score": 1.0, "mask": None}
    grids = part_grids(layers_of_instances([instance(left), instance(right), box], SIZE), Draw(SIZE), GRID, 0.5)
    expected = np.zeros((6, *GRID), dtype=bool)
    expected[WINDOWS, :2, :4] = True
    expected[WHEELS, 5:, 1:3] = True
    assert np.array_equal(grids, expected)


def test_a_stored_grid_stands_in_where_there_are_no_instances() -> None:
    stored = np.random.default_rng(2).random((6, *GRID)) < 0.3
    layers = layers_of_grid(stored)
    assert np.array_equal(part_grids(layers, Draw(SIZE), GRID, 0.5), stored)
    coarser = part_grids(layers, Draw(SIZE, flip=True), (4, 3), 0.5)
    shares = stored[:, :, ::-1].reshape(6, 4, 2, 3, 2).mean(axis=(2, 4))
    expected = shares >= 0.5
    for part in range(6):
        if not expected[part].any() and shares[part].any():
            expected[part].flat[shares[part].argmax()] = True
    assert np.array_equal(coarser, expected)


def test_an_erased_part_is_absent() -> None:
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:20, 10:20] = True
    layers = layers_of_instances([instance(mask)], SIZE)
    assert not part_grids(layers, Draw(SIZE, erased=(8, 8, 22, 22)), GRID, 0.5).any()
    assert part_grids(layers, Draw(SIZE, erased=(8, 8, 22, 18)), GRID, 0.5).any()


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"part": "bonnet", "box_xyxy": [0, 0, 1, 1], "mask": None}, "unknown part 'bonnet'"),
        ({"part": "roof", "box_xyxy": [0, 0, 1, 1], "mask": {"size": [4, 4], "counts": "04"}}, "pixels"),
    ],
)
def test_damaged_instances_are_named(broken: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        layers_of_instances([broken], (4, 4))


def test_draws_cover_what_the_settings_say() -> None:
    config = AugmentConfig(crop_padding=4, erase=0.5, erase_area=(0.1, 0.2))
    draws = [draw_geometry(config, SIZE, np.random.default_rng(seed)) for seed in range(400)]
    assert {shift for draw in draws for shift in draw.shift} == set(range(-4, 5))
    assert 140 < sum(draw.flip for draw in draws) < 260
    erased = [draw.erased for draw in draws if draw.erased is not None]
    assert 140 < len(erased) < 260
    for top, left, bottom, right in erased:
        assert 0 <= top < bottom <= SIZE[0]
        assert 0 <= left < right <= SIZE[1]
        assert 0.08 < (bottom - top) * (right - left) / (SIZE[0] * SIZE[1]) < 0.22
    still = AugmentConfig(flip=0, crop_padding=0, erase=0)
    assert draw_geometry(still, SIZE, np.random.default_rng(0)) == Draw(SIZE)


def test_a_shift_moves_pixels_and_leaves_black_behind() -> None:
    image = np.random.default_rng(0).integers(1, 255, (*SIZE, 3), dtype=np.uint8)
    moved = apply_geometry(image, Draw(SIZE, shift=(3, -5)))
    assert np.array_equal(moved[3:, :-5], image[:-3, 5:])
    assert not moved[:3].any()
    assert not moved[:, -5:].any()


def test_the_four_looks_are_original_dark_bright_and_noisy() -> None:
    config = AugmentConfig(noise_sigma=0.05)
    image = np.full((*SIZE, 3), 128, dtype=np.uint8)
    original, dark, bright, noisy = (apply_look(image, look, config, np.random.default_rng(0)) for look in LOOKS)
    assert np.array_equal(original, image)
    low, high = (255 * (128 / 255) ** np.array(config.dark_gamma)).round()[::-1]
    assert low <= dark.min() == dark.max() <= high < 128
    low, high = (255 * (128 / 255) ** np.array(config.bright_gamma)).round()[::-1]
    assert 128 < low <= bright.min() == bright.max() <= high
    assert noisy.std() == pytest.approx(255 * 0.05, rel=0.1)
    assert noisy.mean() == pytest.approx(128, abs=1)


def test_pixels_are_normalised_as_clip_wants_and_erased_ones_are_its_mean() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    ready = normalise(image, erased=(2, 3, 10, 12))
    assert ready.shape == (3, *SIZE)
    expected = (image.astype(np.float64) / 255 - MEAN) / STD
    expected[2:10, 3:12] = 0
    assert np.allclose(ready, expected.transpose(2, 0, 1), atol=1e-5)


def test_stretching_averages_when_it_shrinks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    expected = image.reshape(64, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(stretch(image, SIZE) - expected).max() <= 1
    assert stretch(image, (200, 300)).shape == (200, 300, 3)
