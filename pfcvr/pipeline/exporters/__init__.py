"""Forms a data set can be exported in: one method each. A new one is a file here and a line in EXPORTERS."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pfcvr.backends import BackendTable
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.records import Caption, ImageRecord, PatchGrid, Source, Split


@dataclass(frozen=True)
class ExportFacts:
    """What is true of the whole data set. ``grid`` is an empty grid that carries the recipe of all others."""

    sources: tuple[Source, ...]
    grid: PatchGrid
    has_parts: bool


@dataclass(frozen=True)
class ExportItem:
    """One row: an image with its caption and split, and the bytes and the place of its file."""

    joined: JoinedImage
    pixels: bytes
    file: Path

    @property
    def image(self) -> ImageRecord:
        return self.joined.image

    @property
    def caption(self) -> Caption:
        assert self.joined.caption is not None
        return self.joined.caption

    @property
    def split(self) -> Split:
        assert self.joined.split is not None
        return self.joined.split


@dataclass(frozen=True)
class Refusal:
    """Why an image cannot take this form: one word for counting, and what was found."""

    reason: str
    detail: str


class Exporter(Protocol):
    """One form, made from the ExportConfig. ``needed_stages`` are those that it cannot do without."""

    needed_stages: tuple[str, ...]

    def refuse(self, joined: JoinedImage) -> Refusal | None:
        """Why this image is left out; asked once for each that has a caption and a split, in order of image_id."""

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """Write ``items``, in order of image_id, into ``folder``; returns what the manifest says beside the books.

        Reads back what it has written; raises WorkspaceError where that is not what was meant.
        """


EXPORTERS: BackendTable = {
    "hf": ("pfcvr.pipeline.exporters.hf:HfExporter", None),
    "annotations": ("pfcvr.pipeline.exporters.annotations:AnnotationsExporter", None),
    "official": ("pfcvr.pipeline.exporters.official:OfficialExporter", None),
    "coco": ("pfcvr.pipeline.exporters.coco:CocoExporter", None),
    "webdataset": ("pfcvr.pipeline.exporters.webdataset:WebDatasetExporter", None),
}
