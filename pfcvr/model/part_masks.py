"""Part masks of an image, and the patch grids they make after the image was flipped, shifted and partly erased."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.geometry import coverage_grid, disjoint_boxes, mask_strips, union_of_masks
from pfcvr.model.augment import Draw
from pfcvr.records import PARTS, BoxXyxy, Rle

SHARE_DIGITS = 5  # beyond them a share is rounding noise, which must not decide between equal cells

Rectangles = NDArray[np.float32]
Lengths = NDArray[np.floating]


@dataclass(frozen=True)
class PartLayers:
    """Where the parts of one image of ``size`` (rows, cols) are, as layers of rectangles.

    Layer i is of part ``parts[i]`` and ends before rectangle ``ends[i]``; a part may have two, of masks and of boxes.
    ``rectangles`` [4, all] are (top, left, bottom, right) in the units of ``size``, pixels or cells of a coarser grid.
    Within a layer they do not overlap.
    """

    size: tuple[int, int]
    parts: tuple[int, ...]
    ends: tuple[int, ...]
    rectangles: Rectangles


NO_PARTS = PartLayers((1, 1), (), (), np.zeros((4, 0), dtype=np.float32))


def layers_of_instances(instances: Sequence[dict[str, Any]], size: tuple[int | None, int | None]) -> PartLayers:
    """Layers of an exported row's ``parts``; ``size`` is the image's (height, width).

    As in the grid rule, the masks of a part are united, so are the boxes of its instances without a mask, and these
    stand beside those.

    Raises:
        ValueError: the image has no size, a part is unknown, a mask's runs do not fill its size, or a box is none.
    """
    height, width = size
    if not height or not width:
        raise ValueError(f"an image of height {height} and width {width}, expected pixels")
    masks: dict[int, list[Rle]] = {}
    boxes: dict[int, list[BoxXyxy]] = {}
    for instance in instances:
        if instance["part"] not in PARTS:
            raise ValueError(f"unknown part '{instance['part']}', expected one of {', '.join(PARTS)}")
        part, mask = PARTS.index(instance["part"]), instance["mask"]
        if mask is None or mask["counts"] is None:
            boxes.setdefault(part, []).append(_box(instance["part"], instance["box_xyxy"]))
        elif len(mask["size"]) != 2:
            raise ValueError(f"a mask of '{instance['part']}' has size {mask['size']}, expected height and width")
        else:
            masks.setdefault(part, []).append(Rle(size=tuple(mask["size"]), counts=mask["counts"]))
    layers = [(part, _mask_rectangles(part, rles, (height, width))) for part, rles in masks.items()]
    layers += [(part, _box_rectangles(part_boxes)) for part, part_boxes in boxes.items()]
    return _joined(layers, (height, width))


def layers_of_grid(grid: NDArray[np.bool_]) -> PartLayers:
    """Layers of a stored patch grid [6, rows, cols], each cell a pixel; raises ValueError for another shape."""
    if grid.ndim != 3 or len(grid) != len(PARTS):
        raise ValueError(f"a patch grid of shape {grid.shape}, expected ({len(PARTS)}, rows, cols)")
    layers = []
    for part in range(len(PARTS)):
        rows, cols = np.nonzero(grid[part])
        layers.append((part, np.stack([rows, cols, rows + 1, cols + 1])))
    return _joined(layers, (grid.shape[1], grid.shape[2]))


def part_grids(layers: PartLayers, draw: Draw, grid: tuple[int, int], coverage: float) -> NDArray[np.bool_]:
    """Patch grids [6, rows, cols] of the image after ``draw``, by the grid rule with exact areas."""
    return grids_of_shares(part_shares(layers, draw, grid), coverage)


def grids_of_shares(shares: NDArray[np.float64], coverage: float) -> NDArray[np.bool_]:
    """Patch grids [..., 6, rows, cols] by the grid rule from what ``part_shares`` gives."""
    return coverage_grid(shares.round(SHARE_DIGITS).astype(np.float32), coverage)


def part_shares(layers: PartLayers, draw: Draw, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Share of each cell of the image after ``draw`` that each part covers, [6, rows, cols].

    No mask is resampled. Lines between cells, and the sides of the erased rectangle, are followed back through shift,
    flip and stretch to the original image; what a layer covers above and left of each crossing of two lines is a sum
    over its rectangles, and a cell's share the difference of the sums at its corners.
    """
    shares = np.zeros((len(PARTS), *grid))
    if not layers.parts:
        return shares
    above, before = (_lengths_up_to(_lines(draw.size[axis], grid[axis]), layers, draw, axis) for axis in (0, 1))
    sums = np.empty((len(layers.parts), len(above), len(before)))
    start = 0
    for layer, end in enumerate(layers.ends):
        np.matmul(above[:, start:end], before[:, start:end].T, out=sums[layer])
        start = end
    covered = _between_lines(sums[:, : grid[0] + 1, : grid[1] + 1])
    if draw.erased is not None:
        covered -= _between_lines(sums[:, _kept_lines(draw, grid, 0)[:, None], _kept_lines(draw, grid, 1)])
    # Lines of a flipped image descend, and so do its sums.
    covered *= (-1 if draw.flip else 1) * grid[0] * grid[1] / (layers.size[0] * layers.size[1])
    for part, of_layer in zip(layers.parts, covered, strict=True):
        np.maximum(shares[part], of_layer, out=shares[part])
    return shares


def _box(part: str, corners: Sequence[float] | None) -> BoxXyxy:
    if corners is None or len(corners) != 4 or not all(corner is not None and isfinite(corner) for corner in corners):
        raise ValueError(f"'{part}' has neither a mask nor a box of four finite numbers, but {corners}")
    x0, y0, x1, y1 = corners
    return x0, y0, x1, y1


def _joined(layers: Sequence[tuple[int, NDArray[Any]]], size: tuple[int, int]) -> PartLayers:
    layers = [(part, rectangles) for part, rectangles in layers if rectangles.size]
    if not layers:
        return NO_PARTS
    ends = np.cumsum([rectangles.shape[1] for _, rectangles in layers]).tolist()
    joined = np.concatenate([rectangles for _, rectangles in layers], axis=1).astype(np.float32)
    return PartLayers(size, tuple(part for part, _ in layers), tuple(ends), joined)


def _mask_rectangles(part: int, rles: Sequence[Rle], size: tuple[int, int]) -> NDArray[np.float64]:
    """The strips of the united masks, neighbours of equal height joined, in the units of ``size``."""
    sizes = {rle.size for rle in rles}
    if len(sizes) > 1:
        raise ValueError(f"two masks of '{PARTS[part]}' differ in size: {' and '.join(map(str, sorted(sizes)))}")
    united = union_of_masks(rles)
    cols, tops, bottoms = mask_strips(united)
    goes_on = (np.diff(cols) == 1) & (np.diff(tops) == 0) & (np.diff(bottoms) == 0)
    first, last = np.flatnonzero(np.r_[True, ~goes_on][: len(cols)]), np.flatnonzero(np.r_[~goes_on, True][: len(cols)])
    height, width = (of_image / of_mask for of_image, of_mask in zip(size, united.size, strict=True))
    return np.stack([tops[first] * height, cols[first] * width, bottoms[first] * height, (cols[last] + 1) * width])


def _box_rectangles(boxes: Sequence[BoxXyxy]) -> NDArray[np.float64]:
    x0, y0, x1, y1 = disjoint_boxes(boxes).T
    return np.stack([y0, x0, y1, x1])


@lru_cache(maxsize=64)
def _lines(side: int, cells: int) -> Lengths:
    """Where the cells of an image begin and end, in px."""
    lines: Lengths = np.arange(cells + 1) * (side / cells)
    return lines


def _lengths_up_to(lines: Lengths, layers: PartLayers, draw: Draw, axis: int) -> Lengths:
    """[lines, rectangles]: where each rectangle ends along ``axis`` if the image ends at a line; then at the sides of
    what is erased. From the same rectangle's values at two lines follows what of it lies between them."""
    side = draw.size[axis]
    if draw.erased is not None:
        lines = np.concatenate([lines, draw.erased[axis::2]])
    lines = np.minimum(np.maximum(lines - draw.shift[axis], 0), side)
    if axis == 1 and draw.flip:
        lines = side - lines
    lines *= layers.size[axis] / side
    near, far = layers.rectangles[axis].astype(np.float64), layers.rectangles[axis + 2].astype(np.float64)
    lengths = np.maximum(lines[:, None], near)
    return np.minimum(lengths, far, out=lengths)


def _kept_lines(draw: Draw, grid: tuple[int, int], axis: int) -> NDArray[np.intp]:
    """For each line between cells, cut to what is erased, its number; the sides of that follow after the last line."""
    assert draw.erased is not None
    cells, (low, high) = grid[axis], draw.erased[axis::2]
    numbers = np.arange(cells + 1)
    numbers[: -(-low * cells // draw.size[axis])] = cells + 1
    numbers[high * cells // draw.size[axis] + 1 :] = cells + 2
    return numbers


def _between_lines(sums: Lengths) -> Lengths:
    """[layers, rows, cols] of cells from [layers, rows + 1, cols + 1] of their corners."""
    strips = sums[:, 1:] - sums[:, :-1]
    return strips[:, :, 1:] - strips[:, :, :-1]
