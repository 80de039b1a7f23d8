"""A solid made of flat faces, each with a colour, a part instance and a drawing layer.

Faces are the only primitive: a window is a face lying on the greenhouse, a wheel a prism of faces. Layers lift faces
that lie on one another (glass on a panel) by millimetres in depth, so that their order needs no gaps in the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]  # RGB, 0..255
Point3 = tuple[float, float, float]  # metres: x forward, y left, z up
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Paint:
    """How a face looks and what it belongs to.

    ``instance`` is ``(part, name)`` for one window, wheel, door ... and None for the rest of the body; ``region`` is a
    finer label than the part (``windows.rear``), used to decide what a caption may mention. ``glow`` is the share of
    the colour that is not shaded; ``gloss`` adds a reflection of the sky.
    """

    colour: Colour
    instance: tuple[str, str] | None = None
    region: str = ""
    layer: int = 0
    glow: float = 0.0
    gloss: float = 0.0


@dataclass
class Solid:
    """Faces collected by the builders. ``faces[i]`` is an (n, 3) array, ``normals[i]`` its outward unit normal."""

    faces: list[Floats] = field(default_factory=list)
    normals: list[Floats] = field(default_factory=list)
    paints: list[Paint] = field(default_factory=list)

    def face(self, points: Sequence[Point3] | Floats, paint: Paint, outward: Point3) -> None:
        """Add a flat polygon seen only from the side to which ``outward`` points. Slivers are dropped."""
        corners = np.asarray(points, dtype=np.float64)
        following = np.roll(corners, -1, axis=0)
        normal = np.cross(corners, following).sum(axis=0)  # Newell: twice the area times the normal
        length = float(np.linalg.norm(normal))
        if length < 1e-6:
            return
        if float(normal @ np.asarray(outward)) < 0:
            normal = -normal
        self.faces.append(corners)
        self.normals.append(normal / length)
        self.paints.append(paint)

    def prism(self, base: Floats, offset: Point3, paint: Paint, caps: tuple[Paint, Paint] | None = None) -> None:
        """The solid swept by a flat convex polygon ``base`` (n, 3) along ``offset``; ``caps`` paints start and end."""
        shift = np.asarray(offset, dtype=np.float64)
        top = base + shift
        centre = (base.mean(axis=0) + top.mean(axis=0)) / 2
        first, last = caps or (paint, paint)
        self.face(base, first, _tuple(base.mean(axis=0) - centre))
        self.face(top, last, _tuple(top.mean(axis=0) - centre))
        for i in range(len(base)):
            j = (i + 1) % len(base)
            quad = np.stack([base[i], base[j], top[j], top[i]])
            self.face(quad, paint, _tuple(quad.mean(axis=0) - centre))

    def box(self, low: Point3, high: Point3, paint: Paint, inset: float = 0.0) -> None:
        """An upright box from corner ``low`` to ``high``; the top is drawn in by ``inset`` metres on each side."""
        x0, y0, z0 = low
        x1, y1, z1 = high
        k = inset
        bottom = np.array([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)])
        top = np.array([(x0 + k, y0 + k, z1), (x1 - k, y0 + k, z1), (x1 - k, y1 - k, z1), (x0 + k, y1 - k, z1)])
        centre = (bottom.mean(axis=0) + top.mean(axis=0)) / 2
        self.face(top, paint, (0, 0, 1))
        for i in range(4):
            j = (i + 1) % 4
            quad = np.stack([bottom[i], bottom[j], top[j], top[i]])
            self.face(quad, paint, _tuple(quad.mean(axis=0) - centre))


@dataclass(frozen=True)
class Panel:
    """A flat quadrilateral to draw on: ``u`` runs across (0..1), ``v`` up (0..1), bilinear between the corners."""

    low_start: Point3
    low_end: Point3
    high_end: Point3
    high_start: Point3
    outward: Point3

    def at(self, u: float, v: float) -> Point3:
        """The 3D point at panel coordinates ``(u, v)``."""
        a, b, c, d = (np.asarray(p) for p in (self.low_start, self.low_end, self.high_end, self.high_start))
        return _tuple((a * (1 - u) + b * u) * (1 - v) + (d * (1 - u) + c * u) * v)

    def quad(self, u: tuple[float, float], v: tuple[float, float]) -> list[Point3]:
        """Corners of the rectangle ``u`` x ``v`` in panel coordinates."""
        return [self.at(u[0], v[0]), self.at(u[1], v[0]), self.at(u[1], v[1]), self.at(u[0], v[1])]

    @property
    def width(self) -> float:
        """Length of the lower edge in metres."""
        return float(np.linalg.norm(np.subtract(self.low_end, self.low_start)))

    @property
    def height(self) -> float:
        """Length of the first upright edge in metres."""
        return float(np.linalg.norm(np.subtract(self.high_start, self.low_start)))


def ring(radius_a: float, radius_b: float, count: int, start: float = 0.0) -> Floats:
    """``count`` points (n, 2) on an ellipse about the origin, counter-clockwise from angle ``start`` (radians)."""
    angles = start + np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([radius_a * np.cos(angles), radius_b * np.sin(angles)], axis=1)


def clip_x(points: Sequence[tuple[float, float]], low: float, high: float) -> list[tuple[float, float]]:
    """The part of a convex polygon in the x-z plane with ``low <= x <= high`` (Sutherland-Hodgman)."""
    result = list(points)
    for bound, sign in ((low, 1.0), (high, -1.0)):
        kept: list[tuple[float, float]] = []
        for i, (x, z) in enumerate(result):
            px, pz = result[i - 1]
            inside, was_inside = sign * (x - bound) >= 0, sign * (px - bound) >= 0
            if inside != was_inside:
                t = (bound - px) / (x - px)
                kept.append((bound, pz + t * (z - pz)))
            if inside:
                kept.append((x, z))
        result = kept
    return result


def _tuple(vector: Floats) -> Point3:
    return float(vector[0]), float(vector[1]), float(vector[2])
