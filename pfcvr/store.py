"""A workspace on disk: sealed records by stage, their manifests, and the lock that keeps two runs apart.

``WORKSPACE/<stage>/part-*.jsonl`` holds one record a line, sorted by key; ``rejected.jsonl`` what did not make it;
``manifest.json``, written last, says the stage is complete. ``stage.py`` writes what this module reads.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pfcvr.errors import WorkspaceError
from pfcvr.files import disk_full_stops, process_lock, sha256_file, write_json
from pfcvr.jsonl import read_records
from pfcvr.records import ImageKeyed, ImageRecord, Record, Rejected, Selected, Source

WORKSPACE_VERSION = 1
STAGES = ("import", "select", "caption", "parts", "merge", "split")
NEEDED = {
    "import": ("SRC", ""),
    "caption": ("--captioner NAME", "(NAME: import, openai, vllm or transformers)"),
    "merge": ("FILE", ""),
}
"""Arguments that a stage cannot do without, and the choices there are."""
BEGINNING = frozenset({".lock", ".workspace.json.partial"})
"""All that a kill while a workspace is made can leave in its folder."""

RecordT = TypeVar("RecordT", bound=Record)
ImageKeyedT = TypeVar("ImageKeyedT", bound=ImageKeyed)


class SealedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    records: int
    sha256: str


class Manifest(BaseModel):
    """What a sealed stage was made from and what it holds; no clock times, so equal inputs give equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace_version: int = WORKSPACE_VERSION
    stage: str
    pfcvr_version: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    rows_in: int
    kept: int
    rejected: int
    reasons: dict[str, int]
    files: tuple[SealedFile, ...]
    records_sha256: str
    notes: dict[str, Any]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a rerun to be the same run."""
        return {"settings": self.settings, "inputs": self.inputs}


class Workspace:
    """The folder of one data set under construction.

    Opening creates it; raises WorkspaceError for a folder that is not a workspace or was made by a newer pfcvr.
    """

    def __init__(self, root: Path, create: bool = False) -> None:
        self.root = root
        marker = root / "workspace.json"
        if not marker.exists():
            self._create(marker, create)
        try:
            version = _Marker.model_validate_json(marker.read_bytes()).pfcvr_workspace
        except ValidationError:
            raise WorkspaceError(
                f"{marker}: not a workspace marker of pfcvr; restore the file or use another folder"
            ) from None
        if version > WORKSPACE_VERSION:
            raise WorkspaceError(
                f"{root}: the workspace has version {version}, this pfcvr reads up to {WORKSPACE_VERSION}; "
                "upgrade pfcvr"
            )

    def _create(self, marker: Path, create: bool) -> None:
        if not create:
            raise WorkspaceError(f"{self.root}: no workspace here; make one with: pfcvr-data import SRC -w {self.root}")
        if self.root.exists() and not (self.root.is_dir() and {path.name for path in self.root.iterdir()} <= BEGINNING):
            raise WorkspaceError(
                f"{self.root}: exists and is not a pfcvr workspace; give a new or empty folder with -w"
            )
        with disk_full_stops(f"{self.root}: new workspace"):
            self.root.mkdir(parents=True, exist_ok=True)
            with self.lock():
                write_json(marker, {"pfcvr_workspace": WORKSPACE_VERSION})

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def manifest(self, stage: str) -> Manifest | None:
        """The manifest of a sealed stage, or None while it is absent or unfinished."""
        path = self.folder(stage) / "manifest.json"
        try:
            return Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise WorkspaceError(
                f"{path}: damaged manifest ({error.errors()[0]['msg']}); remove the stage's folder and run it again"
            ) from None

    def sealed(self, stage: str) -> Manifest:
        """Like ``manifest``, but raises WorkspaceError naming the command that is still to be run."""
        manifest = self.manifest(stage)
        if manifest is None:
            state = "unfinished" if self.folder(stage).exists() else "missing"
            raise WorkspaceError(f"{self.root}: stage '{stage}' is {state}; run: {self.command(stage)}")
        return manifest

    def command(self, stage: str, option: str = "") -> str:
        """What is to be typed to run ``stage`` here, and what the capitals in it stand for."""
        needed, meaning = NEEDED.get(stage, ("", ""))
        return " ".join(filter(None, ["pfcvr-data", stage, needed, "-w", str(self.root), option, meaning]))

    def is_intact(self, manifest: Manifest) -> bool:
        """Whether the records of a sealed stage still are the bytes that were sealed."""
        folder = self.folder(manifest.stage)
        return all((folder / f.name).is_file() and sha256_file(folder / f.name) == f.sha256 for f in manifest.files)

    def records(self, stage: str, kind: type[RecordT]) -> Iterator[RecordT]:
        """The sealed records of ``stage`` in order of their key, read as a stream."""
        folder = self.folder(stage)
        for file in self.sealed(stage).files:
            yield from read_records(folder / file.name, kind)

    def rejected(self, stage: str) -> Iterator[Rejected]:
        """What ``stage`` rejected, in order of the subject."""
        path = self.folder(stage) / "rejected.jsonl"
        if path.exists():
            yield from read_records(path, Rejected)

    def images(self) -> Iterator[ImageRecord]:
        """The images of the data set by image_id: the selected ones where ``select`` was run, else all imported."""
        images = self.records("import", ImageRecord)
        if self.manifest("select") is None:
            yield from images
            return
        for image, selected in left_join(images, self.records("select", Selected)):
            if selected is not None:
                yield image

    def images_input(self) -> dict[str, str]:
        """Content hashes of what ``images`` reads, for a stage's fingerprint; raises where import is not sealed."""
        inputs = {"import": self.sealed("import").records_sha256}
        selection = self.manifest("select")
        if selection is not None:
            inputs["select"] = selection.records_sha256
        elif self.folder("select").exists():
            self.sealed("select")
        return inputs

    def image_count(self) -> int:
        """How many images ``images`` yields."""
        return (self.manifest("select") or self.sealed("import")).kept

    def sources(self) -> dict[str, Source]:
        """The imported sources by name."""
        notes = self.sealed("import").notes
        return {source["name"]: Source.model_validate(source) for source in notes["sources"]}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace; raises LockedError with the holder's pid while another process does."""
        with process_lock(self.root / ".lock", "working on this workspace"):
            yield


class _Marker(BaseModel):
    pfcvr_workspace: int


def left_join(images: Iterable[ImageKeyedT], others: Iterable[RecordT]) -> Iterator[tuple[ImageKeyedT, RecordT | None]]:
    """Every image with the record of the same image_id, or None. Both sides must be sorted by key."""
    rest = iter(others)
    other = next(rest, None)
    for image in images:
        while other is not None and other.key < image.image_id:
            other = next(rest, None)
        yield image, other if other is not None and other.key == image.image_id else None
