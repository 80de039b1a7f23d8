"""A part has one colour in every picture."""

from pathlib import Path

import numpy as np
from PIL import Image

from pfcvr.model.plots import PartPicture, draw_parts
from pfcvr.pipeline import show
from pfcvr.records import PARTS


def middle_of(colour: tuple[int, ...], picture: np.ndarray) -> float:
    """The mean column of the pixels that have exactly this colour."""
    columns = np.nonzero((picture == colour).all(axis=-1))[1]
    assert len(columns) > 0, colour
    return float(columns.mean())


def test_parts_have_the_colours_of_the_contact_sheet_in_the_pictures_of_the_model(tmp_path: Path) -> None:
    grids, count = np.zeros((len(PARTS), 4, 4), dtype=bool), len(PARTS)
    attention, nothing = np.zeros((count, count), np.float32), np.zeros((count, 0), np.float32)
    white = np.full((32, 32, 3), 255, np.uint8)
    draw_parts(PartPicture(white, "", grids, attention, nothing, (), np.zeros(grids.shape, np.float32)), tmp_path / "p")
    drawn = np.asarray(Image.open(tmp_path / "p").convert("RGB"))
    middles = [middle_of(show.COLOURS[part], drawn) for part in PARTS]
    assert middles == sorted(middles), "each part's panel, left to right, is titled in its colour"
