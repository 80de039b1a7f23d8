"""Where images come from: one importer per data set layout, chosen by name or recognised by what lies in the folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pfcvr.backends import BackendTable, load_backend
from pfcvr.errors import SourceError
from pfcvr.hub import HUB_NAME
from pfcvr.pipeline.sources.tree import is_plain_name
from pfcvr.records import Rejected, Source, Split

IMPORTERS: BackendTable = {
    "veri-wild": ("pfcvr.pipeline.sources.veri_wild:VeriWild", None),
    "veri-wild-2": ("pfcvr.pipeline.sources.veri_wild_2:VeriWild2", None),
    "veri-776": ("pfcvr.pipeline.sources.veri_776:Veri776", None),
    "vehicleid": ("pfcvr.pipeline.sources.vehicleid:VehicleId", None),
    "vric": ("pfcvr.pipeline.sources.vric:Vric", None),
    "t2i-veri": ("pfcvr.pipeline.sources.t2i:T2iVeri", None),
    "t2i-verw": ("pfcvr.pipeline.sources.t2i:T2iVerw", None),
    "mvp": ("pfcvr.pipeline.sources.mvp:Mvp", None),
    "pfcvr": ("pfcvr.pipeline.sources.pfcvr_set:PfcvrSet", None),
    "reid-json": ("pfcvr.pipeline.sources.reid_json:ReidJson", None),
    "folder": ("pfcvr.pipeline.sources.folder:Folder", None),
}
"""Layouts by name."""

AUTO_RANKS = (frozenset(IMPORTERS) - {"reid-json", "folder"}, frozenset({"reid-json"}), frozenset({"folder"}))
"""``--format auto`` believes a layout of its own before a captions file, and that before any tree of folders."""


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
    source_split: Split | None = None


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

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        """List what ``source`` holds without opening a picture; raises SourceError where it is not this layout.

        A source that keeps its pictures in other files than picture files is unpacked below ``unpacked``.
        """


def is_there(source: Path, name: str) -> bool:
    """Whether ``source`` lies on this machine; False for one that ``name``, its layout, lets be on the Hub.

    Raises SourceError where it can be neither.
    """
    if source.exists():
        return True
    may_be_on_hub = HUB_NAME.fullmatch(str(source)) is not None
    if may_be_on_hub and name == "pfcvr":
        return False
    at_the_hub = ", or add --format pfcvr for a data set on the Hub" if may_be_on_hub else ""
    raise SourceError(f"{source}: no such file or folder; give the root of a vehicle image collection{at_the_hub}")


def choose_importer(source: Path, name: str) -> tuple[str, Importer, str]:
    """Name of the layout, its importer, and why it was chosen.

    Raises SourceError where nothing is recognised, or several layouts are.
    """
    if not is_there(source, name):
        return name, load_backend("format", IMPORTERS, name)(), "named by --format, a data set on the Hub"
    if not is_plain_name(str(source.resolve())):
        raise SourceError(f"{ascii(str(source))}: the path is not Unicode text; rename the folder")
    if name != "auto":
        return name, load_backend("format", IMPORTERS, name)(), "named by --format"
    importers: dict[str, Importer] = {layout: load_backend("format", IMPORTERS, layout)() for layout in IMPORTERS}
    for rank in AUTO_RANKS:
        own = {layout: importer for layout, importer in importers.items() if layout in rank}
        if "folder" in rank:
            _refuse_near_miss(source, {layout: one for layout, one in importers.items() if layout not in rank})
        reasons = {layout: importer.recognise(source) for layout, importer in own.items()}
        found = {layout: why for layout, why in reasons.items() if why is not None}
        if len(found) > 1:
            candidates = "; ".join(f"{layout}: {why}" for layout, why in found.items())
            raise SourceError(f"{source}: several layouts fit ({candidates}); say which one it is with --format NAME")
        for layout, why in found.items():
            return layout, importers[layout], why
    raise SourceError(
        f"{source}: no known layout here (looked for the list files of known data sets, a captions file that names "
        f"images, and folders of images); say which it is with --format {'|'.join(IMPORTERS)}"
    )


def _refuse_near_miss(source: Path, layouts: dict[str, Importer]) -> None:
    from pfcvr.pipeline.sources.near_misses import near_miss

    if why := near_miss(source, layouts):
        raise SourceError(f"{source}: {why}")
