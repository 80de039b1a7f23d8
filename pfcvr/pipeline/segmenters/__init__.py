"""Part segmenters: boxes in and masks out, or masks from text alone. A new one is a file here and a line below."""

from collections.abc import Sequence
from typing import Protocol

from pfcvr.backends import BackendTable
from pfcvr.pipeline.pictures import Found, Picture


class Segmenter(Protocol):
    """Gives part instances their masks.

    ``needs_boxes`` is False for one that is prompted by the phrases themselves: it takes no detector beside it.
    ``settings`` and ``inputs`` (content hashes, also of weights) are what its answers depend on.
    """

    model: str
    needs_boxes: bool
    settings: dict[str, str]
    inputs: dict[str, str]

    def segment(self, pictures: Sequence[Picture], found: Sequence[Found]) -> list[Found]:
        """The instances of each picture with masks: those of ``found`` in their order, or its own.

        Every picture is encoded once, whatever the number of boxes or phrases. ``found`` may hold no box at all. An
        answer must not depend on the other pictures of the call. Never called by two threads at once.
        Raises UnreadableImage when a picture cannot be used; the caller then tries the pictures one by one.
        """
        ...

    def close(self) -> None:
        """Free what was opened."""


SEGMENTERS: BackendTable = {
    "sam": ("pfcvr.pipeline.segmenters.sam:SamSegmenter", "parts"),
    "segment-anything": ("pfcvr.pipeline.segmenters.segment_anything:SegmentAnythingSegmenter", "segment-anything"),
    "sam3": ("pfcvr.pipeline.segmenters.sam3:Sam3Segmenter", "parts"),
}

# What --segmenter auto means beside each detector: the pairs that belong together.
NATURAL_SEGMENTER = {
    "import": "none",
    "grounding-dino": "sam",
    "groundingdino": "segment-anything",
    "none": "sam3",
}
