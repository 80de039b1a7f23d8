"""The text files of a VERI-Wild copy, line by line: ``vehicle_info.txt`` and both generations of list files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pfcvr.pipeline.sources.text_lines import UNDECODABLE, text_lines

COLORS = frozenset(
    {"black", "blue", "brown", "cyan", "dark gray", "golden", "gray", "green", "purple", "red", "white", "yellow"}
)
TYPES = frozenset(
    {"sedan", "suv", "business purpose vehicle/mpv", "minivan", "minibus", "light passenger vehicle"}
    | {"large-sized bus", "pickup truck", "small-sized truck", "hgv/large truck", "bulk lorry/fence truck"}
    | {"tank car/tanker", "others"}
)
"""The published vocabularies, in lower case."""

INFO_FIELDS = 6
IMAGE_NAME = re.compile(r"(?:images/)?(\d+)/([^/\s]+?)(?:\.jpe?g|\.png)?", re.IGNORECASE)
INFO_NAME = re.compile(r"(?:images/)?(\d+)/(\d+)(?:\.jpe?g|\.png)?", re.IGNORECASE)
SEPARATORS = re.compile(r"[\s;,]+")


@dataclass(frozen=True)
class InfoLine:
    """One image in ``vehicle_info.txt``; empty fields are None, others are kept as written."""

    number: int
    image_id: str
    stem: str
    camera_id: str | None
    timestamp: str | None
    model: str | None
    type: str | None
    color: str | None


@dataclass(frozen=True)
class ListLine:
    """One image in a list file: the identity is that of the path; column 2 is a label, column 3 the camera."""

    number: int
    image_id: str
    stem: str
    columns: int
    camera_id: str | None


@dataclass(frozen=True)
class MalformedLine:
    number: int
    detail: str


@dataclass(frozen=True)
class Header:
    number: int


def info_lines(path: Path, encoding: str) -> Iterator[InfoLine | Header | MalformedLine]:
    """Parse ``vehicle_info.txt``; the first line that is not blank is a header when its first field names no image."""
    first = True
    for number, line in text_lines(path, encoding):
        fields = [field.strip() for field in line.split(";")]
        name = INFO_NAME.fullmatch(fields[0])
        if first and name is None and len(fields) == INFO_FIELDS:
            yield Header(number)
        elif UNDECODABLE in line:
            yield MalformedLine(number, "neither UTF-8 nor GB18030 text")
        elif len(fields) != INFO_FIELDS:
            yield MalformedLine(number, f"{len(fields)} fields instead of {INFO_FIELDS} separated by ';'")
        elif name is None:
            yield MalformedLine(number, "the first field is not VEHICLE/IMAGE")
        else:
            vehicle_id, stem = name.groups()
            camera, time, model, kind, color = (field or None for field in fields[1:])
            yield InfoLine(number, f"{vehicle_id}/{stem}", stem, camera, time, model, kind, color)
        first = False


def list_lines(path: Path, encoding: str) -> Iterator[ListLine | MalformedLine]:
    """Parse a list file of one column (2019 release) or of three (the later one)."""
    for number, line in text_lines(path, encoding):
        columns = SEPARATORS.split(line.strip(" ;,\t"))
        name = IMAGE_NAME.fullmatch(columns[0])
        if name is None or len(columns) > 3:
            yield MalformedLine(number, "not VEHICLE/IMAGE, alone or followed by a label and a camera")
            continue
        vehicle_id, stem = name.groups()
        camera = columns[2] if len(columns) == 3 else None
        yield ListLine(number, f"{vehicle_id}/{stem}", stem, len(columns), camera)
