"""``--detector import``: known parts, from a COCO file, a folder of MVP masks, or the source itself."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pfcvr.config import PartsConfig
from pfcvr.errors import SourceError, UsageError
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.detectors import Detector
from pfcvr.pipeline.detectors.coco import CocoDetector
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.pipeline.problem_rows import problem_rows
from pfcvr.pipeline.sources.part_readers import READERS, GivenParts, read_mask_folder
from pfcvr.records import PartInstance, PatchGrid, Rejected
from pfcvr.scratch import temporary_tables
from pfcvr.store import Workspace

TABLES = """
CREATE TABLE image (image_id TEXT PRIMARY KEY, grid TEXT) WITHOUT ROWID;
CREATE TABLE instance (image_id TEXT, number INTEGER, body TEXT, PRIMARY KEY (image_id, number)) WITHOUT ROWID;
CREATE TABLE problem (number INTEGER PRIMARY KEY, subject TEXT UNIQUE, reason TEXT, detail TEXT);
"""


def known_parts(workspace: Workspace, config: PartsConfig) -> Detector:
    """What reads ``config.annotations``; without annotations, what the workspace's source brings along."""
    if config.annotations is not None and not config.annotations.is_dir():
        return CocoDetector(workspace, config)
    return SourceParts(workspace, config)


class SourceParts:
    """The parts that come with the images; patch grids that come with them are kept as they are.

    Raises UsageError where the source has none, SourceError where none fits an image.
    """

    model: str | None = None
    reads_pixels = False

    def __init__(self, workspace: Workspace, config: PartsConfig) -> None:
        self._shape = config.grid.rows, config.grid.cols
        self._lock = threading.Lock()
        self._db = temporary_tables(TABLES, across_threads=True)
        digest = hashlib.sha256()
        try:
            for given in _given(workspace, config):
                digest.update(given.image_id.encode() + given.digest)
                self._keep(given)
            (self.rejected_count,) = self._db.execute("SELECT count(*) FROM problem").fetchone()
            if self._db.execute("SELECT 1 FROM instance").fetchone() is None:
                raise SourceError(_nothing_fits(workspace, config))
        except BaseException:
            self._db.close()
            raise
        self.settings: dict[str, Any] = {"annotations": _label(config)}
        self.inputs = {"annotations": digest.hexdigest()}

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """What the source says of each image."""
        return [self._found(picture.record.image_id) for picture in pictures]

    def rejected(self) -> Iterator[Rejected]:
        """One row for every part file and part that cannot be used."""
        return problem_rows(self._db, self._lock, "parts")

    def close(self) -> None:
        self._db.close()

    def _keep(self, given: GivenParts) -> None:
        grid = given.grid
        kept = grid.model_dump_json() if grid is not None and (grid.rows, grid.cols) == self._shape else None
        self._db.execute("INSERT INTO image VALUES (?, ?)", (given.image_id, kept))
        bodies = ((given.image_id, n, own.model_dump_json()) for n, own in enumerate(given.instances))
        self._db.executemany("INSERT INTO instance VALUES (?, ?, ?)", bodies)
        for place, reason, detail in given.problems:
            values = (plain_text(f"{given.image_id}:{place}"), reason, plain_text(detail))
            self._db.execute("INSERT OR IGNORE INTO problem (subject, reason, detail) VALUES (?, ?, ?)", values)

    def _found(self, image_id: str) -> Found:
        with self._lock:
            image = self._db.execute("SELECT grid FROM image WHERE image_id = ?", (image_id,)).fetchone()
            query = "SELECT body FROM instance WHERE image_id = ? ORDER BY number"
            bodies = self._db.execute(query, (image_id,)).fetchall()
        grid = None if image is None or image[0] is None else PatchGrid.model_validate_json(image[0])
        return Found(tuple(PartInstance.model_validate_json(body) for (body,) in bodies), grid=grid)


def _nothing_fits(workspace: Workspace, config: PartsConfig) -> str:
    if config.annotations is not None:
        return (
            f"{config.annotations}: is a folder without a part mask VEHICLE_IMAGE.png that fits an image of "
            f"{workspace.root}; give such a folder, or the COCO file itself, with --annotations"
        )
    return f"{workspace.root}: the source brings no part that fits an image; give others with --annotations"


def _label(config: PartsConfig) -> str:
    return "of the source" if config.annotations is None else plain_text(config.annotations.name)


def _given(workspace: Workspace, config: PartsConfig) -> Iterator[GivenParts]:
    if config.annotations is not None:
        yield from read_mask_folder(config.annotations.resolve(), {}, workspace.images())
        return
    notes = workspace.sealed("import").notes
    sources = [source for source in workspace.sources().values() if source.format in READERS]
    if not sources:
        raise UsageError(
            "the detector 'import' needs a COCO file or a folder of MVP masks, since the source of this workspace "
            "brings no parts along; give it with --annotations"
        )
    for source in sources:
        images = (image for image in workspace.images() if image.source == source.name)
        yield from READERS[source.format](Path(source.root), notes, images)
