"""Key points of VeRi-776 as truth about parts: a visible wheel point lies on a wheel (reference: formats, 2.4)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pfcvr.pipeline.sources.text_lines import text_encoding, text_lines
from pfcvr.records import Part

FILES = ("keypoint_train.txt", "keypoint_test.txt")
POINTS = 20
NUMBER = re.compile(r"-?\d{1,9}")
PART_OF_POINT: dict[int, Part] = {
    **dict.fromkeys(range(1, 5), "wheels"),
    **dict.fromkeys(range(5, 9), "lights"),
    **dict.fromkeys(range(11, 13), "mirrors"),
    **dict.fromkeys(range(13, 17), "roof"),
    **dict.fromkeys(range(17, 19), "lights"),
}
"""By number of the point; logos and plates (9, 10, 19, 20) belong to none of our parts."""


@dataclass(frozen=True)
class KeyPoints:
    """Visible points of one image, ``(part, x, y)`` in pixels; ``orientation`` 0..7 as the authors number views."""

    path: str
    points: tuple[tuple[Part, int, int], ...]
    orientation: int


def key_point_files(root: Path) -> list[Path]:
    """The key point files of a VeRi-776 folder."""
    return [root / name for name in FILES if (root / name).is_file()]


def read_key_points(path: Path) -> Iterator[KeyPoints | None]:
    """The lines ``PATH x1 y1 ... x20 y20 ORIENTATION`` of ``path``; None for a line that is not one."""
    for _, line in text_lines(path, text_encoding(path)):
        name, *values = line.rsplit(maxsplit=2 * POINTS + 1)
        if len(values) != 2 * POINTS + 1 or not all(map(NUMBER.fullmatch, values)):
            yield None
            continue
        *places, orientation = map(int, values)
        pairs = zip(places[::2], places[1::2], strict=True)
        points = tuple(
            (PART_OF_POINT[number], x, y)
            for number, (x, y) in enumerate(pairs, start=1)
            if number in PART_OF_POINT and x >= 0 and y >= 0
        )
        yield KeyPoints(name.replace("\\", "/"), points, orientation)
