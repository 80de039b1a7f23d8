"""What a run of ``parts`` found: coverage by part and by camera, scores, flags, and the images to look at first."""

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pfcvr.config import GridConfig
from pfcvr.records import PARTS, ImageParts, ImageRecord, Part

LEAST_CERTAIN = 20
SCORE_BINS = 10
VIEWS_LISTED = 200
OTHER_VIEWS, UNKNOWN_VIEW = "other", "unknown"


class PartTally:
    """Counts over images with their parts, in memory that does not grow with their number.

    ``view`` is what the image shows its vehicle from: a viewpoint, or the camera where none is known.
    """

    def __init__(self) -> None:
        self._images_from: Counter[str] = Counter()
        self._with_part_from: dict[str, Counter[Part]] = {}
        self._with_parts = 0
        self._instances: Counter[Part] = Counter()
        self._scores: dict[Part, list[int]] = {part: [0] * SCORE_BINS for part in PARTS}
        self._flags: Counter[str] = Counter()
        self._least: list[tuple[float, str]] = []  # certainty and image_id, in order
        self._most = 0.0

    def look_at(self, image_id: str, parts: ImageParts | None, view: str | None) -> None:
        """Take one image into account."""
        view = self._listed(view or UNKNOWN_VIEW)
        instances = parts.instances if parts is not None else ()
        self._images_from[view] += 1
        self._with_part_from.setdefault(view, Counter()).update({instance.part for instance in instances})
        self._with_parts += bool(instances)
        for instance in instances:
            self._instances[instance.part] += 1
            self._scores[instance.part][min(int(instance.score * SCORE_BINS), SCORE_BINS - 1)] += 1
            self._flags.update(instance.flags)
        if parts is not None:
            certain = certainty(parts)
            self._most = max(self._most, certain)
            bisect.insort(self._least, (certain, image_id))
            del self._least[LEAST_CERTAIN:]

    def _listed(self, view: str) -> str:
        return view if view in self._images_from or len(self._images_from) < VIEWS_LISTED else OTHER_VIEWS

    def as_dict(self) -> dict[str, Any]:
        """``coverage`` is the share of images with a part, in [0, 1]; ``scores`` counts instances by tenths.

        ``least_certain`` is empty where all images are equally certain, as with annotations without scores.
        """
        images = self._images_from.total()
        everywhere: Counter[Part] = sum(self._with_part_from.values(), Counter())
        return {
            "images": images,
            "images_with_parts": self._with_parts,
            "instances": {part: self._instances[part] for part in PARTS},
            "coverage": _shares(everywhere, images),
            "coverage_by_view": {
                view: {"images": count, **_shares(self._with_part_from[view], count)}
                for view, count in sorted(self._images_from.items())
            },
            "scores": {part: self._scores[part] for part in PARTS},
            "flags": dict(sorted(self._flags.items())),
            "least_certain": [
                {"image_id": image_id, "certainty": round(certain, 4)}
                for certain, image_id in self._least
                if not equally_certain(self._least[0][0], self._most)
            ],
        }


def certainty(parts: ImageParts) -> float:
    """How sure the models were of an image, in [0, 1]: the mean over its parts of the best score of an instance.

    A flagged instance counts as 0, and so does an image without any part.
    """
    best: dict[Part, float] = {}
    for instance in parts.instances:
        score = 0.0 if instance.flags else instance.score
        best[instance.part] = max(best.get(instance.part, 0.0), score)
    return sum(best.values()) / len(best) if best else 0.0


def equally_certain(least: float, most: float) -> bool:
    """Whether images whose certainty goes from ``least`` to ``most`` leave none to look at first."""
    return 0 < least == most


def camera_view(image: ImageRecord) -> str | None:
    """The camera of ``image`` as a view."""
    return None if image.camera_id is None else f"camera {image.camera_id}"


def part_notes(images: Iterable[tuple[ImageRecord, ImageParts | None]], grid: GridConfig) -> dict[str, Any]:
    """The notes of the stage: the grid's rule and the tally, views being cameras."""
    tally = PartTally()
    rules: Counter[str] = Counter()
    for image, parts in images:
        if parts is not None:
            tally.look_at(image.image_id, parts, camera_view(image))
            rules[parts.grid.rule] += 1
    rule = " and ".join(sorted(rules)) or "stretch-coverage"
    return {"grid": {"rule": rule, **grid.model_dump()}, **tally.as_dict()}


def report_text(notes: Mapping[str, Any]) -> str:
    """The tally as tables for people; empty where the stage was sealed before it was counted."""
    if "scores" not in notes:
        return ""
    header = f"{'part':<10}{'images':>9}{'instances':>11}  {'scores 0 .. 1, in tenths'}"
    lines = [header]
    for part in PARTS:
        counts = " ".join(f"{count:,}" for count in notes["scores"][part])
        lines.append(f"{part:<10}{notes['coverage'][part]:>9.1%}{notes['instances'][part]:>11,}  {counts}")
    if notes["flags"]:
        lines.append("flagged: " + ", ".join(f"{flag} {count:,}" for flag, count in notes["flags"].items()))
    if "key_points" in notes:
        known = [(part, notes["key_points"][part]) for part in PARTS if part in notes["key_points"]]
        shares = (f"{part} {own['hit']:,} of {own['visible']:,}" for part, own in known)
        lines.append("visible key points that lie on their part: " + ", ".join(shares))
    if notes["least_certain"]:
        least = ", ".join(f"{row['image_id']} {row['certainty']:.2f}" for row in notes["least_certain"])
        lines.append(f"least certain: {least}")
    return "\n".join(lines)


def views_text(notes: Mapping[str, Any]) -> str:
    """Coverage by view as a table for people, in percent; the views with most images first, then all together."""
    views = sorted(notes["coverage_by_view"].items(), key=lambda item: (-item[1]["images"], item[0]))
    rows = [*views, ("all", {"images": notes["images"], **notes["coverage"]})]
    width = max(len(view) for view, _ in rows)
    lines = [f"{'view':<{width}}{'images':>9}" + "".join(f"{part:>9}" for part in PARTS)]
    for view, row in rows:
        lines.append(f"{view:<{width}}{row['images']:>9,}" + "".join(f"{100 * row[part]:>9.1f}" for part in PARTS))
    return "\n".join(lines)


def _shares(with_part: Counter[Part], images: int) -> dict[str, float]:
    return {part: round(with_part[part] / max(images, 1), 4) for part in PARTS}
