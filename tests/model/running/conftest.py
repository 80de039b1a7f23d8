"""A small data set of painted boxes in the exported form, and overrides for a model small enough to train at once."""

import hashlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

PARTS = ("windows", "wheels", "doors", "mirrors", "lights", "roof")
COLOURS = {"red": (210, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 210), "white": (235, 235, 235)}
HEIGHT, WIDTH = 48, 64

SMALL_MODEL = (
    "model.losses.mlm=0.1",
    "model.losses.mim=0.1",
    "batch_size=8",
    "model.image_size=[32, 32]",
    "model.text_length=16",
    "model.vocabulary_size=600",
    "model.towers.embedding_dim=32",
    "model.towers.vision_width=32",
    "model.towers.vision_mlp=64",
    "model.towers.vision_layers=1",
    "model.towers.text_width=32",
    "model.towers.text_mlp=64",
    "model.towers.text_layers=1",
)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Arrow files that the datasets library makes go with the tests' folder."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("arrow")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    """Training seeds torch's global generator and sets its threads; neither leaks into other tests."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def painted_row(vehicle: int, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """One image of a box with windows in another colour; the mask of the windows is exact."""
    names = list(COLOURS)
    body, glass = names[vehicle % len(names)], names[(vehicle // len(names) + vehicle + 1) % len(names)]
    pixels = rng.integers(90, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    top, left = int(rng.integers(6, 14)), int(rng.integers(4, 16))
    pixels[top : top + 26, left : left + 40] = COLOURS[body]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[top + 3 : top + 12, left + 6 : left + 34] = 1
    pixels[mask == 1] = COLOURS[glass]
    rle = coco_mask.encode(np.asfortranarray(mask))
    content = encoded(pixels)
    box = [float(left), float(top + 20), float(left + 40), float(top + 26)]
    return {
        "image": {"bytes": content, "path": None},
        "image_id": f"{vehicle:03d}/{number}",
        "vehicle_id": f"{vehicle:03d}",
        "camera_id": str(number),
        "timestamp": None,
        "captions": [f"A {body} car with {glass} windows.", f"{glass} glass in a {body} box on wheels"],
        "part_texts": dict.fromkeys(PARTS),
        "parts": [
            {
                "part": "windows",
                "box_xyxy": [float(left + 6), float(top + 3), float(left + 34), float(top + 12)],
                "score": 1.0,
                "mask": {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()},
            },
            {"part": "wheels", "box_xyxy": box, "score": 0.7, "mask": None},
        ],
        "part_grid": np.zeros((6, 4, 4), dtype=np.uint8).tolist(),
        "sha256": hashlib.sha256(content).hexdigest(),
        "width": WIDTH,
        "height": HEIGHT,
    }


def painted_rows(vehicles: range, images: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    return [
        painted_row(vehicle, number, np.random.default_rng((seed, vehicle, number)))
        for vehicle in vehicles
        for number in range(images)
    ]


def write_data(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """``splits`` as an exported data set in ``folder``."""
    from datasets import Array3D, Dataset, Features, Value, disable_progress_bars
    from datasets import Image as ImageFeature

    disable_progress_bars()
    text, number = Value("string"), Value("float64")
    features = Features(
        {
            "image": ImageFeature(),
            "image_id": text,
            "vehicle_id": text,
            "camera_id": text,
            "timestamp": text,
            "captions": [text],
            "part_texts": dict.fromkeys(PARTS, text),
            "parts": [
                {
                    "part": text,
                    "box_xyxy": [number],
                    "score": number,
                    "mask": {"size": [Value("int32")], "counts": text},
                }
            ],
            "part_grid": Array3D((6, 4, 4), "uint8"),
            "sha256": text,
            "width": Value("int32"),
            "height": Value("int32"),
        }
    )
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        table = Dataset.from_list(rows, features=features)
        table.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 train, 3 val and 5 test vehicles with 3 images and 2 captions an image."""
    return write_data(
        tmp_path_factory.mktemp("painted") / "data-set",
        train=painted_rows(range(12)),
        val=painted_rows(range(12, 15)),
        test=painted_rows(range(15, 20)),
    )


@pytest.fixture(scope="session")
def make_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes splits given as lists of rows to a new folder."""
    return lambda **splits: write_data(tmp_path_factory.mktemp("made") / "data-set", **splits)


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    return painted_rows


@pytest.fixture(scope="session")
def image_file() -> Callable[..., bytes]:
    """Encodes a pixel array."""
    return encoded


@pytest.fixture(scope="session")
def small_model() -> tuple[str, ...]:
    """Overrides of the recipe ``tiny``."""
    return SMALL_MODEL


@pytest.fixture(scope="session")
def finished_run(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps on ``painted``, finished."""
    from pfcvr.config import TrainConfig
    from pfcvr.model.train import train

    out = tmp_path_factory.mktemp("runs") / "run"
    lengths = ("schedule.length=12", "schedule.warmup=2", "schedule.evaluate_every=6")
    overrides = (*SMALL_MODEL, *lengths)
    train(TrainConfig(data=str(painted), out=out, overrides=overrides, workers=0, threads=1), quiet=True)
    return out
