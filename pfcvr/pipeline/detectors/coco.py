"""``--detector import``: parts that somebody already annotated, read from a COCO file.

Polygons, compressed and plain run lengths, and boxes alone are taken. Whatever cannot be used is rejected on its own,
with the place in the file; the other annotations of the image stay.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pfcvr.config import PartsConfig
from pfcvr.errors import SourceError, UsageError
from pfcvr.files import sha256_file
from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation, instance_of, part_named
from pfcvr.pipeline.image_names import ImageNames
from pfcvr.pipeline.sources.tree import is_plain_name
from pfcvr.records import ImageRecord, PartInstance, PartsOrigin, Rejected
from pfcvr.store import Workspace

REQUIRED_LISTS = ("images", "annotations", "categories")


class CocoDetector:
    """The annotations of one COCO file, matched to the images of a workspace when it is built.

    Raises SourceError for a file that is missing, no JSON, lacks a list, or has nothing for any image.
    """

    def __init__(self, workspace: Workspace, config: PartsConfig) -> None:
        if config.annotations is None:
            raise UsageError("the detector 'import' needs a COCO file; give it with --annotations FILE")
        path = config.annotations
        content = read_coco(path)
        self.origin = PartsOrigin(detector="import")
        self.settings = {"annotations": plain_text(path.name)}
        self.inputs = {"annotations": sha256_file(path)}
        self._file = plain_text(path.name)
        self._rejected: list[Rejected] = []
        self._instances: dict[str, list[PartInstance]] = {}
        image_of = self._match_images(content["images"], workspace)
        self._take_annotations(content, image_of)
        self.rejected: Sequence[Rejected] = tuple(self._rejected)
        if not self._instances:
            reasons = Counter(row.reason for row in self.rejected).most_common(3)
            why = ", ".join(f"{count} x {reason}" for reason, count in reasons) or "it has no annotation"
            raise SourceError(
                f"{path}: no annotation fits an image of {workspace.root} ({why}); "
                "check that file_name, sizes and category names are those of the imported images"
            )

    def detect(self, images: Sequence[ImageRecord]) -> list[tuple[PartInstance, ...]]:
        """The annotated instances of each image, in the order of the file."""
        return [tuple(self._instances.get(image.image_id, ())) for image in images]

    def _match_images(self, entries: list[Any], workspace: Workspace) -> dict[int | str, ImageRecord]:
        """COCO image id -> image of the workspace."""
        named = dict(self._named_entries(entries))
        imported = workspace.records("import", ImageRecord)
        names = ImageNames((entry["file_name"] for entry in named.values()), imported)
        targets: dict[str, list[int | str]] = {}
        for coco_id, entry in named.items():
            image_id = names.find(entry["file_name"])
            if image_id is not None:
                targets.setdefault(image_id, []).append(coco_id)
            elif names.is_ambiguous(entry["file_name"]):
                self._reject_image(coco_id, "ambiguous_name", f"several images are called {entry['file_name']}")
            else:
                self._reject_image(coco_id, "unknown_image", f"no image is called {entry['file_name']}")
        image_of: dict[int | str, ImageRecord] = {}
        for image in workspace.images():
            for coco_id in targets.pop(image.image_id, ()):
                size = named[coco_id].get("width", image.width), named[coco_id].get("height", image.height)
                if size == (image.width, image.height):
                    image_of[coco_id] = image
                else:
                    wanted = f"{image.width} x {image.height} pixels after EXIF rotation"
                    self._reject_image(coco_id, "size_mismatch", f"{size[0]} x {size[1]} here, the image has {wanted}")
        for image_id, coco_ids in targets.items():
            for coco_id in coco_ids:
                self._reject_image(coco_id, "not_selected", f"{image_id} was left out by pfcvr-data select")
        return image_of

    def _named_entries(self, entries: list[Any]) -> Iterator[tuple[int | str, dict[str, Any]]]:
        seen: set[str] = set()
        for index, entry in enumerate(entries):
            usable = isinstance(entry, dict) and _is_id(entry.get("id")) and isinstance(entry.get("file_name"), str)
            if not usable or str(entry["id"]) in seen:
                problem = "a second image with this id" if usable else "an image needs id and file_name"
                self._reject(f"images[{index}]", "malformed_image", problem)
                continue
            seen.add(str(entry["id"]))
            yield entry["id"], entry

    def _take_annotations(self, content: dict[str, Any], image_of: dict[int | str, ImageRecord]) -> None:
        categories = {
            category["id"]: category.get("name")
            for category in content["categories"]
            if isinstance(category, dict) and _is_id(category.get("id"))
        }
        listed = {entry["id"] for entry in content["images"] if isinstance(entry, dict) and _is_id(entry.get("id"))}
        uses = Counter(_annotation_id(annotation) for annotation in content["annotations"])
        for index, annotation in enumerate(content["annotations"]):
            own_id = _annotation_id(annotation)
            place = f"annotations[{index}]" if own_id is None or uses[own_id] > 1 else f"annotation {own_id}"
            try:
                _check_keys(annotation)
                if annotation["image_id"] not in listed:
                    raise BadAnnotation("unknown_image", f"image {annotation['image_id']} is not in the list of images")
                part = part_named(categories.get(annotation["category_id"]), annotation["category_id"])
                image = image_of.get(annotation["image_id"])
                if image is not None:
                    instance = instance_of(annotation, part, image.height, image.width)
                    self._instances.setdefault(image.image_id, []).append(instance)
            except BadAnnotation as error:
                self._reject(place, error.reason, error.detail)

    def _reject_image(self, coco_id: int | str, reason: str, detail: str) -> None:
        self._reject(f"image {coco_id}", reason, detail)

    def _reject(self, place: str, reason: str, detail: str) -> None:
        subject = f"{self._file}:{place}"
        self._rejected.append(Rejected(stage="parts", subject=subject, reason=reason, detail=plain_text(detail)))


def read_coco(path: Path) -> dict[str, Any]:
    """The object in ``path``, its three lists checked; raises SourceError."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such annotation file; check --annotations") from None
    except IsADirectoryError:
        raise SourceError(f"{path}: is a folder; give the COCO file itself with --annotations") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not readable as JSON ({error}); the file may be cut off, get it anew") from None
    for name in REQUIRED_LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise SourceError(
                f"{path}: not a COCO annotation file, it has no list '{name}'; expected {', '.join(REQUIRED_LISTS)}"
            )
    return dict(content)


def _is_id(value: Any) -> bool:
    return is_plain_name(value) if isinstance(value, str) else isinstance(value, int) and not isinstance(value, bool)


def _annotation_id(annotation: Any) -> str | None:
    own_id = annotation.get("id") if isinstance(annotation, dict) else None
    return str(own_id) if _is_id(own_id) else None


def _check_keys(annotation: Any) -> None:
    usable = (
        isinstance(annotation, dict) and _is_id(annotation.get("image_id")) and _is_id(annotation.get("category_id"))
    )
    if not usable:
        raise BadAnnotation("malformed_annotation", "an annotation needs image_id and category_id")
