"""A row of the exported data set: its columns, their types, and what they hold for one image."""

from typing import Any

from pfcvr import geometry
from pfcvr.pipeline.exporters import ExportFacts, ExportItem
from pfcvr.records import ATTRIBUTES, PARTS, PartInstance

KNOWN_OF_SOURCE = ("camera_id", "timestamp", "color", "type", "model")


def annotation_columns(rows: int, cols: int) -> dict[str, Any]:
    """Every column but the picture, as ``datasets`` features, with a ``rows`` x ``cols`` patch grid."""
    from datasets import Array3D, Value

    text, number = Value("string"), Value("float64")
    mask = {"size": [Value("int32")], "counts": text}
    return {
        "image_id": text,
        "vehicle_id": text,
        **dict.fromkeys(KNOWN_OF_SOURCE, text),
        "captions": [text],
        "part_texts": dict.fromkeys(PARTS, text),
        "attributes": dict.fromkeys(ATTRIBUTES, text),
        "parts": [{"part": text, "box_xyxy": [number], "score": number, "mask": mask, "flags": [text]}],
        "part_grid": Array3D((len(PARTS), rows, cols), "uint8"),
        "sha256": text,
        "width": Value("int32"),
        "height": Value("int32"),
    }


def annotation_row(item: ExportItem, facts: ExportFacts) -> dict[str, Any]:
    """``item`` without its pixels; an image without parts gets an empty list and a grid of zeros (uint8 array)."""
    image, caption, parts = item.image, item.caption, item.joined.parts
    return {
        "image_id": image.image_id,
        "vehicle_id": image.vehicle_id,
        **{name: getattr(image, name) for name in KNOWN_OF_SOURCE},
        "captions": list(caption.texts),
        "part_texts": {part: caption.part_texts.get(part) for part in PARTS},
        "attributes": {name: caption.attributes.get(name) for name in ATTRIBUTES},
        "parts": [part_row(instance) for instance in parts.instances] if parts is not None else [],
        "part_grid": geometry.grid_array(facts.grid if parts is None else parts.grid),
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
    }


def part_row(instance: PartInstance) -> dict[str, Any]:
    """One instance, its mask as COCO run lengths or None."""
    mask = instance.mask
    return {
        "part": instance.part,
        "box_xyxy": list(instance.box_xyxy),
        "score": instance.score,
        "mask": None if mask is None else {"size": list(mask.size), "counts": mask.counts},
        "flags": list(instance.flags),
    }
