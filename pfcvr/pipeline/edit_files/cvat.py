"""Parts drawn in CVAT, from its export "CVAT for images 1.1": boxes, polygons and masks.

The XML is read as a stream by expat, and refused at the first document type declaration: without one there are no
entities that could grow without bound or reach other files.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any
from xml.parsers import expat

import numpy as np

from pfcvr import geometry
from pfcvr.errors import SourceError
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation
from pfcvr.pipeline.edit_files import EditFile
from pfcvr.pipeline.edit_files.drawings import Drawing, Shape, drawn_edits, name_candidates
from pfcvr.pipeline.edit_files.outlines import turned_box
from pfcvr.records import HumanEdit, Rejected
from pfcvr.store import Workspace

BLOCK_BYTES = 1 << 16
SHAPES = ("box", "polygon", "mask")
OTHER_SHAPES = ("ellipse", "polyline", "points", "cuboid", "skeleton")
LONGEST_TEXT = 1000
TIME = "annotations/meta/dumped"
EDITOR = ("annotations/meta/task/assignee/username", "annotations/meta/job/assignee/username")


def read_cvat(workspace: Workspace, file: EditFile) -> Iterator[HumanEdit | Rejected]:
    """An edit for every image on which something was drawn: the export also lists images nobody has looked at yet."""
    return drawn_edits(workspace, file, "cvat", _drawings)


def _drawings(file: EditFile) -> Iterator[Drawing | Rejected]:
    reader = _Reader(file)
    with file.path.open("rb") as content:
        while block := content.read(BLOCK_BYTES):
            yield from reader.feed(block)
        yield from reader.feed(b"", final=True)


class _Reader:
    """Collects the shapes of one image after the other while expat walks through the file."""

    def __init__(self, file: EditFile) -> None:
        self._file = file
        self._path: list[str] = []
        self._text: list[str] = []
        self._facts: dict[str, str] = {}
        self._image: dict[str, str] = {}
        self._shapes: list[Shape] = []
        self._done: list[Drawing] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def feed(self, block: bytes, final: bool = False) -> Iterator[Drawing]:
        """The images that are complete after ``block``; raises SourceError for what is not CVAT's XML."""
        try:
            self._parser.Parse(block, final)
        except expat.ExpatError as error:
            raise SourceError(
                f"{self._file.path}: not readable as XML ({error}); the file may be cut off, get it anew"
            ) from None
        done, self._done = self._done, []
        return iter(done)

    def _refuse(self, *_: Any) -> None:
        raise SourceError(
            f"{self._file.path}: declares a document type, which no CVAT export does; export the annotations anew"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._path and name != "annotations":
            raise SourceError(f"{self._file.path}: its XML starts with <{name:.40}>, a CVAT export with <annotations>")
        if self._path == ["annotations"] and name == "track":
            raise SourceError(
                f"{self._file.path}: is CVAT's export for video; export the task as CVAT for images 1.1 and merge that"
            )
        if self._path == ["annotations"] and name == "image":
            self._image, self._shapes = attributes, []
        elif self._path == ["annotations", "image"] and name in SHAPES + OTHER_SHAPES:
            place = f"{self._place()} shape {len(self._shapes) + 1}"
            self._shapes.append(Shape(place, partial(_labelled, name, attributes, self._image)))
        self._path.append(name)
        self._text = []

    def _characters(self, text: str) -> None:
        if self._path[1:2] == ["meta"] and sum(map(len, self._text)) < LONGEST_TEXT:
            self._text.append(text)

    def _end(self, name: str) -> None:
        if self._path[1:2] == ["meta"]:
            self._facts["/".join(self._path)] = "".join(self._text).strip()
        self._path.pop()
        if self._path == ["annotations"] and name == "image" and self._shapes:
            self._done.append(self._drawing())

    def _place(self) -> str:
        return f"{self._file.name}:image {self._image.get('id', '?')}"

    def _drawing(self) -> Drawing:
        return Drawing(
            place=self._place(),
            names=name_candidates(self._image.get("name", "")),
            size=(_whole(self._image, "width"), _whole(self._image, "height")),
            shapes=tuple(self._shapes),
            editor=next((self._facts[path] for path in EDITOR if self._facts.get(path)), None),
            time=self._facts.get(TIME) or None,
        )


def _whole(attributes: dict[str, str], name: str) -> int | None:
    value = attributes.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else None


def _labelled(name: str, attributes: dict[str, str], image: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """Label and annotation of one shape."""
    if name in OTHER_SHAPES:
        raise BadAnnotation("unsupported_shape", f"'{name}' is none of: {', '.join(SHAPES)}")
    return attributes.get("label"), _annotation(name, attributes, image)


def _annotation(name: str, attributes: dict[str, str], image: dict[str, str]) -> dict[str, Any]:
    """The shape as COCO has it."""
    if name == "polygon":
        points = [point.split(",") for point in attributes["points"].split(";")]
        return {"segmentation": [[float(value) for x, y in points for value in (x, y)]]}
    if name == "mask":
        return {"segmentation": _mask(attributes, image)}
    x0, y0, x1, y1 = (float(attributes[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    box = [x0, y0, x1 - x0, y1 - y0]
    turned = float(attributes.get("rotation", 0))
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    return {"segmentation": [turned_box(box, turned, middle)]} if turned else {"bbox": box}


def _mask(attributes: dict[str, str], image: dict[str, str]) -> dict[str, Any]:
    """CVAT's runs go row by row through the rectangle around the mask, background first."""
    box = (attributes[key] for key in ("left", "top", "width", "height"))
    rows, cols, left, top, width, height = (int(value) for value in (image["height"], image["width"], *box))
    if left + width > cols or top + height > rows or min(left, top) < 0 or min(width, height) < 1:
        raise BadAnnotation("out_of_frame", f"the mask reaches beyond the {cols} x {rows} image")
    runs = [int(run) for run in attributes["rle"].split(",")]
    if min(runs) < 0 or sum(runs) > width * height:
        raise BadAnnotation("malformed_mask", f"the runs do not fit into {width} x {height} pixels")
    runs += [width * height - sum(runs)] if len(runs) % 2 == 0 else [0, width * height - sum(runs)]
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    mask = np.zeros((rows, cols), dtype=bool)
    mask[top : top + height, left : left + width] = inside
    return geometry.encode_mask(mask).model_dump(mode="json")
