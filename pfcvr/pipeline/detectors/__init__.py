"""Part detectors: one method, images in and part instances out. A new one is a file here and a line in DETECTORS."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from pfcvr.backends import BackendTable
from pfcvr.config import PartsConfig
from pfcvr.records import ImageRecord, PartInstance, PartsOrigin, Rejected
from pfcvr.store import Workspace


class Detector(Protocol):
    """Finds the parts on images.

    ``settings`` and ``inputs`` (content hashes) are what its answers depend on. ``rejected`` yields the
    ``rejected_count`` rows of its own input that it cannot use: none for detectors that look at pixels.
    """

    origin: PartsOrigin
    settings: dict[str, str]
    inputs: dict[str, str]
    rejected_count: int

    def detect(self, images: Sequence[ImageRecord]) -> list[tuple[PartInstance, ...]]:
        """The part instances of each image; none is a normal answer."""
        ...

    def rejected(self) -> Iterator[Rejected]:
        """Rows of the detector's own input that lead to no part."""
        ...

    def close(self) -> None:
        """Free what was opened."""


class DetectorFactory(Protocol):
    """What an entry of DETECTORS points to."""

    def __call__(self, workspace: Workspace, config: PartsConfig) -> Detector: ...


DETECTORS: BackendTable = {"import": ("pfcvr.pipeline.detectors.coco:CocoDetector", None)}
