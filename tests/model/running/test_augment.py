"""Image and part masks must see the same geometry: an image that paints its own mask shows whether they do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pfcvr.config import AugmentConfig
from pfcvr.geometry import grid_array, patch_grid
from pfcvr.model.augment import (
    LOOKS,
    Draw,
    add_noise,
    apply_geometry,
    apply_look,
    draw_geometry,
    framed,
    inside,
    stretch,
)
from pfcvr.model.clip import IMAGE_MEAN, IMAGE_STD, normalised
from pfcvr.model.part_masks import layers_of_grid, layers_of_instances, part_grids
from pfcvr.records import PartInstance

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
    image = np.repeat((small * 36).round().astype(np.uint8)[:, :, None], 3, axis=2)
    shown = apply_geometry(framed(image, SIZE, config.crop_padding), draw)[:, :, 0] / 36
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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(64, 48), (50, 71), (333, 120)]))
def test_without_a_draw_the_grid_is_that_of_the_data_set(seed: int, size: tuple[int, int]) -> None:
    """Masks and boxes of one part and of another, some of which overlap or reach out of the image."""
    rng = np.random.default_rng(seed)
    instances = [instance(random_mask(rng, size), part) for part in rng.choice(["windows", "wheels"], 2)]
    for part in rng.choice(["windows", "wheels"], 3):
        x0, y0 = rng.uniform(-9, 0.7 * size[1]), rng.uniform(-9, 0.7 * size[0])
        box = [x0, y0, x0 + rng.uniform(1, 40), y0 + rng.uniform(1, 40)]
        instances.append({"part": str(part), "box_xyxy": box, "score": 1.0, "mask": None})
    stored = patch_grid([PartInstance.model_validate(each) for each in instances], size, *GRID, 0.5)
    grids = part_grids(layers_of_instances(instances, size), Draw(SIZE), GRID, 0.5)
    assert np.array_equal(grids, grid_array(stored).astype(bool))


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
    moved = apply_geometry(framed(image, SIZE, 5), Draw(SIZE, shift=(3, -5)))
    assert np.array_equal(moved[3:, :-5], image[:-3, 5:])
    assert not moved[:3].any()
    assert not moved[:, -5:].any()


def test_the_four_looks_are_original_dark_bright_and_noisy() -> None:
    config = AugmentConfig(noise_sigma=0.05)
    image = np.full((*SIZE, 3), 128, dtype=np.uint8)
    original, dark, bright, noisy = (image.copy() for _ in LOOKS)
    for copy, look in zip((original, dark, bright, noisy), LOOKS, strict=True):
        apply_look(copy, look, config, np.random.default_rng(0))
    assert np.array_equal(original, image)
    low, high = (255 * (128 / 255) ** np.array(config.dark_gamma)).round()[::-1]
    assert low <= dark.min() == dark.max() <= high < 128
    low, high = (255 * (128 / 255) ** np.array(config.bright_gamma)).round()[::-1]
    assert 128 < low <= bright.min() == bright.max() <= high
    assert noisy.std() == pytest.approx(255 * 0.05, rel=0.1)
    assert noisy.mean() == pytest.approx(128, abs=1)


def test_noise_is_gaussian_in_grey_levels_and_independent_from_pixel_to_pixel_and_item_to_item() -> None:
    sigma, drawn = 0.1, []
    for seed in range(40):
        image = np.full((*SIZE, 3), 128, dtype=np.uint8)
        add_noise(image, sigma, np.random.default_rng(seed))
        drawn.append(image.astype(float).ravel() - 128)
    noise = np.stack(drawn)
    scaled = noise / (255 * sigma)
    for quantile, expected in ((0.02275, -2), (0.15866, -1), (0.5, 0), (0.84134, 1), (0.97725, 2)):
        assert np.quantile(scaled, quantile) == pytest.approx(expected, abs=0.04)
    likeness = np.corrcoef(noise)[np.triu_indices(40, 1)]
    assert np.abs(likeness).max() < 0.06
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.01
    still = np.full((*SIZE, 3), 128, dtype=np.uint8)
    add_noise(still, 0.0, np.random.default_rng(0))
    assert (still == 128).all()


def test_noise_stops_at_black_and_white() -> None:
    for level, least, most in ((0, 0, 128), (255, 128, 255)):
        image = np.full((*SIZE, 3), level, dtype=np.uint8)
        add_noise(image, 0.1, np.random.default_rng(0))
        assert least <= image.min() < image.max() <= most
        assert (image == level).mean() > 0.45


def test_erased_pixels_have_the_mean_colour_that_normalising_makes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    seen = apply_geometry(framed(image, SIZE, 0), Draw(SIZE, erased=(2, 3, 10, 12)))
    pixels = torch.from_numpy(seen.copy()).permute(2, 0, 1)[None]
    ready = normalised(pixels)
    assert (ready[:, :, 2:10, 3:12].abs() < 0.5 / 255 / min(IMAGE_STD)).all()
    expected = (image.astype(np.float64) / 255 - IMAGE_MEAN) / IMAGE_STD
    apart = np.ones(SIZE, dtype=bool)
    apart[2:10, 3:12] = False
    assert np.allclose(ready[0].permute(1, 2, 0).numpy()[apart], expected[apart], atol=1e-5)
    assert torch.equal(normalised(ready), ready)


def test_the_frame_takes_no_light_and_no_noise() -> None:
    image = np.full((*SIZE, 3), 128, dtype=np.uint8)
    for look in LOOKS:
        frame = framed(image, SIZE, 6)
        apply_look(inside(frame, 6), look, AugmentConfig(), np.random.default_rng(0))
        moved = apply_geometry(frame, Draw(SIZE, flip=True, shift=(-6, 6)))
        assert not moved[-6:].any()
        assert not moved[:, :6].any()
        assert moved[:-6, 6:].min() > 0


def test_stretching_averages_when_it_shrinks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    expected = image.reshape(64, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(stretch(image, SIZE) - expected).max() <= 1
    assert stretch(image, (200, 300)).shape == (200, 300, 3)
