"""Which image a file means: people name images by id, by file name or by path."""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from pfcvr.records import ImageRecord


class ImageNames:
    """Finds the image behind each of ``wanted`` names in one pass over the images.

    A name may be the image_id, the path or its end (``images/0001/07.jpg``, ``0001/07.jpg``, ``07.jpg``), or
    ``<vehicle_id>_<stem>``; the extension may be left out. An image_id or a whole path wins over the other forms.
    Memory grows with ``wanted``, not with the images.
    """

    def __init__(self, wanted: Iterable[str], images: Iterable[ImageRecord]) -> None:
        # name -> (rank of the best form seen, image_id, whether a second image has a form of the same rank)
        self._found: dict[str, tuple[int, str, bool] | None] = dict.fromkeys(map(clean_name, wanted))
        for image in images:
            for rank, name in _forms(image):
                if name in self._found:
                    self._note(name, rank, image.image_id)

    def _note(self, name: str, rank: int, image_id: str) -> None:
        known = self._found[name]
        if known is None or rank < known[0]:
            self._found[name] = (rank, image_id, False)
        elif rank == known[0] and image_id != known[1]:
            self._found[name] = (rank, known[1], True)

    def find(self, name: str) -> str | None:
        """The image_id that ``name`` means; None when no image, or more than one, has that name."""
        found = self._found[clean_name(name)]
        return None if found is None or found[2] else found[1]

    def is_ambiguous(self, name: str) -> bool:
        """Whether several images have ``name``."""
        found = self._found[clean_name(name)]
        return found is not None and found[2]


def clean_name(name: str) -> str:
    """``name`` with forward slashes and without a leading ``./``."""
    return name.strip().replace("\\", "/").removeprefix("./")


def _forms(image: ImageRecord) -> Iterator[tuple[int, str]]:
    """Every name of ``image`` with its rank, lowest first."""
    path = PurePosixPath(image.path)
    yield 0, image.image_id
    yield 1, image.path
    for start in range(len(path.parts)):
        tail = PurePosixPath(*path.parts[start:])
        yield 2, str(tail)
        yield 2, str(tail.with_suffix(""))
    yield 2, f"{image.vehicle_id}_{path.name}"
    yield 2, f"{image.vehicle_id}_{path.stem}"
    yield 2, f"{image.image_id}{path.suffix}"
