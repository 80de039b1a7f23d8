"""Captions that already exist in a file, written by people or by another tool."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pfcvr.config import CaptionConfig
from pfcvr.errors import UsageError
from pfcvr.files import sha256_file
from pfcvr.pipeline.caption_rows import CaptionRow, MalformedRow, read_caption_rows, without_fraction
from pfcvr.pipeline.captioners import ReadyCaptions, plain_text
from pfcvr.pipeline.image_names import ImageNames, clean_name
from pfcvr.pipeline.problem_rows import problem_rows
from pfcvr.pipeline.sources.tree import is_plain_name
from pfcvr.records import ATTRIBUTES, PARTS, Caption, CaptionOrigin, ImageRecord, Rejected, Selected
from pfcvr.scratch import temporary_tables
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

DETAIL_CHARACTERS = 500
TABLES = """
CREATE TABLE text (image_id TEXT, number INTEGER, texts TEXT, part_texts TEXT, attributes TEXT,
                   PRIMARY KEY (image_id, number));
CREATE TABLE selected (image_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE refused (place TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID;
CREATE TABLE problem (number INTEGER PRIMARY KEY, subject TEXT, reason TEXT, detail TEXT);
"""


class ImportCaptioner(ReadyCaptions):
    """Looks each image up in a captions file. The file is read twice, its texts are kept in a temporary SQLite file."""

    # Images without a caption, and captions for images that are not here, only say that file and workspace differ.
    normal_reasons = frozenset({"no_caption", "unknown_image", "not_selected"})
    workers = 1

    def __init__(self, workspace: Workspace, config: CaptionConfig, options: RunOptions) -> None:
        path = config.captions or _file_of_source(workspace)
        rows = read_caption_rows(path)
        sha256 = sha256_file(path)
        self.settings: dict[str, Any] = {}
        self.inputs = {"captions": sha256}
        self._origin = CaptionOrigin(captioner="import", file=plain_text(path.name), file_sha256=sha256)
        self._lock = threading.Lock()
        self._db = temporary_tables(TABLES, across_threads=True)
        try:
            wanted = (name for row in rows for name in _names(row))
            self._take_refused(workspace, path.name)
            with closing(ImageNames(wanted, workspace.records("import", ImageRecord))) as names:
                self._read(path, names, self._take_selected(workspace))
        except BaseException:
            self._db.close()
            raise
        (self.rejected_count,) = self._db.execute("SELECT count(*) FROM problem").fetchone()

    def caption(self, image: ImageRecord) -> Caption | Rejected:
        """All good texts of the file's rows for ``image``, in the file's order."""
        query = "SELECT texts, part_texts, attributes FROM text WHERE image_id = ? ORDER BY number"
        with self._lock:
            found = self._db.execute(query, (image.image_id,)).fetchall()
        texts: list[str] = []
        part_texts: dict[Any, str] = {}
        attributes: dict[Any, str] = {}
        for row_texts, row_part_texts, row_attributes in found:
            texts += json.loads(row_texts)
            attributes = json.loads(row_attributes) | attributes
            part_texts = json.loads(row_part_texts) | part_texts
        if not texts:
            detail = f"{self._origin.file} holds no usable caption for this image"
            return Rejected(stage="caption", subject=image.image_id, reason="no_caption", detail=detail)
        known: dict[str, Any] = {"texts": tuple(texts), "part_texts": part_texts, "attributes": attributes}
        return Caption(image_id=image.image_id, **known, origin=self._origin)

    def rejected(self) -> Iterator[Rejected]:
        """One row per line of the file that names no image of the workspace or holds a bad text."""
        return problem_rows(self._db, self._lock, "caption")

    def close(self) -> None:
        self._db.close()

    def _take_selected(self, workspace: Workspace) -> bool:
        """Note the image_ids that ``select`` kept; returns whether it was run."""
        if workspace.manifest("select") is None:
            return False
        rows = ((row.image_id,) for row in workspace.records("select", Selected))
        self._db.executemany("INSERT INTO selected VALUES (?)", rows)
        return True

    def _take_refused(self, workspace: Workspace, file_name: str) -> None:
        """Note the rows of this file that ``import`` rejected when it took the images from the same bytes."""
        notes = workspace.sealed("import").notes
        if (notes.get("captions_file"), notes.get("captions_sha256")) == (file_name, self.inputs["captions"]):
            rows = ((row.subject, row.reason) for row in workspace.rejected("import"))
            self._db.executemany("INSERT OR IGNORE INTO refused VALUES (?, ?)", rows)

    def _refused_for(self, place: str) -> str | None:
        found = self._db.execute("SELECT reason FROM refused WHERE place = ?", (place,)).fetchone()
        return None if found is None else str(found[0])

    def _is_left_out(self, image_id: str) -> bool:
        return self._db.execute("SELECT 1 FROM selected WHERE image_id = ?", (image_id,)).fetchone() is None

    def _read(self, path: Path, names: ImageNames, has_selection: bool) -> None:
        for number, row in enumerate(read_caption_rows(path)):
            if isinstance(row, MalformedRow):
                self._refuse(row.place, "malformed_line", row.detail)
                continue
            image_id, reason, detail = _find(row, names)
            if refused_for := self._refused_for(row.place):
                reason, detail = "rejected_by_import", f"import took no image from this row ({refused_for})"
            elif image_id is not None and has_selection and self._is_left_out(image_id):
                reason, detail = "not_selected", f"{image_id} was left out by pfcvr-data select"
            if image_id is None or reason:
                self._refuse(row.place, reason, detail)
                continue
            texts, part_texts, problems = _texts(row)
            if problems:
                self._refuse(row.place, problems[0][0], f"{image_id}: " + "; ".join(what for _, what in problems))
            values = (image_id, number, *map(json.dumps, (texts, part_texts, _attributes(row))))
            self._db.execute("INSERT INTO text VALUES (?, ?, ?, ?, ?)", values)

    def _refuse(self, place: str, reason: str, detail: str) -> None:
        values = (place, reason, plain_text(detail)[:DETAIL_CHARACTERS])
        self._db.execute("INSERT INTO problem (subject, reason, detail) VALUES (?, ?, ?)", values)


def _file_of_source(workspace: Workspace) -> Path:
    """The captions file that the images were imported with; raises UsageError where there was none."""
    notes = workspace.sealed("import").notes
    roots = [source.root for source in workspace.sources().values()]
    if "captions_file" not in notes or len(roots) != 1:
        raise UsageError(
            "captioner 'import' needs the captions file, since the source of this workspace brings none along; "
            "give it with --captions FILE"
        )
    return Path(roots[0]) / str(notes["captions_file"])


def _names(row: CaptionRow | MalformedRow) -> list[str]:
    """Names to try for a row's image, the most telling first."""
    name = row.name() if isinstance(row, CaptionRow) else None
    if name is None or isinstance(row, MalformedRow):
        return []
    tail = "/".join(clean_name(name).split("/")[-2:])
    vehicle_id = row.values.get("vehicle_id")
    with_vehicle = [f"{vehicle_id}/{name}"] if isinstance(vehicle_id, str) and "/" not in name else []
    # A path made on another machine still ends in VEHICLE/IMAGE.
    return [*with_vehicle, name, *([tail] if tail != name else [])]


def _find(row: CaptionRow, names: ImageNames) -> tuple[str | None, str, str]:
    """The image_id of a row, or None with reason and detail."""
    candidates = _names(row)
    if not candidates:
        return None, "unknown_image", "the row does not say which image it describes"
    for name in candidates:
        image_id = names.find(name)
        if image_id is not None:
            vehicle_id = row.values.get("vehicle_id")
            own = image_id.partition("/")[0]
            if isinstance(vehicle_id, str) and own not in (vehicle_id, without_fraction(vehicle_id)):
                return None, "unknown_image", f"'{name}' is {image_id} here, not an image of vehicle '{vehicle_id}'"
            return image_id, "", ""
        if names.is_ambiguous(name):
            return None, "ambiguous_name", f"several images are called '{name}'; name it VEHICLE/IMAGE"
    return None, "unknown_image", f"the workspace has no image '{row.name()}'"


def _texts(row: CaptionRow) -> tuple[list[str], dict[str, str], list[tuple[str, str]]]:
    """Good captions, good part phrases, and (reason, what) for each bad one."""
    texts: list[str] = []
    problems: list[tuple[str, str]] = []
    captions = row.captions()
    if not captions:
        problems.append(("empty_caption", "the row has no caption"))
    for number, caption in enumerate(captions, start=1):
        _keep_or_note(caption, f"caption {number}", texts, problems)
    phrases = row.values.get("part_texts") or {}
    part_texts: dict[str, str] = {}
    if not isinstance(phrases, dict):
        problems.append(("not_text", "part_texts is not an object of part and phrase"))
        return texts, part_texts, problems
    for part, phrase in phrases.items():
        if part not in PARTS:
            problems.append(("unknown_part", f"'{part}' is none of {', '.join(PARTS)}"))
        elif phrase is not None:
            kept: list[str] = []
            _keep_or_note(phrase, f"the phrase for {part}", kept, problems)
            if kept:
                part_texts[part] = kept[0]
    return texts, part_texts, problems


def _attributes(row: CaptionRow) -> dict[str, str]:
    """What the row says of color, type and viewpoint under ``attributes``; anything else there is not ours."""
    stated = row.values.get("attributes")
    known = stated.items() if isinstance(stated, dict) else ()
    texts = {name: value for name, value in known if name in ATTRIBUTES and isinstance(value, str)}
    return {name: text if is_plain_name(text) else plain_text(text) for name, text in texts.items() if plain_text(text)}


def _keep_or_note(value: Any, what: str, kept: list[str], problems: list[tuple[str, str]]) -> None:
    if not isinstance(value, str):
        problems.append(("not_text", f"{what} is not text but {type(value).__name__}"))
    elif text := plain_text(value):
        kept.append(text)
    else:
        problems.append(("empty_caption", f"{what} is empty"))
