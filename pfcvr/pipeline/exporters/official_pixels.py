"""Pictures for a loader that neither turns by EXIF nor knows deep grey or transparency, and their changed copies.

The paper (section III-D) trains on a dark, a bright and a noisy copy of every train image and gives no strengths; those
of RECIPE are ours, in the middle of what training with ``augment.expand`` draws.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pfcvr.pipeline.images import DAMAGED, ORIENTATION_TAG, open_rgb

RECIPE = {"Darkimage": {"gamma": 2.0}, "Lightimage": {"gamma": 0.5}, "Noisyimage": {"sigma": 0.05}}
"""By folder; sigma of Gaussian noise on values in [0, 1]."""
COPIES = ("Darkimage/dark_", "Lightimage/light_", "Noisyimage/noisy_")
"""What the path of a copy begins with, instead of ``image/``."""

JPEG_QUALITY = 95
PLAIN_MODES = ("RGB", "L", "CMYK")
ENDINGS = {"JPEG": ".jpg", "PNG": ".png"}


@dataclass(frozen=True)
class PlainPixels:
    """A JPEG or PNG file; ``rewritten`` says that it is not the source's, byte by byte."""

    content: bytes
    ending: str
    rewritten: bool


def plain_pixels(content: bytes) -> PlainPixels:
    """``content`` itself where every reader sees the same picture in it, else the picture upright as an RGB PNG."""
    with Image.open(io.BytesIO(content)) as image:
        upright = _orientation(image) == 1
        if image.format in ENDINGS and image.mode in PLAIN_MODES and upright and "transparency" not in image.info:
            return PlainPixels(content, ENDINGS[image.format], rewritten=False)
    return PlainPixels(_encoded(open_rgb(content), ".png"), ".png", rewritten=True)


def copies_of(pixels: PlainPixels, image_id: str, seed: int) -> dict[str, bytes]:
    """The dark, the bright and the noisy copy, of the same size and file type, by what their path begins with.

    Values are v ** gamma, and v plus noise cut to [0, 1]; the noise depends on ``seed`` and ``image_id`` alone.
    """
    picture = open_rgb(pixels.content)
    values = np.asarray(picture, dtype=np.float64) / 255
    draw = int.from_bytes(hashlib.sha256(f"{seed}/{image_id}".encode()).digest()[:8])
    noise = np.random.default_rng(draw).normal(0, RECIPE["Noisyimage"]["sigma"], values.shape)
    changed = (
        values ** RECIPE["Darkimage"]["gamma"],
        values ** RECIPE["Lightimage"]["gamma"],
        np.clip(values + noise, 0, 1),
    )
    return {name: _encoded(_picture(own), pixels.ending) for name, own in zip(COPIES, changed, strict=True)}


def _picture(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def _encoded(picture: Image.Image, ending: str) -> bytes:
    file = io.BytesIO()
    if ending == ".jpg":
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except DAMAGED:
        return 1
