"""Everything a workspace knows about an image, joined by ``image_id`` in one streaming pass."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

from pfcvr import geometry
from pfcvr.config import GridConfig
from pfcvr.records import (
    PEOPLE,
    Caption,
    CaptionOrigin,
    HumanCaption,
    HumanEdit,
    HumanParts,
    ImageParts,
    ImageRecord,
    PartsOrigin,
    Split,
    VehicleSplit,
)
from pfcvr.store import Workspace, left_join


class PixelsUnavailable(Exception):
    """An image's file is gone (``reason`` missing_file) or is no longer the one imported (changed_file)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class JoinedImage:
    """One image with what each stage says about it; None where a stage has no row, or was not run.

    ``caption`` and ``parts`` are those of people where they said something, else those of the stages; ``human`` is what
    people said, with who and when.
    """

    image: ImageRecord
    caption: Caption | None
    parts: ImageParts | None
    split: Split | None
    human: HumanEdit | None = None


def joined_images(workspace: Workspace) -> Iterator[JoinedImage]:
    """The images of the data set in order of image_id, with the rows of the stages that are sealed."""
    splits: dict[str, Split] = {}
    if workspace.manifest("split") is not None:
        splits = {row.vehicle_id: row.split for row in workspace.records("split", VehicleSplit)}
    captions = workspace.records("caption", Caption) if workspace.manifest("caption") else iter(())
    parts = workspace.records("parts", ImageParts) if workspace.manifest("parts") else iter(())
    edits = workspace.records("merge", HumanEdit) if workspace.manifest("merge") else iter(())
    grid = grid_recipe(workspace)
    for_captions, for_parts, for_edits = tee(workspace.images(), 3)
    joined = zip(
        left_join(for_captions, captions), left_join(for_parts, parts), left_join(for_edits, edits), strict=True
    )
    for (image, caption), (_, image_parts), (_, edit) in joined:
        split = splits.get(image.vehicle_id)
        human = edit if edit is not None and edit.image_sha256 == image.sha256 else None
        if human is not None and human.caption is not None:
            caption = _caption_of_people(human.image_id, human.caption, caption)
        if human is not None and human.parts is not None:
            image_parts = _parts_of_people(image, human.parts, grid)
        yield JoinedImage(image, caption, image_parts, split, human)


def has_parts(workspace: Workspace) -> bool:
    """Whether parts were looked for by models, or drawn by people."""
    edits = workspace.manifest("merge")
    drawn = edits is not None and any(file["form"] != "captions" for file in edits.notes["files"])
    return drawn or workspace.manifest("parts") is not None


def grid_recipe(workspace: Workspace) -> GridConfig:
    """How parts are laid on the patch grid: as the stage ``parts`` does it, where it was run."""
    manifest = workspace.manifest("parts")
    return GridConfig() if manifest is None else GridConfig.model_validate(manifest.settings.get("grid", {}))


def _caption_of_people(image_id: str, edit: HumanCaption, machine: Caption | None) -> Caption:
    """Their sentences; the attributes stay those of the captioner, which people are not asked for."""
    origin = CaptionOrigin(captioner=PEOPLE, file=edit.origin.file, file_sha256=edit.origin.file_sha256)
    attributes = machine.attributes if machine is not None else {}
    return Caption(
        image_id=image_id, texts=edit.texts, part_texts=edit.part_texts, attributes=attributes, origin=origin
    )


def _parts_of_people(image: ImageRecord, edit: HumanParts, grid: GridConfig) -> ImageParts:
    size = image.height, image.width
    cells = geometry.patch_grid(edit.instances, size, grid.rows, grid.cols, grid.coverage)
    return ImageParts(
        image_id=image.image_id, instances=edit.instances, grid=cells, origin=PartsOrigin(detector=PEOPLE)
    )


class PixelFiles:
    """Where the files of a workspace's images lie."""

    def __init__(self, workspace: Workspace) -> None:
        self._roots = {name: Path(source.root) for name, source in workspace.sources().items()}

    def path(self, image: ImageRecord) -> Path:
        """The file of ``image``."""
        return self._roots[image.source] / image.path

    def is_whole(self, image: ImageRecord) -> bool:
        """Whether the bytes that were imported are there."""
        try:
            self.read(image)
        except PixelsUnavailable:
            return False
        return True

    def read(self, image: ImageRecord) -> bytes:
        """The bytes that were imported; raises PixelsUnavailable when the file is gone or holds others now."""
        if image.source not in self._roots:
            raise PixelsUnavailable("missing_file", f"source '{image.source}' is not recorded")
        try:
            content = self.path(image).read_bytes()
        except OSError as error:
            raise PixelsUnavailable("missing_file", f"{image.path}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != image.sha256:
            raise PixelsUnavailable("changed_file", f"{image.path}: the bytes are not those that were imported")
        return content
