"""What a source may be meant as where only a plain tree of folders fits: a known data set whose list cannot be read.

To take the folders of such a data set for vehicles would give every image a wrong identity: ``--format auto`` asks here
first.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from pfcvr.pipeline.json_stream import JsonStream
from pfcvr.pipeline.sources import Importer
from pfcvr.pipeline.sources.reid_json import captions_files, listed_files
from pfcvr.pipeline.sources.text_lines import is_utf_16
from pfcvr.pipeline.sources.tree import FoundImage, walk_images

FOLDERS_OF_LAYOUTS = {
    **dict.fromkeys(("image_train", "image_test", "image_query"), "veri-776"),
    **dict.fromkeys(("train_images", "probe_images", "gallery_images"), "vric"),
    **dict.fromkeys(("gallery_final", "query_final"), "veri-wild-2"),
    **dict.fromkeys(("darkimage", "lightimage", "noisyimage"), "t2i-verw"),
    **dict.fromkeys(("cam_a", "cam_b", "cuhk01", "cuhk03", "test_query", "train_query"), "reid-json"),
}
"""Image folders, in lower case, that one layout alone has."""

FOLDER_OF_MANY_VEHICLES = re.compile(r"images?([._ -]?part\d+)?|imgs|train|val|test|gallery|query")
JSON_SUFFIXES = frozenset({".json", ".jsonl"})
LARGEST_JUDGED = 1 << 20  # bytes; a captions file that was cut off in its first row is not larger than a row
NESTED_STEPS = 2


def near_miss(source: Path, layouts: Mapping[str, Importer]) -> str | None:
    """Why ``source`` is not to be taken for a folder a vehicle, and what to do instead, or None.

    ``layouts`` are those that bring lists of their own.
    """
    files = [source] if source.is_file() else sorted(source.glob("*"))
    lists = captions_files(source)
    if len(lists) > 1:
        names = ", ".join(path.name for path in lists)
        return f"several captions files lie here ({names}); give the file itself as the source"
    utf_16 = next((path.name for path in listed_files(source) if is_utf_16(path)), None)
    if utf_16 is not None:
        return (
            f"{ascii(utf_16)[1:-1]} is text in UTF-16, and it may be what names the vehicles; save it as UTF-8, or "
            "take each folder for a vehicle with --format folder"
        )
    damaged = next((path.name for path in files if path.suffix.lower() in JSON_SUFFIXES and _is_damaged(path)), None)
    if damaged is not None:
        return (
            f"{ascii(damaged)[1:-1]} is cut off or no JSON in UTF-8, and it may be what names the vehicles; get the "
            "file anew, or take each folder for a vehicle with --format folder"
        )
    if not source.is_dir():
        return None
    found = (row.path for row in walk_images(source.resolve()) if isinstance(row, FoundImage))
    folders = sorted({path.rpartition("/")[0] for path in found} - {""})
    return _nested(source, folders, layouts) or _without_list(folders)


def _is_damaged(path: Path) -> bool:
    """Whether not even the first value of a JSON file can be read."""
    if not path.is_file() or path.stat().st_size > LARGEST_JUDGED:
        return False
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        stream = JsonStream(file)
        try:
            start = stream.peek()
            if start == "[":
                next(stream.items(), None)
            elif start or path.suffix.lower() == ".json":
                stream.value()
        except ValueError:
            return True
    return False


def _nested(source: Path, folders: list[str], layouts: Mapping[str, Importer]) -> str | None:
    """A known data set that begins in a folder below ``source``."""
    for above in _above(folders):
        for layout, importer in layouts.items():
            if importer.recognise(source / above) is not None:
                return f"a {layout} data set lies in the folder {above}; give {source / above}"
    return None


def _without_list(folders: list[str]) -> str | None:
    """Of ``folders`` that hold images, one that no layout has for a single vehicle."""
    for folder in folders:
        steps = folder.lower().split("/")
        layouts = [FOLDERS_OF_LAYOUTS[step] for step in steps if step in FOLDERS_OF_LAYOUTS]
        if layouts:
            return (
                f"the folder {folder} is one of layout {layouts[0]}, and nothing here lists its images; bring the "
                f"lists, or say what it is with --format {layouts[0]}, or folder to take each folder for a vehicle"
            )
        if FOLDER_OF_MANY_VEHICLES.fullmatch(steps[-1]):
            return (
                f"the folder {folder} looks like one for images of many vehicles, and no known layout says which image "
                "shows which; bring the list, or take each folder for a vehicle with --format folder"
            )
    return None


def _above(folders: Iterable[str]) -> list[str]:
    """The folders above ``folders`` that are no more than two steps deep, the upper ones first."""
    above = {path for folder in folders for path in PurePosixPath(folder).parents}
    near = (path for path in above if 0 < len(path.parts) <= NESTED_STEPS)
    return [str(path) for path in sorted(near, key=lambda path: (len(path.parts), path))]
