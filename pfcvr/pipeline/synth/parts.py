"""The whole vehicle: body, glass, doors and lights from their own modules; wheels, mirrors and roof built here."""

import numpy as np

from pfcvr.pipeline.synth.attributes import VehicleAttributes
from pfcvr.pipeline.synth.body import (
    CHROME,
    FRAME,
    PAINT_RGB,
    PLASTIC,
    SIDES,
    NoseAndTail,
    add_cargo,
    add_greenhouse,
    add_lower_body,
    lower_side,
)
from pfcvr.pipeline.synth.doors import add_doors
from pfcvr.pipeline.synth.lights import add_lights
from pfcvr.pipeline.synth.shapes import SHAPES, BodyShape
from pfcvr.pipeline.synth.solid import Colour, Floats, Paint, Panel, Solid, ring

RUBBER: Colour = (30, 30, 32)
FINISH_RGB: dict[str, Colour] = {
    "silver": (190, 195, 202),
    "black": (58, 58, 62),
    "white": (250, 250, 250),
    "gold": (212, 166, 60),
}


def body_shape(vehicle: VehicleAttributes) -> BodyShape:
    """The dimensions of this identity's body."""
    return SHAPES[vehicle.body].scaled(vehicle.stretch, vehicle.height)


def build(vehicle: VehicleAttributes) -> Solid:
    """The whole vehicle as faces."""
    shape = body_shape(vehicle)
    ends = NoseAndTail(shape)
    solid = Solid()
    add_lower_body(solid, shape, ends, PAINT_RGB[vehicle.paint])
    add_greenhouse(solid, shape, vehicle)
    add_cargo(solid, shape)
    _add_wheels(solid, shape, vehicle)
    add_doors(solid, shape, vehicle)
    _add_mirrors(solid, shape, vehicle)
    add_lights(solid, shape, ends, vehicle)
    _add_roof(solid, shape, vehicle)
    return solid


def _add_wheels(solid: Solid, shape: BodyShape, vehicle: VehicleAttributes) -> None:
    radius, depth = shape.wheel_radius, 0.26
    for side, side_name in SIDES:
        outer = side * (shape.side_y(radius) + 0.05 + (0.06 if shape.cargo else 0.0))
        for index, axle in enumerate(shape.axles):
            instance = ("wheels", f"{side_name} {index}")
            centre = np.array([axle, outer, radius])
            tyre = Paint(RUBBER, instance, "wheels.tyre", layer=4)
            disc = _upright(ring(radius, radius, 20), centre)
            solid.prism(disc, (0, -side * depth, 0), tyre)
            _add_rim(solid, centre, side, radius * 0.80, instance, vehicle)
            if shape.cargo is None or index == 0:
                arch = ring(radius * 1.14, radius * 1.14, 24)[:13] + (axle, radius)
                floor = shape.sill
                outline = [
                    (arch[0][0], floor),
                    *(tuple(p) for p in arch if p[1] > floor),
                    (arch[-1][0], floor),
                ]
                points = [lower_side(shape, side, float(x), float(z)) for x, z in outline]
                solid.face(points, Paint((20, 20, 22), layer=4), (0, side, 0))


def _add_rim(
    solid: Solid,
    centre: Floats,
    side: float,
    radius: float,
    instance: tuple[str, str],
    vehicle: VehicleAttributes,
) -> None:
    metal = FINISH_RGB[vehicle.wheels.finish]
    hollow: Colour = (18, 18, 20) if vehicle.wheels.finish != "black" else (150, 152, 158)
    outward = (0.0, side, 0.0)
    bright = Paint(metal, instance, "wheels.rim", layer=6, glow=0.35)
    cut = Paint(hollow, instance, "wheels.rim", layer=7)
    over = Paint(metal, instance, "wheels.rim", layer=8, glow=0.35)
    solid.face(_upright(ring(radius, radius, 20), centre), bright, outward)
    design = vehicle.wheels.design
    if design in ("five spoke", "multi spoke"):
        solid.face(_upright(ring(radius * 0.86, radius * 0.86, 20), centre), cut, outward)
        count, half = (5, 0.19) if design == "five spoke" else (10, 0.06)
        for angle in np.pi / 2 + np.arange(count) * 2 * np.pi / count:
            along = np.array([np.cos(angle), np.sin(angle)]) * radius * 0.9
            across = np.array([-np.sin(angle), np.cos(angle)]) * radius * half
            spoke = np.stack([across, along + across * 0.8, along - across * 0.8, -across])
            solid.face(_upright(spoke, centre), over, outward)
        hub = radius * (0.24 if design == "five spoke" else 0.16)
        solid.face(_upright(ring(hub, hub, 10), centre), over, outward)
    elif design == "steel":
        for angle in np.pi / 4 + np.arange(4) * np.pi / 2:
            hole = ring(radius * 0.25, radius * 0.25, 10) + radius * 0.58 * np.array([np.cos(angle), np.sin(angle)])
            solid.face(_upright(hole, centre), cut, outward)
        solid.face(_upright(ring(radius * 0.2, radius * 0.2, 10), centre), cut, outward)


def _upright(points: Floats, centre: Floats) -> Floats:
    """Points (n, 2) of the x-z plane moved to ``centre``, (n, 3)."""
    result = np.repeat(centre[None, :], len(points), axis=0)
    result[:, 0] += points[:, 0]
    result[:, 2] += points[:, 1]
    return result


def _add_mirrors(solid: Solid, shape: BodyShape, vehicle: VehicleAttributes) -> None:
    unit = shape.unit
    housing = {"body": PAINT_RGB[vehicle.paint], "black": (24, 24, 27), "chrome": CHROME}[vehicle.mirrors.colour]
    half = {"round": (0.21, 0.21), "square": (0.25, 0.15), "tall": (0.13, 0.30)}[vehicle.mirrors.shape]
    wide, high = half[0] * unit, half[1] * unit
    x = min(shape.cabin[0][0] - 0.30 * unit, shape.panes[0][0])
    for side, name in SIDES:
        instance = ("mirrors", name)
        paint = Paint(housing, instance, "mirrors.housing", layer=1, glow=0.15)
        face = Paint((150, 168, 180), instance, "mirrors.housing", layer=3, glow=0.2)
        centre = np.array([x, side * (shape.half_width - 0.02 + wide), shape.belt + 0.04 + high * 0.5])
        outline = ring(wide, high, 16) if vehicle.mirrors.shape == "round" else _rectangle(wide, high)
        base = np.stack([np.full(len(outline), x), centre[1] + outline[:, 0], centre[2] + outline[:, 1]], axis=1)
        solid.prism(base, (0.22 * unit, 0, 0), paint)
        glazed = base * [1, 0, 0] + (centre + (base - centre) * 0.72) * [0, 1, 1]
        solid.face(glazed, face, (-1, 0, 0))
        inner, outer = sorted((side * (shape.half_width - 0.12), side * (shape.half_width + 0.08)))
        arm = shape.belt + 0.08
        solid.box((x + 0.04, inner, arm), (x + 0.14, outer, arm + 0.07), Paint(PLASTIC, instance, "mirrors.housing"))


def _rectangle(half_width: float, half_height: float) -> Floats:
    a, b = half_width, half_height
    return np.array(
        [
            (-a, -b * 0.7),
            (-a * 0.7, -b),
            (a * 0.7, -b),
            (a, -b * 0.7),
            (a, b * 0.7),
            (a * 0.7, b),
            (-a * 0.7, b),
            (-a, b * 0.7),
        ]
    )


def _add_roof(solid: Solid, shape: BodyShape, vehicle: VehicleAttributes) -> None:
    colour = PAINT_RGB[vehicle.paint] if vehicle.roof.finish == "body" else (34, 34, 38)
    (front, zf), (rear, zr) = shape.cabin[1], shape.cabin[2]
    yf, yr = shape.cabin_y(zf), shape.cabin_y(zr)
    panel = Panel((rear, -yr, zr), (rear, yr, zr), (front, yf, zf), (front, -yf, zf), (0, 0, 1))
    skin = Paint(colour, ("roof", "roof"), "roof.panel", layer=1, gloss=0.25)
    solid.face(panel.quad((0, 1), (0, 1)), skin, (0, 0, 1))
    feature, unit, length, top = vehicle.roof.feature, shape.unit, front - rear, max(zf, zr)

    def fitted(tone: Colour, glow: float = 0.0, layer: int = 3) -> Paint:
        return Paint(tone, ("roof", "roof"), "roof.feature", layer=layer, glow=glow)

    if feature == "sunroof":
        solid.face(panel.quad((0.10, 0.90), (0.30, 0.86)), fitted((150, 156, 164)), (0, 0, 1))
        pane: Colour = (14, 22, 40) if vehicle.roof.finish == "body" else (84, 134, 186)
        solid.face(panel.quad((0.15, 0.85), (0.34, 0.82)), fitted(pane, layer=4), (0, 0, 1))
    elif feature == "rails":
        pale = vehicle.roof.finish == "body" and sum(colour) > 420
        for side, _ in SIDES:
            inner, outer = sorted((side * (yf - 0.14 * unit), side * (yf - 0.02)))
            low, high = (rear + 0.08, inner, top - 0.02), (front - 0.08, outer, top + 0.10 * unit)
            solid.box(low, high, fitted((36, 37, 40) if pale else CHROME))
    elif feature == "box":
        low = (rear + length * 0.12, -yf * 0.62, top)
        high = (front - length * 0.10, yf * 0.62, top + 0.30 * unit)
        solid.box(low, high, fitted((96, 104, 116)), inset=0.12 * unit)
    elif feature == "sign":
        middle, long, wide = front - length * 0.40, 0.14 * unit, 0.42 * unit
        solid.box(
            (middle - long, -wide, top), (middle + long, wide, top + 0.27 * unit), fitted((255, 226, 70), 0.5), 0.04
        )
        plinth = (middle - long - 0.06, -wide - 0.06, top), (middle + long + 0.06, wide + 0.06, top + 0.06)
        solid.box(*plinth, fitted(FRAME))
