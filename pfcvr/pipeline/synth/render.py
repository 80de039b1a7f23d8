"""Pixels and part masks of one vehicle from one viewpoint, both read from the same buffer of visible faces."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.synth.attributes import PART_TYPES, VehicleAttributes
from pfcvr.pipeline.synth.parts import body_shape, build
from pfcvr.pipeline.synth.raster import Camera, look_at, rasterise
from pfcvr.pipeline.synth.scene import Light, Scene, draw_scene
from pfcvr.pipeline.synth.shapes import BodyShape
from pfcvr.pipeline.synth.solid import Floats, Solid

SUPERSAMPLING = 2
ASPECT_RANGE = (0.62, 1.8)  # width : height of a crop, as tight crops of vehicles have


@dataclass(frozen=True)
class View:
    """Where the camera stands and how the crop is framed.

    ``yaw`` 0 = before the vehicle's front, 90 = at its left, 180 = behind (degrees); ``elevation`` in degrees above the
    ground; ``distance`` in vehicle lengths; ``fill`` the share of the crop the vehicle takes; ``shift`` moves it, in
    crop widths and heights; ``texture`` seeds the grain of the road.
    """

    yaw: float
    elevation: float = 15.0
    distance: float = 2.4
    fill: float = 0.9
    shift: tuple[float, float] = (0.0, 0.0)
    light: Light = Light()
    scene: Scene = Scene()
    texture: int = 0


@dataclass(frozen=True)
class Rendered:
    """``image`` uint8 RGB (height, width, 3). A mask is true where at least a quarter of the pixel shows the thing.

    ``instances`` maps ``(part, name)`` to a bool mask, ``masks`` a part to the union of its instances (all six parts,
    all False where hidden), ``regions`` a finer label (``windows.rear``) to its visible area in pixels.
    """

    image: NDArray[np.uint8]
    instances: dict[tuple[str, str], NDArray[np.bool_]]
    regions: dict[str, float]

    @property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        result = {part: np.zeros(self.image.shape[:2], dtype=bool) for part in PART_TYPES}
        for (part, _), mask in self.instances.items():
            result[part] |= mask
        return result


def render(vehicle: VehicleAttributes, view: View, size: int) -> Rendered:
    """Draw ``vehicle`` as seen from ``view``; the longer side of the crop is ``size`` px.

    The framing depends on body and view only, so a changed part leaves every other pixel where it was.
    """
    solid = _solid(vehicle)
    shape = body_shape(vehicle)
    camera, (width, height) = _frame(shape, view, size)
    numbers, depth = rasterise(solid, camera, width * SUPERSAMPLING, height * SUPERSAMPLING)
    ground = draw_scene(camera, view.scene, view.light, (width, height), view.texture)
    ground = _shadow(ground, shape, camera, view.light)
    backdrop = np.repeat(np.repeat(ground, SUPERSAMPLING, axis=0), SUPERSAMPLING, axis=1)
    colours = np.where((numbers > 0)[..., None], _shade(solid, numbers, depth, camera, view.light), backdrop)
    image = colours.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING, 3).mean(axis=(1, 3))
    instances, regions = _visible(solid, numbers)
    return Rendered(np.clip(np.rint(image), 0, 255).astype(np.uint8), instances, regions)


@lru_cache(maxsize=8)
def _solid(vehicle: VehicleAttributes) -> Solid:
    return build(vehicle)


def hull(shape: BodyShape) -> Floats:
    """Points (n, 3) that bound any vehicle of this body, whatever its parts."""
    xs = [x for x, _ in shape.lower] + [shape.cargo[0] if shape.cargo else 0.0]
    wide = shape.half_width + 0.06
    points = [(x, side * wide, z) for side in (1, -1) for x in (min(xs), max(xs)) for z in (0.0, shape.belt)]
    top = shape.roof + 0.15 * shape.unit
    points += [(x, side * shape.cabin_y(shape.roof), top) for side in (1, -1) for x, _ in shape.cabin[1:3]]
    reach, x = shape.half_width + 0.50 * shape.unit, shape.cabin[0][0] - 0.3 * shape.unit
    points += [(x, side * reach, shape.belt) for side in (1, -1)]
    if shape.cargo:
        rear, front, _, high = shape.cargo
        points += [(x, side * wide, high) for side in (1, -1) for x in (rear, front)]
    return np.array(points)


def _frame(shape: BodyShape, view: View, size: int) -> tuple[Camera, tuple[int, int]]:
    """The camera whose crop is filled by the body, and the crop's (width, height)."""
    points = hull(shape)
    target = (points.min(axis=0) + points.max(axis=0)) / 2
    extent = float(np.linalg.norm(points.max(axis=0) - points.min(axis=0)))
    position, rotation = look_at(view.yaw, view.elevation, view.distance * extent, target)
    flat, _ = Camera(position, rotation, 1.0, (0.0, 0.0)).project(points)
    low, high = flat.min(axis=0), flat.max(axis=0)
    span = high - low
    aspect = float(np.clip(span[0] / span[1], *ASPECT_RANGE))
    width, height = (size, round(size / aspect)) if aspect >= 1 else (round(size * aspect), size)
    focal = view.fill * min(width / span[0], height / span[1]) * SUPERSAMPLING
    middle = (low + high) / 2 * focal
    centre = (
        (0.5 + view.shift[0]) * width * SUPERSAMPLING - 0.5 - float(middle[0]),
        (0.5 + view.shift[1]) * height * SUPERSAMPLING - 0.5 - float(middle[1]),
    )
    return Camera(position, rotation, float(focal), centre), (width, height)


def _shade(solid: Solid, numbers: NDArray[np.int32], depth: Floats, camera: Camera, light: Light) -> Floats:
    """RGB of every sub-pixel: Lambert per face, darker towards the ground, glow and sky reflection by paint."""
    normals = np.stack(solid.normals)
    colour = np.array([paint.colour for paint in solid.paints])
    glow = np.array([paint.glow for paint in solid.paints])[:, None]
    gloss = np.array([paint.gloss for paint in solid.paints])[:, None]
    sun = np.asarray(light.direction) @ camera.rotation  # camera axes -> vehicle axes
    sun /= np.linalg.norm(sun)
    diffuse = np.maximum(normals @ sun, 0.0)[:, None]
    strength = light.ambient + light.diffuse * diffuse + light.sky * np.maximum(normals[:, 2:], 0.0)
    lit = colour * (strength * (1 - glow) + glow) + gloss * light.reflection * np.maximum(normals[:, 2:] + 0.3, 0)
    table = np.concatenate([np.zeros((1, 3)), lit]).astype(np.float32)
    shine = np.concatenate([[1.0], 1 - glow[:, 0]]).astype(np.float32)

    # Height of the visible point above the ground: camera height plus depth along the ray.
    rows, columns = np.indices(numbers.shape, dtype=np.float32)
    ray_z = (
        (columns - camera.centre[0]) / camera.focal * camera.rotation[0, 2]
        + (rows - camera.centre[1]) / camera.focal * camera.rotation[1, 2]
        + camera.rotation[2, 2]
    )
    seen = np.where(np.isfinite(depth), depth, 0.0)
    above = camera.position[2] + seen * ray_z
    falloff = 0.70 + 0.30 * np.clip(above / 1.1, 0.0, 1.0)
    falloff = 1 - (1 - falloff) * shine[numbers]
    return np.asarray(table[numbers] * falloff[..., None] * np.asarray(light.tint))


def _shadow(ground: Floats, shape: BodyShape, camera: Camera, light: Light) -> Floats:
    """Darken the road under and beside the body. Depends on the body only, never on its parts."""
    sun = np.asarray(light.direction) @ camera.rotation
    slope = np.clip(sun[:2] / max(float(sun[2]), 0.35), -0.9, 0.9)
    points = hull(shape)
    cast = np.concatenate([points[:, :2] - slope * points[:, 2:], points[:, :2]])
    outline = cv2.convexHull(cast.astype(np.float32))[:, 0]
    flat = np.concatenate([outline, np.zeros((len(outline), 1))], axis=1)
    pixels, _ = camera.project(flat)
    mask = np.zeros(ground.shape[:2], dtype=np.float32)
    cv2.fillPoly(mask, [np.round(pixels / SUPERSAMPLING * 16).astype(np.int32)], 1.0, shift=4)
    softness = max(ground.shape[:2]) * 0.02
    soft = cv2.GaussianBlur(mask, (0, 0), softness)
    return np.asarray(ground * (1 - light.shadow * soft[..., None]))


def _visible(
    solid: Solid, numbers: NDArray[np.int32]
) -> tuple[dict[tuple[str, str], NDArray[np.bool_]], dict[str, float]]:
    """Masks of the visible instances and areas of the visible regions."""
    seen = np.bincount(numbers.ravel(), minlength=len(solid.paints) + 1)
    lookup = np.zeros(len(solid.paints) + 1, dtype=np.uint8)
    names: list[tuple[str, str]] = []
    regions: dict[str, float] = {}
    for index in np.flatnonzero(seen[1:]):
        paint = solid.paints[index]
        if paint.instance is None:
            continue
        if paint.instance not in names:
            names.append(paint.instance)
        lookup[index + 1] = names.index(paint.instance) + 1
        regions[paint.region] = regions.get(paint.region, 0.0) + float(seen[index + 1]) / SUPERSAMPLING**2
    labels = lookup[numbers]
    quarters = [labels[i::SUPERSAMPLING, j::SUPERSAMPLING] for i in range(2) for j in range(2)]
    masks = {}
    for value, name in enumerate(names, start=1):
        masks[name] = np.logical_or.reduce([quarter == value for quarter in quarters])
    return masks, regions
