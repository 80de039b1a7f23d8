"""Parts drawn in Label Studio, from its JSON export: rectangles, polygons and brush masks.

A task counts where somebody submitted it. Nothing drawn in a submitted task means that no part is to be seen. Of
several annotations of a task the one marked as ground truth counts, else the one that was changed last.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from pfcvr import geometry
from pfcvr.errors import SourceError
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation
from pfcvr.pipeline.edit_files import EditFile
from pfcvr.pipeline.edit_files.brush_rle import decode_brush
from pfcvr.pipeline.edit_files.drawings import Drawing, Shape, drawn_edits, name_candidates, rejected
from pfcvr.pipeline.edit_files.outlines import turned_box
from pfcvr.pipeline.json_stream import JsonStream
from pfcvr.records import HumanEdit, Rejected
from pfcvr.store import Workspace

LABEL_TYPES = ("rectanglelabels", "polygonlabels", "brushlabels")
IMAGE_KEYS = ("image_id", "image", "img", "url", "file_name", "path")


def read_label_studio(workspace: Workspace, file: EditFile) -> Iterator[HumanEdit | Rejected]:
    """An edit for every submitted task of an image."""
    return drawn_edits(workspace, file, "label-studio", _drawings)


def _drawings(file: EditFile) -> Iterator[Drawing | Rejected]:
    with file.path.open(encoding="utf-8-sig", newline="") as text:
        stream = JsonStream(text)
        try:
            for number, task in enumerate(stream.items(), start=1):
                found = _drawing(task, f"{file.name}:task {_id_of(task, number)}")
                if found is not None:
                    yield found
            stream.finish()
        except ValueError as error:
            what = "".join(str(error).splitlines()[:1])
            raise SourceError(
                f"{file.path}: not readable as JSON ({what}); the file may be cut off, get it anew"
            ) from None


def _id_of(task: Any, number: int) -> Any:
    own_id = task.get("id") if isinstance(task, dict) else None
    return own_id if isinstance(own_id, int) else f"number {number}"


def _drawing(task: Any, place: str) -> Drawing | Rejected | None:
    """What was drawn on a task's image; None where nobody has submitted it."""
    if not isinstance(task, dict) or not isinstance(task.get("annotations"), list):
        return rejected(place, "malformed_task", "a task is an object with the list 'annotations'")
    annotation = _counting(task["annotations"])
    if annotation is None:
        return None
    results = annotation.get("result")
    if not isinstance(results, list):
        return rejected(place, "malformed_task", "an annotation has no list 'result'")
    drawn = [result for result in results if isinstance(result, dict) and _is_shape(result)]
    sizes = {(_whole(result.get("original_width")), _whole(result.get("original_height"))) for result in drawn}
    if len(sizes) > 1:
        return rejected(place, "size_mismatch", "its shapes state several sizes of the image")
    shapes = tuple(Shape(f"{place} region {n}", partial(_labelled, result)) for n, result in enumerate(drawn, start=1))
    return Drawing(place, _names(task), next(iter(sizes), None), shapes, _editor(annotation), _time(annotation))


def _counting(annotations: list[Any]) -> dict[str, Any] | None:
    """The annotation of a task that counts; None where none was submitted."""
    submitted = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    return max(submitted, key=lambda one: (bool(one.get("ground_truth")), _time(one) or ""), default=None)


def _names(task: dict[str, Any]) -> tuple[str, ...]:
    data = task.get("data")
    values = data if isinstance(data, dict) else {}
    known = [values[key] for key in IMAGE_KEYS if isinstance(values.get(key), str)]
    others = [value for key, value in values.items() if isinstance(value, str) and key not in IMAGE_KEYS]
    return tuple(name for address in (known or others)[:2] for name in name_candidates(address))


def _editor(annotation: dict[str, Any]) -> str | None:
    """Who submitted it: the number of the account, never an address."""
    by = annotation.get("completed_by")
    own_id = by.get("id") if isinstance(by, dict) else by
    return f"annotator {own_id}" if isinstance(own_id, int) else None


def _time(annotation: dict[str, Any]) -> str | None:
    said = annotation.get("updated_at") or annotation.get("created_at")
    return said if isinstance(said, str) else None


def _is_shape(result: dict[str, Any]) -> bool:
    """Whether it is drawn on the image; choices, texts and relations are not."""
    return "original_width" in result or result.get("type") in LABEL_TYPES


def _whole(value: Any) -> int | None:
    """``value`` as a whole number, or None where it is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _labelled(result: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Label and annotation of one shape."""
    kind, value = str(result.get("type")), result.get("value")
    if not isinstance(value, dict):
        raise BadAnnotation("malformed_shape", "its value is no object")
    if kind not in LABEL_TYPES:
        raise BadAnnotation("unsupported_shape", f"'{kind}' is none of: {', '.join(LABEL_TYPES)}")
    labels = value.get(kind)
    if not isinstance(labels, list) or len(labels) != 1:
        raise BadAnnotation("unknown_category", "a shape has one label, which is a part")
    if result.get("image_rotation", 0) != 0:
        raise BadAnnotation("rotated_image", "it was drawn while the image was turned; turn it back and export")
    return labels[0], _annotation(kind, value, (int(result["original_width"]), int(result["original_height"])))


def _annotation(kind: str, value: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """The shape as COCO has it; Label Studio counts in percent of the image."""
    width, height = size
    if kind == "brushlabels":
        if value.get("format") != "rle":
            raise BadAnnotation("malformed_mask", "a brush mask without format 'rle'")
        mask = geometry.encode_mask(decode_brush(value["rle"], height, width))
        return {"segmentation": mask.model_dump(mode="json")}
    if kind == "polygonlabels":
        points = [(float(x) * width / 100, float(y) * height / 100) for x, y in value["points"]]
        return {"segmentation": [[coordinate for point in points for coordinate in point]]}
    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    box = [x, y, float(value["width"]) * width / 100, float(value["height"]) * height / 100]
    turned = float(value.get("rotation", 0))
    return {"segmentation": [turned_box(box, turned, (x, y))]} if turned else {"bbox": box}
