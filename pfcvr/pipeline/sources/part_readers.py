"""Parts that a source brings along: T2I-VeRW's part files, MVP's part masks, the parts of an exported data set."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pfcvr import geometry
from pfcvr.pipeline.caption_rows import CaptionRow, read_caption_rows
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation, known_instance
from pfcvr.pipeline.images import DAMAGED, UnreadableImage, path_inside
from pfcvr.pipeline.sources.mvp import MASK_SUFFIX
from pfcvr.pipeline.sources.part_files import CELLS, part_file, read_entry, read_part_file
from pfcvr.pipeline.sources.pfcvr_set import PARTS_FILE
from pfcvr.pipeline.sources.reid_json import image_place
from pfcvr.pipeline.sources.tree import FoundImage, walk_images
from pfcvr.records import PARTS, ImageRecord, Part, PartInstance, PatchGrid
from pfcvr.scratch import temporary_tables

PROBLEM = tuple[str, str, str]
MVP_CLASSES: dict[int, Part] = {
    **dict.fromkeys(range(1, 8), "lights"),
    **dict.fromkeys([*range(8, 12), 23], "doors"),
    **dict.fromkeys(range(12, 14), "mirrors"),
    22: "roof",
    **dict.fromkeys([*range(28, 36), 44, 45], "windows"),
    **dict.fromkeys([*range(36, 41), 57, 58], "wheels"),
}
"""Fine class of MVP to part (formats, section 2.4)."""


@dataclass(frozen=True)
class GivenParts:
    """What a source says of one image. ``problems`` are (place, reason, detail); ``digest`` changes with the source."""

    image_id: str
    instances: tuple[PartInstance, ...]
    grid: PatchGrid | None
    problems: tuple[PROBLEM, ...]
    digest: bytes


class PartReader(Protocol):
    """Yields what the source below ``root`` says of ``images``; images of which it says nothing are left out."""

    def __call__(self, root: Path, notes: dict[str, Any], images: Iterable[ImageRecord]) -> Iterator[GivenParts]: ...


def read_part_files(root: Path, notes: dict[str, Any], images: Iterable[ImageRecord]) -> Iterator[GivenParts]:
    """The per-image part files that a released T2I-VeRI or T2I-VeRW names under ``boxes`` (formats, section 4.3)."""
    with closing(temporary_tables("CREATE TABLE file (image TEXT PRIMARY KEY, boxes TEXT) WITHOUT ROWID")) as named:
        for row in read_caption_rows(root / str(notes["captions_file"])):
            boxes = part_file(row) if isinstance(row, CaptionRow) else None
            if boxes is not None and isinstance(row, CaptionRow):
                named.execute("INSERT OR IGNORE INTO file VALUES (?, ?)", (image_place(root, row), boxes))
        for image in images:
            found = named.execute("SELECT boxes FROM file WHERE image = ?", (image.path,)).fetchone()
            if found is not None:
                yield _part_file(root, found[0], image)


def read_mask_folder(root: Path, notes: dict[str, Any], images: Iterable[ImageRecord]) -> Iterator[GivenParts]:
    """MVP's pictures of part numbers, named ``VEHICLE_IMAGE.png``, anywhere below ``root``."""
    masks: dict[str, str] = {}
    for found in walk_images(root):
        if isinstance(found, FoundImage) and found.path.lower().endswith(MASK_SUFFIX):
            masks.setdefault(found.path.rpartition("/")[2][: -len(MASK_SUFFIX)], found.path)
    for image in images:
        path = next((masks[name] for name in _mask_names(image) if name in masks), None)
        if path is not None and path != image.path:
            yield _mask_picture(root, path, image)


def _mask_names(image: ImageRecord) -> list[str]:
    """``VEHICLE_IMAGE``, and the image's own name where that begins with its vehicle already, as VeRi-776's do."""
    own = image.image_id.removeprefix(f"{image.vehicle_id}/")
    return [f"{image.vehicle_id}_{own}", *([own] if own.startswith(f"{image.vehicle_id}_") else [])]


def read_exported_parts(root: Path, notes: dict[str, Any], images: Iterable[ImageRecord]) -> Iterator[GivenParts]:
    """``parts.jsonl`` of an unpacked data set: instances, and the patch grid as it was."""
    with closing(temporary_tables("CREATE TABLE line (image_id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")) as kept:
        with (root / PARTS_FILE).open(encoding="utf-8") as file:
            for line in file:
                kept.execute("INSERT OR IGNORE INTO line VALUES (?, ?)", (json.loads(line)["image_id"], line))
        for image in images:
            found = kept.execute("SELECT body FROM line WHERE image_id = ?", (image.image_id,)).fetchone()
            if found is not None:
                yield _exported(found[0], image)


READERS: dict[str, PartReader] = {
    "t2i-veri": read_part_files,
    "t2i-verw": read_part_files,
    "mvp": read_mask_folder,
    "pfcvr": read_exported_parts,
}
"""By the layout of the source."""


def _part_file(root: Path, name: str, image: ImageRecord) -> GivenParts:
    """One part file: each entry a category, a 24 x 24 mask of 0 and 1, and perhaps a score."""
    try:
        content, entries = read_part_file(root, name)
    except BadAnnotation as problem:
        return _nothing(image, (name, problem.reason, problem.detail))
    instances: list[PartInstance] = []
    problems: list[PROBLEM] = []
    cells: dict[Part, NDArray[np.bool_]] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            part, own, score = read_entry(entry)
        except BadAnnotation as problem:
            problems.append((f"{name}:item {number}", problem.reason, problem.detail))
            continue
        cells[part] = cells.get(part, np.zeros_like(own)) | own
        instances.append(_drawn(part, own, score, image))
    packed = {part: np.packbits(cells[part]).tobytes().hex() for part in PARTS if part in cells}
    grid = PatchGrid(rows=CELLS, cols=CELLS, coverage=0, rule="given", cells=packed)
    return GivenParts(image.image_id, tuple(instances), grid, tuple(problems), hashlib.sha256(content).digest())


def _drawn(part: Part, cells: NDArray[np.bool_], score: float, image: ImageRecord) -> PartInstance:
    """``cells`` drawn on the pixels: a pixel belongs to the cell in which its middle lies."""
    rows = ((np.arange(image.height) + 0.5) * CELLS / image.height).astype(int)
    columns = ((np.arange(image.width) + 0.5) * CELLS / image.width).astype(int)
    mask = cells[np.ix_(rows, columns)]
    found, places = np.nonzero(cells)
    x0, x1 = (float(column * image.width / CELLS) for column in (places.min(), places.max() + 1))
    y0, y1 = (float(row * image.height / CELLS) for row in (found.min(), found.max() + 1))
    rle = geometry.encode_mask(mask) if mask.any() else None
    return PartInstance(part=part, box_xyxy=(x0, y0, x1, y1), score=score, mask=rle)


def _mask_picture(root: Path, path: str, image: ImageRecord) -> GivenParts:
    try:
        file = path_inside(root, path)
        with Image.open(file, formats=("PNG",)) as picture:
            numbers = np.asarray(picture)
        digest = hashlib.sha256(file.read_bytes()).digest()
    except UnreadableImage as problem:
        return _nothing(image, (path, problem.reason, problem.detail))
    except DAMAGED:
        return _nothing(image, (path, "malformed_mask", "the mask is no PNG picture, or damaged"))
    if numbers.ndim != 2 or numbers.shape != (image.height, image.width):
        size = f"the mask has shape {numbers.shape}, the image {image.height} x {image.width}"
        return _nothing(image, (path, "size_mismatch", size))
    instances = []
    for number in np.unique(numbers).tolist():
        part = MVP_CLASSES.get(number)
        if part is not None:
            mask = geometry.encode_mask(numbers == number)
            instances.append(PartInstance(part=part, box_xyxy=geometry.mask_box(mask), mask=mask))
    return GivenParts(image.image_id, tuple(instances), None, (), digest)


def _exported(line: str, image: ImageRecord) -> GivenParts:
    row = json.loads(line)
    listed = row["parts"] or []
    instances: list[PartInstance] = []
    problems: list[PROBLEM] = []
    for number, own in enumerate(listed if isinstance(listed, list) else [listed], start=1):
        try:
            instances.append(known_instance(own, image.height, image.width))
        except BadAnnotation as problem:
            problems.append((f"part {number}", problem.reason, problem.detail))
    grid = None
    if row["part_grid"]:
        grid = _exported_grid(row["part_grid"])
        if grid is None:
            problems.append(("part_grid", "malformed_grid", f"not {len(PARTS)} x rows x cols of 0 and 1"))
    digest = hashlib.sha256(line.encode()).digest()
    return GivenParts(image.image_id, tuple(instances), grid, tuple(problems), digest)


def _exported_grid(cells: Any) -> PatchGrid | None:
    """``cells`` as a patch grid; None where they are none."""
    try:
        array = np.array(cells)
    except ValueError:
        return None
    if array.ndim != 3 or array.shape[0] != len(PARTS) or not array.size or not np.isin(array, (0, 1)).all():
        return None
    packed = {part: np.packbits(own != 0).tobytes().hex() for part, own in zip(PARTS, array, strict=True) if own.any()}
    return PatchGrid(rows=array.shape[1], cols=array.shape[2], coverage=0, rule="given", cells=packed)


def _nothing(image: ImageRecord, problem: PROBLEM) -> GivenParts:
    return GivenParts(image.image_id, (), None, (problem,), repr(problem).encode())
