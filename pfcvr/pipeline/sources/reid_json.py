"""Any collection described by a captions file, as text Re-ID sets are: CUHK-PEDES, ICFG-PEDES, RSTPReid and the like.

The file (JSON list, JSON Lines, CSV or TSV) names images, identities and captions. This importer takes the images;
the captions stay where they are, for ``pfcvr-data caption --captioner import --captions FILE``.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from pfcvr.errors import SourceError
from pfcvr.files import sha256_file
from pfcvr.pipeline.caption_rows import CaptionRow, MalformedRow, read_caption_rows, without_fraction
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.image_names import clean_name
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable, counted
from pfcvr.pipeline.sources.published import published_counts
from pfcvr.pipeline.sources.text_lines import is_utf_16, refuse_utf_16
from pfcvr.pipeline.sources.tree import images_right_in, is_plain_name
from pfcvr.records import Split

SUFFIXES = frozenset({".json", ".jsonl", ".csv", ".tsv"})
PATH_KEYS = ("file_path", "img_path", "filename")
IDENTITY_KEYS = ("id", "vehicle_id")
LARGEST_WHOLE = 1 << 53  # of a float: beyond it not every whole number has one of its own
SPLIT_CHARACTERS = 40
IMAGE_FOLDERS = ("", "imgs", "images", "image")
EXPECTED = "a JSON list, JSON Lines, CSV or TSV file with file_path (img_path, filename), id and captions (caption)"


SPLIT_NAMES: dict[str, Split] = {
    **{"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "query": "test", "gallery": "test"},
}


Naming = Callable[[str, str], tuple[str, str]]


class ReidJson:
    """Importer of a folder with one captions file, or of that file itself."""

    layout = "reid-json"

    def recognise(self, source: Path) -> str | None:
        files = captions_files(source)
        if len(files) != 1 or not self.is_own(files[0]):
            return None
        return f"{files[0].name} names images, identities and captions"

    def is_own(self, path: Path) -> bool:
        """Whether the captions file ``path`` is one of this layout."""
        return True

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        files = captions_files(source)
        if not files:
            for path in listed_files(source):
                refuse_utf_16(path)
        if len(files) != 1:
            found = f"{len(files)} such files ({', '.join(path.name for path in files)})" if files else "no such file"
            raise SourceError(f"{source}: expected {EXPECTED}, found {found}; give the file itself as the source")
        path = files[0].resolve()
        rows = CaptionedImages(path, self.naming(path))
        notes: dict[str, Any] = {
            "captions_file": path.name,
            "captions_sha256": sha256_file(path),
            "splits": dict(sorted(rows.splits.items())),
            "list_membership": "splits as the file names them; pfcvr-data split draws the split of this data set, or "
            "takes these with --from-source",
        }
        rows.look_beside()
        unlisted, alike = rows.table.unlisted(), rows.table.vehicles_alike()
        notes |= {**rows.oddities, "images_in_no_list": unlisted, "vehicles_that_differ_in_zeros": alike}
        surprises = [f"split '{name}' x {count}" for name, count in rows.unknown_splits().items()]
        surprises += [f"vehicles {' and '.join(pair)} differ in leading zeros alone" for pair in alike]
        surprises += counted({**rows.oddities, "images_in_no_list": unlisted["count"]})
        notes |= self.report(rows, surprises)
        if self.layout == "reid-json":
            notes["counts"] = published_counts(self.layout, rows.table.sizes(), path.name)
        return rows.table.listing(self.layout, [path], notes, surprises)

    def naming(self, path: Path) -> Naming:
        """How vehicle_id and stem follow from a row's identity and the stem of its image file."""
        return lambda identity, stem: (identity, stem)

    def report(self, rows: "CaptionedImages", surprises: list[str]) -> dict[str, Any]:
        """What else there is to say of this layout; may add to ``surprises`` and correct splits."""
        return {}


def captions_files(source: Path) -> list[Path]:
    """Files directly in ``source``, or ``source`` itself, with a usable row among their first ones."""
    return [path for path in listed_files(source) if _is_usable(path)]


def listed_files(source: Path) -> list[Path]:
    """Files directly in ``source``, or ``source`` itself, whose name is that of a list of captions."""
    files = [source] if source.is_file() else [path for path in sorted(source.glob("*")) if is_plain_name(path.name)]
    return [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file()]


def _is_usable(path: Path) -> bool:
    if is_utf_16(path):
        return False
    for number, row in enumerate(read_caption_rows(path)):
        if isinstance(row, CaptionRow) and _image_path(row) and _identity(row) and row.captions():
            return True
        if number == 20:
            break
    return False


def _image_path(row: CaptionRow) -> str | None:
    value = next((row.values[key] for key in PATH_KEYS if key in row.values), None)
    return clean_name(value) if isinstance(value, str) and value.strip() else None


def _stated_identity(row: CaptionRow) -> Any:
    return next((row.values[key] for key in IDENTITY_KEYS if key in row.values), None)


def _identity(row: CaptionRow) -> str | None:
    """The identity as text, as it is written; a whole number with a fraction of zeros is that number."""
    value = _stated_identity(row)
    if isinstance(value, str):
        return without_fraction(value.strip()) or None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < LARGEST_WHOLE else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _known(row: CaptionRow, key: str) -> str | None:
    value = row.values.get(key)
    return plain_text(str(value)) or None if isinstance(value, str | int) else None


def image_place(root: Path, row: CaptionRow) -> str | None:
    """Path of the image that ``row`` describes, below the image folder that holds it; as it stands where none does."""
    named = _image_path(row)
    if named is None:
        return None
    places = (f"{folder}/{named}" if folder else named for folder in IMAGE_FOLDERS)
    return next((place for place in places if os.path.lexists(root / place)), named)


def _split(row: CaptionRow) -> str:
    """The split as written, in lower case; ``none`` where the row has none."""
    value = row.values.get("split")
    if value is None:
        return "none"
    return plain_text(value if isinstance(value, str) else json.dumps(value)).lower()[:SPLIT_CHARACTERS]


class CaptionedImages:
    """The images a captions file names, in the order of the file.

    ``splits`` counts them by the split as written, ``oddities`` what was read although the file could mean something
    else by it.
    """

    def __init__(self, path: Path, naming: Naming) -> None:
        self.path, self.root = path, path.resolve().parent
        self._naming = naming
        self.table = ImageTable(self.root)
        self.splits: Counter[str] = Counter()
        self.oddities = {"ids_written_with_a_fraction": 0, "rows_with_another_split_than_before": 0}
        for row in read_caption_rows(path):
            if isinstance(row, MalformedRow):
                self.table.refuse(row.place, "malformed_line", row.detail)
            else:
                self._add(row)

    def unknown_splits(self) -> dict[str, int]:
        """Names of splits that are none, and how many images carry each."""
        return {name: count for name, count in self.splits.items() if name not in (*SPLIT_NAMES, "none")}

    def look_beside(self) -> None:
        """Find the image files that lie beside those of the rows."""
        folders = {path.rpartition("/")[0] for path in self.table.image_paths()}
        self.table.add_files(found for folder in sorted(folders) for found in images_right_in(self.root, folder))

    def _add(self, row: CaptionRow) -> None:
        named, identity = _image_path(row), _identity(row)
        if named is None or not is_plain_name(named) or not PurePosixPath(named).stem:
            self.table.refuse(row.place, "malformed_line", f"no usable path under {', '.join(PATH_KEYS)}")
            return
        if identity is None or not is_plain_name(identity) or "/" in identity:
            detail = f"{named} has no id that is text without '/' or a whole number"
            self.table.refuse(row.place, "no_identity", detail)
            self.table.pass_over(image_place(self.root, row) or named)
            return
        path, split = image_place(self.root, row) or named, _split(row)
        known: dict[str, Any] = {key: _known(row, key) for key in ("camera_id", "timestamp", "color", "type", "model")}
        vehicle_id, stem = self._naming(identity, PurePosixPath(path).stem)
        image = SourceImage(f"{vehicle_id}/{stem}", vehicle_id, path, **known, source_split=SPLIT_NAMES.get(split))
        # One row a caption: the same image again is no surprise, another identity for it is.
        is_new, before = not self.table.has_image(path), self.table.split_of(path)
        if not self.table.add(image, row.place):
            return
        self.splits[split] += is_new
        self.oddities["rows_with_another_split_than_before"] += not is_new and before != image.source_split
        stated = _stated_identity(row)
        self.oddities["ids_written_with_a_fraction"] += str(stated).strip() != identity
