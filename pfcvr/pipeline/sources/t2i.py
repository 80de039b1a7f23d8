"""T2I-VeRI and the released T2I-VeRW: one JSON list that names images, captions, split and per-image part files.

Reference: formats, sections 3 and 4. Both come in the form that the released PFCVR code reads; T2I-VeRI also in its
first form, without parts.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pfcvr.pipeline.caption_rows import CaptionRow, read_caption_rows
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation
from pfcvr.pipeline.sources.image_table import stem_of
from pfcvr.pipeline.sources.part_files import flat_cells, part_file, read_entry, read_part_file
from pfcvr.pipeline.sources.reid_json import CaptionedImages, Naming, ReidJson
from pfcvr.pipeline.sources.tree import is_plain_name

NAME_OF_VERI = re.compile(r"t2i[-_ ]?veri(?![-_]?(new|wild))", re.IGNORECASE)
VERI_FILE = re.compile(r"(?<!p)refixID", re.IGNORECASE)  # VeRW's says prefixid
VEHICLE_IDS = "vehicle_ids.json"
PART_KEYS = ("boxes", "mask")
SAMPLED = 200


class T2iVerw(ReidJson):
    """Importer of the released T2I-VeRW. ``boxes`` and ``mask`` are read by ``parts --detector import``."""

    layout = "t2i-verw"

    def is_own(self, path: Path) -> bool:
        return VERI_FILE.search(path.name) is None and _has_parts(path)

    def naming(self, path: Path) -> Naming:
        """A file name ``00012_000345`` of vehicle 12 is VERI-Wild's image 00012/000345, and is called so here too.

        The first image of a vehicle decides what it is called, so that none becomes two. Vehicles that an export
        numbered get their names back from its ``vehicle_ids.json``.
        """
        exported = _exported_vehicles(path.resolve().parent / VEHICLE_IDS)
        names: dict[str, str] = {}

        def named(identity: str, stem: str) -> tuple[str, str]:
            text = unquote(stem) if identity in exported else stem
            vehicle_id = exported.get(identity) or names.setdefault(identity, _name_in(stem, identity))
            rest = text.removeprefix(f"{vehicle_id}_")
            return vehicle_id, rest if rest and rest != text and is_plain_name(rest) else stem

        return named

    def report(self, rows: CaptionedImages, surprises: list[str]) -> dict[str, Any]:
        """The released loader tests on ``val`` where no row is ``test``; and what only a real copy can tell."""
        sizes = rows.table.sizes()
        renamed = "val" in sizes and "test" not in sizes
        if renamed:
            rows.table.rename_split("val", "test")
        return {"val_is_test": renamed, "part_files": _part_files(rows, surprises), "image_names": _name_patterns(rows)}


class T2iVeri(T2iVerw):
    """Importer of T2I-VeRI."""

    layout = "t2i-veri"

    def is_own(self, path: Path) -> bool:
        if VERI_FILE.search(path.name):
            return True
        named = NAME_OF_VERI.search(path.name) or NAME_OF_VERI.search(path.resolve().parent.name)
        return bool(named) and not _has_parts(path)


def _name_in(stem: str, identity: str) -> str:
    """The ``00012`` of ``00012_000345``, where that is the number ``identity``; else ``identity`` itself."""
    head, separator, _ = stem.partition("_")
    return head if separator and head.isdecimal() and head.lstrip("0") == identity.lstrip("0") else identity


def _exported_vehicles(path: Path) -> dict[str, str]:
    """Number to vehicle_id, as the form ``official`` of an export writes it; empty for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = content.items() if isinstance(content, dict) else ()
    return {str(number): own for own, number in pairs if own and "/" not in own and is_plain_name(own)}


def _has_parts(path: Path) -> bool:
    first = next((row for row in read_caption_rows(path) if isinstance(row, CaptionRow)), None)
    return first is not None and any(key in first.values for key in PART_KEYS)


def _name_patterns(rows: CaptionedImages) -> dict[str, int]:
    """The shapes of the image names, every run of digits written as 9, commonest first."""
    shapes = Counter(re.sub(r"\d+", "9", stem_of(path)) for path in rows.table.image_paths())
    return dict(shapes.most_common(5))


def _part_files(rows: CaptionedImages, surprises: list[str]) -> dict[str, Any]:
    """Keys, categories and cell values of the first part files, since no description of them is complete.

    All are read: what the stage ``parts`` would reject is added to ``surprises``.
    """
    keys, categories, cells = Counter[str](), Counter[str](), Counter[str]()
    counts = {"read": 0, "unreadable": 0, "unusable_parts": 0}
    for row in read_caption_rows(rows.path):
        name = part_file(row) if isinstance(row, CaptionRow) else None
        if name is None:
            continue
        try:
            _, entries = read_part_file(rows.root, name)
        except BadAnnotation as problem:
            surprises.append(f"{name} ({problem.reason})")
            counts["unreadable"] += 1
            entries = []
        counts["read"] += 1
        for number, entry in enumerate(entries, start=1):
            try:
                read_entry(entry)
            except BadAnnotation as problem:
                surprises.append(f"{name}:item {number} ({problem.reason})")
                counts["unusable_parts"] += 1
            if isinstance(entry, dict) and counts["read"] <= SAMPLED:
                keys.update(entry.keys())
                categories[str(entry.get("category"))] += 1
                cells.update(repr(value) for value in set(map(_hashable, flat_cells(entry.get("mask")))))
    found = {"keys": keys, "categories": categories, "cell_values": cells}
    return counts | {name: dict(count.most_common(20)) for name, count in found.items()}


def _hashable(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else type(value).__name__
