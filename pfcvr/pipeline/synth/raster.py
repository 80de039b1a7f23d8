"""Perspective projection and a depth buffer of faces: one buffer of face numbers gives the pixels and the masks."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pfcvr.pipeline.synth.solid import Floats, Solid

SUBPIXEL_BITS = 4  # fixed-point bits of cv2.fillPoly
LAYER_LIFT = 0.008  # metres towards the camera per layer


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: rows of ``rotation`` are its right, down and forward axes in vehicle coordinates."""

    position: Floats  # (3,) metres
    rotation: Floats  # (3, 3)
    focal: float  # pixels
    centre: tuple[float, float]  # principal point, pixels (x, y)

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels (n, 2) and depths (n,) in metres of points (n, 3)."""
        local = (points - self.position) @ self.rotation.T
        depth = np.maximum(local[:, 2], 1e-3)
        pixels = local[:, :2] / depth[:, None] * self.focal + np.asarray(self.centre)
        return pixels, local[:, 2]


def look_at(yaw: float, elevation: float, distance: float, target: Floats) -> tuple[Floats, Floats]:
    """Position and rotation of a camera that looks at ``target``.

    ``yaw`` in degrees is where the camera stands around the vehicle: 0 before its front, 90 at its left, 180 behind.
    """
    a, e = np.deg2rad(yaw), np.deg2rad(elevation)
    direction = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    forward = -direction
    right = np.array([-np.sin(a), np.cos(a), 0.0])  # well defined from straight above too
    down = np.cross(forward, right)
    return target + distance * direction, np.stack([right, down, forward])


def rasterise(solid: Solid, camera: Camera, width: int, height: int) -> tuple[NDArray[np.int32], Floats]:
    """Face number (0 = nothing, else index + 1) and depth in metres (inf = nothing) of every pixel, (height, width)."""
    centroids = np.stack([face.mean(axis=0) for face in solid.faces])
    normals = np.stack(solid.normals)
    facing = np.einsum("ij,ij->i", normals, camera.position - centroids)
    local_normals = normals @ camera.rotation.T
    local = (centroids - camera.position) @ camera.rotation.T
    offsets = np.einsum("ij,ij->i", local_normals, local)
    counts = np.cumsum([0] + [len(face) for face in solid.faces])
    pixels, depths = camera.project(np.concatenate(solid.faces))

    nearest = np.zeros((height, width), dtype=np.float32)  # inverse depth
    numbers = np.zeros((height, width), dtype=np.int32)
    stencil = np.zeros((height, width), dtype=np.uint8)
    columns = (np.arange(width) - camera.centre[0]).astype(np.float32)
    rows = (np.arange(height) - camera.centre[1]).astype(np.float32)
    for index in np.flatnonzero(facing > 1e-4):
        outline = pixels[counts[index] : counts[index + 1]]
        x0, y0 = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
        x1, y1 = np.ceil(outline.max(axis=0)).astype(int) + 2
        x1, y1 = min(int(x1), width), min(int(y1), height)
        depth = depths[counts[index] : counts[index + 1]]
        if x1 <= x0 or y1 <= y0 or depth.min() < 0.05:
            continue
        # A plane n.p = d seen along the ray (x, y, 1): 1/z = n.ray / d, affine in the pixel.
        a, b, c = local_normals[index] / offsets[index]
        inverse = (a / camera.focal * columns[x0:x1])[None, :] + (b / camera.focal * rows[y0:y1] + c)[:, None]
        np.clip(inverse, 1 / depth.max(), 1 / depth.min(), out=inverse)
        inverse *= 1 + LAYER_LIFT * solid.paints[index].layer * inverse
        window = stencil[y0:y1, x0:x1]
        window[:] = 0
        shifted = np.round((outline - (x0, y0)) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillPoly(window, [shifted], 1, shift=SUBPIXEL_BITS)
        held = nearest[y0:y1, x0:x1]
        front = (inverse > held) & (window > 0)
        held[front] = inverse[front]
        numbers[y0:y1, x0:x1][front] = index + 1
    with np.errstate(divide="ignore"):
        return numbers, 1.0 / nearest.astype(np.float64)
