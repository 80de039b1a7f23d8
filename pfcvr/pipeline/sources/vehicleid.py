"""VehicleID (PKU): one flat image folder, lists of image and identity, their attributes (formats, section 6)."""

from pathlib import Path
from typing import Any

from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable, counted, stem_of
from pfcvr.pipeline.sources.list_files import in_folder, listed_names, needed_folder
from pfcvr.pipeline.sources.text_lines import UNDECODABLE, text_encoding, text_lines
from pfcvr.pipeline.sources.tree import walk_images
from pfcvr.records import Split

ALL_IMAGES = "attribute/img2vid.txt"
LISTS = "train_test_split"
Names = dict[str, str]


class VehicleId:
    """Importer of ``image/`` with ``attribute/`` and ``train_test_split/``. It knows no cameras."""

    def recognise(self, source: Path) -> str | None:
        if (source / ALL_IMAGES).is_file():
            return f"found {ALL_IMAGES}"
        tests = sorted((source / LISTS).glob("test_list_*.txt"))
        return f"found {LISTS}/{tests[0].name}" if tests else None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        root = needed_folder(source, "VehicleID", ALL_IMAGES, LISTS)
        table = ImageTable(root)
        table.add_files(walk_images(root))
        attributes = _Attributes(table)
        lists = [path for path in (root / LISTS / "train_list.txt", *_tests(root)) if path.is_file()]
        in_both = 0
        for path in [*lists, *(path for path in [root / ALL_IMAGES] if path.is_file())]:
            split: Split | None = "test" if path.name.startswith("test") else "train" if path in lists else None
            for line in listed_names(table, path, (1,)):
                (vehicle_id,) = line.columns
                image_path = in_folder(table, "image", line.name)
                known: dict[str, Any] = attributes.of(vehicle_id) | {"source_split": split}
                image_id = f"{vehicle_id}/{stem_of(image_path)}"
                in_both += split == "test" and table.split_of(image_path) == "train"
                table.add(SourceImage(image_id, vehicle_id, image_path, **known), line.place)
        unlisted = table.unlisted("image/*")
        notes = {"names": attributes.notes, "images_in_no_list": unlisted, "test_lines_of_train_images": in_both}
        surprises = counted({"images_in_no_list": unlisted["count"], "test_lines_of_train_images": in_both})
        return table.listing("vehicleid", [*lists, *attributes.files], notes, surprises)


def _tests(root: Path) -> list[Path]:
    return sorted((root / LISTS).glob("test_list_*.txt"))


class _Attributes:
    """Color and model of identities: number of the identity to number of the name, and that to the name."""

    def __init__(self, table: ImageTable) -> None:
        self._table, self.notes = table, dict[str, dict[str, Any]]()
        folder = table.root / "attribute"
        self.files = [path for path in sorted(folder.glob("*.txt")) if path.is_file()]
        self._known = {
            kind: (self._pairs(folder / f"{kind}_attr.txt"), self._pairs(folder / f"{kind}_names.txt"))
            for kind in ("color", "model")
        }

    def of(self, vehicle_id: str) -> dict[str, str | None]:
        """The names as written; the number where the list of names lacks it."""
        found: dict[str, str | None] = {}
        for kind, (numbers, names) in self._known.items():
            number = numbers.get(vehicle_id)
            found[kind] = None if number is None else names.get(number, number)
        return found

    def _pairs(self, path: Path) -> Names:
        """Number to value; of the two columns the one that is a number is the key."""
        pairs: Names = {}
        if not path.is_file():
            return pairs
        encoding = text_encoding(path)
        place = path.relative_to(self._table.root).as_posix()
        for number, line in text_lines(path, encoding):
            first, _, rest = line.replace(",", " ").replace(";", " ").partition(" ")
            head, _, last = line.rpartition(" ")
            key, value = (first, rest.strip()) if first.isdecimal() else (last.strip(), head.strip())
            if not key.isdecimal() or not value or UNDECODABLE in line:
                self._table.refuse(f"{place}:{number}", "malformed_line", "not a number and what it stands for")
            else:
                pairs[key] = value
        self.notes[path.name] = {"encoding": encoding, "entries": len(pairs), "sample": sorted(pairs.values())[:5]}
        return pairs
