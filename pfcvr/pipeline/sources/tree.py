"""Walk a folder of images without following links out of it."""

import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pfcvr.pipeline.images import IMAGE_SUFFIXES, UnreadableImage, path_inside
from pfcvr.records import Rejected


@dataclass(frozen=True)
class FoundImage:
    """A file with the name of an image. ``path`` is relative, with forward slashes; ``size`` in bytes."""

    path: str
    size: int


def walk_images(root: Path) -> Iterator[FoundImage | Rejected]:
    """Every image file below ``root`` by its name's ending, and what cannot be walked or named, in no fixed order.

    Links to folders are not entered: inside the root their files are found where they lie, outside they are refused.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    try:
                        found = _classify(root, path, entry)
                    except OSError as error:
                        found = _unreachable(path, error)
                    if isinstance(found, str):
                        folders.append(found)
                    elif found is not None:
                        yield found
        except OSError as error:
            yield _reject(folder or ".", "unreadable_folder", f"the folder cannot be read: {error.strerror}")


def images_right_in(root: Path, folder: str) -> Iterator[FoundImage]:
    """The image files right in ``folder`` that can be reached and named; none where it lies outside ``root``."""
    with suppress(UnreadableImage, OSError), os.scandir(path_inside(root, folder)) as entries:
        for entry in entries:
            with suppress(OSError):
                found = _classify(root, f"{folder}/{entry.name}" if folder else entry.name, entry)
                if isinstance(found, FoundImage):
                    yield found


def _classify(root: Path, path: str, entry: os.DirEntry[str]) -> FoundImage | Rejected | str | None:
    """A folder to enter comes back as its path; None is neither image nor folder."""
    named_like_image = os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
    if entry.is_dir():
        if not is_plain_name(entry.name):
            return _bad_name(path)
        if not entry.is_symlink():
            return path
        if Path(os.path.realpath(root / path)).is_relative_to(root):
            return _reject(path, "linked_folder", "a link to a folder of this source, whose files count where they lie")
        return _reject(path, "outside_root", "a link to a folder outside the source; import that folder itself")
    if not named_like_image:
        return None
    if not is_plain_name(entry.name):
        return _bad_name(path)
    # A link that dangles or leaves the root is refused, with its reason, when the image is opened.
    return FoundImage(path, entry.stat(follow_symlinks=False).st_size)


def _unreachable(path: str, error: OSError) -> Rejected | None:
    """A link in a circle or into a locked folder, or a file that has just gone; of no interest unless an image."""
    if os.path.splitext(path)[1].lower() not in IMAGE_SUFFIXES:
        return None
    if not is_plain_name(path):
        return _bad_name(path)
    return _reject(path, "missing_file", f"what is there under this name cannot be reached: {error.strerror}")


def is_plain_name(name: str) -> bool:
    """Whether ``name`` is Unicode text without control characters, so that every file format can carry it."""
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def _bad_name(path: str) -> Rejected:
    printable = "".join(letter if is_plain_name(letter) else ascii(letter)[1:-1] for letter in path)
    return _reject(printable, "bad_name", "the name is not Unicode text or holds control characters; rename the file")


def _reject(subject: str, reason: str, detail: str) -> Rejected:
    return Rejected(stage="import", subject=subject, reason=reason, detail=detail)
