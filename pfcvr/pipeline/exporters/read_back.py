"""What every form does before it is sealed: read back what was written, and compare it with what was meant."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pfcvr.errors import PfcvrError, WorkspaceError
from pfcvr.pipeline.images import UnreadableImage, open_rgb

DECODERS = 4
PICTURES_AT_A_TIME = 64


@dataclass
class Tally:
    """How many things there are, and the sum of their hashes: in whatever order they come, equal things sum up equal.

    What is meant is added while it is written, what is found while it is read back.
    """

    things: int = 0
    hashes: int = 0

    def add(self, name: str, content: bytes) -> None:
        """One more thing; ``name`` tells it from others of the same content."""
        named = hashlib.sha256(name.encode()).digest()
        digest = hashlib.sha256(named + content).digest()
        self.things += 1
        self.hashes = (self.hashes + int.from_bytes(digest)) % 2**256

    def check(self, found: "Tally", place: Path) -> None:
        """Raises WorkspaceError unless ``found`` at ``place`` is what was meant."""
        if found != self:
            raise WorkspaceError(f"{place}: what is read back is not what was written; run the export again")


@contextmanager
def reading_back(place: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into WorkspaceError about ``place``."""
    try:
        yield
    except PfcvrError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:120]
        raise WorkspaceError(f"{place}: cannot be read back ({what}); run the export again") from error


@dataclass(frozen=True)
class WrittenPicture:
    """An image file as it was read back, and what its row says of it."""

    image_id: str
    content: bytes
    sha256: str
    width: int
    height: int


def check_pictures(place: Path, pictures: Iterable[WrittenPicture]) -> None:
    """Every file must have its hash and decode to the end at its size; raises WorkspaceError naming one that does not.

    Memory holds ``PICTURES_AT_A_TIME`` of them.
    """
    coming = iter(pictures)
    with ThreadPoolExecutor(DECODERS) as pool:
        while some := list(islice(coming, PICTURES_AT_A_TIME)):
            for picture, problem in zip(some, pool.map(_problem, some), strict=True):
                if problem is not None:
                    raise WorkspaceError(f"{place}: the image of {picture.image_id} {problem}; run the export again")


def _problem(picture: WrittenPicture) -> str | None:
    """What is wrong with a file, in words."""
    if hashlib.sha256(picture.content).hexdigest() != picture.sha256:
        return "was not written whole"
    try:
        width, height = open_rgb(picture.content).size
    except UnreadableImage as error:
        return f"cannot be opened ({error.detail})"
    if (width, height) != (picture.width, picture.height):
        return f"has {width} x {height} pixels, not the {picture.width} x {picture.height} that were imported"
    return None
