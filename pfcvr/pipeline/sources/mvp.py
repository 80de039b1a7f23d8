"""MVP: pictures in which each pixel holds the number of a vehicle part, named after the images they belong to.

MVP ships annotations alone; this importer reads a folder in which its images were put beside them. Masks for images
that are in a workspace already: ``parts --detector import --annotations FOLDER`` (reference: formats, section 2.4).
"""

import re
from collections import Counter
from pathlib import Path

from pfcvr.errors import SourceError
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable, counted, stem_of
from pfcvr.pipeline.sources.tree import FoundImage, walk_images

NAME = re.compile(r"(\d+)_(.+)")
MASK_SUFFIX = ".png"


class Mvp:
    """Importer of ``VEHICLE_IMAGE.jpg`` with a ``VEHICLE_IMAGE.png`` of part numbers somewhere beside."""

    def recognise(self, source: Path) -> str | None:
        if not source.is_dir() or any(source.glob("*.txt")) and not any(source.glob("*mask*")):
            return None
        suffixes: dict[str, set[str]] = {}
        for row in walk_images(source.resolve()):
            if isinstance(row, FoundImage) and NAME.fullmatch(stem_of(row.path)):
                own = suffixes.setdefault(stem_of(row.path), set())
                own.add(MASK_SUFFIX if _is_mask(row.path) else "picture")
                if len(own) == 2:
                    return f"found {stem_of(row.path)} both as a picture and as a mask ({MASK_SUFFIX})"
        return None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        if not source.is_dir():
            raise SourceError(f"{source}: not a folder; give the folder that holds images and part masks")
        table = ImageTable(source.resolve())
        table.add_files(walk_images(table.root))
        masks = {stem_of(path) for path in table.files() if _is_mask(path)}
        found: Counter[str] = Counter(masks=len(masks))
        found["masks_without_image"] = len(masks - {stem_of(path) for path in table.files() if not _is_mask(path)})
        for path in table.files():
            if _is_mask(path):
                continue
            parsed = NAME.fullmatch(stem_of(path))
            if parsed is None:
                table.refuse(path, "no_identity", "the name is not VEHICLE_IMAGE with a number for the vehicle")
                continue
            vehicle_id, stem = parsed.groups()
            found["images_without_mask"] += stem_of(path) not in masks
            table.add(SourceImage(f"{vehicle_id}/{stem}", vehicle_id, path), path)
        alone = {what: found[what] for what in ("images_without_mask", "masks_without_image")}
        return table.listing("mvp", (), dict(found), counted(alone))


def _is_mask(path: str) -> bool:
    return path.lower().endswith(MASK_SUFFIX)
