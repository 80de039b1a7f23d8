"""Captions from a server that misbehaves at random: is anything lost, written twice, or asked more often than needed?

    python benchmarks/caption_faults.py --images 4000 [--json]

The server is also that of the tests: resets, half bodies, invalid JSON, empty choices, 429 with and without
Retry-After, 5xx, errors inside 200, other models' answers, and whole answers that are no captions. Ends with code 1 if
the books are off.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import fault_server as faults
from workspaces import imported_pictures

from pfcvr.config import CaptionConfig, ImageInputConfig
from pfcvr.pipeline import caption
from pfcvr.pipeline.captioners import openai_
from pfcvr.pipeline.captioners.chat_client import Retries
from pfcvr.records import Caption
from pfcvr.stage import RunOptions

QUIET = RunOptions(quiet=True)


def measure(images: int, in_flight: int) -> dict[str, float]:
    """The books of one run over ``images`` images."""
    # Waits of days, in seconds.
    openai_.RETRIES = Retries(tries=4, first_wait=0.01, longest_wait=0.05)
    troubles = faults.RandomTroubles()
    server = faults.FaultServer(script=troubles)
    with tempfile.TemporaryDirectory() as folder:
        workspace = imported_pictures(Path(folder), images)
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
