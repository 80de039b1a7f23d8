"""VRIC: low-resolution crops in three folders, each with a list of name, identity and camera (formats, section 6)."""

from pathlib import Path

from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable, counted, stem_of
from pfcvr.pipeline.sources.list_files import in_folder, listed_names, named_size, needed_folder
from pfcvr.pipeline.sources.tree import walk_images
from pfcvr.records import Split

SPLIT_OF: dict[str, Split] = {"train": "train", "probe": "test", "gallery": "test"}


class Vric:
    """Importer of ``{train,probe,gallery}_images/`` with ``vric_{train,probe,gallery}.txt``."""

    def recognise(self, source: Path) -> str | None:
        found = [path.name for path in _lists(source)] if source.is_dir() else []
        return f"found {found[0]}" if found else None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        root = needed_folder(source, "VRIC", *(f"vric_{part}.txt" for part in SPLIT_OF))
        table = ImageTable(root)
        table.add_files(walk_images(root))
        named: dict[str, dict[str, str]] = {}
        for path in _lists(root):
            part = path.stem.removeprefix("vric_")
            for line in listed_names(table, path, (2,)):
                vehicle_id, camera_id = line.columns
                image_path = in_folder(table, f"{part}_images", line.name)
                image_id = f"{vehicle_id}/{stem_of(image_path)}"
                image = SourceImage(image_id, vehicle_id, image_path, camera_id, source_split=SPLIT_OF[part])
                if table.add(image, line.place):
                    named.setdefault(part, {})[image_path] = vehicle_id
        unlisted = table.unlisted("*_images/*")
        lists = {part: named_size(named.get(part, {})) for part in ("probe", "gallery")}
        surprises = counted({"images_in_no_list": unlisted["count"]})
        return table.listing("vric", _lists(root), {"images_in_no_list": unlisted}, surprises, lists)


def _lists(root: Path) -> list[Path]:
    return [path for part in SPLIT_OF if (path := root / f"vric_{part}.txt").is_file()]
