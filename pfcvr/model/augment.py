"""Random changes of a train image that its part masks follow (paper, section III-D).

The released code flips and crops the image but leaves the part masks where they were; here both see the same geometry.
Every draw comes from the generator handed in, which the data set seeds by (seed, epoch, item): the same item in the
same epoch is the same tensor, whichever worker makes it.

Photometric copies are the paper's four-fold expansion: with ``expand`` every pair stands four times in an epoch, once
in each look of ``LOOKS``; the strength of a look is drawn anew each time. Erased pixels no longer show their part, so
they leave its mask as well (``pfcvr.model.part_masks``).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pfcvr.config import AugmentConfig
from pfcvr.model.clip import IMAGE_MEAN

Look = Literal["original", "dark", "bright", "noisy"]
LOOKS: tuple[Look, ...] = get_args(Look)
MEAN_COLOUR = tuple(round(255 * mean) for mean in IMAGE_MEAN)
NOISE_STARTS, NOISE_STREAM = 2**21, 3
ERASE_ATTEMPTS = 10  # official code's transform: a rectangle that does not fit is drawn again

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Draw:
    """One random geometry of an image of ``size`` (rows, cols px): flip, then shift, then erase.

    ``shift`` (down, right) in px is what padding and a random crop amount to; ``erased`` is (top, left, bottom, right).
    """

    size: tuple[int, int]
    flip: bool = False
    shift: tuple[int, int] = (0, 0)
    erased: tuple[int, int, int, int] | None = None


def draw_geometry(config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator) -> Draw:
    """A random flip, shift and erasure for an image of ``size`` (rows, cols px)."""
    flip = bool(rng.random() < config.flip)
    pad = config.crop_padding
    down, right = int(rng.integers(-pad, pad + 1)), int(rng.integers(-pad, pad + 1))
    erased = _draw_rectangle(config, size, rng) if rng.random() < config.erase else None
    return Draw(size, flip, (down, right), erased)


def framed(image: Image, size: tuple[int, int], margin: int, out: Image | None = None) -> Image:
    """``image`` [h, w, 3] stretched to ``size`` inside a black frame, ``margin`` px wide on each side.

    It is written to ``out``, a frame made earlier, where that is given.
    """
    rows, cols = size
    frame = np.empty((rows + 2 * margin, cols + 2 * margin, 3), dtype=np.uint8) if out is None else out
    frame[:margin] = frame[margin + rows :] = 0
    frame[:, :margin] = frame[:, margin + cols :] = 0
    stretch(image, size, inside(frame, margin))
    return frame


def inside(frame: Image, margin: int) -> Image:
    """What stands in a frame ``margin`` px wide, as a view."""
    return frame[margin : len(frame) - margin, margin : frame.shape[1] - margin]


def stretch(image: Image, size: tuple[int, int], out: Image | None = None) -> Image:
    """``image`` [h, w, 3] resized to ``size`` (rows, cols), each side by its own factor; shrinking averages areas.

    The pixels go to ``out`` where that is given, which may be part of a larger image.
    """
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Image = cv2.resize(image, (size[1], size[0]), dst=out, interpolation=method)
    return resized


def apply_look(image: Image, look: Look, config: AugmentConfig, rng: np.random.Generator) -> None:
    """Leave ``image`` as it is, or make it darker or brighter by a gamma curve, or noisy, in place (paper, III-D)."""
    if look == "noisy":
        add_noise(image, config.noise_sigma, rng)
    elif look != "original":
        gamma = rng.uniform(*(config.dark_gamma if look == "dark" else config.bright_gamma))
        curve = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
        cv2.LUT(image, curve, dst=image)


def add_noise(image: Image, sigma: float, rng: np.random.Generator) -> None:
    """Add Gaussian noise, rounded to grey levels, in place; ``sigma`` is for pixels in [0, 1].

    The noise is read from a stored sequence, of which ``rng`` draws the beginning and the sign: drawing each value
    anew would cost more than decoding the image.
    """
    noise = _stored_noise(sigma, image.size)
    start = int(rng.integers(NOISE_STARTS))
    up, down = (half[start : start + image.size].reshape(image.shape) for half in noise)
    if rng.random() < 0.5:
        up, down = down, up
    cv2.add(image, up, dst=image)
    cv2.subtract(image, down, dst=image)


def apply_geometry(frame: Image, draw: Draw) -> Image:
    """The flipped, shifted and partly erased image [rows, cols, 3] of ``draw.size`` in a frame as wide as any shift.

    Works in ``frame`` itself, of which the result is a part; erased pixels have CLIP's mean colour.
    """
    margin = (len(frame) - draw.size[0]) // 2
    if draw.flip:
        cv2.flip(frame, 1, dst=frame)
    top, left = margin - draw.shift[0], margin - draw.shift[1]
    image = frame[top : top + draw.size[0], left : left + draw.size[1]]
    if draw.erased is not None:
        top, left, bottom, right = draw.erased
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), MEAN_COLOUR, thickness=cv2.FILLED)
    return image


@lru_cache(maxsize=2)
def _stored_noise(sigma: float, values: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey levels to add and to take away; from each of ``NOISE_STARTS`` beginnings on there are ``values``."""
    normal = np.random.default_rng(NOISE_STREAM).standard_normal(NOISE_STARTS + values, dtype=np.float32)
    levels = (normal * np.float32(255 * sigma)).round().clip(-255, 255)
    return np.maximum(levels, 0).astype(np.uint8), np.maximum(-levels, 0).astype(np.uint8)


def _draw_rectangle(
    config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Random erasing's rectangle: area uniform, aspect log-uniform, None when none fits."""
    rows, cols = size
    narrow, tall = map(math.log, config.erase_aspect)
    for _ in range(ERASE_ATTEMPTS):
        area = rows * cols * rng.uniform(*config.erase_area)
        aspect = math.exp(rng.uniform(narrow, tall))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < rows and 0 < width < cols:
            top, left = int(rng.integers(0, rows - height + 1)), int(rng.integers(0, cols - width + 1))
            return top, left, top + height, left + width
    return None
