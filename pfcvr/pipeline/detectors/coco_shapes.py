"""One annotation, of COCO or of our own form, as a part instance: each field checked before it is believed."""

import math
from typing import Any

from pydantic import ValidationError

from pfcvr import geometry
from pfcvr.records import PARTS, BoxXyxy, Part, PartInstance, Rle

PART_OF_NAME: dict[str, Part] = {
    name: part for part in PARTS for name in (part, part.removesuffix("s"), f"{part.removesuffix('s')}s")
}

REASON_OF_FIELD = {
    "part": "unknown_category",
    "box_xyxy": "malformed_box",
    "score": "malformed_score",
    "mask": "malformed_mask",
}


class BadAnnotation(Exception):
    """An annotation that cannot be used: ``reason`` and ``detail`` go into its Rejected row."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def part_named(name: Any, category_id: int | str) -> Part:
    """The part that a category's name means: case, blanks around it, singular and plural do not matter."""
    part = PART_OF_NAME.get(name.strip().lower()) if isinstance(name, str) else None
    if part is None:
        shown = f"'{name}'" if isinstance(name, str) else f"number {category_id}, which has no name,"
        raise BadAnnotation("unknown_category", f"category {shown} is none of: {', '.join(PARTS)}")
    return part


def instance_of(annotation: dict[str, Any], part: Part, height: int, width: int) -> PartInstance:
    """``annotation`` on an image of ``height`` x ``width`` pixels; raises BadAnnotation.

    The box is cut to the image; where it is missing or beside the mask, the mask's own box is taken.
    """
    score = score_of(annotation.get("score", 1.0))
    segmentation = annotation.get("segmentation")
    if not segmentation:
        box = _inside(_box(annotation.get("bbox")), height, width)
        return PartInstance(part=part, box_xyxy=box, score=score)
    mask = _mask(segmentation, height, width)
    try:
        box = _inside(_box(annotation.get("bbox")), height, width)
    except BadAnnotation:
        box = geometry.mask_box(mask)
    return PartInstance(part=part, box_xyxy=box, score=score, mask=mask)


def known_instance(own: Any, height: int, width: int) -> PartInstance:
    """``own``, the fields of a PartInstance, on an image of ``height`` x ``width`` pixels; raises BadAnnotation.

    Fields that are None are left out. The box is cut to the image.
    """
    if not isinstance(own, dict):
        raise BadAnnotation("malformed_annotation", "a part is an object with part, box_xyxy, score and mask")
    try:
        instance = PartInstance.model_validate({name: value for name, value in own.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        detail = f"{field} {own.get(field)!r:.80}: {first['msg']}"
        raise BadAnnotation(REASON_OF_FIELD.get(field, "malformed_annotation"), detail) from None
    x0, y0, x1, y1 = instance.box_xyxy
    if x0 >= x1 or y0 >= y1:
        raise BadAnnotation("malformed_box", f"box_xyxy {instance.box_xyxy} has no positive size")
    box = _inside(instance.box_xyxy, height, width)
    if instance.mask is not None:
        try:
            _runs(instance.mask.model_dump(mode="json"), height, width)
        except ValueError as error:
            raise BadAnnotation("malformed_mask", str(error)) from None
    return instance.model_copy(update={"box_xyxy": box})


def score_of(value: Any) -> float:
    """``value`` as a score in [0, 1]; raises BadAnnotation."""
    number = _number(value)
    if number is None or not 0 <= number <= 1:
        raise BadAnnotation("malformed_score", f"score {value!r} is not a number from 0 to 1")
    return number


def _box(value: Any) -> BoxXyxy:
    numbers = [_number(item) for item in value] if isinstance(value, list) else []
    box = [number for number in numbers if number is not None]
    if len(numbers) != 4 or len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        raise BadAnnotation("malformed_box", f"bbox {value!r:.80} is not [x, y, width, height] with a positive size")
    return geometry.box_xyxy_from_xywh(box)


def _inside(box: BoxXyxy, height: int, width: int) -> BoxXyxy:
    clipped = geometry.clip_box(box, height, width)
    if clipped is None:
        raise BadAnnotation("out_of_frame", f"box {box} lies outside the {width} x {height} image")
    return clipped


def _mask(segmentation: Any, height: int, width: int) -> Rle:
    try:
        mask = _polygons(segmentation, height, width) if isinstance(segmentation, list) else None
        if isinstance(segmentation, dict):
            mask = _runs(segmentation, height, width)
    except (ValueError, OverflowError) as error:
        raise BadAnnotation("malformed_mask", str(error)) from None
    if mask is None:
        raise BadAnnotation("malformed_mask", "the segmentation is neither polygons nor run lengths")
    if geometry.mask_area(mask) == 0:
        raise BadAnnotation("empty_mask", "the segmentation covers no pixel")
    return mask


def _polygons(polygons: list[Any], height: int, width: int) -> Rle:
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise ValueError("a polygon is not a list of coordinates")
    points = [[_number(value) for value in polygon] for polygon in polygons]
    if any(value is None for polygon in points for value in polygon):
        raise ValueError("a polygon has a coordinate that is not a finite number")
    known = [[value for value in polygon if value is not None] for polygon in points]
    mask = geometry.rle_from_polygons(known, height, width)
    if all(not geometry.clip_polygon(polygon, height, width) for polygon in known):
        raise BadAnnotation("out_of_frame", f"the polygon lies outside the {width} x {height} image")
    return mask


def _runs(segmentation: dict[str, Any], height: int, width: int) -> Rle:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise BadAnnotation("size_mismatch", f"mask of size {size!r:.40}, the image has [{height}, {width}]")
    if isinstance(counts, list):
        return geometry.rle_from_runs(counts, height, width)
    if not isinstance(counts, str):
        raise ValueError("counts are neither text nor a list of run lengths")
    mask = Rle(size=(height, width), counts=counts)
    geometry.check_rle(mask)
    return mask


def _number(value: Any) -> float | None:
    """``value`` as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
