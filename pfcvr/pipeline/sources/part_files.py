"""The per-image part files that a released T2I-VeRI or T2I-VeRW names under ``boxes`` (reference: formats, 4.3)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.caption_rows import CaptionRow
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation, part_named, score_of
from pfcvr.pipeline.images import UnreadableImage, path_inside
from pfcvr.records import Part

CELLS = 24  # a side of the grid of the released sets: 384 / 16 (formats, section 4.4)
MAX_PART_FILE = 1 << 22  # bytes: hundreds of masks of 24 x 24 cells with every cell on a line of its own


def part_file(row: CaptionRow) -> str | None:
    """Path of the row's part file, with forward slashes."""
    value = row.values.get("boxes")
    return value.strip().replace("\\", "/") if isinstance(value, str) and value.strip() else None


def read_part_file(root: Path, name: str) -> tuple[bytes, list[Any]]:
    """The bytes of the part file ``name`` below ``root`` and its entries; raises BadAnnotation."""
    try:
        path = path_inside(root, name)
        size = path.stat().st_size
        if size > MAX_PART_FILE:
            detail = f"{size:,} bytes, more than a part file has ({MAX_PART_FILE:,})"
            raise BadAnnotation("too_large", detail)
        if not path.is_file():
            raise FileNotFoundError(path)
        content = path.read_bytes()
        entries = json.loads(content)
    except UnreadableImage as problem:
        raise BadAnnotation(problem.reason, problem.detail) from None
    except OSError:
        raise BadAnnotation("missing_file", "the part file cannot be read") from None
    except (ValueError, RecursionError) as error:
        raise BadAnnotation("malformed_annotation", f"not a part file in JSON: {error}") from None
    if not isinstance(entries, list):
        raise BadAnnotation("malformed_annotation", "not a part file in JSON: not a list of parts")
    return content, entries


def flat_cells(mask: Any) -> list[Any]:
    """The cells of a mask given row by row or flat; empty where it is no list."""
    if not isinstance(mask, list):
        return []
    return [cell for row in mask for cell in (row if isinstance(row, list) else [row])]


def read_entry(entry: Any) -> tuple[Part, NDArray[np.bool_], float]:
    """Part, cells [24, 24] and score of one entry; raises BadAnnotation."""
    if not isinstance(entry, dict):
        raise BadAnnotation("malformed_annotation", "a part needs category and mask")
    part = part_named(entry.get("category"), 0)
    flat = flat_cells(entry.get("mask"))
    if len(flat) != CELLS * CELLS or not all(isinstance(cell, int | float) and cell in (0, 1) for cell in flat):
        raise BadAnnotation("malformed_mask", f"the mask of {part} is not {CELLS} x {CELLS} cells of 0 and 1")
    cells = np.array(flat, dtype=bool).reshape(CELLS, CELLS)
    if not cells.any():
        raise BadAnnotation("empty_mask", f"the mask of {part} covers no cell")
    return part, cells, score_of(entry.get("score", 1.0))
