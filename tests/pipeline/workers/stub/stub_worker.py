"""A worker for tests: finds on every picture a box as wide as its file is long, and does as it is told by settings.

STUB_FATAL is a word that ends it, after a note in the file STUB_ENDS, when it stands in the name of a picture;
STUB_ENDS_AT_MOST bounds how often.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from pfcvr.pipeline.workers.serve import Answers, WorkerError


def prepare(settings: dict[str, Any]) -> Answers:
    print("a library greets the world")
    if "fails" in settings:
        raise WorkerError(settings["fails"], "this cannot be done; do that")
    asked = 0

    def answer(images: list[str]) -> list[dict[str, Any]]:
        nonlocal asked
        asked += 1
        if settings.get("ends_after") == asked - 1:
            print("MemoryError: the picture was too much", file=sys.stderr, flush=True)
            os._exit(5)
        print("a library reports its progress", flush=True)
        time.sleep(settings.get("hangs", 0))
        return [result(Path(image)) for image in images]

    return answer


def end_if_fatal(image: Path) -> None:
    """Ends this process as a fault in native code does."""
    word = os.environ.get("STUB_FATAL")
    if word is None or word not in image.name:
        return
    ends = Path(os.environ["STUB_ENDS"])
    if ends.exists() and len(ends.read_text().splitlines()) >= int(os.environ.get("STUB_ENDS_AT_MOST", "1000")):
        return
    with ends.open("a") as file:
        file.write(f"{image.name}\n")
    os.abort()


def result(path: Path) -> dict[str, Any]:
    end_if_fatal(path)
    size = path.stat().st_size
    if size == 0:
        return {"reason": "empty_file", "detail": "the file has no bytes"}
    boxes = [[0, 0, size, 1], [0, 0, 2 * size, 2]]
    return {"found": [{"box": box, "score": 0.5, "phrase": place} for place, box in enumerate(boxes)]}
