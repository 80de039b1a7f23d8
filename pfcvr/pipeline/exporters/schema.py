"""The row of an annotations export as a JSON Schema, for readers that know neither Parquet types nor this program."""

from typing import Any

from pfcvr.records import ATTRIBUTES, PARTS

TEXT, OPTIONAL_TEXT = {"type": "string"}, {"type": ["string", "null"]}
MASK = {
    "type": ["object", "null"],
    "description": "COCO run lengths; null where only the box is known",
    "properties": {
        "size": {"type": "array", "items": {"type": "integer"}, "description": "height, width in pixels"},
        "counts": {"type": "string", "description": "compressed run lengths, as pycocotools decodes them"},
    },
}
INSTANCE = {
    "type": "object",
    "properties": {
        "part": {"enum": list(PARTS)},
        "box_xyxy": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "mask": MASK,
        "flags": {"type": "array", "items": TEXT, "description": "why somebody should look at it"},
    },
}


def row_schema(rows: int, cols: int) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one row with a ``rows`` x ``cols`` patch grid."""
    cells = {"type": "array", "items": {"enum": [0, 1]}, "minItems": cols, "maxItems": cols}
    grid = {"type": "array", "items": cells, "minItems": rows, "maxItems": rows}
    properties = {
        "image_id": TEXT | {"description": "<vehicle_id>/<stem>, as in the source"},
        "vehicle_id": TEXT,
        **dict.fromkeys(("camera_id", "timestamp", "color", "type", "model"), OPTIONAL_TEXT),
        "captions": {"type": "array", "items": TEXT, "minItems": 1},
        "part_texts": {"type": "object", "properties": dict.fromkeys(PARTS, OPTIONAL_TEXT)},
        "attributes": {"type": "object", "properties": dict.fromkeys(ATTRIBUTES, OPTIONAL_TEXT)},
        "parts": {"type": "array", "items": INSTANCE},
        "part_grid": {
            "type": "array",
            "items": grid,
            "minItems": len(PARTS),
            "maxItems": len(PARTS),
            "description": f"1 where the part covers the cell; parts in the order {', '.join(PARTS)}",
        },
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "of the image file's bytes"},
        "width": {"type": "integer", "minimum": 1, "description": "pixels after EXIF rotation"},
        "height": {"type": "integer", "minimum": 1, "description": "pixels after EXIF rotation"},
        "path": TEXT | {"description": "of the image file inside the source"},
        "bytes": {"type": "integer", "minimum": 1, "description": "size of the image file"},
        "dhash": OPTIONAL_TEXT | {"description": "difference hash of the picture, 64 bits in hexadecimal"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Annotations of one vehicle image",
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
