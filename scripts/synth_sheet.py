"""Draw docs/img/synth_sheet.png: every body type from five cameras, the last row with its part masks.

Run: python scripts/synth_sheet.py docs/img/synth_sheet.png
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image, ImageColor

from pfcvr.colours import PART_COLOURS
from pfcvr.pipeline.synth import VehicleAttributes, render
from pfcvr.pipeline.synth.attributes import Body, family, stream
from pfcvr.pipeline.synth.stations import STATIONS, draw_view

TILE = 112
ROWS = (0, 5, 3, 6, 2)  # stations; the last row shows masks


def vehicles(body: str) -> list[VehicleAttributes]:
    """One vehicle for each row, of different families."""
    founders = (family(0, index)[0] for index in range(400))
    return [founder for founder in founders if founder.body == body][: len(ROWS)]


def tile(vehicle: VehicleAttributes, row: int, column: int) -> Image.Image:
    station = STATIONS[ROWS[row]]
    rng = stream(0, 9, row, column)
    view = draw_view(station, rng)
    # Before lens noise, and on an even road: noise is most of the bytes of a PNG.
    rendered = render(vehicle, replace(view, scene=replace(view.scene, grain=0.0)), TILE)
    if row < len(ROWS) - 1:
        return Image.fromarray(rendered.image)
    pixels = rendered.image.astype(float)
    for part, mask in rendered.masks.items():
        pixels[mask] = 0.4 * pixels[mask] + 0.6 * np.array(ImageColor.getrgb(PART_COLOURS[part]))
    return Image.fromarray(pixels.astype(np.uint8))


def main(out: Path) -> None:
    bodies = get_args(Body)
    sheet = Image.new("RGB", (TILE * len(bodies), TILE * len(ROWS)), (32, 32, 34))
    for column, body in enumerate(bodies):
        for row, vehicle in enumerate(vehicles(body)):
            picture = tile(vehicle, row, column)
            x = column * TILE + (TILE - picture.width) // 2
            y = row * TILE + (TILE - picture.height) // 2
            sheet.paste(picture, (x, y))
    sheet.save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
