"""What annotation tools have in common: an image by some name and size, and shapes drawn on it.

A tool's module turns its file into Drawings, with shapes as COCO has them; here they meet the images of a workspace.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pfcvr.pipeline.captioners import plain_text
from pfcvr.pipeline.detectors.coco_shapes import BadAnnotation, instance_of, part_named
from pfcvr.pipeline.edit_files import EditFile
from pfcvr.pipeline.image_names import ImageNames, clean_name
from pfcvr.records import EditForm, HumanEdit, HumanOrigin, HumanParts, ImageRecord, PartInstance, Rejected
from pfcvr.store import Workspace

UPLOAD_PREFIX_LETTERS = 8


@dataclass(frozen=True)
class Shape:
    """``draw`` gives label and annotation, which has ``bbox`` or ``segmentation`` in pixels, as COCO has them.

    It is called once the size of the image is known to be right; it may raise BadAnnotation, or what Python raises
    where a value is missing or of another type.
    """

    place: str
    draw: Callable[[], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Drawing:
    """All that was drawn on one image. ``size``: (width, height) in pixels that the tool showed, None if not said."""

    place: str
    names: tuple[str, ...]
    size: tuple[Any, Any] | None
    shapes: tuple[Shape, ...]
    editor: str | None = None
    time: str | None = None


ReadDrawings = Callable[[EditFile], Iterable[Drawing | Rejected]]


def drawn_edits(
    workspace: Workspace, file: EditFile, form: EditForm, read: ReadDrawings
) -> Iterator[HumanEdit | Rejected]:
    """An edit for each drawing of ``file`` on an image of ``workspace``, which is read twice: for names, then shapes.

    A bad shape is rejected on its own; where none of several is good, the image is left as it was.
    """
    wanted = (name for drawing in read(file) if isinstance(drawing, Drawing) for name in drawing.names)
    with closing(ImageNames(wanted, workspace.records("import", ImageRecord))) as names:
        found = {_image_id(drawing, names) for drawing in read(file) if isinstance(drawing, Drawing)}
        images = {image.image_id: image for image in workspace.images() if image.image_id in found}
        seen: set[str] = set()
        for drawing in read(file):
            if isinstance(drawing, Rejected):
                yield drawing
                continue
            image_id = _image_id(drawing, names)
            image = images.get(image_id) if image_id is not None else None
            if image is None:
                yield _no_image(drawing, image_id, names)
            elif image.image_id in seen:
                yield rejected(drawing.place, "second_drawing", f"{image_id} was drawn on before in this file")
            elif drawing.size is not None and drawing.size != (image.width, image.height):
                wanted_size = f"{image.width} x {image.height} pixels after EXIF rotation"
                shown = f"{drawing.size[0]} x {drawing.size[1]}"
                yield rejected(drawing.place, "size_mismatch", f"{shown} here, the image has {wanted_size}")
            else:
                seen.add(image.image_id)
                yield from _edit(drawing, image, _origin(file, form, drawing))


def name_candidates(address: str) -> tuple[str, ...]:
    """Names to try for an image that a tool knows by a path or an address, the most telling first.

    Tools put letters before the names of files that were uploaded to them, and paths of other machines before paths.
    """
    name = clean_name(unquote(_path_in(address))).lstrip("/")
    pieces = name.split("/")
    candidates = [name, "/".join(pieces[-2:]), pieces[-1]]
    prefix, dash, rest = pieces[-1].partition("-")
    if dash and rest and len(prefix) == UPLOAD_PREFIX_LETTERS:
        candidates.append(rest)
    return tuple(dict.fromkeys(candidates))


def _path_in(address: str) -> str:
    """The path that an address leads to, or that stands in it; an address that is none is a path itself."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    if not parts.scheme and not parts.query:
        return address
    return parse_qs(parts.query).get("d", [parts.path])[0]


def rejected(place: str, reason: str, detail: str) -> Rejected:
    """A row of the file that cannot be used."""
    return Rejected(stage="merge", subject=place, reason=reason, detail=plain_text(detail))


def _edit(drawing: Drawing, image: ImageRecord, origin: HumanOrigin) -> Iterator[HumanEdit | Rejected]:
    instances: list[PartInstance] = []
    for shape in drawing.shapes:
        try:
            label, annotation = shape.draw()
            instances.append(instance_of(annotation, part_named(label, ""), image.height, image.width))
        except BadAnnotation as error:
            yield rejected(shape.place, error.reason, f"{image.image_id}: {error.detail}")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            yield rejected(shape.place, "malformed_shape", f"{image.image_id}: {type(error).__name__} {error}")
    if instances or not drawing.shapes:
        parts = HumanParts(instances=tuple(instances), origin=origin)
        yield HumanEdit(image_id=image.image_id, image_sha256=image.sha256, parts=parts)


def _origin(file: EditFile, form: EditForm, drawing: Drawing) -> HumanOrigin:
    editor = file.editor if drawing.editor is None else drawing.editor
    return HumanOrigin(form=form, file=file.name, file_sha256=file.sha256, editor=editor, time=drawing.time)


def _image_id(drawing: Drawing, names: ImageNames) -> str | None:
    for name in drawing.names:
        image_id = names.find(name)
        if image_id is not None or names.is_ambiguous(name):
            return image_id
    return None


def _no_image(drawing: Drawing, image_id: str | None, names: ImageNames) -> Rejected:
    if image_id is not None:
        return rejected(drawing.place, "not_selected", f"{image_id} was left out by pfcvr-data select")
    called = drawing.names[0] if drawing.names else "(no name)"
    if any(map(names.is_ambiguous, drawing.names)):
        return rejected(drawing.place, "ambiguous_name", f"several images are called {called}")
    return rejected(drawing.place, "unknown_image", f"no image is called {called}")
