"""Doors: skins with seams on the flanks, and what is fixed or stuck to them."""

from dataclasses import dataclass

from pfcvr.pipeline.synth.attributes import VehicleAttributes
from pfcvr.pipeline.synth.body import CHROME, PAINT_RGB, SIDES, lower_side
from pfcvr.pipeline.synth.shapes import BodyShape
from pfcvr.pipeline.synth.solid import Colour, Paint, Solid, ring

FITTINGS: dict[str, Colour] = {"chrome": CHROME, "black": (14, 14, 16)}


@dataclass(frozen=True)
class Skin:
    """One door: where it lies on a flank, and how to draw on it."""

    solid: Solid
    shape: BodyShape
    side: float
    instance: tuple[str, str]
    front: float  # x
    rear: float  # x
    low: float  # z
    high: float  # z

    def paint(self, colour: Colour, detail: str, layer: int, glow: float = 0.0) -> Paint:
        return Paint(colour, self.instance, f"doors.{detail}", layer, glow, 0.0 if detail != "skin" else 0.25)

    def rectangle(self, x: tuple[float, float], z: tuple[float, float], paint: Paint) -> None:
        corners = [(x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1])]
        self.outline(corners, paint)

    def outline(self, points: list[tuple[float, float]], paint: Paint) -> None:
        surface = [lower_side(self.shape, self.side, x, z) for x, z in points]
        self.solid.face(surface, paint, (0, self.side, 0))


def add_doors(solid: Solid, shape: BodyShape, vehicle: VehicleAttributes) -> None:
    """One or two doors a side, as ``vehicle.doors`` says."""
    start, split, end = shape.doors
    style = vehicle.doors.style
    spans = [(start, split - (split - end) * 0.30)] if style == "two" else [(start, split), (split, end)]
    low, high = shape.sill + 0.05, shape.belt - 0.03
    colour = PAINT_RGB[vehicle.paint]
    seam: Colour = (24, 24, 26) if sum(colour) > 210 else (118, 120, 126)
    gap = 0.08 * shape.unit
    for side, side_name in SIDES:
        for index, (front, rear) in enumerate(spans):
            instance = ("doors", f"{side_name} {index}")
            skin = Skin(solid, shape, side, instance, front - gap / 2, rear + gap / 2, low + gap, high - gap)
            skin.rectangle((front, rear), (low, high), skin.paint(seam, "skin", 1))
            skin.rectangle((skin.front, skin.rear), (skin.low, skin.high), skin.paint(colour, "skin", 2))
            _add_fittings(skin, vehicle)
            if style == "sliding" and index == 1:
                middle = low + (high - low) * 0.62
                skin.rectangle(
                    (rear, rear - 0.85 * shape.unit), (middle - 0.07, middle + 0.07), skin.paint(seam, "skin", 3)
                )
            if vehicle.doors.sticker == "emblem" and index == 0:
                _add_emblem(skin, vehicle.paint)
            elif vehicle.doors.sticker == "checker":
                _add_checker(skin)


def _add_fittings(skin: Skin, vehicle: VehicleAttributes) -> None:
    """Trim strip and handle."""
    unit, colour = skin.shape.unit, PAINT_RGB[vehicle.paint]
    if vehicle.doors.trim != "none":
        middle = skin.low + (skin.high - skin.low) * 0.46
        strip = skin.paint(FITTINGS[vehicle.doors.trim], "trim", 3, glow=0.3)
        skin.rectangle((skin.front, skin.rear), (middle - 0.08 * unit, middle + 0.08 * unit), strip)
    # A handle in body colour still shows by its shadow, or by its edge on dark paint.
    towards = 0.0 if sum(colour) > 210 else 72.0
    shaded: Colour = (0.62 * colour[0] + towards, 0.62 * colour[1] + towards, 0.62 * colour[2] + towards)
    handle = skin.paint(FITTINGS.get(vehicle.doors.handles, shaded), "handle", 3, glow=0.3)
    bottom = skin.high - 0.18 * unit
    skin.rectangle((skin.rear + 0.08, skin.rear + 0.08 + 0.36 * unit), (bottom, bottom + 0.13 * unit), handle)


def _add_emblem(skin: Skin, paint: str) -> None:
    warm: Colour = (245, 120, 10)
    cool: Colour = (20, 90, 210)
    fill = cool if paint in ("red", "yellow", "golden", "brown") else warm
    x, z = (skin.front + skin.rear) / 2, skin.low + (skin.high - skin.low) * 0.38
    for radius, colour, layer in ((0.26, (252.0, 252.0, 252.0), 3), (0.18, fill, 4)):
        circle = ring(radius * skin.shape.unit, radius * skin.shape.unit, 18) + (x, z)
        skin.outline([(float(a), float(b)) for a, b in circle], skin.paint(colour, "sticker", layer, glow=0.3))


def _add_checker(skin: Skin) -> None:
    tile = 0.12 * skin.shape.unit
    for row in range(2):
        for column in range(int((skin.front - skin.rear) / tile)):
            colour: Colour = (250, 250, 250) if (row + column) % 2 else (16, 16, 18)
            x, z = skin.front - column * tile, skin.low + 0.02 + row * tile
            skin.rectangle((x, x - tile), (z, z + tile), skin.paint(colour, "sticker", 3, glow=0.2))
