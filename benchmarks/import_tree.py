"""Import of a VERI-Wild tree of full size: files a second beside plain hashing of the same files, and peak memory.

The tree holds small JPEGs, hard-linked from as many different files as the file system's limit on links asks for. Both
imports and both hashings read files that the system has just read. ``--images 416314 --vehicles 40671`` is the release.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pfcvr.config import ImportConfig
from pfcvr.pipeline import import_
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

LINKS_PER_FILE = 40_000  # ext4 takes 65,000
CAMERAS, SIDE = 174, 96


def make_tree(root: Path, images: int, vehicles: int) -> None:
    """``images`` files in ``vehicles`` folders, with vehicle_info.txt and a train list."""
    sources = root / "sources"
    sources.mkdir(parents=True)
    originals = []
    for number in range(-(-images // LINKS_PER_FILE)):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
        path = sources / f"{number}.jpeg_file"
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
        originals.append(path)
    lists = root / "tree" / "train_test_split"
    lists.mkdir(parents=True)
    with (lists / "vehicle_info.txt").open("w") as info, (lists / "train_list.txt").open("w") as train:
        info.write("id/image;Camera ID;Time;Model;Type;Color\n")
        for number in range(images):
            name = f"{number * vehicles // images + 1:05d}/{number + 1:06d}"
            path = root / "tree" / "images" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(originals[number // LINKS_PER_FILE])
            info.write(f"{name};{number % CAMERAS};2018-03-05 08:12:44;Audi A4;sedan;white\n")
            train.write(f"{name}\n")


def hash_all(root: Path, threads: int) -> float:
    """Seconds to find and hash every image with ``threads`` threads."""

    def hashed(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        folders = (folder for folder in (root / "images").iterdir())
        for found in pool.map(lambda folder: [hashed(path) for path in folder.iterdir()], folders):
            assert found
    return time.perf_counter() - start


def import_once(root: Path, workspace: Path) -> dict[str, float]:
    """Seconds and peak memory of an import in this process."""
    start = time.perf_counter()
    config = ImportConfig(source=root)
    summary = import_.run(Workspace(workspace, create=True), config, RunOptions(overwrite=True, quiet=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": time.perf_counter() - start, "peak_mib": peak, "kept": summary.kept}


def measure(root: Path, images: int) -> dict[str, float | int]:
    """Import in processes of their own: the first time, then after ten images were added."""
    tree, workspace = root / "tree", root / "work"
    plain = min(hash_all(tree, threads=import_.MAX_WORKERS) for _ in range(2))
    first = import_in_child(tree, workspace)
    for number in range(10):
        added = tree / "images" / "99999" / f"{900_000 + number}.jpg"
        added.parent.mkdir(exist_ok=True)
        added.write_bytes(next((root / "sources").iterdir()).read_bytes())
    again = import_in_child(tree, workspace)
    return {
        "images": images,
        "files_per_s": round(images / first["seconds"], 1),
        "plain_hashing_files_per_s": round(images / plain, 1),
        "ratio": round(first["seconds"] / plain, 2),
        "seconds": round(first["seconds"], 1),
        "peak_mib": round(first["peak_mib"]),
        "again_seconds": round(again["seconds"], 1),
        "again_peak_mib": round(again["peak_mib"]),
        "kept": int(again["kept"]),
    }


def import_in_child(tree: Path, workspace: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--import-only", str(tree), str(workspace)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--vehicles", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="Where to make the tree; none: a temporary folder.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--import-only", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.import_only:
        print(json.dumps(import_once(*options.import_only)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        make_tree(Path(name), options.images, options.vehicles)
        found = measure(Path(name), options.images)
    print(json.dumps(found) if options.json else "\n".join(f"{key:<28}{value:>12,}" for key, value in found.items()))


if __name__ == "__main__":
    main()
