"""Everything the released PFCVR loader and collate code do with a data set on disk, written anew from what is known.

It opens pictures without looking at EXIF, turns the list into rows, and ends where the released code would end.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FILE = "reid_with_mask_prompt_and_boxes_filepath_prefixid_idsplit_70_30.json"
QUERY_ORDER = ("windows", "lights", "wheels", "mirrors", "roof", "doors")
COPIES = ("Darkimage/dark_", "Lightimage/light_", "Noisyimage/noisy_")


@dataclass
class TrainRow:
    label: int
    image_number: int
    picture: Image.Image
    caption: str
    part_masks: dict[str, np.ndarray]
    removed: np.ndarray
    prompt: str


@dataclass
class Released:
    train: list[TrainRow]
    gallery: list[tuple[int, Image.Image]]
    queries: list[tuple[int, str]]


def read(folder: Path, with_copies: bool = False) -> Released:
    with (folder / FILE).open() as file:
        entries = json.load(file)
    train = [entry for entry in entries if entry["split"] == "train"]
    test = [entry for entry in entries if entry["split"] == "test"]
    val = [entry for entry in entries if entry["split"] not in ("train", "test")]
    tested = test or val
    labels = {number: label for label, number in enumerate(sorted({int(entry["id"]) for entry in train}))}
    rows = []
    for number, entry in enumerate(train):
        assert type(entry["id"]) is int
        assert entry["file_path"].count("image/") == 1
        places = [entry["file_path"]]
        if with_copies:
            places += [entry["file_path"].replace("image/", copy) for copy in COPIES]
        parts = part_masks(json.loads((folder / entry["boxes"].replace("\\", "/")).read_text()))
        removed = np.array(entry["mask"]).reshape(24, 24)
        assert set(removed.ravel().tolist()) <= {0, 1}
        for place in places:
            for caption in entry["captions"]:
                label = labels[int(entry["id"])]
                rows.append(TrainRow(label, number, picture(folder / place), caption, parts, removed, entry["prompt"]))
    gallery = [(int(entry["id"]), picture(folder / entry["file_path"])) for entry in tested]
    queries = [(int(entry["id"]), caption) for entry in tested for caption in entry["captions"]]
    return Released(rows, gallery, queries)


def picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def part_masks(entries: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Masks of a category are laid over each other; the whole must not be empty."""
    merged: dict[str, np.ndarray] = {}
    for entry in entries:
        QUERY_ORDER.index(entry["category"])
        mask = np.array(entry["mask"])
        assert mask.shape == (24, 24)
        assert set(mask.ravel().tolist()) <= {0, 1}
        merged[entry["category"]] = np.maximum(merged.get(entry["category"], mask), mask)
    np.stack(list(merged.values()))
    return merged
