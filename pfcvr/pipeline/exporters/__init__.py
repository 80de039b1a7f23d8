"""Forms a data set can be exported in: one method each. A new one is a file here and a line in EXPORTERS."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pfcvr.backends import BackendTable
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.records import ImageRecord, PatchGrid, Source


@dataclass(frozen=True)
class ExportFacts:
    """What is true of the whole data set. ``grid`` is an empty grid that carries the recipe of all others."""

    sources: tuple[Source, ...]
    grid: PatchGrid
    has_parts: bool


@dataclass(frozen=True)
class ExportItem:
    """One row: an image with caption and split, and the bytes of its file."""

    joined: JoinedImage
    pixels: bytes

    @property
    def image(self) -> ImageRecord:
        return self.joined.image


class Exporter(Protocol):
    """Writes ``items``, in order of image_id, into ``folder``.

    Returns what its manifest says beside the books.
    """

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]: ...


EXPORTERS: BackendTable = {"hf": ("pfcvr.pipeline.exporters.hf:HfExporter", None)}
