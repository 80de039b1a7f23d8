"""Shapes of annotation tools that COCO has no word for, as outlines."""

import math
from collections.abc import Sequence


def turned_box(box: Sequence[float], degrees: float, around: tuple[float, float]) -> list[float]:
    """The corners (x, y, x, y, ...) of the box ``(x, y, width, height)``, turned clockwise around a point; pixels."""
    x, y, width, height = box
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    outline: list[float] = []
    for corner_x, corner_y in ((x, y), (x + width, y), (x + width, y + height), (x, y + height)):
        right, down = corner_x - around[0], corner_y - around[1]
        outline += [around[0] + right * cosine - down * sine, around[1] + right * sine + down * cosine]
    return outline
