"""The eight cameras of the rendered city, and what a lens does to a clean picture."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.synth.render import View
from pfcvr.pipeline.synth.scene import Light, Scene, Station

NOON = Light()
OVERCAST = Light(
    direction=(0.1, -1.0, -0.2), ambient=0.72, diffuse=0.22, reflection=30, tint=(0.97, 1.0, 1.03), shadow=0.3
)
SUNNY = Light(direction=(0.7, -0.7, -0.4), ambient=0.56, diffuse=0.54, tint=(1.04, 1.01, 0.95), shadow=0.62)
EVENING = Light(direction=(-0.8, -0.45, -0.4), ambient=0.52, diffuse=0.46, tint=(1.05, 0.98, 0.91), shadow=0.5)
DUSK = Light(
    direction=(0.3, -0.9, -0.5),
    ambient=0.5,
    diffuse=0.34,
    reflection=24,
    tint=(0.93, 0.98, 1.06),
    shadow=0.4,
)
TUNNEL = Light(
    direction=(0.0, -1.0, -0.35),
    ambient=0.58,
    diffuse=0.36,
    reflection=36,
    tint=(1.04, 1.02, 0.92),
    shadow=0.45,
)

SUBURB = Scene()
HIGHWAY = Scene(road=(92, 94, 98), verge=(128, 120, 98), far=(170, 186, 204))
CITY = Scene(road=(124, 124, 124), verge=(150, 146, 140), line=(228, 206, 120), far=(140, 134, 128))
YARD = Scene(road=(140, 136, 128), verge=(118, 110, 96), line=(190, 186, 176), far=(124, 132, 126))
GARAGE = Scene(road=(98, 96, 92), verge=(76, 76, 78), line=(220, 196, 70), far=(92, 88, 84), grain=3.0)

STATIONS: tuple[Station, ...] = (
    Station(
        1,
        (
            "The camera hangs on a gantry across a suburban road with grass beside it.",
            "Grass lines the road.",
            "The vehicle keeps to its lane on gray asphalt.",
        ),
        (-32, 32),
        (14, 24),
        (1.7, 2.4),
        (0.88, 0.95),
        NOON,
        SUBURB,
        ("It is the middle of a bright day.", "Shadows fall softly to one side."),
        0.35,
        2.0,
        92,
    ),
    Station(
        2,
        (
            "A bridge camera looks down on a dark motorway with sandy verges.",
            "Dry soil lines the motorway.",
            "The vehicle is driving away along a marked lane.",
        ),
        (148, 212),
        (18, 30),
        (1.8, 2.6),
        (0.84, 0.93),
        OVERCAST,
        HIGHWAY,
        ("The sky is overcast and shadows are faint.", "The day is cloudy."),
        0.55,
        3.0,
        88,
    ),
    Station(
        3,
        (
            "A camera at the kerb of a city street caught it passing by.",
            "Pale paving lines the street.",
            "Yellow lines are painted along the street here.",
        ),
        (40, 78),
        (6, 14),
        (1.6, 2.2),
        (0.86, 0.94),
        SUNNY,
        CITY,
        ("Strong sun falls across the street.", "It is a sunny day."),
        0.30,
        2.0,
        92,
    ),
    Station(
        4,
        (
            "A low camera at the edge of a pale concrete yard took the picture.",
            "Bare ground lies behind it.",
            "Faint lines are painted on the concrete.",
        ),
        (282, 322),
        (8, 18),
        (1.6, 2.3),
        (0.85, 0.94),
        EVENING,
        YARD,
        ("Warm evening sun comes from one side.", "It is evening."),
        0.45,
        3.0,
        88,
    ),
    Station(
        5,
        (
            "A pole camera at a suburban junction follows it as it leaves.",
            "There is grass beyond the road.",
            "White lines divide the road into lanes.",
        ),
        (202, 246),
        (12, 24),
        (1.7, 2.4),
        (0.85, 0.94),
        NOON,
        SUBURB,
        ("Daylight is bright and even.", "It is around noon."),
        0.40,
        2.5,
        90,
    ),
    Station(
        6,
        (
            "A camera behind the stop line of a city crossing took the picture.",
            "Pale paving lies beside the street.",
            "The street has yellow lane lines.",
        ),
        (114, 158),
        (10, 22),
        (1.7, 2.4),
        (0.84, 0.93),
        DUSK,
        CITY,
        ("The scene is bluish and dim at dusk.", "Night is falling."),
        0.60,
        4.0,
        86,
    ),
    Station(
        7,
        (
            "A camera high on a mast looks steeply down on the dark motorway.",
            "Sandy verges line the motorway.",
            "Lane lines run along the motorway beneath it.",
        ),
        (300, 345),
        (30, 44),
        (1.9, 2.6),
        (0.86, 0.94),
        SUNNY,
        HIGHWAY,
        ("The sun is high and strong.", "The day is clear."),
        0.50,
        2.5,
        88,
    ),
    Station(
        8,
        (
            "A ceiling camera watches the entry of a dim garage with brown floors.",
            "The floor has yellow markings.",
            "It moves slowly past the entry camera.",
        ),
        (15, 58),
        (22, 36),
        (1.5, 2.0),
        (0.86, 0.95),
        TUNNEL,
        GARAGE,
        ("Artificial yellowish illumination comes from overhead.", "It is indoors."),
        0.65,
        4.0,
        84,
    ),
)


def draw_view(station: Station, rng: np.random.Generator) -> View:
    """A viewpoint within the station's bands, the vehicle a little off the middle of the crop."""
    scene = station.scene
    placed = Scene(scene.road, scene.verge, scene.line, scene.far, scene.grain, float(rng.uniform(-0.5, 0.5)))
    fill = float(rng.uniform(*station.fill))
    slack = (1 - fill) / 2
    return View(
        yaw=float(rng.uniform(*station.yaw)) % 360,
        elevation=float(rng.uniform(*station.elevation)),
        distance=float(rng.uniform(*station.distance)),
        fill=fill,
        shift=(float(rng.uniform(-slack, slack)), float(rng.uniform(-slack, slack))),
        light=station.light,
        scene=placed,
        texture=int(rng.integers(2**31)),
    )


def photograph(image: NDArray[np.uint8], station: Station, rng: np.random.Generator) -> bytes:
    """The JPEG file of a clean RGB picture as this station's camera takes it: exposure, blur, noise, compression."""
    scale = max(image.shape[:2]) / 128
    exposed = image.astype(np.float32) * np.float32(rng.uniform(0.9, 1.1))
    sigma = station.blur * scale * float(rng.uniform(0.8, 1.2))
    blurred = cv2.GaussianBlur(exposed, (0, 0), sigma)
    noisy = blurred + station.noise * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, station.quality]
    )
    if not ok:
        raise AssertionError("OpenCV could not encode an 8-bit colour image as JPEG")
    return bytes(data)
