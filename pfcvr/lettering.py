"""Text in pictures: the best font at hand, and what stands for letters that it has not.

DejaVu, which ships with matplotlib, knows Latin, Greek, Cyrillic and more; Pillow's own font little beyond ASCII. What
a font lacks would be drawn as the same empty box for every letter; ``[U+8F66]`` says which one it is
(docs/decisions/0041-letters-in-pictures.md).
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

TEXT_SIZE = 13
INK, PALE, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
NOT_A_CHARACTER = "\uffff"


@lru_cache(maxsize=1)
def font() -> Font:
    """DejaVu where matplotlib is installed, which is looked up but not imported; else Pillow's own."""
    matplotlib = find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        dejavu = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if dejavu.is_file():
            return ImageFont.truetype(dejavu, TEXT_SIZE - 1)
    return ImageFont.load_default(TEXT_SIZE)


def legible(text: str) -> str:
    """``text`` with each letter that the font lacks as its code point."""
    return "".join(letter if _is_drawn(letter) else f"[U+{ord(letter):04X}]" for letter in text)


def fitting(line: str, width: int) -> str:
    """``line`` as ``legible`` has it, cut with an ellipsis where it is wider than ``width`` pixels."""
    if len(line) > width:  # a letter takes a pixel at least; measuring longer text would take long
        line = f"{line[:width]}…"
    line = legible(line)
    if font().getlength(line) <= width:
        return line
    while line and font().getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


@lru_cache(maxsize=4096)
def _is_drawn(letter: str) -> bool:
    """Whether the font has ``letter``: what it has not looks like what cannot be a letter."""
    return letter.isascii() or _drawing(letter) != _drawing(NOT_A_CHARACTER)


def _drawing(letter: str) -> bytes:
    mask = font().getmask(letter)
    return bytes(mask) + repr(mask.size).encode()
