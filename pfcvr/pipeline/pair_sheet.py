"""``pfcvr-data check --pairs``: the near-duplicates that were found, side by side, with how far apart they are."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

from pfcvr.errors import WorkspaceError
from pfcvr.files import atomic_write
from pfcvr.lettering import INK, PALE, PAPER, fitting, font
from pfcvr.pipeline.audit import Case
from pfcvr.pipeline.images import UnreadableImage, open_rgb
from pfcvr.pipeline.joined import JoinedImage, PixelFiles, PixelsUnavailable, joined_images
from pfcvr.store import Workspace

SIDE, MARGIN, LINE_HEIGHT = 200, 12, 17
PAIRS_A_ROW = 2
MOST_PAIRS = 100
PAIR_WIDTH = 2 * SIDE + MARGIN
PAIR_HEIGHT = SIDE + 3 * LINE_HEIGHT


def draw_pairs(workspace: Workspace, cases: Iterable[Case], out: Path) -> int:
    """Draw the first MOST_PAIRS of ``cases`` to ``out``, a PNG, and return how many; without a case nothing is written.

    Raises WorkspaceError when ``out`` cannot be written.
    """
    pairs = list(islice(cases, MOST_PAIRS))
    if not pairs:
        return 0
    wanted = {image_id for pair in pairs for image_id in pair.image_ids}
    joined = {one.image.image_id: one for one in joined_images(workspace) if one.image.image_id in wanted}
    files = PixelFiles(workspace)
    sheet = _sheet([_tile(pair, joined, files) for pair in pairs])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as file:
            sheet.save(file, format="PNG")
    except OSError as error:
        raise WorkspaceError(f"{out}: cannot be written ({error.strerror}); give another --pairs FILE.png") from None
    return len(pairs)


def _tile(pair: Case, joined: dict[str, JoinedImage], files: PixelFiles) -> Image.Image:
    """Both pictures on a level, with image_id and split of each, and the distance below."""
    tile = Image.new("RGB", (PAIR_WIDTH, PAIR_HEIGHT), PAPER)
    pen = ImageDraw.Draw(tile)
    for place, image_id in enumerate(pair.image_ids[:2]):
        x = place * (SIDE + MARGIN)
        for picture in _picture(joined[image_id], files):
            tile.paste(picture, (x + (SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
        pen.text((x, SIDE + 2), fitting(image_id, SIDE), fill=INK, font=font())
        pen.text((x, SIDE + LINE_HEIGHT + 2), joined[image_id].split or "no split", fill=PALE, font=font())
    pen.text((0, SIDE + 2 * LINE_HEIGHT + 2), fitting(pair.detail, PAIR_WIDTH), fill=PALE, font=font())
    return tile


def _picture(one: JoinedImage, files: PixelFiles) -> Iterator[Image.Image]:
    """The picture, fitted into its square; none where its file cannot be read any more."""
    try:
        picture = open_rgb(files.read(one.image))
    except (PixelsUnavailable, UnreadableImage):
        return
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    yield picture.resize(size, Image.Resampling.LANCZOS)


def _sheet(tiles: list[Image.Image]) -> Image.Image:
    columns = min(PAIRS_A_ROW, len(tiles))
    rows = -(-len(tiles) // columns)
    step_x, step_y = PAIR_WIDTH + 3 * MARGIN, PAIR_HEIGHT + MARGIN
    sheet = Image.new("RGB", (columns * step_x, MARGIN + rows * step_y), PAPER)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (MARGIN + column * step_x, MARGIN + row * step_y))
    return sheet
