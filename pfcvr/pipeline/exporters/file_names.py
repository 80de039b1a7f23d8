"""What an image's file is called in the forms that keep one file an image: ``<vehicle>_<stem>``, safe on every disk."""

from collections.abc import Callable
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from pfcvr.pipeline.exporters import Refusal
from pfcvr.records import ImageRecord
from pfcvr.row_index import RowIndex

LONGEST_NAME = 200  # bytes; most disks take 255, and copies and archives put something before or after


def safe_name(image: ImageRecord) -> str:
    """``<vehicle_id>_<stem>`` of ASCII letters, digits, ``_``, ``-`` and ``~``; anything else as ``%`` and its UTF-8.

    Without a dot, so that what follows the first one is the ending, as WebDataset has it. ``urllib.parse.unquote``
    gives the text back.
    """
    stem = image.image_id.removeprefix(f"{image.vehicle_id}/")
    return _safe(f"{image.vehicle_id}_{stem}")


def official_name(image: ImageRecord) -> str:
    """As ``safe_name``; a stem that begins with the vehicle's id or number and ``_`` has its name already and keeps it.

    So the names of an export survive being imported, where ``00012_000345`` has become a stem of vehicle 12.
    """
    stem = image.image_id.removeprefix(f"{image.vehicle_id}/")
    begins = stem.partition("_")[0]
    if stem.startswith(f"{image.vehicle_id}_") or _same_number(begins, image.vehicle_id) and begins != stem:
        return _safe(unquote(stem))
    return safe_name(image)


def _same_number(one: str, other: str) -> bool:
    return one.isascii() and one.isdigit() and one.lstrip("0") == other.lstrip("0")


def _safe(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def ending(image: ImageRecord) -> str:
    """The ending of the source's file in lower case, with its dot; ``.jpg`` where it has none."""
    suffix = PurePosixPath(image.path).suffix.lower()
    return suffix if suffix.isascii() and suffix[1:].isalnum() else ".jpg"


class FileNames:
    """The names given so far. Two that a disk blind to upper and lower case takes for one are the same."""

    def __init__(self, name_of: Callable[[ImageRecord], str] = safe_name) -> None:
        self._name_of = name_of
        self._taken = RowIndex()

    def refuse(self, image: ImageRecord) -> Refusal | None:
        """Why ``image`` cannot have its name; else the name is taken."""
        name = self._name_of(image)
        if len(name) > LONGEST_NAME:
            return Refusal("name_too_long", f"its file name would have {len(name)} bytes, more than {LONGEST_NAME}")
        if name.lower() in self._taken:
            return Refusal("name_collision", f"an image before it already has the file name {name}")
        self._taken.add(name.lower(), 0, rejected=False)
        return None
