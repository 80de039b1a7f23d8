"""An image of the workspace with its pixels, and what detectors and segmenters find on it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from pfcvr.pipeline.images import open_rgb
from pfcvr.records import BoxXyxy, ImageRecord, PartInstance, PatchGrid


@dataclass(frozen=True)
class Picture:
    """``record``, where its file lies, and the bytes that were read from it (None: they are read when needed)."""

    record: ImageRecord
    path: Path
    content: bytes | None = None

    @cached_property
    def rgb(self) -> Image.Image:
        """Upright 8-bit RGB of ``record.width`` x ``record.height``; raises UnreadableImage."""
        return open_rgb(self.path if self.content is None else self.content)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.record.height, self.record.width


@dataclass(frozen=True)
class Found:
    """The part instances of one picture; the box of the vehicle itself where somebody looked for it.

    ``grid`` is a patch grid that came with them, to be kept as it is.
    """

    instances: tuple[PartInstance, ...] = ()
    vehicle: BoxXyxy | None = None
    grid: PatchGrid | None = None
