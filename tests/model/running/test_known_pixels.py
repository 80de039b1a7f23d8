"""Images of known pixels: what an evaluation draws can be read back, and what a model is shown can be told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pfcvr.model.data import Rows, open_data
from pfcvr.model.encode import Encoded, encode_images
from pfcvr.model.figures import draw_figures
from pfcvr.model.pfcvr import PfcvrModel
from pfcvr.model.retrievers import load_retriever

COLOURS = [(250, 10, 20), (20, 240, 30), (30, 40, 230), (220, 210, 50), (60, 200, 190), (180, 70, 170), (80, 90, 100)]
GREEN, RED = (20, 150, 70), (205, 45, 45)
COSINES = {"000": [0.1, 0.6, 0.3, 0.5, 0.4, 0.2, 0.55], "001": [0.45, 0.35, 0.3, 0.25, 0.6, 0.1, 0.2]}
VEHICLES = ["000"] * 3 + ["001"] * 4


@pytest.fixture
def rows(
    make_data: Callable[..., Path], rows_of: Callable[..., list[dict[str, Any]]], image_file: Callable[..., bytes]
) -> Rows:
    """Seven images: three of vehicle 000, four of 001. The first of each has a caption."""
    rows = [*rows_of(range(1)), *rows_of(range(1, 2), images=4)]
    for row, colour in zip(rows, COLOURS, strict=True):
        row["image"]["bytes"] = image_file(np.full((40, 60, 3), colour, dtype=np.uint8))
        row["captions"] = row["captions"][:1] if row["camera_id"] == "0" else []
    return open_data(str(make_data(test=rows))).split("test")


def test_each_query_is_followed_by_its_five_best_images_best_first(
    rows: Rows, tiny_model: Callable[..., PfcvrModel], tmp_path: Path
) -> None:
    """The cosines of the features with those of the two queries are ``COSINES``."""
    wanted = np.array(list(COSINES.values()), dtype=np.float32)
    gallery = np.vstack([wanted, np.sqrt(1 - (wanted**2).sum(axis=0))]).T
    labels = np.array([int(vehicle) for vehicle in VEHICLES])
    encoded = Encoded(np.eye(2, 3, dtype=np.float32), gallery, np.array([0, 1]), labels, np.array([0, 3]))
    model = tiny_model(losses={"sdm": 1.0, **dict.fromkeys(("id", "part_itc", "mlm", "mim"), 0.0)}).eval()
    draw_figures(tmp_path, model, rows, encoded, seed=0, coverage=0.5)

    with Image.open(tmp_path / "retrieval.png") as picture:
        halves = np.split(np.asarray(picture.convert("RGB")), [picture.height // 2])
    seen = {}
    for half in halves:
        areas = [(half == colour).all(axis=2) for colour in COLOURS]
        # 60 x 40 px fill 150 x 100 of a hit and 72 x 48 of the described image, which may be a hit as well.
        (described,) = (image for image, area in enumerate(areas) if area.sum() in (72 * 48, 72 * 48 + 150 * 100))
        lefts = {image: np.flatnonzero(area.sum(axis=0) >= 90) for image, area in enumerate(areas)}
        hits = sorted((columns[0], image) for image, columns in lefts.items() if len(columns))
        seen[VEHICLES[described]] = [image for _, image in hits]
        for left, image in hits:
            line = np.flatnonzero(areas[image][:, left])[0]
            frame = GREEN if VEHICLES[image] == VEHICLES[described] else RED
            assert tuple(half[line, left - 1]) == frame
    best = {vehicle: np.argsort(cosines)[::-1][:5].tolist() for vehicle, cosines in COSINES.items()}
    assert seen == best


def test_images_are_stretched_to_the_size_of_the_saved_model_whatever_their_own(
    make_data: Callable[..., Path],
    rows_of: Callable[..., list[dict[str, Any]]],
    image_file: Callable[..., bytes],
    tiny_model: Callable[..., PfcvrModel],
    tmp_path: Path,
) -> None:
    """A picture with every pixel repeated, by 4 down and 3 across, averages to itself again."""
    tiny_model(image_size=(24, 40)).save_pretrained(tmp_path / "model")
    retriever = load_retriever("pfcvr", tmp_path / "model", "cpu")
    exact = np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), dtype=np.uint8)
    features = []
    for down, across in ((1, 1), (4, 3)):
        rows = rows_of(range(2), images=1)
        for row, pixels in zip(rows, exact, strict=True):
            row["image"]["bytes"] = image_file(pixels.repeat(down, axis=0).repeat(across, axis=1))
        split = open_data(str(make_data(test=rows))).split("test")
        features.append(encode_images(retriever, split, workers=0, quiet=True))
    assert np.array_equal(features[0], features[1])
    expected = PfcvrModel.from_pretrained(tmp_path / "model").encode_images(torch.from_numpy(exact).permute(0, 3, 1, 2))
    np.testing.assert_allclose(features[0], expected.detach().numpy(), rtol=1e-5, atol=1e-6)
