"""VERI-Wild 2.0: new test sets only, ``gallery/`` and ``query/`` with lists A, B and All (formats, section 1.6)."""

import re
from pathlib import Path
from typing import Any

from pfcvr.errors import SourceError
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable, counted, stem_of
from pfcvr.pipeline.sources.list_files import listed_names
from pfcvr.pipeline.sources.tree import walk_images
from pfcvr.wording import amount

LIST_FOLDERS = ("test_split_V2", "test_split")
LIST_NAME = re.compile(r"\w+_(query|gallery)\.txt", re.IGNORECASE)


class VeriWild2:
    """Importer of ``gallery/`` and ``query/`` with ``test_split*/``; lines are path, identity and maybe a camera."""

    def recognise(self, source: Path) -> str | None:
        lists = _lists(source)
        return f"found {lists[0].relative_to(source).as_posix()}" if lists else None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        lists = _lists(source.resolve())
        if not lists:
            raise SourceError(f"{source}: no VERI-Wild 2.0 lists; expected test_split_V2/ or test_split/ in a folder")
        table = ImageTable(source.resolve())
        table.add_files(walk_images(table.root))
        facts: dict[str, dict[str, int]] = {}
        members: dict[str, set[str]] = {}
        for path in lists:
            part, columns, own = path.stem.rpartition("_")[2].lower(), 1, members.setdefault(path.name, set())
            for line in listed_names(table, path, (1, 2)):
                vehicle_id, camera_id = line.columns[0], line.columns[1] if len(line.columns) > 1 else None
                columns = max(columns, len(line.columns))
                image_path = _placed(table, line.name, part)
                image_id = f"{vehicle_id}/{stem_of(image_path)}"
                image = SourceImage(image_id, vehicle_id, image_path, camera_id, source_split="test")
                if table.add(image, line.place):
                    own.add(image_id)
            facts[path.name] = {"images": len(own), "columns": columns + 1}
        overlaps, unlisted = _overlaps(members), table.unlisted()
        notes: dict[str, Any] = {"lists": facts, "list_overlaps": overlaps, "images_in_no_list": unlisted}
        surprises = [f"{pair} share {amount(n, 'image')}" for pair, n in overlaps.items() if n]
        surprises += counted({"images_in_no_list": unlisted["count"]})
        return table.listing("veri-wild-2", lists, notes, surprises)


def _lists(root: Path) -> list[Path]:
    for folder in LIST_FOLDERS:
        found = [path for path in sorted((root / folder).glob("*.txt")) if LIST_NAME.fullmatch(path.name)]
        if found:
            return found
    return []


def _placed(table: ImageTable, name: str, part: str) -> str:
    """Where the file ``name`` of a list lies: under the folder of its part where several have that name."""
    found = table.files_named(name)
    own = [path for path in found if path.startswith(f"{part}/")]
    return (own or found or [name])[0]


def _overlaps(members: dict[str, set[str]]) -> dict[str, int]:
    """Images that a gallery list shares with its query list (0 is reported too)."""
    pairs = ((name, name.replace("_query", "_gallery")) for name in members if "_query" in name)
    return {f"{query} and {gallery}": len(members[query] & members.get(gallery, set())) for query, gallery in pairs}
