"""``--format coco``: COCO instances with parts as categories, COCO captions, and the image files.

``annotations/instances_<split>.json`` and ``annotations/captions_<split>.json``; ``images/NAME.jpg`` is what
``file_name`` means, unless the images are only named by their path inside the source (``--images reference``).
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from pfcvr import geometry
from pfcvr.config import ExportConfig
from pfcvr.errors import SourceError
from pfcvr.files import DISK_FULL, sha256_file
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.file_names import FileNames, ending, safe_name
from pfcvr.pipeline.exporters.read_back import Tally, WrittenPicture, check_pictures, reading_back
from pfcvr.pipeline.exporters.rows import KNOWN_OF_SOURCE
from pfcvr.pipeline.exporters.shards import SplitCounts
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.pipeline.json_stream import JsonStream
from pfcvr.records import PARTS, PartInstance, Source, Split

LISTS = ("images", "annotations")
CATEGORIES = [{"id": number, "name": part, "supercategory": "vehicle"} for number, part in enumerate(PARTS, start=1)]


class CocoExporter:
    """See the module."""

    needed_stages: tuple[str, ...] = ()

    def __init__(self, config: ExportConfig) -> None:
        self._images = config.images
        self._names = FileNames()

    def refuse(self, joined: JoinedImage) -> Refusal | None:
        """Images whose name another one has, or whose name is too long for a file."""
        return None if self._images == "reference" else self._names.refuse(joined.image)

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """The JSON files and, unless they are referenced, the images; ids count from 1 through all splits.

        Everything is read back and compared.
        """
        (folder / "annotations").mkdir()
        if self._images != "reference":
            (folder / "images").mkdir()
        counts = SplitCounts()
        splits: dict[Split, _SplitFiles] = {}
        numbers = {"annotation": 0, "caption": 0}
        try:
            for image_number, item in enumerate(items, start=1):
                if item.split not in splits:
                    splits[item.split] = _SplitFiles(folder / "annotations", item.split, facts.sources)
                file_name = self._place(item, folder)
                splits[item.split].add(item, image_number, file_name, numbers)
                counts.add(item.split, item.image.vehicle_id, len(item.caption.texts))
        finally:
            for files in splits.values():
                files.close()
        verify_files(splits.values(), None if self._images == "reference" else folder / "images")
        written = sorted(folder.glob("annotations/*.json"))
        hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in written}
        return {"splits": counts.as_dict(), "images": self._images, "files": hashes}

    def _place(self, item: ExportItem, folder: Path) -> str:
        """Put the image file where the form wants it; returns its ``file_name``."""
        if self._images == "reference":
            return item.image.path
        name = f"{safe_name(item.image)}{ending(item.image)}"
        if self._images == "copy":
            (folder / "images" / name).write_bytes(item.pixels)
            return name
        try:
            os.link(item.file.resolve(), folder / "images" / name)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise SourceError(
                f"{item.file}: cannot be hard-linked into {folder.parent} ({error.strerror}); "
                "export to the disk that holds the images, or with --images copy or reference"
            ) from None
        return name


class _SplitFiles:
    """The two JSON files of one split."""

    def __init__(self, folder: Path, split: Split, sources: tuple[Source, ...]) -> None:
        info = {"description": f"text-to-image vehicle retrieval, {split}", "version": "1.0"}
        licences = [
            {"id": number, "name": source.licence or "not stated", "url": ""}
            for number, source in enumerate(sources, start=1)
        ]
        self._licence_of = {source.name: number for number, source in enumerate(sources, start=1)}
        head = {"info": info, "licenses": licences}
        self.instances = _ListsFile(folder / f"instances_{split}.json", {**head, "categories": CATEGORIES})
        self.captions = _ListsFile(folder / f"captions_{split}.json", head)

    def add(self, item: ExportItem, number: int, file_name: str, numbers: dict[str, int]) -> None:
        """Image ``number`` with its annotations; ``numbers`` are the last ids given, of all splits."""
        image, parts = item.image, item.joined.parts
        entry = {
            "id": number,
            "file_name": file_name,
            "width": image.width,
            "height": image.height,
            "license": self._licence_of.get(image.source),
            "image_id": image.image_id,
            "vehicle_id": image.vehicle_id,
            "sha256": image.sha256,
            **{name: getattr(image, name) for name in KNOWN_OF_SOURCE},
        }
        self.instances.image(entry)
        self.captions.image(entry)
        for instance in parts.instances if parts is not None else ():
            numbers["annotation"] += 1
            self.instances.annotation({"id": numbers["annotation"], "image_id": number, **_annotation(instance)})
        for text in item.caption.texts:
            numbers["caption"] += 1
            self.captions.annotation({"id": numbers["caption"], "image_id": number, "caption": text})

    def close(self) -> None:
        self.instances.close()
        self.captions.close()


class _ListsFile:
    """A JSON object with the lists ``images`` and ``annotations``, written side by side as a stream."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        self.path, self._spilled = path, path.with_suffix(".annotations")
        self._main, self._rest = path.open("w", encoding="utf-8"), self._spilled.open("w+", encoding="utf-8")
        self._meant = Tally()
        for name, value in head.items():
            self._meant.add(name, _text(value).encode())
        self._main.write(_text(head)[:-1] + ', "images": [')
        self.image = _appender(self._main, "images", self._meant)
        self.annotation = _appender(self._rest, "annotations", self._meant)

    def close(self) -> None:
        self._main.write('\n], "annotations": [')
        self._rest.seek(0)
        for line in self._rest:
            self._main.write(line)
        self._main.write("\n]}\n")
        self._main.close()
        self._rest.close()
        self._spilled.unlink()

    def read_back(self) -> Iterator[dict[str, Any]]:
        """The images as they are in the file; raises WorkspaceError unless all of it is what was written."""
        found = Tally()
        with reading_back(self.path), self.path.open(encoding="utf-8", newline="") as file:
            stream = JsonStream(file)
            for name in stream.object_keys():
                if name not in LISTS:
                    found.add(name, _text(stream.value()).encode())
                    continue
                for number, item in enumerate(stream.items(), start=1):
                    found.add(f"{name} {number}", _text(item).encode())
                    if name == "images":
                        yield item
            stream.finish()
        self._meant.check(found, self.path)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _appender(file: IO[str], name: str, meant: Tally) -> Callable[[dict[str, Any]], None]:
    """Writes one more item of the JSON list ``name``, each on a line of its own, and counts it in ``meant``."""
    number = 0

    def append(item: dict[str, Any]) -> None:
        nonlocal number
        text = _text(item)
        file.write(("\n" if number == 0 else ",\n") + text)
        number += 1
        meant.add(f"{name} {number}", text.encode())

    return append


def verify_files(splits: Iterable[_SplitFiles], images: Path | None) -> None:
    """Read the files of every split back, and the image files in ``images``, unless those are only referenced (None).

    Raises WorkspaceError where one is not what was meant.
    """
    for files in splits:
        for lists, place in ((files.captions, None), (files.instances, images)):
            with reading_back(lists.path):
                check_pictures(lists.path, _pictures(lists.read_back(), place))


def _pictures(entries: Iterable[dict[str, Any]], images: Path | None) -> Iterator[WrittenPicture]:
    """The image files behind ``entries``; nothing where they are not in the export."""
    for entry in entries:
        if images is not None:
            content = (images / entry["file_name"]).read_bytes()
            yield WrittenPicture(entry["image_id"], content, entry["sha256"], entry["width"], entry["height"])


def _annotation(instance: PartInstance) -> dict[str, Any]:
    """The instance in COCO's terms; one without a mask has no ``segmentation``."""
    x0, y0, x1, y1 = instance.box_xyxy
    wide, tall = x1 - x0, y1 - y0
    shape: dict[str, Any] = {"area": wide * tall}
    if instance.mask is not None:
        mask = instance.mask
        shape = {
            "segmentation": {"size": list(mask.size), "counts": mask.counts},
            "area": geometry.mask_area(mask),
        }
    return {
        "category_id": PARTS.index(instance.part) + 1,
        "bbox": [x0, y0, wide, tall],
        **shape,
        "iscrowd": 0,
        "score": instance.score,
        "flags": list(instance.flags),
    }
