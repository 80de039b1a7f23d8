"""Cameras of a rendered city: each with a band of viewpoints, a light, a road, and a lens of its own."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.synth.raster import Camera
from pfcvr.pipeline.synth.solid import Colour, Floats


@dataclass(frozen=True)
class Light:
    """``direction`` towards the sun in camera axes (right, down, forward); the other values are strengths about 1."""

    direction: tuple[float, float, float] = (-0.5, -0.8, -0.5)
    ambient: float = 0.57
    diffuse: float = 0.42
    sky: float = 0.09
    reflection: float = 46.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shadow: float = 0.5


@dataclass(frozen=True)
class Scene:
    """Colours of the road and what lies beside it; ``offset`` is where the vehicle stands in its lane, metres."""

    road: Colour = (112, 114, 118)
    verge: Colour = (104, 122, 84)
    line: Colour = (214, 214, 208)
    far: Colour = (150, 164, 178)
    grain: float = 5.0
    offset: float = 0.0


@dataclass(frozen=True)
class Station:
    """One camera: bands to draw a view from, and its lens.

    ``place`` and ``daylight`` are true remarks for captions; ``blur`` (px) and ``noise`` (grey levels) are for 128 px.
    """

    camera_id: int
    place: tuple[str, ...]
    yaw: tuple[float, float]
    elevation: tuple[float, float]
    distance: tuple[float, float]
    fill: tuple[float, float]
    light: Light
    scene: Scene
    daylight: tuple[str, ...]
    blur: float
    noise: float
    quality: int


def draw_scene(camera: Camera, scene: Scene, light: Light, extent: tuple[int, int], texture: int) -> Floats:
    """Road, lane lines, verge and what stands behind, RGB float (height, width, 3), unlit by the vehicle."""
    width, height = extent
    factor = 2.0  # the camera's pixels are sub-pixels
    rng = np.random.default_rng(np.random.SeedSequence([texture & 0xFFFF_FFFF, 7]))
    canvas = np.empty((height, width, 3), dtype=np.float32)
    canvas[:] = scene.verge
    reach = 60.0
    for low, high, colour in _strips(scene):
        for x0, x1 in ((-reach, reach),) if colour == scene.road or high - low < 0.13 else _dashes(reach):
            _ground(canvas, camera, (x0, x1, low, high), colour, factor)
    grain = rng.standard_normal((height, width, 1), dtype=np.float32)
    coarse = cv2.resize(rng.standard_normal((8, 8), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    canvas += scene.grain * (grain + 1.4 * coarse[..., None])
    _backdrop(canvas, camera, scene, factor, rng)
    return np.asarray(canvas * (0.86 * (light.ambient + light.diffuse)) * np.asarray(light.tint), dtype=np.float64)


def _strips(scene: Scene) -> list[tuple[float, float, Colour]]:
    """Bands along the driving direction (y from, y to, colour): road first, its markings over it."""
    o = scene.offset
    return [
        (-5.6 + o, 5.6 + o, scene.road),
        (-5.42 + o, -5.30 + o, scene.line),
        (5.30 + o, 5.42 + o, scene.line),
        (-1.90 + o, -1.75 + o, scene.line),
        (1.75 + o, 1.90 + o, scene.line),
    ]


def _dashes(reach: float) -> list[tuple[float, float]]:
    starts = np.arange(-reach, reach, 6.0)
    return [(float(x), float(x) + 3.2) for x in starts]


def _ground(
    canvas: NDArray[np.float32],
    camera: Camera,
    area: tuple[float, float, float, float],
    colour: Colour,
    factor: float,
) -> None:
    """Fill the ground rectangle x0..x1, y0..y1, cut off where it comes behind the camera."""
    x0, x1, y0, y1 = area
    corners = np.array([(x0, y0, 0.0), (x1, y0, 0.0), (x1, y1, 0.0), (x0, y1, 0.0)])
    ahead = (corners - camera.position) @ camera.rotation[2]
    kept = []
    near = 0.5
    for i in range(4):
        j = (i + 1) % 4
        if ahead[i] >= near:
            kept.append(corners[i])
        if (ahead[i] >= near) != (ahead[j] >= near):
            t = (near - ahead[i]) / (ahead[j] - ahead[i])
            kept.append(corners[i] + t * (corners[j] - corners[i]))
    if len(kept) < 3:
        return
    pixels, _ = camera.project(np.stack(kept))
    bounded = np.clip(pixels / factor, -20000, 20000)
    cv2.fillPoly(canvas, [np.round(bounded * 16).astype(np.int32)], colour, shift=4)


def _backdrop(
    canvas: NDArray[np.float32], camera: Camera, scene: Scene, factor: float, rng: np.random.Generator
) -> None:
    """Above the horizon: a wall of haze with a few blocks in it."""
    height, width = canvas.shape[:2]
    forward, down = camera.rotation[2], camera.rotation[1]
    if abs(down[2]) < 1e-6:
        return
    # The horizon is the row whose ray is level: forward_z + v * down_z = 0.
    row = (camera.centre[1] - forward[2] / down[2] * camera.focal) / factor
    horizon = int(np.clip(np.ceil(row), 0, height))
    if horizon == 0:
        return
    ramp = np.linspace(1.12, 0.92, horizon, dtype=np.float32)[:, None, None]
    canvas[:horizon] = np.asarray(scene.far, dtype=np.float32) * ramp
    for _ in range(6):
        x, w = int(rng.integers(width)), int(width * rng.uniform(0.08, 0.25))
        top = int(horizon * rng.uniform(0.2, 0.9))
        canvas[top:horizon, x : x + w] *= np.float32(rng.uniform(0.72, 0.95))
