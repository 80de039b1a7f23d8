"""The images that a source's lists claim, beside the files that are there; in a temporary SQLite file, memory flat."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

from pfcvr.files import sha256_file, sha256_json
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.published import published_counts
from pfcvr.pipeline.sources.terms import read_terms, terms_files
from pfcvr.pipeline.sources.tree import FoundImage
from pfcvr.records import SPLITS, Rejected
from pfcvr.scratch import temporary_tables

EXAMPLES = 5
COLUMNS = tuple(field.name for field in fields(SourceImage))
TABLES = f"""
CREATE TABLE image (number INTEGER PRIMARY KEY, {", ".join(COLUMNS)}, UNIQUE (image_id), UNIQUE (path));
CREATE TABLE problem (subject TEXT PRIMARY KEY, reason TEXT, detail TEXT);
CREATE TABLE file (path TEXT PRIMARY KEY, size INTEGER, name TEXT, folded TEXT) WITHOUT ROWID;
CREATE TABLE passed_over (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX file_name ON file (name);
CREATE INDEX file_folded ON file (folded);
"""
ADD = f"INSERT INTO image ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


class ImageTable:
    """Fill with ``add_files`` and ``add``, then ask, then make the ``listing``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._db = temporary_tables(TABLES)

    def add_files(self, found: Iterable[FoundImage | Rejected]) -> None:
        """What lies below the root, so that files in no list and names in another letter case are noticed."""
        for file in found:
            if isinstance(file, Rejected):
                self.refuse(file.subject, file.reason, file.detail)
            else:
                row = (file.path, file.size, file.path.rpartition("/")[2], file.path.casefold())
                self._db.execute("INSERT INTO file VALUES (?, ?, ?, ?)", row)

    def add(self, image: SourceImage, place: str) -> bool:
        """Take over one claim, made at ``place`` (``FILE:LINE``); the same claim again is no surprise.

        False where it contradicts an earlier one, or a second file has its image_id: the earlier one counts.
        """
        before = self._db.execute("SELECT image_id, vehicle_id FROM image WHERE path = ?", (image.path,)).fetchone()
        if before is not None:
            if before[0] != image.image_id:
                self.refuse(place, "conflicting_line", f"{image.path} already belongs to {before[1]}")
            return bool(before[0] == image.image_id)
        taken = self._db.execute("SELECT path FROM image WHERE image_id = ?", (image.image_id,)).fetchone()
        if taken is not None:
            detail = f"{image.path}: {image.image_id} is already taken by {taken[0]}"
            self.refuse(place, "duplicate_image_id", detail)
            self.pass_over(image.path)
            return False
        self._db.execute(ADD, tuple(asdict(image).values()))
        return True

    def refuse(self, subject: str, reason: str, detail: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO problem VALUES (?, ?, ?)", (subject, reason, detail))

    def files_named(self, tail: str) -> list[str]:
        """Paths of the files whose path is ``tail`` or ends in ``/tail``."""
        name = tail.rpartition("/")[2]
        found = self._db.execute("SELECT path FROM file WHERE name = ? ORDER BY path", (name,))
        return [path for (path,) in found if path == tail or path.endswith(f"/{tail}")]

    def files(self, folder: str = "") -> Iterator[str]:
        """Paths of the files below ``folder``, in order."""
        prefix = f"{folder}/" if folder else ""
        for (path,) in self._db.execute("SELECT path FROM file ORDER BY path"):
            if path.startswith(prefix):
                yield path

    def has_file(self, path: str) -> bool:
        return self._db.execute("SELECT 1 FROM file WHERE path = ?", (path,)).fetchone() is not None

    def image_paths(self) -> Iterator[str]:
        """Paths of all images, in the order in which they were claimed."""
        for (path,) in self._db.execute("SELECT path FROM image ORDER BY number"):
            yield path

    def has_image(self, path: str) -> bool:
        return self._db.execute("SELECT 1 FROM image WHERE path = ?", (path,)).fetchone() is not None

    def split_of(self, path: str) -> str | None:
        """The split that the source gave the image of this file, if it gave it one."""
        found = self._db.execute("SELECT source_split FROM image WHERE path = ?", (path,)).fetchone()
        return found[0] if found is not None else None

    def pass_over(self, path: str) -> None:
        """Note a file that a list names and that becomes no image of its own, so that it is not ``unlisted``."""
        self._db.execute("INSERT OR IGNORE INTO passed_over VALUES (?)", (path,))

    def unlisted(self, paths: str = "*") -> dict[str, Any]:
        """Image files that no list names: how many, and the first ones. ``paths`` is a pattern for sqlite's GLOB."""
        rest = (
            "FROM file WHERE path NOT IN (SELECT path FROM image) AND path NOT IN (SELECT path FROM passed_over) "
            "AND path GLOB ?"
        )
        (count,) = self._db.execute(f"SELECT count(*) {rest}", (paths,)).fetchone()
        shown = self._db.execute(f"SELECT path {rest} ORDER BY path LIMIT ?", (paths, EXAMPLES))
        return {"count": count, "examples": [path for (path,) in shown]}

    def vehicles_alike(self) -> list[list[str]]:
        """Numbers of vehicles that differ in leading zeros alone, which may be one vehicle."""
        query = (
            "SELECT json_group_array(vehicle_id) FROM (SELECT DISTINCT vehicle_id FROM image "
            "WHERE vehicle_id NOT GLOB '*[^0-9]*' ORDER BY vehicle_id) "
            "GROUP BY ltrim(vehicle_id, '0') HAVING count(*) > 1 ORDER BY ltrim(vehicle_id, '0')"
        )
        return [json.loads(alike) for (alike,) in self._db.execute(query)]

    def value_counts(self, column: str) -> dict[str, int]:
        """How often each value of a column of SourceImage occurs."""
        query = f"SELECT {column}, count(*) FROM image WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1"
        return dict(self._db.execute(query))

    def time_patterns(self) -> dict[str, int]:
        """The shapes of the time stamps, every digit written as 9, commonest first."""
        self._db.create_function("shape", 1, lambda text: re.sub(r"\d", "9", text), deterministic=True)
        query = "SELECT shape(timestamp), count(*) FROM image WHERE timestamp IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        return dict(self._db.execute(f"{query} LIMIT {EXAMPLES}"))

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Images and vehicles: of ``all``, and of each split that the source names."""
        counts = "count(*), count(DISTINCT vehicle_id) FROM image"
        found = {"all": self._db.execute(f"SELECT {counts}").fetchone()}
        for split in SPLITS:
            images, vehicles = self._db.execute(f"SELECT {counts} WHERE source_split = ?", (split,)).fetchone()
            if images:
                found[split] = (images, vehicles)
        return found

    def rename_split(self, old: str, new: str) -> None:
        self._db.execute("UPDATE image SET source_split = ? WHERE source_split = ?", (new, old))

    def rows(self) -> Iterator[SourceImage | Rejected]:
        """Images in the order in which they were claimed, then everything that was refused."""
        for row in self._db.execute(f"SELECT {', '.join(COLUMNS)} FROM image ORDER BY number"):
            yield SourceImage(*row)
        for subject, reason, detail in self._db.execute("SELECT * FROM problem ORDER BY subject"):
            yield Rejected(stage="import", subject=subject, reason=reason, detail=detail)

    def listing(
        self,
        layout: str,
        texts: Sequence[Path],
        notes: dict[str, Any],
        surprises: Sequence[str] = (),
        lists: Mapping[str, tuple[int, int]] | None = None,
    ) -> SourceListing:
        """Everything as the import stage takes it. ``texts`` are the files that were read to get here.

        ``lists``: images and vehicles of each list that is no split, to be put beside the published counts.
        """
        self._note_other_case()
        sizes = self.sizes()
        cameras = self.value_counts("camera_id")
        read = {path.relative_to(self.root).as_posix(): sha256_file(path) for path in [*texts, *terms_files(self.root)]}
        total = sum(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("image", "problem"))
        content = {"files": self._content_hash(), "texts": read}
        common = {
            "cameras": {"distinct": len(cameras), "examples": sorted(cameras)[:EXAMPLES]},
            "time_patterns": self.time_patterns(),
            "counts": published_counts(layout, {**sizes, **(lists or {})}),
        }
        return SourceListing(
            root=self.root,
            source=read_terms(self.root, layout),
            content=sha256_json(content),
            total=total,
            rows=self.rows,
            notes=common | notes,
            surprises=tuple(surprises),
            close=self._db.close,
        )

    def _note_other_case(self) -> None:
        """Refuse images whose file is there under a name in another letter case: which one is meant is a guess."""
        query = (
            "SELECT i.image_id, i.path, min(f.path) FROM image i JOIN file f ON f.folded = fold(i.path) "
            "WHERE i.path NOT IN (SELECT path FROM file) GROUP BY i.image_id"
        )
        self._db.create_function("fold", 1, str.casefold, deterministic=True)
        for image_id, path, there in self._db.execute(query).fetchall():
            detail = f"{path}: there is no such file, only {there}, whose name differs in letter case; rename one"
            self._db.execute("DELETE FROM image WHERE image_id = ?", (image_id,))
            self.refuse(image_id, "missing_file", detail)

    def _content_hash(self) -> str:
        """Of every claim, with the size of its file in bytes (None where there is none)."""
        digest = hashlib.sha256()
        for row in self.rows():
            size = _size(self.root / row.path) if isinstance(row, SourceImage) else None
            digest.update(repr((row, size)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def counted(counts: Mapping[str, int]) -> list[str]:
    """A sentence about each of ``counts`` that is not 0, for ``SourceListing.surprises``."""
    return [f"{what.replace('_', ' ')} x {count}" for what, count in counts.items() if count]


def stem_of(path: str) -> str:
    """The file name without its ending."""
    return PurePosixPath(path).stem


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return None
