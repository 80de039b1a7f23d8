"""``--detector import``: parts that somebody already annotated, read from a COCO file.

Polygons, compressed and plain run lengths, and boxes alone are taken. Whatever cannot be used is rejected on its own,
with the place in the file; the other annotations of the image stay.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pfcvr.config import PartsConfig
from pfcvr.errors import SourceError, UsageError
from pfcvr.files import sha256_file
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.detectors.coco_file import CocoFile
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation, instance_of, part_named
from pfcvr.pipeline.image_names import ImageNames
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.problem_rows import problem_rows
from pfcvr.pipeline.sources.tree import is_plain_name
from pfcvr.records import ImageRecord, PartInstance, Rejected
from pfcvr.scratch import temporary_tables
from pfcvr.store import Workspace

# Of the file's images ``key`` is the id as JSON, since 7 and "7" are two, and ``shown`` the id as it is told, which no
# two may share. ``named`` have a name, ``meant`` says which image of ours that is, ``fit`` who is of its size.
TABLES = """
CREATE TABLE listed (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE named (number INTEGER PRIMARY KEY, key TEXT, shown TEXT UNIQUE, entry TEXT);
CREATE TABLE meant (image_id TEXT, number INTEGER, PRIMARY KEY (image_id, number)) WITHOUT ROWID;
CREATE TABLE fit (key TEXT PRIMARY KEY, image_id TEXT, height INTEGER, width INTEGER) WITHOUT ROWID;
CREATE TABLE use (id TEXT PRIMARY KEY, uses INTEGER) WITHOUT ROWID;
CREATE TABLE instance (image_id TEXT, number INTEGER, body TEXT, PRIMARY KEY (image_id, number)) WITHOUT ROWID;
CREATE TABLE problem (number INTEGER PRIMARY KEY, subject TEXT, reason TEXT, detail TEXT);
"""


class CocoDetector:
    """The annotations of one COCO file, matched to the images of a workspace when it is built.

    Raises SourceError for a file that is missing, no JSON, lacks a list, or has nothing for any image.
    """

    model: str | None = None
    reads_pixels = False

    def __init__(self, workspace: Workspace, config: PartsConfig) -> None:
        if config.annotations is None:
            raise UsageError("the detector 'import' needs a COCO file; give it with --annotations FILE")
        path = config.annotations
        self.settings = {"annotations": plain_text(path.name)}
        self._file = plain_text(path.name)
        self._lock = threading.Lock()
        self._db = temporary_tables(TABLES, across_threads=True)
        try:
            content = CocoFile(path, self._db)
            self.inputs = {"annotations": sha256_file(path)}
            self._take_images(content)
            self._match_images(workspace)
            self._take_annotations(content)
            for table in ("item", "listed", "named", "fit", "use"):
                self._db.execute(f"DELETE FROM {table}")
            (self.rejected_count,) = self._db.execute("SELECT count(*) FROM problem").fetchone()
            if self._db.execute("SELECT 1 FROM instance").fetchone() is None:
                raise SourceError(self._nothing_fits(path, workspace))
        except BaseException:
            self._db.close()
            raise

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """The annotated instances of each image, in the order of the file."""
        query = "SELECT body FROM instance WHERE image_id = ? ORDER BY number"
        with self._lock:
            found = [self._db.execute(query, (picture.record.image_id,)).fetchall() for picture in pictures]
        return [Found(tuple(PartInstance.model_validate_json(body) for (body,) in bodies)) for bodies in found]

    def rejected(self) -> Iterator[Rejected]:
        """One row for every image and annotation of the file that cannot be used, in the order they were found."""
        return problem_rows(self._db, self._lock, "parts")

    def close(self) -> None:
        self._db.close()

    def _nothing_fits(self, path: Path, workspace: Workspace) -> str:
        reasons = self._db.execute(
            "SELECT count(*), reason FROM problem GROUP BY reason ORDER BY count(*) DESC, min(number) LIMIT 3"
        )
        why = ", ".join(f"{count} x {reason}" for count, reason in reasons) or "it has no annotation"
        return (
            f"{path}: no annotation fits an image of {workspace.root} ({why}); "
            "check that file_name, sizes and category names are those of the imported images"
        )

    def _take_images(self, content: CocoFile) -> None:
        for index, entry in enumerate(content.items("images")):
            if not isinstance(entry, dict) or not _is_id(entry.get("id")):
                self._reject(f"images[{index}]", "malformed_image", "an image needs id and file_name")
                continue
            key = json.dumps(entry["id"])
            self._db.execute("INSERT OR IGNORE INTO listed VALUES (?)", (key,))
            if not isinstance(entry.get("file_name"), str):
                self._reject(f"images[{index}]", "malformed_image", "an image needs id and file_name")
                continue
            kept = json.dumps({name: entry[name] for name in ("file_name", "width", "height") if name in entry})
            values = (index, key, str(entry["id"]), kept)
            if self._db.execute("INSERT OR IGNORE INTO named VALUES (?, ?, ?, ?)", values).rowcount == 0:
                self._reject(f"images[{index}]", "malformed_image", "a second image with this id")

    def _match_images(self, workspace: Workspace) -> None:
        """Which image of the workspace each of the file's is."""
        wanted = (entry["file_name"] for _, _, entry in self._named())
        with closing(ImageNames(wanted, workspace.records("import", ImageRecord))) as names:
            for number, shown, entry in self._named():
                name = entry["file_name"]
                image_id = names.find(name)
                if image_id is not None:
                    self._db.execute("INSERT INTO meant VALUES (?, ?)", (image_id, number))
                elif names.is_ambiguous(name):
                    self._reject_image(shown, "ambiguous_name", f"several images are called {name}")
                else:
                    self._reject_image(shown, "unknown_image", f"no image is called {name}")
        query = "SELECT number, key, shown, entry FROM meant JOIN named USING (number) WHERE image_id = ?"
        for image in workspace.images():
            for number, key, shown, body in self._db.execute(query, (image.image_id,)).fetchall():
                entry = json.loads(body)
                size = entry.get("width", image.width), entry.get("height", image.height)
                if size == (image.width, image.height):
                    row = (key, image.image_id, image.height, image.width)
                    self._db.execute("INSERT INTO fit VALUES (?, ?, ?, ?)", row)
                else:
                    wanted_size = f"{image.width} x {image.height} pixels after EXIF rotation"
                    told = f"{size[0]} x {size[1]} here, the image has {wanted_size}"
                    self._reject_image(shown, "size_mismatch", told)
                self._db.execute("DELETE FROM meant WHERE image_id = ? AND number = ?", (image.image_id, number))
        for image_id, shown in self._db.execute("SELECT image_id, shown FROM meant JOIN named USING (number)"):
            self._reject_image(shown, "not_selected", f"{image_id} was left out by pfcvr-data select")

    def _named(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Number, id as it is told, and entry of each image that has a name of its own."""
        for number, shown, entry in self._db.execute("SELECT number, shown, entry FROM named ORDER BY number"):
            yield number, shown, json.loads(entry)

    def _take_annotations(self, content: CocoFile) -> None:
        categories = {
            category["id"]: category.get("name")
            for category in content.items("categories")
            if isinstance(category, dict) and _is_id(category.get("id"))
        }
        for annotation_id in filter(None, map(_annotation_id, content.items("annotations"))):
            self._db.execute(
                "INSERT INTO use VALUES (?, 1) ON CONFLICT DO UPDATE SET uses = uses + 1", (annotation_id,)
            )
        for index, annotation in enumerate(content.items("annotations")):
            own_id = _annotation_id(annotation)
            try:
                _check_keys(annotation)
                key = (json.dumps(annotation["image_id"]),)
                if self._db.execute("SELECT 1 FROM listed WHERE key = ?", key).fetchone() is None:
                    raise BadAnnotation("unknown_image", f"image {annotation['image_id']} is not in the list of images")
                part = part_named(categories.get(annotation["category_id"]), annotation["category_id"])
                fit = self._db.execute("SELECT image_id, height, width FROM fit WHERE key = ?", key).fetchone()
                if fit is not None:
                    image_id, height, width = fit
                    instance = instance_of(annotation, part, height, width)
                    row = (image_id, index, instance.model_dump_json())
                    self._db.execute("INSERT INTO instance VALUES (?, ?, ?)", row)
            except BadAnnotation as error:
                place = f"annotation {own_id}" if self._is_own(own_id) else f"annotations[{index}]"
                self._reject(place, error.reason, error.detail)

    def _reject_image(self, coco_id: str, reason: str, detail: str) -> None:
        self._reject(f"image {coco_id}", reason, detail)

    def _reject(self, place: str, reason: str, detail: str) -> None:
        row = (f"{self._file}:{place}", reason, plain_text(detail))
        self._db.execute("INSERT INTO problem (subject, reason, detail) VALUES (?, ?, ?)", row)

    def _is_own(self, annotation_id: str | None) -> bool:
        """Whether one annotation alone has this id."""
        return bool(self._db.execute("SELECT uses FROM use WHERE id = ?", (annotation_id,)).fetchone() == (1,))


def _is_id(value: Any) -> bool:
    return is_plain_name(value) if isinstance(value, str) else isinstance(value, int) and not isinstance(value, bool)


def _annotation_id(annotation: Any) -> str | None:
    own_id = annotation.get("id") if isinstance(annotation, dict) else None
    return str(own_id) if _is_id(own_id) else None


def _check_keys(annotation: Any) -> None:
    usable = (
        isinstance(annotation, dict) and _is_id(annotation.get("image_id")) and _is_id(annotation.get("category_id"))
    )
    if not usable:
        raise BadAnnotation("malformed_annotation", "an annotation needs image_id and category_id")
