"""Found parts beside the key points that VeRi-776 brings along: on how many of them lies a part of their kind."""

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from pfcvr.pipeline.sources.key_points import key_point_files, read_key_points
from pfcvr.records import PARTS, ImageParts, ImageRecord
from pfcvr.scratch import temporary_tables
from pfcvr.store import Workspace

MARGIN = 0.05  # of the longer side: corners of a roof lie on the edge of its box


def key_point_agreement(
    workspace: Workspace, images: Iterable[tuple[ImageRecord, ImageParts | None]]
) -> dict[str, Any]:
    """``{"key_points": {part: {visible, hit}}}``; empty where no source has key points for the images.

    A visible point of a part is hit when it lies in the box of an instance of that part, or at most MARGIN of the
    longer side of the image away.
    """
    roots = [Path(source.root) for source in workspace.sources().values() if source.format == "veri-776"]
    files = [path for root in roots for path in key_point_files(root)]
    if not files:
        return {}
    visible, hit = Counter[str](), Counter[str]()
    with closing(temporary_tables("CREATE TABLE image (stem TEXT PRIMARY KEY, points TEXT) WITHOUT ROWID")) as known:
        lines = (own for path in files for own in read_key_points(path) if own is not None)
        rows = ((PurePosixPath(own.path).stem, json.dumps(own.points)) for own in lines)
        known.executemany("INSERT OR IGNORE INTO image VALUES (?, ?)", rows)
        for image, parts in images:
            stem = image.image_id.partition("/")[2]
            found = known.execute("SELECT points FROM image WHERE stem = ?", (stem,)).fetchone()
            for part, x, y in json.loads(found[0]) if found is not None and parts is not None else ():
                visible[part] += 1
                hit[part] += parts is not None and _is_hit(image, parts, part, (x, y))
    return {"key_points": {part: {"visible": visible[part], "hit": hit[part]} for part in PARTS if visible[part]}}


def _is_hit(image: ImageRecord, parts: ImageParts, part: str, point: tuple[int, int]) -> bool:
    margin = MARGIN * max(image.width, image.height)
    boxes = (instance.box_xyxy for instance in parts.instances if instance.part == part)
    return any(
        x0 - margin <= point[0] <= x1 + margin and y0 - margin <= point[1] <= y1 + margin for x0, y0, x1, y1 in boxes
    )
