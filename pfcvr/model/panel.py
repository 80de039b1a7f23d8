"""Pictures of rankings: a sentence, the image it describes where that is known, and the best images of the gallery.

A frame is green around an image of the described vehicle, red around another one, grey where nobody knows; the words
below the image say the same, for those who see no difference between red and green.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from pfcvr.files import atomic_write
from pfcvr.model.data import Rows
from pfcvr.model.metrics import Scores, top_rows

TILE, FRAME, GAP, MARGIN = 150, 6, 10, 16
HITS_PER_LINE = 5
SENTENCE_WIDTH, DESCRIBED = 350, 72
LINE, FONT_SIZE, NAME_LETTERS = 17, 12, 22
LABEL_LINES = 2
RIGHT, WRONG, UNKNOWN = (20, 150, 70), (205, 45, 45), (150, 150, 150)
PAPER, INK, FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)
LINE_HEIGHT = TILE + 2 * FRAME + LABEL_LINES * LINE + 6
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
    """Draw ``rows`` one below the other, five images a line, and write them to ``path`` as PNG."""
    width = 2 * MARGIN + SENTENCE_WIDTH + HITS_PER_LINE * (TILE + 2 * FRAME + GAP)
    tops = row_tops(rows)
    sheet = Image.new("RGB", (width, tops[-1] - GAP + MARGIN), PAPER)
    for row, top in zip(rows, tops, strict=False):
        _draw_row(sheet, row, top)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def row_tops(rows: Sequence[PanelRow]) -> list[int]:
    """The y where each row begins, and where the one after the last would."""
    tops = [MARGIN]
    for row in rows:
        lines = max(1, -(-len(row.hits) // HITS_PER_LINE))
        tops.append(tops[-1] + lines * LINE_HEIGHT + GAP)
    return tops


def frame_corner(top: int, hit: int) -> tuple[int, int]:
    """Top left pixel (x, y) of the frame around number ``hit`` of a row that begins at ``top``."""
    line, column = divmod(hit, HITS_PER_LINE)
    return MARGIN + SENTENCE_WIDTH + GAP + column * (TILE + 2 * FRAME + GAP), top + line * LINE_HEIGHT


def _draw_row(sheet: Image.Image, row: PanelRow, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    font = _font()
    side = 0 if row.described is None else DESCRIBED
    lines = _wrapped(row.sentence, font)
    room = (LINE_HEIGHT - side) // LINE
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1].rsplit(" ", 1)[0] + " …"]
    draw.multiline_text((MARGIN, top), "\n".join(lines), fill=INK, font=font, spacing=LINE - FONT_SIZE)
    if row.described is not None:
        sheet.paste(_tile(row.described, side), (MARGIN, top + LINE_HEIGHT - side - FRAME))
        draw.text((MARGIN + side + GAP, top + LINE_HEIGHT - LINE - FRAME), "the described image", fill=FAINT, font=font)
    outer = TILE + 2 * FRAME
    for number, hit in enumerate(row.hits):
        x, y = frame_corner(top, number)
        colour = UNKNOWN if hit.right is None else RIGHT if hit.right else WRONG
        draw.rectangle((x, y, x + outer - 1, y + outer - 1), fill=colour)
        sheet.paste(_tile(hit.image, TILE), (x + FRAME, y + FRAME))
        draw.text((x, y + outer + 3), f"{number + 1}.  {hit.image_id}"[:NAME_LETTERS], fill=INK, font=font)
        draw.text((x, y + outer + 3 + LINE), f"cos {hit.score:.3f}  {WORDS[hit.right]}", fill=colour, font=font)


def _font() -> ImageFont.FreeTypeFont:
    """Matplotlib's own copy of DejaVu, which has the letters of most alphabets."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), FONT_SIZE)


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """``text`` in lines that are no wider than the column of sentences; a word that is wider is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= SENTENCE_WIDTH:
            lines[-1] = longer
            continue
        while font.getlength(word) > SENTENCE_WIDTH:
            word = word[:-1]
        lines.append(word)
    return lines if lines[0] else lines[1:]


def _tile(encoded: bytes, side: int) -> Image.Image:
    """The whole image, turned as EXIF says, centred on a square of ``side`` px."""
    with Image.open(io.BytesIO(encoded)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    return ImageOps.pad(upright, (side, side), Image.Resampling.BICUBIC, color=(235, 235, 235))
