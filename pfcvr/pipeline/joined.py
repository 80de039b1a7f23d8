"""Everything a workspace knows about an image, joined by ``image_id`` in one streaming pass."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import tee
from pathlib import Path

from pfcvr.records import Caption, ImageParts, ImageRecord, Split, VehicleSplit
from pfcvr.store import Workspace, left_join


class PixelsUnavailable(Exception):
    """An image's file is gone (``reason`` missing_file) or is no longer the one imported (changed_file)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class JoinedImage:
    """One image with what each stage says about it; None where a stage has no row, or was not run."""

    image: ImageRecord
    caption: Caption | None
    parts: ImageParts | None
    split: Split | None


def joined_images(workspace: Workspace) -> Iterator[JoinedImage]:
    """The images of the data set in order of image_id, with the rows of the stages that are sealed."""
    splits: dict[str, Split] = {}
    if workspace.manifest("split") is not None:
        splits = {row.vehicle_id: row.split for row in workspace.records("split", VehicleSplit)}
    captions = workspace.records("caption", Caption) if workspace.manifest("caption") else iter(())
    parts = workspace.records("parts", ImageParts) if workspace.manifest("parts") else iter(())
    images, same_images = tee(workspace.images())
    with_captions = left_join(images, captions)
    with_parts = left_join(same_images, parts)
    for (image, caption), (_, image_parts) in zip(with_captions, with_parts, strict=True):
        yield JoinedImage(image, caption, image_parts, splits.get(image.vehicle_id))


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
