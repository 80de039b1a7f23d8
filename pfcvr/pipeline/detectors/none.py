"""``--detector none``: no boxes at all, for segmenters that are prompted by text."""

from collections.abc import Iterator, Sequence

from pfcvr.config import PartsConfig
from pfcvr.pipeline.pictures import Found, Picture
from pfcvr.records import Rejected
from pfcvr.store import Workspace


class NoDetector:
    """Finds nothing, on purpose."""

    model = None
    reads_pixels = False
    rejected_count = 0

    def __init__(self, workspace: Workspace, config: PartsConfig) -> None:
        self.settings: dict[str, str] = {}
        self.inputs: dict[str, str] = {}

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """No instance for any picture."""
        return [Found() for _ in pictures]

    def rejected(self) -> Iterator[Rejected]:
        """Nothing."""
        return iter(())

    def close(self) -> None:
        """Nothing is open."""
