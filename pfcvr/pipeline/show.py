"""``pfcvr-data show``: a contact sheet of images with their parts drawn in, and their captions below."""

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from pfcvr import geometry
from pfcvr.colours import PART_COLOURS
from pfcvr.config import ShowConfig
from pfcvr.errors import NothingKept, WorkspaceError
from pfcvr.files import atomic_write
from pfcvr.lettering import INK, PALE, PAPER, fitting, font, legible
from pfcvr.pipeline.images import UnreadableImage, open_rgb
from pfcvr.pipeline.joined import JoinedImage, PixelFiles, PixelsUnavailable, joined_images
from pfcvr.pipeline.part_report import certainty, equally_certain
from pfcvr.records import PARTS, PartInstance
from pfcvr.store import Workspace

COLOURS = {part: ImageColor.getrgb(colour) for part, colour in PART_COLOURS.items()}
TILE_WIDTH, PICTURE_HEIGHT, MARGIN = 300, 260, 12
LINE_HEIGHT, CAPTION_LINES = 17, 6
LEGEND_HEIGHT = 34
MOST_COLUMNS = 6
OVERLAY_SHARE = 0.4


@dataclass(frozen=True)
class Sheet:
    """The picture that was written; ``missing`` images could not be drawn because their file is gone or changed."""

    out: Path
    images: int
    missing: int


def run(workspace: Workspace, config: ShowConfig) -> Sheet:
    """Draw images of ``workspace`` to ``config.out``, a PNG: a seeded sample, or those whose parts are least certain.

    Raises NothingKept when no image file can be read, WorkspaceError when ``out`` cannot be written.
    """
    files = PixelFiles(workspace)
    if config.least_certain:
        sample = least_certain_images(workspace, config.sample)
    else:
        sample = sample_images(workspace, config.sample, config.seed)
    tiles = [tile for joined in sample if (tile := _tile(joined, files)) is not None]
    if not tiles:
        raise NothingKept(
            f"{workspace.root}: not one of {len(sample)} image files can be read; put the files back where they were"
        )
    sheet = _sheet(tiles)
    try:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(config.out) as file:
            sheet.save(file, format="PNG")
    except OSError as error:
        raise WorkspaceError(
            f"{config.out}: cannot be written ({error.strerror}); give another --out FILE.png"
        ) from None
    return Sheet(config.out, len(tiles), len(sample) - len(tiles))


def sample_images(workspace: Workspace, count: int, seed: int) -> list[JoinedImage]:
    """``count`` images drawn by ``seed``, in order of image_id; memory holds those alone."""

    def draw(joined: JoinedImage) -> bytes:
        return hashlib.sha256(f"{seed}/{joined.image.image_id}".encode()).digest()

    drawn = heapq.nsmallest(count, joined_images(workspace), key=draw)
    return sorted(drawn, key=lambda joined: joined.image.image_id)


def least_certain_images(workspace: Workspace, count: int) -> list[JoinedImage]:
    """The ``count`` images of whose parts the models were least sure, least first.

    Raises WorkspaceError where parts were not run, NothingKept where all images are equally certain.
    """
    workspace.sealed("parts")
    most = 0.0

    def rated() -> Iterator[tuple[float, str, JoinedImage]]:
        nonlocal most
        for joined in joined_images(workspace):
            if joined.parts is not None:
                certain = certainty(joined.parts)
                most = max(most, certain)
                yield certain, joined.image.image_id, joined

    least = heapq.nsmallest(count, rated(), key=lambda entry: entry[:2])
    if least and equally_certain(least[0][0], most):
        raise NothingKept(
            f"{workspace.root}: the parts of all images are equally certain, so none are the least; leave "
            "--least-certain out"
        )
    return [joined for *_, joined in least]


def overlay(picture: Image.Image, instances: tuple[PartInstance, ...]) -> Image.Image:
    """``picture`` (RGB, in the size of the masks) with masks tinted and outlined, and boxes drawn for parts without."""
    pixels = np.asarray(picture).astype(np.float32)
    for instance in instances:
        if instance.mask is not None:
            mask = geometry.decode_mask(instance.mask)
            colour = np.array(COLOURS[instance.part], dtype=np.float32)
            pixels[mask] = (1 - OVERLAY_SHARE) * pixels[mask] + OVERLAY_SHARE * colour
            pixels[_outline(mask)] = colour
    drawn = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    for instance in instances:
        if instance.mask is None:
            x0, y0, x1, y1 = instance.box_xyxy
            width = max(1, round(max(picture.size) / 120))
            pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=COLOURS[instance.part], width=width)
    return drawn


def _outline(mask: geometry.Mask) -> geometry.Mask:
    """The mask's own pixels that have a neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _tile(joined: JoinedImage, files: PixelFiles) -> Image.Image | None:
    """Picture, ids and caption of one image; None when its file cannot be read."""
    try:
        picture = open_rgb(files.read(joined.image))
    except (PixelsUnavailable, UnreadableImage):
        return None
    if joined.parts is not None:
        picture = overlay(picture, joined.parts.instances)
    scale = min(TILE_WIDTH / picture.width, PICTURE_HEIGHT / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    tile = Image.new("RGB", (TILE_WIDTH, PICTURE_HEIGHT + (CAPTION_LINES + 2) * LINE_HEIGHT + 6), PAPER)
    tile.paste(picture.resize(size, Image.Resampling.LANCZOS), ((TILE_WIDTH - size[0]) // 2, PICTURE_HEIGHT - size[1]))
    pen = ImageDraw.Draw(tile)
    y = PICTURE_HEIGHT + 4
    pen.text((0, y), fitting(_heading(joined), TILE_WIDTH), fill=PALE, font=font())
    flags = _flags(joined)
    if flags:
        y += LINE_HEIGHT
        pen.text((0, y), fitting(flags, TILE_WIDTH), fill=PALE, font=font())
    caption = joined.caption.texts[0] if joined.caption is not None else "(no caption)"
    for line in wrapped(caption):
        y += LINE_HEIGHT
        pen.text((0, y), line, fill=INK, font=font())
    return tile


def _heading(joined: JoinedImage) -> str:
    """image_id and split; how certain the parts are."""
    words = [joined.image.image_id, joined.split or "no split"]
    if joined.parts is not None:
        words.append(f"certainty {certainty(joined.parts):.2f}")
    return "  ".join(words)


def _flags(joined: JoinedImage) -> str:
    """What is flagged on the parts."""
    instances = joined.parts.instances if joined.parts is not None else ()
    return "  ".join(sorted({flag for instance in instances for flag in instance.flags}))


def wrapped(text: str) -> list[str]:
    """``text`` in lines that fit a tile; what does not fit in CAPTION_LINES ends in an ellipsis."""
    lines = [""]
    for word in (legible(word[:TILE_WIDTH]) for word in text.split()):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font().getlength(longer) > TILE_WIDTH:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > CAPTION_LINES:
        lines = [*lines[: CAPTION_LINES - 1], f"{lines[CAPTION_LINES - 1]} …"]
    return [fitting(line, TILE_WIDTH) for line in lines]


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    """All tiles in rows, under a legend of the parts' colours."""
    columns = min(MOST_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    tile_height = tiles[0].height
    width = max(columns * (TILE_WIDTH + MARGIN) + MARGIN, 2 * (TILE_WIDTH + MARGIN))
    sheet = Image.new("RGB", (width, LEGEND_HEIGHT + rows * (tile_height + MARGIN) + MARGIN), PAPER)
    _draw_legend(ImageDraw.Draw(sheet))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(
            tile, (MARGIN + column * (TILE_WIDTH + MARGIN), LEGEND_HEIGHT + MARGIN + row * (tile_height + MARGIN))
        )
    return sheet


def _draw_legend(pen: ImageDraw.ImageDraw) -> None:
    x = MARGIN
    for part in PARTS:
        pen.rectangle((x, 12, x + 16, 28), fill=COLOURS[part])
        pen.text((x + 22, 12), part, fill=INK, font=font())
        x += 22 + round(font().getlength(part)) + 22
