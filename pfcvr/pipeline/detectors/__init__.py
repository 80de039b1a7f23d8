"""Part detectors: one method, pictures in and part instances out. A new one is a file here and a line in DETECTORS."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from pfcvr.backends import BackendTable
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.records import Rejected


class Detector(Protocol):
    """Finds the parts on pictures.

    ``settings`` and ``inputs`` (content hashes, also of weights) are what its answers depend on; ``model`` is the name
    or path of its weights. ``rejected`` yields the ``rejected_count`` rows of its own input that it cannot use: none
    for detectors that look at pixels (``reads_pixels``).
    """

    model: str | None
    reads_pixels: bool
    settings: dict[str, str]
    inputs: dict[str, str]
    rejected_count: int

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """The part instances of each picture, usually boxes alone; none is a normal answer.

        An answer must not depend on the other pictures of the call. Never called by two threads at once. The caller
        clips boxes to the picture, drops duplicates within a part and sorts: raw boxes above the threshold are enough.
        Raises UnreadableImage when a picture cannot be used; the caller then tries the pictures one by one.
        """
        ...

    def rejected(self) -> Iterator[Rejected]:
        """Rows of the detector's own input that lead to no part."""
        ...

    def close(self) -> None:
        """Free what was opened. A call of ``detect`` at work in another thread may then end by StageStopped."""


# Large weights are read with the first picture, so that a finished stage is known as such without them.
DETECTORS: BackendTable = {
    "import": ("pfcvr.pipeline.detectors.given:known_parts", None),
    "grounding-dino": ("pfcvr.pipeline.detectors.grounding_dino:GroundingDinoDetector", "parts"),
    "groundingdino": ("pfcvr.pipeline.detectors.groundingdino:OriginalGroundingDinoDetector", None),
    "none": ("pfcvr.pipeline.detectors.none:NoDetector", None),
}
