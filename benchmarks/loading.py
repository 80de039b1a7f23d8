"""Data loading against plain decoding: train items of a recipe, beside decode + resize of the same files.

Ours is what training does: bytes out of the data set, decode, resize, joint augmentation of image and masks, part
grids, words masked, a batch of tensors with uint8 pixels. Plain reads the same JPEG files from a folder, decodes and
resizes them and stacks them, uint8 too, and nothing else: once with our own two functions (``plain``), once with
Pillow, as the loaders of the field's released code do (``pillow``: bilinear, torchvision's ``Resize`` on a picture).
All go through a loader with the same workers and batches, taking turns; the best of each counts. A ratio is of images a
second, a cpu_ratio of processor time, workers included, which a busy machine changes less. What ours does once before
the first batch, reading where the parts of every image are, is timed apart. Images are JPEG noise of changing
smoothness with three part masks and three part boxes each, in the sizes of vehicle crops.

python benchmarks/loading.py [--images 256] [--size 384] [--workers 2] [--repeats 5] [--json]
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader, Dataset

from pfcvr.config import Recipe
from pfcvr.model.augment import stretch
from pfcvr.model.data import Rows, open_data
from pfcvr.model.loading import EpochBatches, TrainPairs, settle_worker, train_loader
from pfcvr.model.tokenizer import clip_tokenizer
from pfcvr.records import PARTS

BATCH = 16
SIDES = (200, 500)
"""Shortest and longest side of an image, px."""


Decoded = NDArray[np.uint8]


def plain(file: Path, size: tuple[int, int]) -> Decoded:
    """The pixels of ``file`` in ``size`` by the functions that the training loader uses."""
    return stretch(np.asarray(cv2.imread(str(file), cv2.IMREAD_COLOR_RGB), dtype=np.uint8), size)


def pillow(file: Path, size: tuple[int, int]) -> Decoded:
    """The pixels of ``file`` in ``size`` by Pillow."""
    with Image.open(file) as image:
        resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(resized)


class PlainFiles(Dataset[torch.Tensor]):
    """Files decoded and resized, and nothing else."""

    def __init__(self, files: list[Path], size: tuple[int, int], read: Callable[[Path, tuple[int, int]], Decoded]):
        self._files, self._size, self._read = files, size, read

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self._read(self._files[row], self._size))


def picture(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """An image and its parts as an exported data set holds them."""
    height, width = (int(side) for side in rng.integers(*SIDES, size=2))
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    parts = []
    for number, part in enumerate(PARTS):
        top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
        mask = np.zeros((height, width), dtype=np.uint8)
        centre, axes = (left + width // 8, top + height // 8), (width // 8, height // 8)
        cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, thickness=-1)
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        box = [float(left), float(top), float(left + width // 4), float(top + height // 4)]
        rle = {"size": [height, width], "counts": counts} if number % 2 else None
        parts.append({"part": part, "box_xyxy": box, "score": 1.0, "mask": rle})
    return np.asarray(image, dtype=np.uint8), parts


def write_data(folder: Path, images: int) -> list[Path]:
    """A train split in the exported form, and its images as files, in the same order."""
    from datasets import Dataset as Table

    rng = np.random.default_rng(0)
    rows, files = [], []
    (folder / "files").mkdir()
    for number in range(images):
        image, parts = picture(rng)
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        files.append(folder / "files" / f"{number}.jpg")
        files[-1].write_bytes(encoded.tobytes())
        row: dict[str, Any] = {
            "image": {"bytes": encoded.tobytes(), "path": None},
            "image_id": f"{number // 4}/{number}",
        }
        row |= {"vehicle_id": str(number // 4), "captions": [" ".join(["car"] * 50)], "parts": parts}
        rows.append(row | {"height": image.shape[0], "width": image.shape[1]})
    (folder / "data").mkdir()
    Table.from_list(rows).to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return files


def processor_seconds() -> float:
    """Of this process and of its workers that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def seconds(loader: Callable[[], Iterable[Any]]) -> tuple[float, float]:
    """To go through the loader once its workers are up, which the first batch shows; and of processors, altogether."""
    before = processor_seconds()
    batches = iter(loader())
    next(batches)
    started = time.perf_counter()
    for _ in batches:
        pass
    elapsed = time.perf_counter() - started
    del batches
    return elapsed, processor_seconds() - before


def measure(rows: Rows, files: list[Path], size: int, workers: int, repeats: int) -> dict[str, float]:
    """Images a second of all three, the quotients, and what reading the parts of an image once takes."""
    recipe = Recipe.model_validate({"model": {"image_size": (size, size)}})
    pairs = TrainPairs(rows, clip_tokenizer(recipe.model.text_length), recipe, 0.5, seed=0)
    batches = len(pairs) // BATCH
    started = time.perf_counter()
    pairs.keep_parts()
    reading = time.perf_counter() - started

    def ours() -> Iterable[Any]:
        return train_loader(pairs, EpochBatches(len(pairs), BATCH, batches, seed=0), workers)

    def bare(read: Callable[[Path, tuple[int, int]], Decoded]) -> DataLoader[Any]:
        settle = partial(settle_worker, os.getpid()) if workers else None
        items = next(iter(EpochBatches(len(pairs), batches * BATCH, 1, seed=0)))
        order = [item // (len(pairs) // len(files)) for _, item in items]
        data = PlainFiles(files, (size, size), read)
        return DataLoader(data, BATCH, sampler=order, num_workers=workers, worker_init_fn=settle)

    loaders: dict[str, Callable[[], Iterable[Any]]] = {
        "plain": partial(bare, plain),
        "pillow": partial(bare, pillow),
        "ours": ours,
    }
    best = dict.fromkeys(loaders, (float("inf"), float("inf")))
    for _ in range(repeats):
        for name, loader in loaders.items():
            elapsed, of_processors = seconds(loader)
            best[name] = min(best[name][0], elapsed), min(best[name][1], of_processors)
    images = (batches - 1) * BATCH
    result = {f"{name}_per_second": images / elapsed for name, (elapsed, _) in best.items()}
    for name in ("plain", "pillow"):
        result |= {
            f"{name}_ratio": best[name][0] / best["ours"][0],
            f"{name}_cpu_ratio": best[name][1] / best["ours"][1],
        }
    return result | {"parts_ms_per_image": 1000 * reading / len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=384, help="side of the images that the model takes, px")
    parser.add_argument("--workers", type=int, default=2, help="processes that load; 0: this one")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each, of which the best counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        datasets.disable_progress_bars()
        files = write_data(Path(folder), options.images)
        rows = open_data(folder).split("train")
        result = measure(rows, files, options.size, options.workers, options.repeats)
    if options.json:
        print(json.dumps({"images": options.images, "size": options.size, "workers": options.workers, **result}))
        return
    print(f"ours: {result['ours_per_second']:,.0f} images/s")
    for name in ("plain", "pillow"):
        ratio, of_processors = result[f"{name}_ratio"], result[f"{name}_cpu_ratio"]
        rate = f"{name}: {result[f'{name}_per_second']:,.0f} images/s"
        print(f"{rate}; ratio {ratio:.3f}, of processor time {of_processors:.3f}")
    print(f"once: {result['parts_ms_per_image']:.2f} ms an image to read its parts")


if __name__ == "__main__":
    main()
