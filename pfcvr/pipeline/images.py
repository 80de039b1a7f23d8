"""Image files of unknown quality: what they hold, whether they can be read to the end, and their pixels as RGB."""

import hashlib
import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pfcvr.errors import SourceError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
MIN_SIDE = 8
MAX_PIXELS = 50_000_000
# Pillow can open far more; some of those formats start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
DAMAGED = (OSError, SyntaxError, ValueError, IndexError, TypeError, EOFError, struct.error)
EMPTY = "the file has no bytes"
HEADER_DAMAGED = "the file ends or is damaged inside its header"
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset({5, 6, 7, 8})


class UnreadableImage(SourceError):
    """An image that cannot take part: ``reason`` is one word for counting, ``detail`` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{detail} ({reason}); replace the file or leave the image out")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class ImageFacts:
    """``sha256`` of the file's bytes; ``width`` and ``height`` in pixels after EXIF rotation."""

    sha256: str
    width: int
    height: int


def inspect_image(path: Path) -> ImageFacts:
    """Hash the file and decode it to the end.

    Raises UnreadableImage with reason missing_file, unreadable_file, empty_file, not_an_image, truncated, too_large
    (seen in the header, before decoding) or too_small (a side under 8 pixels).
    """
    with _opened(path) as file, _quiet:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        width, height = _upright(_decoded(file))
    return ImageFacts(sha256, width, height)


def open_rgb(source: Path | bytes) -> Image.Image:
    """The picture upright and in 8-bit RGB: EXIF rotation applied, 16-bit scaled, CMYK converted, alpha over white.

    Raises UnreadableImage as ``inspect_image`` does.
    """
    with _opened(source) as file, _quiet:
        image = _decoded(file)
        orientation = _orientation(image)
        rgb = _to_rgb(image)
    return rgb.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else rgb


def upright_size(content: bytes) -> tuple[int, int]:
    """(width, height) after EXIF rotation, as the header says. Raises UnreadableImage for a header that is damaged."""
    with _quiet:
        image = _opened_header(BytesIO(content))
        return _upright(image)


def path_inside(root: Path, relative: str) -> Path:
    """The real path of ``relative`` below ``root`` (already resolved).

    Raises UnreadableImage with reason outside_root where ``..``, an absolute path or a symbolic link leaves the root.
    """
    real = Path(os.path.realpath(root / relative))
    if not real.is_relative_to(root):
        raise UnreadableImage("outside_root", "leads out of the source folder")
    return real


@contextmanager
def _opened(source: Path | bytes) -> Iterator[BufferedReader | BytesIO]:
    if isinstance(source, bytes):
        if not source:
            raise UnreadableImage("empty_file", EMPTY)
        yield BytesIO(source)
        return
    try:
        state = source.stat()
        if not stat.S_ISREG(state.st_mode):
            raise UnreadableImage("not_an_image", "not a plain file")
        if state.st_size == 0:
            raise UnreadableImage("empty_file", EMPTY)
        file = source.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise UnreadableImage("missing_file", "there is no such file") from None
    except OSError as error:
        raise UnreadableImage("unreadable_file", f"the file cannot be read: {error.strerror}") from None
    with file:
        yield file


def _decoded(file: BufferedReader | BytesIO) -> Image.Image:
    """The image with all its pixels in memory, as stored."""
    image = _opened_header(file)
    _check_size(image.size)
    try:
        image.load()
    except DAMAGED as error:
        raise UnreadableImage("truncated", f"the picture is cut off or damaged: {error}") from None
    return image


def _opened_header(file: BufferedReader | BytesIO) -> Image.Image:
    head = file.read(max(map(len, SIGNATURES)))
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnreadableImage("too_large", str(error)) from None
    except UnidentifiedImageError:
        if head.startswith(SIGNATURES):
            raise UnreadableImage("truncated", HEADER_DAMAGED) from None
        raise UnreadableImage("not_an_image", "the content is not a picture, whatever its name says") from None
    except DAMAGED:
        raise UnreadableImage("truncated", HEADER_DAMAGED) from None
    return image


def _upright(image: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF rotation."""
    width, height = image.size
    return (height, width) if _orientation(image) in SIDEWAYS else (width, height)


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnreadableImage("too_large", f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage("too_small", f"{width} x {height} pixels, a side under {MIN_SIDE}")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; an EXIF block that cannot be read counts as upright."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except DAMAGED:
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey_to_rgb(image)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Integers are read as 16-bit (65535 is white), floats as 0..1."""
    values = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 255 / 65535)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


class _Quiet:
    """Keeps Pillow's warnings off the terminal while any thread is inside.

    ``warnings.catch_warnings`` alone restores the wrong filters when threads leave in another order than they came.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_quiet = _Quiet()
