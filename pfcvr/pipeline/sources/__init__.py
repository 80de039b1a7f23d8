"""Where images come from: one importer per data set layout, chosen by name or recognised by what lies in the folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pfcvr.backends import BackendTable, load_backend
from pfcvr.errors import SourceError
from pfcvr.records import Rejected, Source

IMPORTERS: BackendTable = {
    "veri-wild": ("pfcvr.pipeline.sources.veri_wild:VeriWild", None),
    "reid-json": ("pfcvr.pipeline.sources.reid_json:ReidJson", None),
}
"""Layouts by name, in the order in which ``--format auto`` tries them."""


@dataclass(frozen=True)
class SourceImage:
    """What a source says about one image, before its file is opened. ``path`` is relative to the source's root."""

    image_id: str
    vehicle_id: str
    path: str
    camera_id: str | None = None
    timestamp: str | None = None
    color: str | None = None
    type: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class SourceListing:
    """Everything a source claims to hold.

    ``rows`` yields images and rejected claims, each under a key of its own, in a fixed order, and may be called again.
    ``content`` is a hash that changes when the list of files or what is said about them changes. ``surprises`` are
    sentences about what a strict import does not accept, apart from rejected rows. ``close`` frees the index.
    """

    root: Path
    source: Source
    content: str
    total: int
    rows: Callable[[], Iterator[SourceImage | Rejected]]
    notes: dict[str, Any]
    surprises: tuple[str, ...]
    close: Callable[[], None]


class Importer(Protocol):
    """Reads one layout."""

    def recognise(self, source: Path) -> str | None:
        """What in ``source`` (a folder or a file) shows that it has this layout, in words, or None."""

    def read(self, source: Path) -> SourceListing:
        """List what ``source`` holds without opening a picture; raises SourceError where it is not this layout."""


def choose_importer(source: Path, name: str) -> tuple[str, Importer, str]:
    """Name of the layout, its importer, and why it was chosen; raises SourceError where nothing is recognised."""
    if not source.exists():
        raise SourceError(f"{source}: no such file or folder; give the root of a vehicle image collection")
    if name != "auto":
        return name, load_backend("format", IMPORTERS, name)(), "named by --format"
    for candidate in IMPORTERS:
        importer: Importer = load_backend("format", IMPORTERS, candidate)()
        why = importer.recognise(source)
        if why is not None:
            return candidate, importer, why
    raise SourceError(
        f"{source}: no known layout here (looked for train_test_split/vehicle_info.txt, images/ with folders named by "
        f"number, and a captions file that names images); say which it is with --format {'|'.join(IMPORTERS)}"
    )
