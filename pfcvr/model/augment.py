"""Random changes of a train image that its part masks follow (paper, section III-D).

The released code flips and crops the image but leaves the part masks where they were; here both see the same geometry.
Every draw comes from the generator handed in, which the data set seeds by (seed, epoch, item): the same item in the
same epoch is the same tensor, whichever worker makes it.

Photometric copies are the paper's four-fold expansion: with ``expand`` every pair stands four times in an epoch, once
in each look of ``LOOKS``; the strength of a look is drawn anew each time. Erased pixels no longer show their part, so
they leave its mask as well (``pfcvr.model.part_masks``).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pfcvr.config import AugmentConfig
from pfcvr.model.clip import IMAGE_MEAN, IMAGE_STD

Look = Literal["original", "dark", "bright", "noisy"]
LOOKS: tuple[Look, ...] = get_args(Look)
MEAN, STD = np.array(IMAGE_MEAN, dtype=np.float32), np.array(IMAGE_STD, dtype=np.float32)  # RGB, pixels in [0, 1]
LEVELS = ((np.arange(256, dtype=np.float32)[:, None] / (255 * STD)) - MEAN / STD).T.copy()  # of each pixel value, RGB
NOISE_DRAWS = 2**16
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
    down, right = (int(value) for value in rng.integers(-pad, pad + 1, size=2))
    erased = _draw_rectangle(config, size, rng) if rng.random() < config.erase else None
    return Draw(size, flip, (down, right), erased)


def stretch(image: Image, size: tuple[int, int]) -> Image:
    """``image`` [h, w, 3] resized to ``size`` (rows, cols), each side by its own factor; shrinking averages areas."""
    if image.shape[:2] == size:
        return image
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Image = np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=method), dtype=np.uint8)
    return resized


def apply_geometry(image: Image, draw: Draw) -> Image:
    """Flip and shift ``image`` [rows, cols, 3] of ``draw.size``; what comes in from outside is black."""
    if draw.flip:
        image = np.asarray(cv2.flip(image, 1), dtype=np.uint8)
    down, right = draw.shift
    if (down, right) == (0, 0):
        return np.ascontiguousarray(image)
    rows, cols = draw.size
    moved = np.zeros_like(image)
    kept_rows, kept_cols = max(rows - abs(down), 0), max(cols - abs(right), 0)
    source = image[max(-down, 0) : max(-down, 0) + kept_rows, max(-right, 0) : max(-right, 0) + kept_cols]
    moved[max(down, 0) : max(down, 0) + kept_rows, max(right, 0) : max(right, 0) + kept_cols] = source
    return moved


def apply_look(image: Image, look: Look, config: AugmentConfig, rng: np.random.Generator) -> Image:
    """``image`` as it is, darker or brighter by a gamma curve, or with Gaussian noise (paper, section III-D)."""
    if look == "original":
        return image
    if look == "noisy":
        noise = _noise_levels(config.noise_sigma)[rng.integers(0, NOISE_DRAWS, image.shape, dtype=np.uint16)]
        return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), dtype=np.uint8)
    gamma = rng.uniform(*(config.dark_gamma if look == "dark" else config.bright_gamma))
    curve = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    return np.asarray(cv2.LUT(image, curve), dtype=np.uint8)


def normalise(image: Image, erased: tuple[int, int, int, int] | None = None) -> NDArray[np.float32]:
    """RGB pixels [rows, cols, 3] as CLIP wants them, [3, rows, cols]; what is ``erased`` becomes CLIP's mean, 0."""
    channels_first = np.empty((3, *image.shape[:2]), dtype=np.float32)
    for channel, (plane, levels) in enumerate(zip(cv2.split(image), LEVELS, strict=True)):
        cv2.LUT(plane, levels, dst=channels_first[channel])
    if erased is not None:
        top, left, bottom, right = erased
        channels_first[:, top:bottom, left:right] = 0
    return channels_first


@lru_cache(maxsize=4)
def _noise_levels(sigma: float) -> NDArray[np.int16]:
    """Gaussian noise in grey levels, rounded, by its quantile: an image is rounded with it anyway, and this is fast."""
    quantiles = torch.special.ndtri((torch.arange(NOISE_DRAWS, dtype=torch.float64) + 0.5) / NOISE_DRAWS)
    levels: NDArray[np.int16] = (quantiles * 255 * sigma).round().clamp(-255, 255).short().numpy()
    return levels


def _draw_rectangle(
    config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Random erasing's rectangle: area uniform, aspect log-uniform, None when none fits."""
    rows, cols = size
    for _ in range(ERASE_ATTEMPTS):
        area = rows * cols * rng.uniform(*config.erase_area)
        aspect = np.exp(rng.uniform(*np.log(config.erase_aspect)))
        height, width = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if 0 < height < rows and 0 < width < cols:
            top, left = int(rng.integers(0, rows - height + 1)), int(rng.integers(0, cols - width + 1))
            return top, left, top + height, left + width
    return None
