"""Boxes, run-length masks and patch grids: pure functions on arrays, needed by both halves.

Masks are bool arrays ``[height, width]``. Boxes are ``(x0, y0, x1, y1)`` in pixels. Grids are bool arrays
``[rows, cols]``, row 0 on top. COCO run-length encoding is column-major, as pycocotools has it.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pfcvr.records import PARTS, BoxXyxy, Part, PartInstance, PatchGrid, Rle

Mask = NDArray[np.bool_]
COVERAGE_TOLERANCE = 1e-6
FARTHEST_PIXEL = 1_000_000_000
STRIPS_AT_ONCE = 65_536
MOST_LETTERS_PER_RUN = 8  # 40 bits


def encode_mask(mask: Mask) -> Rle:
    """Compressed COCO RLE of ``mask`` [height, width]; lossless."""
    height, width = mask.shape
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle(size=(height, width), counts=encoded["counts"].decode("ascii"))


def decode_mask(rle: Rle) -> Mask:
    """The mask [height, width] of ``rle``; raises ValueError when its runs do not fill the size exactly."""
    height, width = rle.size
    runs = check_rle(rle)
    is_part = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_part, runs).reshape(width, height).T


def rle_runs(counts: str) -> NDArray[np.int64]:
    """Run lengths (background first) of compressed COCO counts; raises ValueError for text that is not such.

    Five bits a character, offset 48, bit 5 says that the number goes on, bit 4 of the last is the sign; from the
    fourth run on a number is the difference to the run before the last (COCO API, maskApi).
    """
    letters = np.frombuffer(counts.encode("utf-8"), dtype=np.uint8) - np.uint8(48)  # below 48 wraps round to above 64
    if (letters >= 64).any():
        raise ValueError("a character that cannot occur in run-length counts")
    ends = np.flatnonzero(letters < 32)
    if len(letters) == 0:
        return letters.astype(np.int64)
    if len(ends) == 0 or ends[-1] != len(letters) - 1:
        raise ValueError("run-length counts end in the middle of a number")
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    lengths = ends - starts + 1
    if lengths.max() > MOST_LETTERS_PER_RUN:
        raise ValueError("a run length is too large for any image")
    shifts = 5 * (np.arange(len(letters)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((letters & 31).astype(np.int64) << shifts, starts)
    negative = (letters[ends] & 16).nonzero()[0]
    runs[negative] -= np.int64(1) << (5 * lengths[negative])
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def check_rle(rle: Rle) -> NDArray[np.int64]:
    """The runs of ``rle``; raises ValueError unless they are non-negative and add up to height x width.

    pycocotools writes past its buffer when they do not, so every RLE from outside passes here first.
    """
    height, width = rle.size
    if height < 1 or width < 1:
        raise ValueError(f"a mask cannot be {height} x {width} pixels")
    runs = rle_runs(rle.counts)
    pixels = height * width
    if len(runs) == 0 or runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise ValueError(f"the runs do not fill the {pixels} pixels of {height} x {width}")
    return runs


def rle_from_runs(runs: Sequence[int], height: int, width: int) -> Rle:
    """Compressed form of plain COCO runs; raises ValueError when they are not the size's."""
    if height < 1 or width < 1:
        raise ValueError(f"a mask cannot be {height} x {width} pixels")
    if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"plain runs do not add up to {height} x {width} = {height * width}")
    return _rle(coco_mask.frPyObjects({"size": [height, width], "counts": list(runs)}, height, width))


def rle_from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """Union of ``polygons`` (x, y, x, y, ... in pixels, at least three points each), cut to the image.

    Raises ValueError for fewer points and for coordinates that are not numbers or lie absurdly far outside.
    """
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs at least three points given as x, y pairs")
    coordinates = np.concatenate([np.asarray(polygon, dtype=float) for polygon in polygons])
    if not (np.abs(coordinates) <= FARTHEST_PIXEL).all():
        raise ValueError(f"a polygon has a coordinate that is not a number within {FARTHEST_PIXEL:,} pixels")
    clipped = [inside for polygon in polygons if len(inside := clip_polygon(polygon, height, width)) >= 6]
    if not clipped:
        return rle_from_runs([height * width], height, width)
    return _rle(coco_mask.merge(coco_mask.frPyObjects(clipped, height, width)))


def clip_polygon(polygon: Sequence[float], height: int, width: int) -> list[float]:
    """The part of ``polygon`` (x, y, x, y, ...) inside the image; empty when nothing of it is.

    One pass for each side of the image (Sutherland and Hodgman, 1974). A polygon inside stays as it is.
    """
    points = [(float(x), float(y)) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
    for axis, bound, keeps_above in (
        (0, 0.0, True),
        (0, float(width), False),
        (1, 0.0, True),
        (1, float(height), False),
    ):
        points = _cut_at(points, axis, bound, keeps_above)
    return [coordinate for point in points for coordinate in point]


def _cut_at(points: list[tuple[float, float]], axis: int, bound: float, keeps_above: bool) -> list[tuple[float, float]]:
    """``points`` of a closed polygon, cut along one side of the image."""
    kept: list[tuple[float, float]] = []
    for before, after in zip(points[-1:] + points[:-1], points, strict=True):
        was_in = before[axis] >= bound if keeps_above else before[axis] <= bound
        is_in = after[axis] >= bound if keeps_above else after[axis] <= bound
        if was_in != is_in:
            share = (bound - before[axis]) / (after[axis] - before[axis])
            other = before[1 - axis] + share * (after[1 - axis] - before[1 - axis])
            kept.append((bound, other) if axis == 0 else (other, bound))
        if is_in:
            kept.append(after)
    return kept


def mask_area(rle: Rle) -> int:
    """Number of mask pixels of an RLE that passed ``check_rle``."""
    return int(coco_mask.area(_coco(rle)))


def mask_box(rle: Rle) -> BoxXyxy:
    """Smallest box around the mask of an RLE that passed ``check_rle``."""
    x, y, width, height = (float(value) for value in coco_mask.toBbox(_coco(rle)))
    return x, y, x + width, y + height


def box_xyxy_from_xywh(box: Sequence[float]) -> BoxXyxy:
    """``(x, y, width, height)`` as ``(x0, y0, x1, y1)``."""
    x, y, width, height = (float(value) for value in box)
    return x, y, x + width, y + height


def clip_box(box: BoxXyxy, height: int, width: int) -> BoxXyxy | None:
    """``box`` cut to the image, or None when nothing of it lies inside."""
    x0, y0, x1, y1 = box
    x0, x1 = max(x0, 0.0), min(x1, float(width))
    y0, y1 = max(y0, 0.0), min(y1, float(height))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def box_area(box: BoxXyxy) -> float:
    """Square pixels of ``box``; 0 where it is turned inside out."""
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def box_overlap(box: BoxXyxy, other: BoxXyxy) -> float:
    """Square pixels that two boxes share."""
    return box_area((max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])))


def union_of_masks(rles: Sequence[Rle]) -> Rle:
    """The pixels that any of ``rles`` has, all of one size; raises ValueError for runs that do not fill it."""
    if len(rles) == 1:
        return rles[0]
    for rle in rles:
        check_rle(rle)
    return _rle(coco_mask.merge([_coco(rle) for rle in rles]))


def mask_middle(rle: Rle) -> tuple[float, float]:
    """Mean (x, y) of the mask's pixels, in pixels; the mask must not be empty."""
    columns, tops, bottoms = mask_strips(rle)
    lengths = bottoms - tops
    area = lengths.sum()
    return float(((columns + 0.5) * lengths).sum() / area), float(((tops + bottoms) / 2 * lengths).sum() / area)


def mask_area_inside(rle: Rle, box: BoxXyxy) -> float:
    """Square pixels of the mask inside ``box``."""
    columns, tops, bottoms = mask_strips(rle)
    x0, y0, x1, y1 = box
    wide = np.clip(np.minimum(columns + 1, x1) - np.maximum(columns, x0), 0.0, 1.0)
    tall = np.clip(np.minimum(bottoms, y1) - np.maximum(tops, y0), 0.0, None)
    return float((wide * tall).sum())


def mask_shares(rle: Rle, rows: int, cols: int) -> NDArray[np.float32]:
    """Share of each grid cell that the mask covers -> [rows, cols], in [0, 1].

    The image is stretched to the grid: cell (r, c) is y in [rH/rows, (r+1)H/rows), x likewise. Exact for any size,
    since a pixel that straddles a border counts to each side by its share. Taken from the runs, without the pixels.
    """
    height, width = rle.size
    columns, tops, bottoms = mask_strips(rle)
    down, by_col = _covered_up_to(height, rows), _overlap(width, cols)
    shares = np.zeros((rows, cols))
    for start in range(0, len(columns), STRIPS_AT_ONCE):
        part = slice(start, start + STRIPS_AT_ONCE)
        by_row = down.take(bottoms[part], axis=0)
        by_row -= down.take(tops[part], axis=0)
        shares += by_row.T @ by_col.take(columns[part], axis=0)
    return shares.astype(np.float32)


def mask_strips(rle: Rle) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The mask as vertical strips: the column of each, its first row and the row after its last."""
    height = rle.size[0]
    ends = check_rle(rle).cumsum()
    starts, stops = ends[:-1:2], ends[1::2]
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    firsts = starts // height
    counts = (stops - 1) // height - firsts + 1
    columns = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts - firsts, counts)
    tops = np.maximum(np.repeat(starts, counts) - columns * height, 0)
    bottoms = np.minimum(np.repeat(stops, counts) - columns * height, height)
    return columns, tops, bottoms


def coverage_grid(shares: NDArray[np.float32], coverage: float) -> NDArray[np.bool_]:
    """Rule ``stretch-coverage`` on [..., rows, cols]: a cell is set where its share reaches ``coverage``.

    A part that reaches it nowhere keeps its best cell (the first of equals in row-major order), so that small parts
    do not vanish; a part that covers nothing has no cell.
    """
    grid = shares >= coverage - COVERAGE_TOLERANCE
    flat_shares = shares.reshape(-1, shares.shape[-2] * shares.shape[-1])
    flat_grid = grid.reshape(flat_shares.shape)
    lost = ~flat_grid.any(axis=1) & (flat_shares.max(axis=1) > 0)
    flat_grid[lost, flat_shares[lost].argmax(axis=1)] = True
    return flat_grid.reshape(shares.shape)


def boxes_shares(boxes: Sequence[BoxXyxy], size: tuple[int, int], rows: int, cols: int) -> NDArray[np.float32]:
    """Share of each cell that the union of ``boxes`` covers on an image of ``size`` (height, width): [rows, cols]."""
    height, width = size
    xs, ys, covered = _box_pieces(boxes)
    by_row = _interval_shares(ys[:-1, None] * (rows / height), ys[1:, None] * (rows / height), rows)
    by_col = _interval_shares(xs[:-1, None] * (cols / width), xs[1:, None] * (cols / width), cols)
    shares: NDArray[np.float32] = (by_row.T @ covered @ by_col).astype(np.float32)
    return shares


def disjoint_boxes(boxes: Sequence[BoxXyxy]) -> NDArray[np.float64]:
    """Boxes [n, 4] (x0, y0, x1, y1) that cover what ``boxes`` do and do not overlap."""
    xs, ys, covered = _box_pieces(boxes)
    rows, cols = np.nonzero(covered)
    return np.stack([xs[cols], ys[rows], xs[cols + 1], ys[rows + 1]], axis=1)


def part_shares(
    instances: Iterable[PartInstance], size: tuple[int, int], rows: int, cols: int
) -> dict[Part, NDArray[np.float32]]:
    """Cell shares of each part present: of the union of its masks, or of the boxes of its instances without a mask.

    Where a part has both, a cell has the larger of the two shares.
    """
    masks: dict[Part, list[Rle]] = {}
    boxes: dict[Part, list[BoxXyxy]] = {}
    for instance in instances:
        if instance.mask is not None:
            masks.setdefault(instance.part, []).append(instance.mask)
        else:
            boxes.setdefault(instance.part, []).append(instance.box_xyxy)
    shares: dict[Part, NDArray[np.float32]] = {}
    for part, rles in masks.items():
        shares[part] = mask_shares(union_of_masks(rles), rows, cols)
    for part, part_boxes in boxes.items():
        covered = boxes_shares(part_boxes, size, rows, cols)
        shares[part] = np.maximum(shares[part], covered) if part in shares else covered
    return shares


def patch_grid(
    instances: Iterable[PartInstance], size: tuple[int, int], rows: int, cols: int, coverage: float
) -> PatchGrid:
    """The patch grid of an image of ``size`` (height, width) by rule ``stretch-coverage``."""
    cells: dict[Part, str] = {}
    shares = part_shares(instances, size, rows, cols)
    for part in PARTS:
        if part in shares:
            grid = coverage_grid(shares[part], coverage)
            if grid.any():
                cells[part] = np.packbits(grid).tobytes().hex()
    return PatchGrid(rows=rows, cols=cols, coverage=coverage, cells=cells)


def grid_array(grid: PatchGrid) -> NDArray[np.uint8]:
    """``grid`` as 0/1 array [6, rows, cols], axis 0 in PARTS order."""
    array = np.zeros((len(PARTS), grid.rows * grid.cols), dtype=np.uint8)
    for part, cells in grid.cells.items():
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(cells), dtype=np.uint8), count=grid.rows * grid.cols)
        array[PARTS.index(part)] = bits
    return array.reshape(len(PARTS), grid.rows, grid.cols)


def _box_pieces(
    boxes: Sequence[BoxXyxy],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """All edges along x and along y, and which of the rectangles between them, each as a whole, a box covers."""
    x0, y0, x1, y1 = np.array(boxes, dtype=float).T
    xs, ys = np.unique([x0, x1]), np.unique([y0, y1])
    wide = (x0[:, None] <= xs[:-1]) & (xs[1:] <= x1[:, None])
    tall = (y0[:, None] <= ys[:-1]) & (ys[1:] <= y1[:, None])
    return xs, ys, (tall[:, :, None] & wide[:, None, :]).any(axis=0)


@lru_cache(maxsize=1024)
def _covered_up_to(pixels: int, cells: int) -> NDArray[np.float64]:
    """[pixels + 1, cells]: which share of each cell the first 0, 1, 2, ... pixels make up together."""
    return np.clip(np.arange(pixels + 1)[:, None] * (cells / pixels) - np.arange(cells), 0.0, 1.0)


@lru_cache(maxsize=1024)
def _overlap(pixels: int, cells: int) -> NDArray[np.float64]:
    """[pixels, cells]: which share of each cell every pixel makes up."""
    return np.diff(_covered_up_to(pixels, cells), axis=0)


def _interval_shares(start: Any, stop: Any, cells: int) -> NDArray[np.float64]:
    """Share of each unit cell [i, i+1) that [start, stop) covers; further intervals along a first axis."""
    left = np.arange(cells)
    shares: NDArray[np.float64] = np.maximum(np.minimum(stop, left + 1) - np.maximum(start, left), 0.0)
    return shares


def _coco(rle: Rle) -> dict[str, Any]:
    return {"size": list(rle.size), "counts": rle.counts.encode("ascii")}


def _rle(encoded: dict[str, Any]) -> Rle:
    height, width = encoded["size"]
    return Rle(size=(height, width), counts=encoded["counts"].decode("ascii"))
