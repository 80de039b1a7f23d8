"""The picture a vision-language model is shown: prepared once, by us, so that no server's own settings change it.

Sizes are multiples of 32 pixels, the side of a Qwen3-VL vision token (patch 16, merge 2), and lie between a floor and
a ceiling in pixels: the model's own resizing then leaves them alone, and the vision tokens are known beforehand.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from pfcvr.config import ImageInputConfig
from pfcvr.pipeline.images import UnreadableImage, open_rgb

TOKEN_SIDE = 32


@dataclass(frozen=True)
class PreparedImage:
    """An upright 8-bit RGB picture as JPEG. ``width`` and ``height`` in pixels, multiples of TOKEN_SIDE."""

    jpeg: bytes
    width: int
    height: int
    vision_tokens: int


def prepare(source: Path | bytes, settings: ImageInputConfig) -> PreparedImage:
    """The image file ``source`` (path or content), upright, in RGB, between the floor and the ceiling of ``settings``.

    Raises UnreadableImage as ``open_rgb`` does, with reason too_small also for a side under ``min_side``, and with
    reason extreme_aspect for one side more than ``max_aspect`` times the other.
    """
    picture = open_rgb(source)
    check_shape(*picture.size, settings)
    width, height = fitted_size(*picture.size, settings)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    content = BytesIO()
    picture.save(content, "JPEG", quality=settings.jpeg_quality, subsampling=0)
    return PreparedImage(content.getvalue(), width, height, vision_tokens(width, height))


def check_shape(width: int, height: int, settings: ImageInputConfig) -> None:
    """Raise UnreadableImage for a picture that no words can be asked for."""
    short, long = sorted((width, height))
    if short < settings.min_side:
        raise UnreadableImage("too_small", f"{width} x {height} pixels, a side under {settings.min_side}")
    if long > settings.max_aspect * short:
        raise UnreadableImage(
            "extreme_aspect", f"{width} x {height} pixels, one side more than {settings.max_aspect:g} times the other"
        )


def fitted_size(width: int, height: int, settings: ImageInputConfig) -> tuple[int, int]:
    """Width and height after preparation: about the same aspect, multiples of TOKEN_SIDE, within the pixel bounds.

    The rounding is that of Qwen's image processors: to the nearest multiple, up from below the floor, down from above
    the ceiling. A side never rounds to nothing.
    """
    fitted = tuple(max(1, round(side / TOKEN_SIDE)) * TOKEN_SIDE for side in (width, height))
    if fitted[0] * fitted[1] > settings.max_pixels:
        shrink = math.sqrt(settings.max_pixels / (width * height))
        fitted = tuple(max(1, math.floor(side * shrink / TOKEN_SIDE)) * TOKEN_SIDE for side in (width, height))
    elif fitted[0] * fitted[1] < settings.min_pixels:
        grow = math.sqrt(settings.min_pixels / (width * height))
        fitted = tuple(math.ceil(side * grow / TOKEN_SIDE) * TOKEN_SIDE for side in (width, height))
    return fitted[0], fitted[1]


def vision_tokens(width: int, height: int) -> int:
    """Vision tokens that Qwen3-VL spends on a picture of such a size (multiples of TOKEN_SIDE, in pixels)."""
    return (width // TOKEN_SIDE) * (height // TOKEN_SIDE)
