"""Part masks of an image, and the patch grids they make after the image was flipped, shifted and partly erased."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.geometry import coverage_grid, decode_mask
from pfcvr.model.augment import Draw
from pfcvr.records import PARTS, Rle

SHARE_DIGITS = 5  # beyond them a share is rounding noise, which must not decide between equal cells

Edges = NDArray[np.floating]
Cells = tuple[tuple[Edges, Edges], tuple[Edges, Edges]]


@dataclass(frozen=True)
class PartLayer:
    """Where part number ``part`` is: pixels of ``mask``, each ``pixel`` (rows, cols) large, beginning at ``offset``.

    ``size`` (rows, cols) is the whole image's in the same units; the unit may be a pixel, or a cell of a coarser grid.
    """

    part: int
    mask: NDArray[np.float32]
    offset: tuple[float, float]
    size: tuple[float, float]
    pixel: tuple[float, float] = (1.0, 1.0)


def layers_of_instances(instances: Sequence[dict[str, Any]], size: tuple[int, int]) -> list[PartLayer]:
    """Layers of an exported row's ``parts``; ``size`` is the image's (height, width).

    As in the grid rule, the masks of a part are united, and each box of an instance without a mask stands beside them.

    Raises:
        ValueError: an unknown part, or a mask whose runs do not fill its size.
    """
    masks: dict[int, NDArray[np.bool_]] = {}
    layers = []
    for instance in instances:
        if instance["part"] not in PARTS:
            raise ValueError(f"unknown part '{instance['part']}', expected one of {', '.join(PARTS)}")
        part, mask = PARTS.index(instance["part"]), instance["mask"]
        if mask is None or mask["counts"] is None:
            x0, y0, x1, y1 = instance["box_xyxy"]
            whole = np.ones((1, 1), dtype=np.float32)
            layers.append(PartLayer(part, whole, (y0, x0), (float(size[0]), float(size[1])), (y1 - y0, x1 - x0)))
            continue
        decoded = decode_mask(Rle(size=tuple(mask["size"]), counts=mask["counts"]))
        if part in masks and masks[part].shape != decoded.shape:
            raise ValueError(f"two masks of '{instance['part']}' differ in size: {masks[part].shape}, {decoded.shape}")
        masks[part] = masks[part] | decoded if part in masks else decoded
    return layers + [_cropped(part, mask) for part, mask in masks.items() if mask.any()]


def layers_of_grid(grid: NDArray[np.bool_]) -> list[PartLayer]:
    """Layers of a stored patch grid [6, rows, cols], each cell a pixel; raises ValueError for another shape."""
    if grid.ndim != 3 or len(grid) != len(PARTS):
        raise ValueError(f"a patch grid of shape {grid.shape}, expected ({len(PARTS)}, rows, cols)")
    size = (float(grid.shape[1]), float(grid.shape[2]))
    present = np.flatnonzero(grid.any(axis=(1, 2)))
    return [PartLayer(int(part), grid[part].astype(np.float32), (0.0, 0.0), size) for part in present]


def part_grids(layers: Sequence[PartLayer], draw: Draw, grid: tuple[int, int], coverage: float) -> NDArray[np.bool_]:
    """Patch grids [6, rows, cols] of the image after ``draw``, by the grid rule with exact areas.

    No mask is resampled: each cell is followed back through shift, flip and stretch to the rectangle of the original
    image that it shows, and the covered area of that rectangle is a sum over mask pixels.
    """
    shares = np.zeros((len(PARTS), *grid), dtype=np.float32)
    lines = [np.arange(count + 1) * (side / count) for count, side in zip(grid, draw.size, strict=True)]
    whole = ((lines[0][:-1], lines[0][1:]), (lines[1][:-1], lines[1][1:]))
    area = (draw.size[0] / grid[0]) * (draw.size[1] / grid[1])
    for layer in layers:
        covered = _covered(layer, draw, whole)
        if draw.erased is not None:
            covered -= _covered(layer, draw, _inside(whole, draw.erased))
        shares[layer.part] = np.maximum(shares[layer.part], covered / area)
    return coverage_grid(shares.round(SHARE_DIGITS), coverage)


def _cropped(part: int, mask: NDArray[np.bool_]) -> PartLayer:
    """Only the rows and columns that the part reaches: fewer pixels to sum over."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inner = mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].astype(np.float32)
    size = (float(mask.shape[0]), float(mask.shape[1]))
    return PartLayer(part, inner, (float(rows[0]), float(cols[0])), size)


def _inside(cells: Cells, rectangle: tuple[int, int, int, int]) -> Cells:
    """What of each cell lies in ``rectangle`` (top, left, bottom, right); empty cells have equal ends."""
    (top, bottom), (left, right) = cells
    first_row, first_col, last_row, last_col = rectangle
    rows = np.clip(top, first_row, last_row), np.clip(bottom, first_row, last_row)
    cols = np.clip(left, first_col, last_col), np.clip(right, first_col, last_col)
    return rows, cols


def _covered(layer: PartLayer, draw: Draw, cells: Cells) -> NDArray[np.float32]:
    """Covered area [rows, cols], in px of the drawn image, of the rectangles ``cells``."""
    weights = []
    for axis, (start, stop) in enumerate(cells):
        side = draw.size[axis]
        low, high = np.clip(start - draw.shift[axis], 0, side), np.clip(stop - draw.shift[axis], 0, side)
        if axis == 1 and draw.flip:
            low, high = side - high, side - low
        scale = layer.size[axis] / side
        lines = layer.offset[axis] + layer.pixel[axis] * np.arange(layer.mask.shape[axis] + 1)
        weights.append(_overlaps(low * scale, high * scale, lines) / np.float32(scale))
    covered: NDArray[np.float32] = weights[0] @ layer.mask @ weights[1].T
    return covered


def _overlaps(low: Edges, high: Edges, lines: Edges) -> NDArray[np.float32]:
    """Length that each interval [low, high) shares with each pixel between successive ``lines``, [cells, pixels]."""
    shared = np.minimum(high[:, None], lines[None, 1:]) - np.maximum(low[:, None], lines[None, :-1])
    return np.maximum(shared, 0).astype(np.float32)
