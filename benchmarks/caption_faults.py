"""Captions from a server that misbehaves at random: is anything lost, written twice, or asked more often than needed?

    python benchmarks/caption_faults.py --images 4000 [--json]

The server is that of the tests: resets, half bodies, invalid JSON, empty choices, 429 with and without Retry-After,
5xx, errors inside 200, other models' answers, and whole answers that are no captions. Ends with code 1 if the books
are off.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from pfcvr.config import CaptionConfig, ImageInputConfig, ImportConfig
from pfcvr.pipeline import caption, import_
from pfcvr.pipeline.captioners import openai_
from pfcvr.pipeline.captioners.chat_client import Retries
from pfcvr.records import Caption
from pfcvr.stage import RunOptions
from pfcvr.store import Workspace

SERVER = Path(__file__).parent.parent / "tests/pipeline/captioning/fault_server.py"
IMAGES_PER_IDENTITY = 5
QUIET = RunOptions(quiet=True)


def load_server() -> ModuleType:
    """The tests' server module, by its path."""
    spec = importlib.util.spec_from_file_location("fault_server", SERVER)
    if spec is None or spec.loader is None:
        sys.exit(f"{SERVER}: not there; run this from a checkout")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def make_workspace(folder: Path, images: int) -> Workspace:
    """An imported workspace of ``images`` small pictures, each with pixels of its own."""
    for number in range(images):
        file = folder / f"source/images/{number // IMAGES_PER_IDENTITY:05d}/{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((40, 40), Image.Resampling.NEAREST).save(file)
    workspace = Workspace(folder / "work", create=True)
    with workspace.lock():
        import_.run(workspace, ImportConfig(source=folder / "source"), QUIET)
    return workspace


def measure(images: int, in_flight: int) -> dict[str, float]:
    """The books of one run over ``images`` images."""
    faults = load_server()
    # Waits of days, in seconds.
    openai_.RETRIES = Retries(tries=4, first_wait=0.01, longest_wait=0.05)
    troubles = faults.RandomTroubles()
    server = faults.FaultServer(script=troubles)
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder), images)
        config = CaptionConfig(
            captioner="openai",
            base_url=server.url,
            concurrency=in_flight,
            image=ImageInputConfig(min_pixels=32 * 32, max_pixels=64 * 64),
        )
        started = time.perf_counter()
        with workspace.lock():
            summary = caption.run(workspace, config, QUIET)
        seconds = time.perf_counter() - started
        written = Counter(record.image_id for record in workspace.records("caption", Caption))
    server.close()
    needed = troubles.requests_needed()
    return {
        "images": images,
        "seconds": seconds,
        "requests": server.asked.total(),
        "requests_needed": sum(needed.values()),
        "requests_beyond": sum((server.asked - Counter(needed)).values()),
        "kept": summary.kept,
        "lost": images - len(written),
        "written_twice": sum(count - 1 for count in written.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000, help="about three requests each")
    parser.add_argument("--in-flight", type=int, default=64, help="requests at a time")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    books = measure(options.images, options.in_flight)
    if options.json:
        print(json.dumps(books))
    else:
        print("\n".join(f"{name:<16}{value:>12,.0f}" for name, value in books.items()))
    if books["lost"] or books["written_twice"] or books["requests_beyond"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
