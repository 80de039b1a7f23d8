"""A reader's own copy of a collection: which of its files could be the image that an annotation means.

Copies lie differently: ``images/00012/000345.jpg``, ``images_part03/00012/000345.jpg``, ``000345.jpg`` or
``00012_000345.jpg`` in one flat folder. So files are looked up by folder and stem, by vehicle and stem, and by stem.
"""

import hashlib
from pathlib import Path, PurePosixPath

from pfcvr.errors import SourceError
from pfcvr.pipeline.images import UnreadableImage, path_inside
from pfcvr.pipeline.sources.tree import FoundImage, walk_images
from pfcvr.scratch import temporary_tables

MOST_CANDIDATES = 16


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

    def candidates(self, image_id: str, vehicle_id: str, path: str) -> list[tuple[str, int]]:
        """(path below the root, size in bytes) of files that could be the image, the likeliest first."""
        own, stem = PurePosixPath(path), image_id.removeprefix(f"{vehicle_id}/")
        found: dict[str, int] = {}
        for column, names in (
            ("path", {path}),
            ("placed", {f"{own.parent.name}/{own.stem}", image_id}),
            ("stem", {f"{vehicle_id}_{stem}"}),
            ("stem", {own.stem, stem}),
        ):
            for name in sorted(names):
                query = f"SELECT path, size FROM file WHERE {column} = ? ORDER BY path LIMIT {MOST_CANDIDATES}"
                for candidate, size in self._files.execute(query, (name,)):
                    found.setdefault(candidate, size)
        return list(found.items())[:MOST_CANDIDATES]

    def read(self, path: str) -> bytes | None:
        """The bytes of a candidate; None where it cannot be read or is a link that leaves the root."""
        try:
            return path_inside(self._root, path).read_bytes()
        except (UnreadableImage, OSError):
            return None

    def close(self) -> None:
        self._files.close()
