"""Dimensions of the body types, in metres: x forward, y left, z up, the ground at z = 0.

The lower body is a contour in the x-z plane that is joined across the width; the greenhouse stands on it. Wheels,
mirrors and lamps are larger than on real vehicles, so that they can still be read at 64 px.
"""

from dataclasses import dataclass, replace

Point = tuple[float, float]  # x, z


@dataclass(frozen=True)
class BodyShape:
    """Outlines and positions of one body type.

    ``lower``: front bottom, front top, ..., rear top, rear bottom. ``cabin``: windscreen base, roof front, roof rear,
    rear screen base. ``panes``: x spans of side glass, front to rear; the first is the driver's. ``doors``: x where
    the front door starts, where it ends if there is a second, where the last ends.
    """

    half_width: float
    lower: tuple[Point, ...]
    cabin: tuple[Point, Point, Point, Point]
    tumblehome: float
    axles: tuple[float, ...]
    wheel_radius: float
    panes: tuple[Point, ...]
    doors: tuple[float, float, float]
    corner: float = 0.18
    unit: float = 1.0  # size of lamps, mirrors, handles relative to a car's
    bed: Point | None = None  # x span of a pickup's open bed
    cargo: tuple[float, float, float, float] | None = None  # rear x, front x, bottom z, top z of a truck's box
    cladding: bool = False

    @property
    def sill(self) -> float:
        return self.lower[0][1]

    @property
    def belt(self) -> float:
        return self.cabin[3][1]

    @property
    def roof(self) -> float:
        return self.cabin[1][1]

    def side_y(self, z: float) -> float:
        """Half width of the lower body at height ``z``: the flanks lean in towards the sill."""
        return self.half_width - 0.10 * max(self.belt - z, 0.0)

    def cabin_y(self, z: float) -> float:
        """Half width of the greenhouse at height ``z``."""
        return self.half_width - 0.03 - self.tumblehome * (z - self.belt)

    def scaled(self, stretch: float, height: float) -> "BodyShape":
        """The same body, longer by ``stretch`` and taller by ``height`` (wheels keep their size)."""

        def points(values: tuple[Point, ...]) -> tuple[Point, ...]:
            return tuple((x * stretch, z * height) for x, z in values)

        a, b, c, d = points(self.cabin)
        cargo = self.cargo
        return replace(
            self,
            lower=points(self.lower),
            cabin=(a, b, c, d),
            axles=tuple(x * stretch for x in self.axles),
            panes=tuple((a * stretch, b * stretch) for a, b in self.panes),
            doors=(self.doors[0] * stretch, self.doors[1] * stretch, self.doors[2] * stretch),
            bed=self.bed and (self.bed[0] * stretch, self.bed[1] * stretch),
            cargo=cargo and (cargo[0] * stretch, cargo[1] * stretch, cargo[2] * height, cargo[3] * height),
        )


SHAPES: dict[str, BodyShape] = {
    "hatchback": BodyShape(
        half_width=0.88,
        lower=((1.96, 0.24), (1.86, 0.84), (1.05, 0.99), (-1.90, 1.02), (-1.96, 0.26)),
        cabin=((1.18, 0.97), (0.42, 1.54), (-1.35, 1.50), (-1.86, 1.02)),
        tumblehome=0.30,
        axles=(1.22, -1.24),
        wheel_radius=0.44,
        panes=((2.0, -0.30), (-0.42, -1.22)),
        doors=(0.86, -0.34, -1.06),
    ),
    "sedan": BodyShape(
        half_width=0.90,
        lower=((2.34, 0.24), (2.24, 0.80), (1.18, 0.95), (-2.26, 0.98), (-2.34, 0.26)),
        cabin=((1.28, 0.94), (0.46, 1.46), (-0.78, 1.46), (-1.58, 0.98)),
        tumblehome=0.34,
        axles=(1.46, -1.42),
        wheel_radius=0.44,
        panes=((2.0, -0.12), (-0.24, -1.9)),
        doors=(0.96, -0.16, -1.16),
    ),
    "estate": BodyShape(
        half_width=0.90,
        lower=((2.36, 0.24), (2.26, 0.80), (1.20, 0.96), (-2.38, 1.00), (-2.44, 0.26)),
        cabin=((1.30, 0.95), (0.50, 1.50), (-2.00, 1.50), (-2.34, 1.00)),
        tumblehome=0.30,
        axles=(1.48, -1.46),
        wheel_radius=0.44,
        panes=((2.0, -0.10), (-0.22, -1.10), (-1.22, -2.02)),
        doors=(0.98, -0.14, -1.16),
    ),
    "SUV": BodyShape(
        half_width=0.97,
        lower=((2.26, 0.38), (2.20, 1.06), (1.16, 1.20), (-2.20, 1.22), (-2.26, 0.40)),
        cabin=((1.22, 1.19), (0.60, 1.82), (-1.78, 1.80), (-2.14, 1.22)),
        tumblehome=0.24,
        axles=(1.42, -1.40),
        wheel_radius=0.53,
        panes=((2.0, -0.08), (-0.20, -1.06), (-1.18, -1.76)),
        doors=(0.92, -0.14, -1.12),
        unit=1.1,
        cladding=True,
    ),
    "MPV": BodyShape(
        half_width=0.94,
        lower=((2.30, 0.26), (2.22, 0.84), (1.56, 1.06), (-2.24, 1.08), (-2.30, 0.28)),
        cabin=((1.72, 1.02), (0.66, 1.80), (-1.95, 1.78), (-2.20, 1.08)),
        tumblehome=0.22,
        axles=(1.50, -1.44),
        wheel_radius=0.44,
        panes=((1.02, 0.08), (-0.04, -1.02), (-1.14, -1.95)),
        doors=(1.00, 0.02, -1.12),
        unit=1.05,
    ),
    "van": BodyShape(
        half_width=0.99,
        lower=((2.50, 0.32), (2.42, 1.00), (1.90, 1.24), (-2.46, 1.26), (-2.50, 0.34)),
        cabin=((2.00, 1.22), (1.30, 2.20), (-2.38, 2.20), (-2.44, 1.26)),
        tumblehome=0.09,
        axles=(1.66, -1.52),
        wheel_radius=0.48,
        panes=((1.62, 0.60),),
        doors=(1.16, 0.42, -0.94),
        unit=1.15,
    ),
    "minibus": BodyShape(
        half_width=1.04,
        lower=((3.00, 0.34), (2.94, 1.06), (2.56, 1.30), (-2.96, 1.32), (-3.00, 0.36)),
        cabin=((2.62, 1.28), (2.08, 2.44), (-2.88, 2.44), (-2.94, 1.32)),
        tumblehome=0.07,
        axles=(2.10, -1.86),
        wheel_radius=0.51,
        panes=((2.22, 1.28), (1.16, 0.16), (0.06, -0.92), (-1.02, -1.92), (-2.02, -2.80)),
        doors=(1.52, 0.62, -0.52),
        unit=1.25,
    ),
    "bus": BodyShape(
        half_width=1.22,
        lower=((4.50, 0.40), (4.46, 1.36), (-4.46, 1.40), (-4.50, 0.42)),
        cabin=((4.46, 1.36), (4.28, 3.00), (-4.38, 3.00), (-4.46, 1.40)),
        tumblehome=0.04,
        axles=(2.86, -2.70),
        wheel_radius=0.64,
        panes=((4.10, 3.10), (2.98, 1.58), (1.46, 0.06), (-0.06, -1.46), (-1.58, -2.98), (-3.10, -4.20)),
        doors=(2.10, 0.90, -1.60),
        corner=0.20,
        unit=1.6,
    ),
    "pickup": BodyShape(
        half_width=0.98,
        lower=((2.62, 0.42), (2.55, 1.10), (1.34, 1.24), (-2.62, 1.24), (-2.66, 0.46)),
        cabin=((1.40, 1.22), (0.82, 1.86), (-0.52, 1.86), (-0.74, 1.24)),
        tumblehome=0.24,
        axles=(1.68, -1.66),
        wheel_radius=0.54,
        panes=((2.0, 0.16), (0.04, -0.9)),
        doors=(1.08, 0.10, -0.76),
        unit=1.1,
        bed=(-0.92, -2.52),
        cladding=True,
    ),
    "truck": BodyShape(
        half_width=1.06,
        lower=((3.00, 0.48), (2.96, 1.34), (1.42, 1.36), (1.42, 0.50)),
        cabin=((2.96, 1.34), (2.66, 2.30), (1.50, 2.30), (1.42, 1.36)),
        tumblehome=0.10,
        axles=(2.22, -1.90),
        wheel_radius=0.55,
        panes=((2.74, 1.66),),
        doors=(2.78, 2.10, 1.46),
        corner=0.16,
        unit=1.3,
        cargo=(-3.00, 1.24, 0.92, 2.86),
    ),
}
