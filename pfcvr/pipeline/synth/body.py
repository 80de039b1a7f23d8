"""Body and glass of a vehicle: lower body, greenhouse with its panes, bed or cargo box behind."""

from pfcvr.pipeline.synth.attributes import VehicleAttributes
from pfcvr.pipeline.synth.shapes import BodyShape
from pfcvr.pipeline.synth.solid import Colour, Paint, Panel, Point3, Solid, clip_x

PAINT_RGB: dict[str, Colour] = {
    "black": (30, 31, 36),
    "blue": (32, 72, 190),
    "brown": (110, 66, 36),
    "cyan": (60, 190, 200),
    "dark gray": (78, 82, 88),
    "golden": (196, 158, 84),
    "gray": (158, 163, 168),
    "green": (30, 120, 60),
    "purple": (112, 44, 140),
    "red": (190, 26, 30),
    "white": (236, 237, 238),
    "yellow": (240, 200, 26),
}
GLASS_RGB: dict[str, Colour] = {"clear": (168, 196, 206), "dark": (16, 19, 24), "mirrored": (84, 140, 226)}
CHROME: Colour = (226, 231, 238)
FRAME: Colour = (52, 54, 58)
PLASTIC: Colour = (44, 45, 48)

SIDES = ((1.0, "left"), (-1.0, "right"))


def lower_side(shape: BodyShape, side: float, x: float, z: float) -> Point3:
    """The point of the lower body's flank above (x, z)."""
    return x, side * shape.side_y(z), z


def cabin_side(shape: BodyShape, side: float, x: float, z: float) -> Point3:
    """The point of the greenhouse's flank above (x, z)."""
    return x, side * shape.cabin_y(z), z


class NoseAndTail:
    """The lower body's contour with its corners cut off in plan, and the end panels that lamps are drawn on."""

    def __init__(self, shape: BodyShape) -> None:
        last = len(shape.lower) - 1
        cut = shape.corner
        self.across: list[tuple[float, float, float]] = []  # x, half width, z of the faces that run across
        self.flank: list[tuple[float, float]] = []  # x, z of the flanks' outline
        for i, (x, z) in enumerate(shape.lower):
            rounded = i in (0, 1, last - 1, last)
            inward = -1.0 if i <= 1 else 1.0
            self.across.append((x, shape.side_y(z) - (cut if rounded else 0.0), z))
            self.flank.append((x + (inward * cut * 1.2 if rounded else 0.0), z))
        self.front = self._end(0, 1, (1, 0, 0))
        self.rear = self._end(last, last - 1, (-1, 0, 0))
        self.front_corners = {side: self._corner(shape, side, 0, 1) for side, _ in SIDES}
        self.rear_corners = {side: self._corner(shape, side, last, last - 1) for side, _ in SIDES}

    def _end(self, low: int, high: int, outward: Point3) -> Panel:
        (xl, yl, zl), (xh, yh, zh) = self.across[low], self.across[high]
        return Panel((xl, -yl, zl), (xl, yl, zl), (xh, yh, zh), (xh, -yh, zh), outward)

    def _corner(self, shape: BodyShape, side: float, low: int, high: int) -> Panel:
        """The face between an end panel (u = 0) and a flank (u = 1)."""
        (xl, yl, zl), (xh, yh, zh) = self.across[low], self.across[high]
        outward = (1.0 if low == 0 else -1.0, side, 0.0)
        return Panel(
            (xl, side * yl, zl),
            lower_side(shape, side, *self.flank[low]),
            lower_side(shape, side, *self.flank[high]),
            (xh, side * yh, zh),
            outward,
        )


def add_lower_body(solid: Solid, shape: BodyShape, ends: NoseAndTail, colour: Colour) -> None:
    """Flanks, corners and everything that runs across: nose, bonnet, deck, tail."""
    body = Paint(colour, gloss=0.25)
    count = len(shape.lower)
    for side, _ in SIDES:
        solid.face([lower_side(shape, side, x, z) for x, z in ends.flank], body, (0, side, 0))
    for i in range(count - 1):
        (xa, ya, za), (xb, yb, zb) = ends.across[i], ends.across[i + 1]
        outward = (1.0 if i == 0 else -1.0 if i == count - 2 else 0.0, 0.0, 1.0)
        solid.face([(xa, -ya, za), (xa, ya, za), (xb, yb, zb), (xb, -yb, zb)], body, outward)
        for side, _ in SIDES:
            corner = [
                lower_side(shape, side, *ends.flank[i]),
                lower_side(shape, side, *ends.flank[i + 1]),
                (xb, side * yb, zb),
                (xa, side * ya, za),
            ]
            solid.face(corner, body, (outward[0], side, 0.5))
    _add_trim(solid, shape, ends)


def _add_trim(solid: Solid, shape: BodyShape, ends: NoseAndTail) -> None:
    """Grille, bumpers, blank plates and cladding: what makes a nose a nose. None of it is a part."""
    dark, plate = Paint(PLASTIC, layer=1), Paint((226, 226, 218), layer=2)
    for panel, grille in ((ends.front, True), (ends.rear, False)):
        if shape.cargo and not grille:
            continue
        solid.face(panel.quad((0.0, 1.0), (0.0, 0.20)), dark, panel.outward)
        if grille:
            solid.face(panel.quad((0.32, 0.68), (0.36, 0.66)), dark, panel.outward)
        middle = (0.10, 0.26) if grille else (0.30, 0.50)
        solid.face(panel.quad((0.39, 0.61), middle), plate, panel.outward)
    for side, _ in SIDES:
        corners = [ends.front_corners[side]] + ([] if shape.cargo else [ends.rear_corners[side]])
        for panel in corners:
            solid.face(panel.quad((0.0, 1.0), (0.0, 0.20)), dark, panel.outward)
        if shape.cladding:
            (front, low), (rear, _) = ends.flank[0], ends.flank[-1]
            strip = [(front, low), (front, low + 0.16), (rear, low + 0.16), (rear, low + 0.02)]
            solid.face([lower_side(shape, side, x, z) for x, z in strip], dark, (0, side, 0))


def add_greenhouse(solid: Solid, shape: BodyShape, vehicle: VehicleAttributes) -> None:
    """Pillars, windscreen, rear screen and side panes. The roof panel belongs to the roof's builder."""
    body = Paint(PAINT_RGB[vehicle.paint], gloss=0.25)
    for side, name in SIDES:
        solid.face([cabin_side(shape, side, x, z) for x, z in shape.cabin], body, (0, side, 0))
        for index, outline in enumerate(pane_outlines(shape)):
            paint = glass(vehicle, f"side {name} {index}", rear=index > 0)
            solid.face([cabin_side(shape, side, x, z) for x, z in outline], paint, (0, side, 0))
    for panel, name in (
        (screen(shape, front=True), "windscreen"),
        (screen(shape, front=False), "rear screen"),
    ):
        solid.face(panel.quad((0, 1), (0, 1)), body, panel.outward)
        if name == "rear screen" and shape.cargo:
            continue
        low = 0.08 if shape.lower[0][1] < 0.39 else 0.05
        glazed = panel.quad((0.05, 0.95), (low, 0.90))
        solid.face(glazed, glass(vehicle, name, rear=name == "rear screen"), panel.outward)


def screen(shape: BodyShape, front: bool) -> Panel:
    """The greenhouse's front or rear face."""
    (xl, zl), (xh, zh) = (shape.cabin[0], shape.cabin[1]) if front else (shape.cabin[3], shape.cabin[2])
    yl, yh = shape.cabin_y(zl), shape.cabin_y(zh)
    return Panel((xl, -yl, zl), (xl, yl, zl), (xh, yh, zh), (xh, -yh, zh), (1.0 if front else -1.0, 0, 0.2))


def pane_outlines(shape: BodyShape) -> list[list[tuple[float, float]]]:
    """Side glass, front to rear: the greenhouse's outline drawn in, cut by the pillars."""
    (xa, za), (xb, zb), (xc, zc), (xd, zd) = shape.cabin
    margin = 0.09 * (shape.roof - shape.belt) / 0.55
    low, high = max(za, zd) + 0.03, min(zb, zc) - margin

    def along(a: tuple[float, float], b: tuple[float, float], z: float) -> float:
        return a[0] + (b[0] - a[0]) * (z - a[1]) / (b[1] - a[1])

    front, rear = (xa, za), (xd, zd)
    inset = [
        (along(front, (xb, zb), low) - 0.13, low),
        (along(front, (xb, zb), high) - 0.10, high),
        (along(rear, (xc, zc), high) + 0.10, high),
        (along(rear, (xc, zc), low) + 0.14, low),
    ]
    return [clip_x(inset, min(span), max(span)) for span in shape.panes]


def glass(vehicle: VehicleAttributes, name: str, rear: bool) -> Paint:
    """Glass of one pane: ``privacy`` is dark behind the driver and clear in front."""
    tint = vehicle.windows.tint
    shown = tint if tint != "privacy" else "dark" if rear else "clear"
    region = "windows.rear" if rear else "windows.front"
    return Paint(GLASS_RGB[shown], ("windows", name), region, layer=2, gloss=0.5 if shown != "dark" else 0.2)


def add_cargo(solid: Solid, shape: BodyShape) -> None:
    """A truck's chassis and box, or the open bed of a pickup."""
    if shape.cargo:
        rear, front, low, high = shape.cargo
        width = shape.half_width + 0.06
        solid.box((rear, -width, low), (front, width, high), Paint((214, 216, 214)))
        solid.box((rear + 0.1, -0.5, 0.5), (front + 0.1, 0.5, low), Paint(PLASTIC))
        solid.box((rear - 0.04, -width, 0.56), (rear + 0.14, width, low), Paint(PLASTIC))
        for side, _ in SIDES:
            rail = [
                (rear + 0.1, low),
                (front - 0.1, low),
                (front - 0.1, low + 0.14),
                (rear + 0.1, low + 0.14),
            ]
            solid.face([(x, side * width, z) for x, z in rail], Paint((120, 124, 128), layer=1), (0, side, 0))
        seam = [(rear, -0.03, low), (rear, 0.03, low), (rear, 0.03, high), (rear, -0.03, high)]
        solid.face(seam, Paint(FRAME, layer=1), (-1, 0, 0))
    if shape.bed:
        front, rear = shape.bed
        wide, z = shape.half_width - 0.14, shape.belt
        floor = [(front, -wide, z), (front, wide, z), (rear, wide, z), (rear, -wide, z)]
        solid.face(floor, Paint((38, 38, 40), layer=1), (0, 0, 1))
        wall = [(front, -wide, z), (front, wide, z), (front - 0.22, wide, z), (front - 0.22, -wide, z)]
        solid.face(wall, Paint((24, 24, 26), layer=2), (0, 0, 1))


def cargo_tail(shape: BodyShape) -> Panel | None:
    """The face at the rear of a truck's box that carries its lamps."""
    if not shape.cargo:
        return None
    rear, _, low, _ = shape.cargo
    y = shape.half_width + 0.06
    x = rear - 0.04
    return Panel((x, -y, 0.56), (x, y, 0.56), (x, y, low), (x, -y, low), (-1, 0, 0))
