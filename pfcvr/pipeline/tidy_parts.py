"""What is done to the answers of every model: boxes cut to the picture, duplicates dropped, the implausible flagged.

A flag never removes an instance; it tells a person where to look.
"""

from collections.abc import Sequence

from pfcvr import geometry
from pfcvr.pipeline.pictures import Found
from pfcvr.records import PARTS, BoxXyxy, PartInstance

EMPTY_MASK, WHOLE_PICTURE = "empty_mask", "whole_picture"
OUTSIDE_BOX, OUTSIDE_VEHICLE = "outside_box", "outside_vehicle"
WHEEL_ABOVE_ROOF, ROOF_BELOW_WHEELS = "wheel_above_roof", "roof_below_wheels"
FLAGS = (EMPTY_MASK, WHOLE_PICTURE, OUTSIDE_BOX, OUTSIDE_VEHICLE, WHEEL_ABOVE_ROOF, ROOF_BELOW_WHEELS)

LARGEST_SHARE = 0.9  # of the picture, for any part of a vehicle
LEAST_INSIDE = 0.5  # of a part, inside the vehicle's box; of its mask, inside its own
BOX_DECIMALS, SCORE_DECIMALS = 2, 4


def tidy(found: Found, size: tuple[int, int], overlap: float) -> Found:
    """``found`` on a picture of ``size`` (height, width), each part's boxes cut to it and in order of their scores.

    Of two boxes of one part whose intersection over union exceeds ``overlap`` the better scored stays (non-maximum
    suppression); a box with nothing on the picture goes. Coordinates and scores are rounded to what they are good for.
    """
    kept: list[PartInstance] = []
    for part in PARTS:
        own = [instance for instance in found.instances if instance.part == part]
        kept += _suppressed(_on_picture(own, size), overlap)
    vehicle = None if found.vehicle is None else geometry.clip_box(_rounded(found.vehicle), *size)
    return Found(tuple(kept), vehicle)


def _on_picture(instances: Sequence[PartInstance], size: tuple[int, int]) -> list[PartInstance]:
    clipped = []
    for instance in instances:
        box = geometry.clip_box(_rounded(instance.box_xyxy), *size)
        if box is not None:
            changes = {"box_xyxy": box, "score": round(instance.score, SCORE_DECIMALS)}
            clipped.append(instance.model_copy(update=changes))
    return clipped


def _rounded(box: BoxXyxy) -> BoxXyxy:
    x0, y0, x1, y1 = (round(value, BOX_DECIMALS) for value in box)
    return x0, y0, x1, y1


def _suppressed(instances: list[PartInstance], overlap: float) -> list[PartInstance]:
    """The best of each group of near-equal boxes, best first."""
    kept: list[PartInstance] = []
    for instance in sorted(instances, key=lambda own: (-own.score, own.box_xyxy)):
        if all(_intersection_over_union(instance.box_xyxy, better.box_xyxy) <= overlap for better in kept):
            kept.append(instance)
    return kept


def _intersection_over_union(box: BoxXyxy, other: BoxXyxy) -> float:
    shared = geometry.box_overlap(box, other)
    return shared / (geometry.box_area(box) + geometry.box_area(other) - shared)


def flagged(found: Found, size: tuple[int, int]) -> tuple[PartInstance, ...]:
    """The instances of ``found`` on a picture of ``size`` (height, width), flagged in the order of FLAGS."""
    extents = [_Extent(instance) for instance in found.instances]
    roofs = [own.middle for own, instance in zip(extents, found.instances, strict=True) if instance.part == "roof"]
    wheels = [own.middle for own, instance in zip(extents, found.instances, strict=True) if instance.part == "wheels"]
    result = []
    for instance, extent in zip(found.instances, extents, strict=True):
        raised = {
            EMPTY_MASK: extent.area == 0,
            WHOLE_PICTURE: extent.area >= LARGEST_SHARE * size[0] * size[1],
            OUTSIDE_BOX: extent.share_inside(instance.box_xyxy) < LEAST_INSIDE,
            OUTSIDE_VEHICLE: found.vehicle is not None and extent.share_inside(found.vehicle) < LEAST_INSIDE,
            WHEEL_ABOVE_ROOF: instance.part == "wheels" and bool(roofs) and extent.middle < min(roofs),
            ROOF_BELOW_WHEELS: instance.part == "roof" and bool(wheels) and extent.middle > max(wheels),
        }
        flags = tuple(flag for flag in FLAGS if raised[flag] and flag not in instance.flags)
        result.append(instance.model_copy(update={"flags": (*instance.flags, *flags)}) if flags else instance)
    return tuple(result)


class _Extent:
    """Where an instance lies: its mask, else its box. ``area`` in pixels, ``middle`` the mean row."""

    def __init__(self, instance: PartInstance) -> None:
        x0, y0, x1, y1 = self._box = instance.box_xyxy
        self._mask = instance.mask
        self.area, self.middle = geometry.box_area(self._box), (y0 + y1) / 2
        if self._mask is not None:
            self.area = geometry.mask_area(self._mask)
            if self.area:
                self.middle = geometry.mask_middle(self._mask)[1]

    def share_inside(self, box: BoxXyxy) -> float:
        """Share of the instance that lies in ``box``; all of nothing."""
        if self.area == 0:
            return 1.0
        if self._mask is None:
            return geometry.box_overlap(self._box, box) / self.area
        return geometry.mask_area_inside(self._mask, box) / self.area
