"""From pictures and sentences to features, some at a time: shared by evaluation, galleries, search and Python users."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from pfcvr.errors import DataError, first_line
from pfcvr.model.augment import stretch
from pfcvr.model.device import is_out_of_memory, no_room
from pfcvr.model.metrics import Scores

ENCODE_BATCH = 64
PILLOW_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")  # 8 bits a channel at most
Picture = str | Path | bytes | Image.Image
"""A path to an image file, the content of one, or a PIL image."""


def features_of(encode: Callable[[Any], Tensor], items: Sequence[Any]) -> Scores:
    """Features [N, D] that ``encode`` gives of ``items``, which it is handed ``ENCODE_BATCH`` at a time, in order."""
    starts = range(0, len(items), ENCODE_BATCH)
    return joined([block for start in starts for block in blocks_of(encode, items[start : start + ENCODE_BATCH])])


def blocks_of(encode: Callable[[Any], Tensor], batch: Sequence[Any] | Tensor) -> list[NDArray[np.float32]]:
    """What ``encode`` makes of ``batch``, in order; of its halves where the GPU has no room for all of it at once."""
    try:
        return [encode(batch).numpy()]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise no_room("the features of a single image or sentence") from None
    # Only here, where the error no longer holds what was computed so far.
    torch.cuda.empty_cache()
    middle = len(batch) // 2
    return blocks_of(encode, batch[:middle]) + blocks_of(encode, batch[middle:])


def joined(blocks: Sequence[NDArray[np.float32]]) -> Scores:
    """The rows of all ``blocks``, of which there is one at least."""
    return np.concatenate(blocks).astype(np.float32, copy=False)


def decoded(encoded: bytes) -> NDArray[np.uint8] | None:
    """RGB pixels [h, w, 3] of an image file, turned as EXIF says; None where it is not a readable image."""
    try:
        image = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # more pixels than OpenCV takes for an image, or than there is memory for
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        image = None
    return None if image is None else np.asarray(image)


def picture_pixels(picture: Picture, size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB pixels [rows, cols, 3] of ``picture`` stretched to ``size``; raises DataError when it cannot be read."""
    if isinstance(picture, Image.Image):
        if picture.mode not in PILLOW_MODES:  # Pillow would cut most of the values off
            raise DataError(f"a PIL image of mode {picture.mode}, expected 8 bits a channel; give the path of its file")
        return stretch(np.asarray(ImageOps.exif_transpose(picture).convert("RGB")), size)
    what = "the content of an image file" if isinstance(picture, bytes) else str(picture)
    try:
        pixels = decoded(picture if isinstance(picture, bytes) else Path(picture).read_bytes())
    except OSError as error:
        raise DataError(f"{what}: cannot be read ({first_line(error)}); check the path") from None
    if pixels is None:
        raise DataError(f"{what}: cannot be decoded, expected JPEG, PNG or another kind that OpenCV reads")
    return stretch(pixels, size)
