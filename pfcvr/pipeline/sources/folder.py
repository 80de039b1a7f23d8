"""Any tree of folders, each folder with the images of one vehicle."""

from pathlib import Path

from pfcvr.errors import SourceError
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable, stem_of
from pfcvr.pipeline.sources.tree import FoundImage, walk_images
from pfcvr.records import Split

SPLIT_OF: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}


class Folder:
    """Importer of ``[train|val|test/]VEHICLE/IMAGE.jpg``: the folder that holds an image is its vehicle."""

    def recognise(self, source: Path) -> str | None:
        if not source.is_dir():
            return None
        found = (row for row in walk_images(source.resolve()) if isinstance(row, FoundImage) and "/" in row.path)
        first = next(found, None)
        return f"found folders of images, such as {first.path.rpartition('/')[0]}/" if first else None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        if not source.is_dir():
            raise SourceError(f"{source}: not a folder; give the folder that holds one folder for each vehicle")
        table = ImageTable(source.resolve())
        table.add_files(walk_images(table.root))
        for path in table.files():
            *folders, _ = path.split("/")
            if not folders:
                table.refuse(path, "unknown_vehicle", "the image is in no vehicle's folder")
                continue
            split = SPLIT_OF.get(folders[0].strip().lower()) if len(folders) > 1 else None
            image_id = f"{folders[-1]}/{stem_of(path)}"
            table.add(SourceImage(image_id, folders[-1], path, source_split=split), path)
        return table.listing("folder", (), {})
