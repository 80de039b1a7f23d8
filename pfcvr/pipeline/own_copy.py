"""A reader's own copy of a collection: which of its files could be the image that an annotation means.

Copies lie differently: ``images/00012/000345.jpg``, ``images_part03/00012/000345.jpg``, ``000345.jpg`` or
``00012_000345.jpg`` in one flat folder. So files are looked up by folder and stem, by vehicle and stem, and by stem.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path, PurePosixPath

from pfcvr.errors import SourceError
from pfcvr.pipeline.images import UnreadableImage, path_inside
from pfcvr.pipeline.sources.tree import FoundImage, walk_images
from pfcvr.scratch import temporary_tables

MOST_CANDIDATES = 16


class Agreement(IntEnum):
    """How far the place of a file is the one that an annotation names, best first."""

    PATH = 0
    PATH_WITHOUT_ENDING = 1
    FOLDER_OR_VEHICLE_AND_STEM = 2
    STEM = 3


@dataclass(frozen=True)
class Candidate:
    """A file that could be an image: its path below the root, its size in bytes, and the name that both share."""

    path: str
    size: int
    agreement: Agreement
    name: str


@dataclass(frozen=True)
class Names:
    """What the file of an annotated image may be called in a copy, besides its whole ``path``; without endings."""

    path: str
    telling: frozenset[str]
    stems: frozenset[str]

    def every(self) -> frozenset[str]:
        """All of them."""
        return frozenset({_without_ending(self.path)}) | self.telling | self.stems


def names_of(image_id: str, vehicle_id: str, path: str) -> Names:
    """The names of the image that lay at ``path`` inside its source."""
    own, stem = PurePosixPath(path), image_id.removeprefix(f"{vehicle_id}/")
    telling = {f"{own.parent.name}/{own.stem}", image_id, f"{vehicle_id}_{stem}"}
    return Names(path, frozenset(telling), frozenset({own.stem, stem}))


class OwnCopy:
    """The image files below ``root``, indexed in a temporary file; raises SourceError where there are none."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise SourceError(f"{root}: no such folder; give the root of your copy of the images")
        self._root = root.resolve()
        self._files = temporary_tables(
            "CREATE TABLE file (path TEXT PRIMARY KEY, size INTEGER, stem TEXT, placed TEXT)"
        )
        for found in walk_images(self._root):
            if isinstance(found, FoundImage):
                path = PurePosixPath(found.path)
                row = (found.path, found.size, path.stem, f"{path.parent.name}/{path.stem}")
                self._files.execute("INSERT INTO file VALUES (?, ?, ?, ?)", row)
        self._files.execute("CREATE INDEX by_stem ON file (stem)")
        self._files.execute("CREATE INDEX by_place ON file (placed)")
        if self._files.execute("SELECT 1 FROM file").fetchone() is None:
            self.close()
            raise SourceError(f"{root}: no image files here (.jpg, .jpeg, .png); give the root of your copy")

    def listing_sha256(self) -> str:
        """Hash of every path and size: changes when a file is added, removed or replaced by one of another size."""
        listing = hashlib.sha256()
        for path, size in self._files.execute("SELECT path, size FROM file ORDER BY path"):
            listing.update(f"{path}\n{size}\n".encode())
        return listing.hexdigest()

    def candidates(self, names: Names) -> list[Candidate]:
        """Files that could be the image with these ``names``, those that agree best first; not all of a common stem."""
        found: dict[str, Candidate] = {}
        for agreement, column, wanted in (
            (Agreement.FOLDER_OR_VEHICLE_AND_STEM, "placed", names.telling),
            (Agreement.FOLDER_OR_VEHICLE_AND_STEM, "stem", names.telling),
            (Agreement.STEM, "stem", names.stems),
        ):
            for name in sorted(wanted):
                query = f"SELECT path, size FROM file WHERE {column} = ? ORDER BY path <> ?, path LIMIT ?"
                for path, size in self._files.execute(query, (name, names.path, MOST_CANDIDATES)):
                    found.setdefault(path, _candidate(path, size, agreement, name, names.path))
        return sorted(found.values(), key=lambda one: one.agreement)[:MOST_CANDIDATES]

    def count_of_stem(self, stem: str) -> int:
        """How many files bear it."""
        (count,) = self._files.execute("SELECT count(*) FROM file WHERE stem = ?", (stem,)).fetchone()
        return int(count)

    def read(self, path: str) -> bytes | None:
        """The bytes of a candidate; None where it cannot be read or is a link that leaves the root."""
        try:
            return path_inside(self._root, path).read_bytes()
        except (UnreadableImage, OSError):
            return None

    def close(self) -> None:
        self._files.close()


def _candidate(path: str, size: int, agreement: Agreement, name: str, wanted: str) -> Candidate:
    """The file at ``path``, found by ``name``, for an image that lay at ``wanted``."""
    bare = _without_ending(wanted)
    if path == wanted:
        return Candidate(path, size, Agreement.PATH, bare)
    if _without_ending(path) == bare:
        return Candidate(path, size, Agreement.PATH_WITHOUT_ENDING, bare)
    return Candidate(path, size, agreement, name)


def _without_ending(path: str) -> str:
    own = PurePosixPath(path)
    return str(own.parent / own.stem)
