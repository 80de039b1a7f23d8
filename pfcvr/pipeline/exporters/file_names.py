"""What an image's file is called in the forms that keep one file an image: ``<vehicle>_<stem>``, safe on every disk."""

from pathlib import PurePosixPath
from urllib.parse import quote

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
    return quote(f"{image.vehicle_id}_{stem}", safe="").replace(".", "%2E")


def ending(image: ImageRecord) -> str:
    """The ending of the source's file in lower case, with its dot; ``.jpg`` where it has none."""
    suffix = PurePosixPath(image.path).suffix.lower()
    return suffix if suffix.isascii() and suffix[1:].isalnum() else ".jpg"


class FileNames:
    """The names given so far. Two that a disk blind to upper and lower case takes for one are the same."""

    def __init__(self) -> None:
        self._taken = RowIndex()

    def refuse(self, image: ImageRecord) -> Refusal | None:
        """Why ``image`` cannot have its name; else the name is taken."""
        name = safe_name(image)
        if len(name) > LONGEST_NAME:
            return Refusal("name_too_long", f"its file name would have {len(name)} bytes, more than {LONGEST_NAME}")
        if name.lower() in self._taken:
            return Refusal("name_collision", f"an image before it already has the file name {name}")
        self._taken.add(name.lower(), 0, rejected=False)
        return None
