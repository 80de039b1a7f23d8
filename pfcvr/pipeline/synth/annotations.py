"""What is written beside the pictures: COCO masks, captions, camera metadata, truth, lists, licence."""

import json
from datetime import datetime, timedelta
from typing import Any

from pfcvr import geometry
from pfcvr.pipeline.synth.attributes import FAMILY_SIZE, stream
from pfcvr.pipeline.synth.render import Rendered
from pfcvr.records import PARTS

LICENCE = "CC0-1.0"
LICENCE_URL = "https://creativecommons.org/publicdomain/zero/1.0/"
LICENCE_TEXT = f"""These pictures and everything written about them were drawn by a program; no photograph was used.

Whoever ran the program and holds this folder dedicates it to the public domain under CC0 1.0 Universal: copy it,
change it and share it for any purpose, without asking and without naming anyone. It comes without any warranty.
The dedication in full: {LICENCE_URL}
"""
DESCRIPTION = "Rendered vehicles with known identities, attributes, captions and part masks"
TEST_FAMILIES = (1, 4, 7)  # of every ten families: three in ten identities, as the usual 7:3
SMALLEST_INSTANCE = 0.0004  # share of the crop; smaller slivers of a part are not annotated


def categories() -> list[dict[str, Any]]:
    """COCO categories: the six parts, numbered from 1 in the order of PARTS."""
    return [{"id": i, "name": part, "supercategory": "vehicle part"} for i, part in enumerate(PARTS, start=1)]


def instance_annotations(rendered: Rendered, image_number: int, first_id: int) -> list[dict[str, Any]]:
    """One COCO annotation for each visible window, wheel, door ... of the model (not for each connected region)."""
    height, width = rendered.image.shape[:2]
    smallest = max(4.0, SMALLEST_INSTANCE * width * height)
    ordered = sorted(rendered.instances.items(), key=lambda item: (PARTS.index(item[0][0]), item[0][1]))
    result: list[dict[str, Any]] = []
    for (part, _), mask in ordered:
        area = int(mask.sum())
        if area < smallest:
            continue
        rle = geometry.encode_mask(mask)
        x0, y0, x1, y1 = geometry.mask_box(rle)
        result.append(
            {
                "id": first_id + len(result),
                "image_id": image_number,
                "category_id": PARTS.index(part) + 1,
                "iscrowd": 0,
                "area": float(area),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": rle.model_dump(mode="json"),
            }
        )
    return result


def coco_text(images: list[str], annotations: list[str], year: int) -> str:
    """The COCO file around rows that are already JSON text (kept as text: a tenth of the memory of dicts)."""
    info = {"description": DESCRIPTION, "version": "1.0", "year": year, "contributor": "pfcvr-data synth"}
    licenses = [{"id": 1, "name": "CC0 1.0", "url": LICENCE_URL}]
    head = json.dumps({"info": info, "licenses": licenses, "categories": categories()})[:-1]
    return f'{head}, "images": [\n{_lines(images)}\n], "annotations": [\n{_lines(annotations)}\n]}}\n'


def _lines(rows: list[str]) -> str:
    return ",\n".join(rows)


def timestamps(seed: int, vehicle: int, count: int) -> list[str]:
    """Nominal times at which the cameras saw the vehicle, in order; they record nothing."""
    rng = stream(seed, 4, vehicle)
    moment = datetime(2000, 1, 1, 7) + timedelta(days=int(rng.integers(30)), seconds=int(rng.integers(36000)))
    result = []
    for _ in range(count):
        result.append(moment.strftime("%Y-%m-%d %H:%M:%S"))
        moment += timedelta(seconds=int(rng.integers(20, 1200)))
    return result


def list_files(names: list[list[str]]) -> dict[str, list[str]]:
    """Lists of VERI-Wild's first release, from each vehicle's ``vid/imgid``: train, and one query a test vehicle."""
    lists: dict[str, list[str]] = {"train_list.txt": [], "test_3000.txt": [], "test_3000_query.txt": []}
    for vehicle, images in enumerate(names):
        if (vehicle // FAMILY_SIZE) % 10 not in TEST_FAMILIES:
            lists["train_list.txt"] += images
            continue
        lists["test_3000_query.txt"].append(images[0])
        lists["test_3000.txt"] += images[1:]
    return lists
