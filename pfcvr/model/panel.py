"""Pictures of rankings: a sentence, the image it describes where that is known, and the best images of the gallery.

A frame is green around an image of the described vehicle, red around another one, grey where nobody knows; the words
below the image say the same, for those who see no difference between red and green.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from pfcvr.files import atomic_write
from pfcvr.lettering import INK, PALE, PAPER, fitting, font
from pfcvr.model.data import Rows
from pfcvr.model.metrics import Scores, top_rows

TILE, FRAME, GAP, MARGIN = 150, 6, 10, 16
OUTER = TILE + 2 * FRAME
HITS_PER_LINE = 5
HITS_WIDTH = HITS_PER_LINE * (OUTER + GAP) - GAP
DESCRIBED, DESCRIBED_WIDTH = 72, 96
LINE, SENTENCE_LINES = 17, 6
LABEL_LINES = 2
RIGHT, WRONG, UNKNOWN = (20, 150, 70), (205, 45, 45), (150, 150, 150)
HITS_HEIGHT = OUTER + LABEL_LINES * LINE + 6
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


@dataclass(frozen=True)
class RowPlace:
    """Where a row of a panel stands, in px: its sentence, and below that its images, from ``left`` and ``top`` on."""

    sentence_top: int
    sentence: list[str]
    left: int
    top: int
    bottom: int

    def frame_corner(self, hit: int) -> tuple[int, int]:
        """Top left pixel (x, y) of the frame around image number ``hit``."""
        line, column = divmod(hit, HITS_PER_LINE)
        return self.left + column * (OUTER + GAP), self.top + line * HITS_HEIGHT


def row_places(rows: Sequence[PanelRow]) -> list[RowPlace]:
    """The places of ``rows``, one below the other, with room for described images where there are any."""
    left = MARGIN + (DESCRIBED_WIDTH if any(row.described is not None for row in rows) else 0)
    places: list[RowPlace] = []
    for row in rows:
        start = places[-1].bottom + GAP if places else MARGIN
        sentence = _wrapped(row.sentence, left + HITS_WIDTH - MARGIN)
        top = start + len(sentence) * LINE + 4
        lines = max(1, -(-len(row.hits) // HITS_PER_LINE))
        places.append(RowPlace(start, sentence, left, top, top + lines * HITS_HEIGHT))
    return places


def render_panel(rows: Sequence[PanelRow], path: Path) -> None:
    """Draw ``rows`` one below the other, five images a line, and write them to ``path`` as PNG."""
    places = row_places(rows)
    size = (places[0].left + HITS_WIDTH + MARGIN, places[-1].bottom + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    for row, place in zip(rows, places, strict=True):
        _draw_row(sheet, row, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def _draw_row(sheet: Image.Image, row: PanelRow, place: RowPlace) -> None:
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(place.sentence):
        draw.text((MARGIN, place.sentence_top + number * LINE), line, fill=INK, font=font())
    if row.described is not None:
        sheet.paste(_tile(row.described, DESCRIBED), (MARGIN, place.top))
        for number, words in enumerate(("the described", "image")):
            corner = (MARGIN, place.top + DESCRIBED + 3 + number * LINE)
            draw.text(corner, words, fill=PALE, font=font())
    for number, hit in enumerate(row.hits):
        x, y = place.frame_corner(number)
        colour = UNKNOWN if hit.right is None else RIGHT if hit.right else WRONG
        draw.rectangle((x, y, x + OUTER - 1, y + OUTER - 1), fill=colour)
        sheet.paste(_tile(hit.image, TILE), (x + FRAME, y + FRAME))
        name = fitting(f"{number + 1}.  {hit.image_id}", OUTER)
        draw.text((x, y + OUTER + 3), name, fill=INK, font=font())
        draw.text((x, y + OUTER + 3 + LINE), f"cos {hit.score:.3f}  {WORDS[hit.right]}", fill=colour, font=font())


def _wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines no wider than ``width``; a word that is wider is cut, and so is what needs too many lines."""
    lines = [""]
    for word in text.split():
        word = fitting(word, width)
        longer = f"{lines[-1]} {word}".strip()
        if font().getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == SENTENCE_LINES:
            return [*lines[:-1], fitting(f"{longer} …", width)]
        else:
            lines.append(word)
    return lines if lines[0] else lines[1:]


def _tile(encoded: bytes, side: int) -> Image.Image:
    """The whole image, turned as EXIF says, centred on a square of ``side`` px."""
    with Image.open(io.BytesIO(encoded)) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    return ImageOps.pad(upright, (side, side), Image.Resampling.BICUBIC, color=(235, 235, 235))
