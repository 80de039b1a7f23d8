"""What list-based layouts share: lines of a text file by number, each whole or named as malformed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pfcvr.errors import SourceError
from pfcvr.pipeline.images import IMAGE_SUFFIXES
from pfcvr.pipeline.sources.image_table import ImageTable
from pfcvr.pipeline.sources.text_lines import UNDECODABLE, text_encoding, text_lines
from pfcvr.pipeline.sources.tree import is_plain_name


@dataclass(frozen=True)
class ListedName:
    """One line: an image's name or path, and the columns after it. ``place`` is ``FILE:LINE``."""

    place: str
    name: str
    columns: tuple[str, ...]


def listed_names(table: ImageTable, path: Path, columns: tuple[int, ...]) -> Iterator[ListedName]:
    """The lines of ``path`` whose number of columns after the name is one of ``columns``; others are refused.

    The name may hold blanks: what stands after it is counted from the end of the line.
    """
    place = path.relative_to(table.root).as_posix()
    for number, line in text_lines(path, text_encoding(path)):
        parsed = _parsed(line, columns)
        if parsed is None or not is_plain_name(parsed[0]):
            wanted = " or ".join(map(str, columns))
            table.refuse(f"{place}:{number}", "malformed_line", f"not the name of an image and {wanted} columns")
        else:
            yield ListedName(f"{place}:{number}", *parsed)


def _parsed(line: str, columns: tuple[int, ...]) -> tuple[str, tuple[str, ...]] | None:
    if UNDECODABLE in line:
        return None
    for count in sorted(columns, reverse=True):
        name, *rest = line.rsplit(maxsplit=count)
        if len(rest) == count and all(value.lstrip("-").isdecimal() for value in rest):
            return name.replace("\\", "/").removeprefix("./"), tuple(rest)
    return None


def in_folder(table: ImageTable, folder: str, name: str) -> str:
    """Path of the image ``name`` in ``folder``; an ending that the list leaves out is found among the files."""
    path = f"{folder}/{name}"
    if table.has_file(path):
        return path
    endings = (path + suffix for suffix in sorted(IMAGE_SUFFIXES))
    return next((ending for ending in endings if table.has_file(ending)), path)


def named_size(vehicles: Mapping[str, str]) -> tuple[int, int]:
    """Images and vehicles of a list; ``vehicles`` has the vehicle_id of each image that it names."""
    return len(vehicles), len(set(vehicles.values()))


def needed_folder(source: Path, layout: str, *names: str) -> Path:
    """``source`` resolved; raises SourceError unless it is a folder that holds one of ``names``."""
    if not source.is_dir() or not any((source / name).exists() for name in names):
        raise SourceError(f"{source}: no {layout} data set; expected a folder that holds {' or '.join(names)}")
    return source.resolve()
