"""Pictures of rankings: a sentence, the image it describes where that is known, and the best images of the gallery.

A frame is green around an image of the described vehicle, red around another one, grey where nobody knows; the words
below the image say the same, for those who see no difference between red and green.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from pfcvr.files import atomic_write
from pfcvr.model.data import Rows
from pfcvr.model.metrics import Scores, top_rows

TILE, FRAME, GAP, MARGIN = 150, 6, 10, 16
SENTENCE_WIDTH, LINE, FONT_SIZE = 270, 17, 13
LABEL_LINES = 2
RIGHT, WRONG, UNKNOWN = (20, 150, 70), (205, 45, 45), (150, 150, 150)
PAPER, INK, FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)
ROW_HEIGHT = TILE + 2 * FRAME + LABEL_LINES * LINE + 6
WORDS = {True: "same vehicle", False: "other vehicle", None: ""}


@dataclass(frozen=True)
class PanelHit:
    """One image of the answer; ``right`` is None where the described vehicle is not known."""

    image: bytes
    score: float
    image_id: str
    right: bool | None


@dataclass(frozen=True)
class PanelRow:
    """One query and its best images, best first; ``described`` is the file of the image that the sentence is about."""

    sentence: str
    hits: Sequence[PanelHit]
    described: bytes | None = None


def hits_of(scores: Scores, rows: Rows, k: int, vehicle_id: str | None) -> list[PanelHit]:
    """The ``k`` best of ``rows`` by ``scores`` [G]; right where they show ``vehicle_id``, open where that is None."""
    return [
        PanelHit(
            rows.image_bytes(row),
            float(scores[row]),
            rows.image_ids[row],
            None if vehicle_id is None else rows.vehicle_ids[row] == vehicle_id,
        )
        for row in top_rows(scores, k).tolist()
    ]


def render_panel(rows: Sequence[PanelRow], path: Path) -> None:
    """Draw ``rows`` one below the other and write them to ``path`` as PNG."""
    columns = max(len(row.hits) for row in rows)
    width = 2 * MARGIN + SENTENCE_WIDTH + columns * (TILE + 2 * FRAME + GAP)
    sheet = Image.new("RGB", (width, 2 * MARGIN + len(rows) * (ROW_HEIGHT + GAP) - GAP), PAPER)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, MARGIN + number * (ROW_HEIGHT + GAP))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def frame_corner(row: int, column: int) -> tuple[int, int]:
    """Top left pixel (x, y) of the frame around hit ``column`` of row ``row``."""
    x = MARGIN + SENTENCE_WIDTH + GAP + column * (TILE + 2 * FRAME + GAP)
    return x, MARGIN + row * (ROW_HEIGHT + GAP)


def _draw_row(sheet: Image.Image, row: PanelRow, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    side = TILE - 60 if row.described is not None else 0
    lines = textwrap.wrap(row.sentence, width=SENTENCE_WIDTH // 7) or [""]
    room = (ROW_HEIGHT - side) // LINE
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1][: SENTENCE_WIDTH // 7 - 1] + "…"]
    draw.multiline_text((MARGIN, top), "\n".join(lines), fill=INK, font=font, spacing=LINE - FONT_SIZE)
    if row.described is not None:
        sheet.paste(_tile(row.described, side), (MARGIN, top + ROW_HEIGHT - side))
        draw.text((MARGIN + side + GAP, top + ROW_HEIGHT - LINE), "the described image", fill=FAINT, font=font)
    for column, hit in enumerate(row.hits):
        x, y = frame_corner(0, column)[0], top
        colour = UNKNOWN if hit.right is None else RIGHT if hit.right else WRONG
        outer = TILE + 2 * FRAME
        draw.rectangle((x, y, x + outer - 1, y + outer - 1), fill=colour)
        sheet.paste(_tile(hit.image, TILE), (x + FRAME, y + FRAME))
        draw.text((x, y + outer + 3), f"{column + 1}.  {hit.image_id}"[:24], fill=INK, font=font)
        draw.text((x, y + outer + 3 + LINE), f"{hit.score:.3f}  {WORDS[hit.right]}", fill=colour, font=font)


def _tile(encoded: bytes, side: int) -> Image.Image:
    """The whole image, turned as EXIF says, centred on a square of ``side`` px."""
    with Image.open(io.BytesIO(encoded)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    return ImageOps.pad(upright, (side, side), Image.Resampling.BICUBIC, color=(235, 235, 235))
