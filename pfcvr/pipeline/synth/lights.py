"""Lamps on the nose and the tail, wrapped round the corners, and their light signature."""

from dataclasses import dataclass, replace

from pfcvr.pipeline.synth.attributes import VehicleAttributes
from pfcvr.pipeline.synth.body import SIDES, NoseAndTail, cargo_tail
from pfcvr.pipeline.synth.shapes import BodyShape
from pfcvr.pipeline.synth.solid import Colour, Paint, Panel, Point3, Solid, ring

HALF_SIZE = {"round": (0.19, 0.19), "slim": (0.21, 0.075), "tall": (0.10, 0.25)}  # metres: across, up
RIM = 0.05  # metres of dark bezel or bright halo around a lens
BEZEL: Colour = (22, 22, 25)


@dataclass(frozen=True)
class Look:
    """Colours of the lamps at one end of the vehicle."""

    where: str
    lens: Colour
    halo: Colour
    bar: Colour


FRONT = Look("front", (246, 248, 255), (120, 230, 255), (120, 230, 255))
REAR = Look("rear", (214, 16, 22), (255, 150, 30), (255, 60, 50))


def add_lights(solid: Solid, shape: BodyShape, ends: NoseAndTail, vehicle: VehicleAttributes) -> None:
    """A lamp at each corner; with the signature ``bar`` also a strip from lamp to lamp at each end."""
    tail = cargo_tail(shape)
    rear_corners = {} if tail else ends.rear_corners
    for panel, corners, look in ((ends.front, ends.front_corners, FRONT), (tail or ends.rear, rear_corners, REAR)):
        for side, side_name in SIDES:
            lamp = _Lamp(panel, side, shape.unit, vehicle.lights.shape)
            halo = vehicle.lights.signature == "halo"
            instance, region = ("lights", f"{look.where} {side_name}"), f"lights.{look.where}"
            bezel = Paint(look.halo if halo else BEZEL, instance, region, 3, 0.9 if halo else 0.0)
            lens = Paint(look.lens, instance, region, 5, 0.7)
            solid.face(lamp.outline(1.0), bezel, panel.outward)
            solid.face(lamp.outline(0.0), lens, panel.outward)
            if side in corners and lamp.kind != "round":
                corner, wrap = corners[side], f"{region} wrap"
                solid.face(corner.quad((0.0, 0.9), lamp.rows(1.0)), replace(bezel, region=wrap), corner.outward)
                solid.face(corner.quad((0.0, 0.75), lamp.rows(0.0)), replace(lens, region=wrap), corner.outward)
        if vehicle.lights.signature == "bar":
            strip = Paint(look.bar, ("lights", f"{look.where} bar"), f"lights.{look.where} bar", 4, 0.9)
            solid.face(panel.quad((0.04, 0.96), (0.74, 0.84)), strip, panel.outward)


class _Lamp:
    """Where one lamp lies on its panel, in panel coordinates."""

    def __init__(self, panel: Panel, side: float, unit: float, kind: str) -> None:
        self.panel, self.kind = panel, kind
        half_across, half_up = HALF_SIZE[kind]
        self._du, self._dv = half_across * unit / panel.width, half_up * unit / panel.height
        self._rim_u, self._rim_v = RIM * unit / panel.width, RIM * unit / panel.height
        edge = self._du + self._rim_u + 0.01
        self._u = 1 - edge if side > 0 else edge
        self._v = min(0.62, 0.98 - self._dv - self._rim_v)

    def rows(self, grow: float) -> tuple[float, float]:
        """Lower and upper edge, ``grow`` rims outside the lens."""
        dv = self._dv + grow * self._rim_v
        return self._v - dv, self._v + dv

    def outline(self, grow: float) -> list[Point3]:
        """Corners of the lens, ``grow`` rims larger."""
        du = self._du + grow * self._rim_u
        if self.kind == "round":
            dv = self._dv + grow * self._rim_v
            return [self.panel.at(self._u + a, self._v + b) for a, b in ring(du, dv, 18)]
        return self.panel.quad((self._u - du, self._u + du), self.rows(grow))
