"""Masks as run lengths: to patch grids against nested lists, and encoding and decoding against pycocotools.

    python benchmarks/grids.py [--height 360 --width 480 --masks 200] [--json]

The kinds take turns, best of five. The nested loop goes over rows and columns of Python lists and sums each cell, as
the released code of the field does; it starts from the same run lengths, unpacked by pycocotools.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pfcvr import geometry
from pfcvr.records import Rle

ROWS = COLS = 24
COVERAGE = 0.5
ROUNDS = 5


def part_masks(count: int, height: int, width: int) -> list[geometry.Mask]:
    """Ellipses of the sizes of mirrors up to roofs, with a ragged edge."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        y, x = rng.uniform(0.1, 0.9, 2) * (height, width)
        tall, wide = rng.uniform(0.03, 0.3, 2) * (height, width)
        distance = ((ys - y) / tall) ** 2 + ((xs - x) / wide) ** 2
        masks.append(distance + rng.normal(0, 0.02, (height, width)) < 1)
    return masks


def grid_from_runs(rle: Rle) -> list[list[int]]:
    shares = geometry.mask_shares(rle, ROWS, COLS)
    grid: list[list[int]] = geometry.coverage_grid(shares[None], COVERAGE)[0].astype(int).tolist()
    return grid


def grid_from_nested_lists(rle: Rle) -> list[list[int]]:
    pixels = coco_mask.decode({"size": list(rle.size), "counts": rle.counts}).tolist()
    height, width = rle.size
    best, best_cell, grid = 0.0, (0, 0), []
    for r in range(ROWS):
        row = []
        for c in range(COLS):
            ys = range(r * height // ROWS, (r + 1) * height // ROWS)
            xs = range(c * width // COLS, (c + 1) * width // COLS)
            covered = 0
            for y in ys:
                for x in xs:
                    covered += pixels[y][x]
            share = covered / (len(ys) * len(xs))
            if share > best:
                best, best_cell = share, (r, c)
            row.append(int(share >= COVERAGE))
        grid.append(row)
    if best > 0 and not any(map(any, grid)):
        grid[best_cell[0]][best_cell[1]] = 1
    return grid


def seconds(work: Callable[[Any], Any], items: list[Any]) -> float:
    started = time.perf_counter()
    for item in items:
        work(item)
    return time.perf_counter() - started


def compare(ours: Callable[[Any], Any], theirs: Callable[[Any], Any], items: list[Any], fewer: int = 1) -> Any:
    """Items a second of both, and how many times theirs ours is; ``theirs`` gets only a ``fewer``-th of the items."""
    some = items[: max(1, len(items) // fewer)]
    best_ours = best_theirs = float("inf")
    for _ in range(ROUNDS):
        best_ours = min(best_ours, seconds(ours, items) / len(items))
        best_theirs = min(best_theirs, seconds(theirs, some) / len(some))
    return {"ours_per_second": 1 / best_ours, "theirs_per_second": 1 / best_theirs, "ratio": best_theirs / best_ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=360, help=f"pixels, a multiple of {ROWS} for equal grids")
    parser.add_argument("--width", type=int, default=480, help=f"pixels, a multiple of {COLS} for equal grids")
    parser.add_argument("--masks", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    masks = part_masks(options.masks, options.height, options.width)
    rles = [geometry.encode_mask(mask) for mask in masks]
    packed = [{"size": list(rle.size), "counts": rle.counts} for rle in rles]
    aligned = options.height % ROWS == 0 and options.width % COLS == 0
    if aligned and any(grid_from_runs(rle) != grid_from_nested_lists(rle) for rle in rles[:20]):
        sys.exit("failed: the two ways to a grid differ")
    results = {
        "run lengths to grid": compare(grid_from_runs, grid_from_nested_lists, rles, fewer=20),
        "encode": compare(
            geometry.encode_mask, lambda mask: coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)), masks
        ),
        "decode": compare(
            lambda pair: geometry.decode_mask(pair[0]),
            lambda pair: coco_mask.decode(pair[1]),
            list(zip(rles, packed, strict=True)),
        ),
    }
    if options.json:
        print(json.dumps({"height": options.height, "width": options.width, "results": results}))
        return
    print(f"{options.height} x {options.width} pixels     ours/s    theirs/s   ratio")
    for name, values in results.items():
        print(
            f"{name:<22}{values['ours_per_second']:>9,.0f}{values['theirs_per_second']:>12,.0f}{values['ratio']:>8.2f}"
        )


if __name__ == "__main__":
    main()
