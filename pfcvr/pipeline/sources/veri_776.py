"""VeRi-776 with its labels, its ignore lists and, where they are, its key points (reference: formats, section 2)."""

import filecmp
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfcvr.pipeline.images import UnreadableImage, path_inside
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable, counted, stem_of
from pfcvr.pipeline.sources.key_points import key_point_files, read_key_points
from pfcvr.pipeline.sources.label_xml import read_items
from pfcvr.pipeline.sources.list_files import named_size, needed_folder
from pfcvr.pipeline.sources.text_lines import text_encoding, text_lines
from pfcvr.pipeline.sources.tree import is_plain_name, walk_images
from pfcvr.records import Split

# Queries last: those that lie in image_test as well are that image.
SPLIT_OF: dict[str, Split] = {"train": "train", "test": "test", "query": "test"}
NAME = re.compile(r"(\d{4})_(c\d{3})_(\d+)_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
JUNK = re.compile(r"-1_c\d+.*")
COLORS = dict(
    enumerate(("yellow", "orange", "green", "gray", "red", "blue", "white", "golden", "brown", "black"), start=1)
)
TYPES = dict(enumerate(("sedan", "suv", "van", "hatchback", "mpv", "pickup", "bus", "truck", "estate"), start=1))
# Version 1.0 of the labels gives these SUVs the type 0.
TYPE_DEFECT = {"0003": 2, "0007": 2, "0041": 2}


class Veri776:
    """Importer of ``image_{train,test,query}/`` with ``name_{train,test,query}.txt`` and ``*_label.xml``."""

    def recognise(self, source: Path) -> str | None:
        folders = [f"image_{part}" for part in SPLIT_OF if (source / f"image_{part}").is_dir()]
        others = [name for part in SPLIT_OF for name in _companions(part) if (source / name).is_file()]
        if not folders or not others and len(folders) < len(SPLIT_OF):
            return None
        return "found " + " and ".join([*others[:1], f"{folders[0]}/"])

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        root = needed_folder(source, "VeRi-776", *(f"image_{part}" for part in SPLIT_OF))
        table = ImageTable(root)
        table.add_files(walk_images(root))
        labels = _Labels(table)
        lists = {part: _names(table, part) for part in SPLIT_OF}
        copies = sum(_add(table, labels, part, *line) for part, lines in lists.items() for line in lines)
        texts = [path for path in sorted(root.glob("*")) if path.suffix in (".txt", ".xml") and path.is_file()]
        texts = [path for path in texts if is_plain_name(path.name)]
        key_points, unlisted = _count_key_points(root), table.unlisted("image_*/*")
        notes: dict[str, Any] = {
            "labels": labels.notes(),
            "queries_also_in_the_gallery": copies,
            "queries_only_in_image_query": len(lists["query"]) - copies,
            "ignore_lists": _ignore_lists(root, lists["test"], lists["query"]),
            "key_points": key_points,
            "images_in_no_list": unlisted,
        }
        others = {"images_in_no_list": unlisted["count"], "malformed_key_points": key_points.get("malformed", 0)}
        queries = {name: parsed[1] for _, name in lists["query"] if (parsed := NAME.fullmatch(name))}
        return table.listing("veri-776", texts, notes, counted(labels.unknown | others), {"query": named_size(queries)})


def _companions(part: str) -> tuple[str, str]:
    return f"name_{part}.txt", f"{part}_label.xml"


def _names(table: ImageTable, part: str) -> list[tuple[str, str]]:
    """(place, file name) of every image that the list of ``part`` names; without a list, of every file."""
    path = table.root / f"name_{part}.txt"
    if not path.is_file():
        return [(file, file.rpartition("/")[2]) for file in table.files(f"image_{part}")]
    return [(f"{path.name}:{number}", line) for number, line in text_lines(path, text_encoding(path))]


def _add(table: ImageTable, labels: "_Labels", part: str, place: str, name: str) -> bool:
    """Take over one image; whether it is a query that is in the gallery as well."""
    path, in_gallery = f"image_{part}/{name}", f"image_test/{name}"
    if part == "query" and table.has_file(in_gallery):
        table.pass_over(path)
        if table.has_file(path) and not _are_equal(table.root, path, in_gallery):
            table.refuse(place, "duplicate_image_id", f"{path} has other bytes than {in_gallery}, which counts")
        return True
    parsed = NAME.fullmatch(name)
    if parsed is None:
        table.pass_over(path)
        reason = "no_identity" if JUNK.fullmatch(name) else "malformed_line"
        table.refuse(place, reason, "the name is not VEHICLE_cCAMERA_TIME_INDEX.jpg with a vehicle")
        return False
    vehicle_id, camera_id, timestamp, _ = parsed.groups()
    color, kind = labels.of(name, vehicle_id, camera_id)
    known: dict[str, Any] = {"timestamp": timestamp, "color": color, "type": kind, "source_split": SPLIT_OF[part]}
    table.add(SourceImage(f"{vehicle_id}/{stem_of(path)}", vehicle_id, path, camera_id, **known), place)
    return False


def _are_equal(root: Path, one: str, other: str) -> bool:
    """Whether two files of the source have the same bytes."""
    try:
        return filecmp.cmp(path_inside(root, one), path_inside(root, other), shallow=False)
    except (UnreadableImage, OSError):
        return False


@dataclass(frozen=True)
class _Label:
    vehicle_id: str
    camera_id: str
    color: str
    type: str


class _Labels:
    """Color and type by image, as the label files number them."""

    def __init__(self, table: ImageTable) -> None:
        self._labels: dict[str, _Label] = {}
        self.unknown: Counter[str] = Counter()
        self._files: dict[str, int] = {}
        self._mended = 0
        for part in ("train", "test"):
            path = table.root / f"{part}_label.xml"
            if not path.is_file():
                continue
            items, broken = read_items(path)
            self._files[path.name] = len(items)
            if broken is not None:
                detail = f"the XML cannot be read beyond this line: {broken.detail}"
                table.refuse(f"{path.name}:{broken.line}", "malformed_line", detail)
            for number, item in enumerate(items, start=1):
                self._take(table, f"{path.name}:item {number}", item)

    def _take(self, table: ImageTable, place: str, item: dict[str, str]) -> None:
        name = item.get("imageName", "").strip()
        label = _Label(*(item.get(key, "").strip() for key in ("vehicleID", "cameraID", "colorID", "typeID")))
        if not name or not is_plain_name(name):
            table.refuse(place, "malformed_line", "an Item without imageName")
        elif name in self._labels and self._labels[name] != label:
            table.refuse(place, "conflicting_line", f"another Item already labels {name} differently")
        else:
            self._labels[name] = label

    def of(self, name: str, vehicle_id: str, camera_id: str) -> tuple[str | None, str | None]:
        """Color and type of an image; an unknown number is kept as written and counted."""
        label = self._labels.get(name)
        if label is None:
            self.unknown["images without a label"] += bool(self._files)
            return None, None
        if label.vehicle_id.lstrip("0") != vehicle_id.lstrip("0"):
            self.unknown["labels with another vehicleID than the name"] += 1
        if label.camera_id.lower().lstrip("c0") != camera_id.lower().lstrip("c0"):
            self.unknown["labels with another cameraID than the name"] += 1
        kind = label.type
        if kind == "0" and vehicle_id in TYPE_DEFECT:
            self._mended += 1
            kind = str(TYPE_DEFECT[vehicle_id])
        return self._named("colorID", label.color, COLORS), self._named("typeID", kind, TYPES)

    def notes(self) -> dict[str, Any]:
        return {"items": self._files, "type_0_read_as_suv": self._mended, "surprises": dict(self.unknown)}

    def _named(self, key: str, number: str, names: dict[int, str]) -> str | None:
        name = names.get(int(number)) if number.isdecimal() else None
        if name is None:
            self.unknown[f"{key} '{number}'"] += 1
        return name or number or None


def _ignore_lists(root: Path, gallery: list[tuple[str, str]], queries: list[tuple[str, str]]) -> dict[str, Any]:
    """Of how many queries the jk list is what the rule gives: the gallery images of the same vehicle and camera."""
    places: dict[tuple[str, ...], set[int]] = {}
    for number, (_, name) in enumerate(gallery, start=1):
        places.setdefault(tuple(name.split("_")[:2]), set()).add(number)
    found: dict[str, Any] = {}
    for path in sorted([*root.glob("jk_*.txt"), *root.glob("gt_*.txt")]):
        lines = [line for _, line in text_lines(path, text_encoding(path))]
        found[path.name] = {"lines": len(lines), "queries": len(queries)}
        if path.name == "jk_index.txt":
            found[path.name]["as_the_rule_gives"] = sum(
                {int(word) for word in line.split() if word.isdecimal()}
                == places.get(tuple(name.split("_")[:2]), set())
                for line, (_, name) in zip(lines, queries, strict=False)
            )
    return found


def _count_key_points(root: Path) -> dict[str, int]:
    """Images with key points by file; what cannot be read is in the count ``malformed``."""
    found: Counter[str] = Counter()
    for path in key_point_files(root):
        for points in read_key_points(path):
            found[path.name if points is not None else "malformed"] += 1
    return dict(found)
