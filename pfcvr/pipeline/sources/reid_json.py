"""Any collection described by a captions file, as text Re-ID sets are: CUHK-PEDES, ICFG-PEDES, RSTPReid and the like.

The file (JSON list, JSON Lines, CSV or TSV) names images, identities and captions. This importer takes the images;
the captions stay where they are, for ``pfcvr-data caption --captioner import --captions FILE``.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pfcvr.errors import SourceError
from pfcvr.files import sha256_file, sha256_json
from pfcvr.pipeline.caption_rows import CaptionRow, MalformedRow, read_caption_rows
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.image_names import clean_name
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.terms import read_terms, terms_files
from pfcvr.pipeline.sources.tree import is_plain_name
from pfcvr.records import Rejected

SUFFIXES = frozenset({".json", ".jsonl", ".csv", ".tsv"})
PATH_KEYS = ("file_path", "img_path", "filename")
IDENTITY_KEYS = ("id", "vehicle_id")
IMAGE_FOLDERS = ("", "imgs", "images")
EXPECTED = "a JSON list, JSON Lines, CSV or TSV file with file_path (img_path, filename), id and captions (caption)"


class ReidJson:
    """Importer of a folder with one captions file, or of that file itself."""

    def recognise(self, source: Path) -> str | None:
        files = _candidates(source)
        if len(files) != 1:
            return None
        return f"{files[0].name} names images, identities and captions"

    def read(self, source: Path) -> SourceListing:
        files = _candidates(source)
        if len(files) != 1:
            found = f"{len(files)} such files ({', '.join(path.name for path in files)})" if files else "no such file"
            raise SourceError(f"{source}: expected {EXPECTED}, found {found}; give the file itself as the source")
        (path,) = files
        listing = _Listing(path)
        root = path.resolve().parent
        facts = {file.name: sha256_file(file) for file in [path, *terms_files(root)]}
        return SourceListing(
            root=root,
            source=read_terms(root, "reid-json"),
            content=sha256_json({"files": listing.sizes(), "texts": facts}),
            total=len(listing.images) + len(listing.problems),
            rows=listing.rows,
            notes={
                "captions_file": path.name,
                "splits": dict(sorted(listing.splits.items())),
                "list_membership": "splits as the file names them; pfcvr-data split draws the split of this data set",
            },
            surprises=(),
            close=lambda: None,
        )


def _candidates(source: Path) -> list[Path]:
    """Files directly in ``source``, or ``source`` itself, with a usable row among their first ones."""
    files = [source] if source.is_file() else sorted(source.glob("*"))
    return [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file() and _is_usable(path)]


def _is_usable(path: Path) -> bool:
    for number, row in enumerate(read_caption_rows(path)):
        if isinstance(row, CaptionRow) and _image_path(row) and _identity(row) and row.captions():
            return True
        if number == 20:
            break
    return False


def _image_path(row: CaptionRow) -> str | None:
    value = next((row.values[key] for key in PATH_KEYS if key in row.values), None)
    return clean_name(value) if isinstance(value, str) and value.strip() else None


def _identity(row: CaptionRow) -> str | None:
    """The identity as text; numbers are taken as they are written."""
    value = next((row.values[key] for key in IDENTITY_KEYS if key in row.values), None)
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _known(row: CaptionRow, key: str) -> str | None:
    value = row.values.get(key)
    return plain_text(str(value)) or None if isinstance(value, str | int) else None


class _Listing:
    """The images a captions file names, by path, in the order of the file."""

    def __init__(self, path: Path) -> None:
        self._root = path.resolve().parent
        self.images: dict[str, SourceImage] = {}
        self.problems: dict[str, Rejected] = {}
        self.splits: Counter[str] = Counter()
        self._paths: dict[str, str] = {}
        for row in read_caption_rows(path):
            if isinstance(row, MalformedRow):
                self._refuse(row.place, "malformed_line", row.detail)
            else:
                self._add(row)

    def _add(self, row: CaptionRow) -> None:
        named, identity = _image_path(row), _identity(row)
        if named is None or not is_plain_name(named) or not PurePosixPath(named).stem:
            self._refuse(row.place, "malformed_line", f"no usable path under {', '.join(PATH_KEYS)}")
            return
        if identity is None or not is_plain_name(identity) or "/" in identity:
            self._refuse(row.place, "no_identity", f"{named} has no id that is text without '/' or a whole number")
            return
        path = self._placed(named)
        image_id = f"{identity}/{PurePosixPath(path).stem}"
        before = self.images.get(path)
        if before is not None:
            # One row a caption: the same image again is no surprise, another identity for it is.
            if before.image_id != image_id:
                self._refuse(row.place, "conflicting_line", f"{path} already belongs to {before.vehicle_id}")
            return
        if image_id in self._paths:
            detail = f"{path}: {image_id} is already taken by {self._paths[image_id]}"
            self._refuse(row.place, "duplicate_image_id", detail)
            return
        self._paths[image_id] = path
        known = {key: _known(row, key) for key in ("camera_id", "timestamp", "color", "type", "model")}
        self.images[path] = SourceImage(image_id, identity, path, **known)
        split = row.values.get("split")
        self.splits[split.strip().lower() if isinstance(split, str) else "none"] += 1

    def _placed(self, named: str) -> str:
        """``named`` below the image folder that holds it; as it stands where none does."""
        places = (f"{folder}/{named}" if folder else named for folder in IMAGE_FOLDERS)
        return next((place for place in places if os.path.lexists(self._root / place)), named)

    def _refuse(self, subject: str, reason: str, detail: str) -> None:
        self.problems.setdefault(subject, Rejected(stage="import", subject=subject, reason=reason, detail=detail))

    def rows(self) -> Iterator[SourceImage | Rejected]:
        yield from self.images.values()
        yield from self.problems.values()

    def sizes(self) -> list[tuple[str, Any]]:
        """Every path with the size of its file in bytes, None where there is none."""
        return [(path, _size(self._root / path)) for path in sorted(self.images)]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
