"""VERI-Wild, both generations of its list files, however its image folders were unpacked (reference: formats, 1)."""

import re
from itertools import islice
from pathlib import Path
from typing import Any

from pfcvr.errors import SourceError
from pfcvr.files import sha256_file, sha256_json
from pfcvr.pipeline.sources import SourceListing
from pfcvr.pipeline.sources.image_table import counted
from pfcvr.pipeline.sources.published import published_counts
from pfcvr.pipeline.sources.terms import read_terms, terms_files
from pfcvr.pipeline.sources.text_lines import text_encoding
from pfcvr.pipeline.sources.tree import walk_images
from pfcvr.pipeline.sources.veri_wild_index import VeriWildIndex
from pfcvr.pipeline.sources.veri_wild_lists import COLORS, TYPES, Header, InfoLine, ListLine, info_lines, list_lines
from pfcvr.wording import amount

LIST_FOLDER = "train_test_split"
INFO_NAME = "vehicle_info.txt"
LIST_NAME = re.compile(r"(multi_)?(train|test)\w*\.txt", re.IGNORECASE)
# Three numbers of a date, in any order, or eight to fourteen digits; a clock time may follow.
TIME_PATTERN = re.compile(r"(9{1,4}[-/.]9{1,2}[-/.]9{1,4}|9{8})(\D.*)?|9{10,14}")
EXAMPLES = 5
MEMBERSHIP = "VERI-Wild's own train and test lists; the split of this data set is drawn by pfcvr-data split"


class VeriWild:
    """Importer of the layout ``images*/VEHICLE/IMAGE.jpg`` with ``train_test_split/``."""

    def recognise(self, source: Path) -> str | None:
        if not source.is_dir():
            return None
        if (source / "attribute").is_dir() or any((source / LIST_FOLDER).glob("test_list_*.txt")):
            return None
        files = _text_files(source)
        if files:
            return f"found {files[0].relative_to(source).as_posix()}"
        for folder in sorted(source.glob("[iI]mages*/")):
            if any(entry.is_dir() and entry.name.isdecimal() for entry in folder.iterdir()):
                return f"found {folder.name}/ with folders named by number"
        return None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        if not source.is_dir():
            raise SourceError(f"{source}: not a folder; give the VERI-Wild folder that holds images/")
        root = source.resolve()
        index = VeriWildIndex()
        index.add_files(walk_images(root))
        files = _text_files(root)
        texts = {path.name: _read_text_file(index, root, path) for path in files}
        index.resolve()
        notes, surprises = _report(index, texts)
        terms = {path.name: sha256_file(path) for path in [*files, *terms_files(root)]}
        return SourceListing(
            root=root,
            source=read_terms(root, "veri-wild"),
            content=sha256_json({"files": index.content_hash(), "texts": terms}),
            total=index.count("good") + index.count("problem"),
            rows=index.rows,
            notes=notes,
            surprises=tuple(surprises),
            close=index.close,
        )


def _text_files(root: Path) -> list[Path]:
    """``vehicle_info.txt`` and the list files, in ``train_test_split/`` or beside the image folders."""
    folder = root / LIST_FOLDER if (root / LIST_FOLDER).is_dir() else root
    named = (path for path in sorted(folder.glob("*.txt")) if path.is_file())
    # The info file first: where a list repeats an image, what the info file says of it is already known.
    return sorted((p for p in named if p.name == INFO_NAME or LIST_NAME.fullmatch(p.name)), key=_lists_last)


def _lists_last(path: Path) -> bool:
    return path.name != INFO_NAME


def _read_text_file(index: VeriWildIndex, root: Path, path: Path) -> dict[str, Any]:
    """Put every line into the index; returns encoding, header and columns as found."""
    place, encoding = path.relative_to(root).as_posix(), text_encoding(path)
    facts: dict[str, Any] = {"encoding": encoding, "lines": 0, "malformed_lines": 0}
    lines = info_lines(path, encoding) if path.name == INFO_NAME else list_lines(path, encoding)
    if path.name == INFO_NAME:
        facts["header"] = False
    for line in lines:
        facts["lines"] += 1
        if isinstance(line, InfoLine):
            if not index.add_info(place, line):
                detail = f"another line already describes {line.image_id} differently; the first one counts"
                index.add_problem(f"{place}:{line.number}", "conflicting_line", detail)
        elif isinstance(line, ListLine):
            facts["columns"] = max(facts.get("columns", 0), line.columns)
            index.add_list_line(place, line)
        elif isinstance(line, Header):
            facts["header"] = True
        else:
            facts["malformed_lines"] += 1
            index.add_problem(f"{place}:{line.number}", "malformed_line", line.detail)
    return facts


def _report(index: VeriWildIndex, texts: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What is known only once a real copy is read (open points of the layout), and what strict does not accept."""
    unknown = {
        column: {value: n for value, n in index.value_counts(column).items() if value.lower() not in known}
        for column, known in (("color", COLORS), ("type", TYPES))
    }
    cameras = {**index.value_counts("list_camera"), **index.value_counts("camera")}
    models, times = index.value_counts("model"), index.time_patterns()
    stray, examples = index.stray_files(EXAMPLES)
    overlaps = _overlaps(index)
    counts = {
        "images_in_no_list": index.unlisted() if texts.keys() - {INFO_NAME} else 0,
        "images_without_a_line_in_vehicle_info": index.undescribed() if INFO_NAME in texts else 0,
        "images_in_another_vehicles_folder": index.other_folder(),
        "camera_conflicts": index.camera_conflicts(),
    }
    odd = {
        "camera": {value: n for value, n in cameras.items() if not value.isdecimal()},
        "time of the pattern": {value: n for value, n in times.items() if not TIME_PATTERN.fullmatch(value)},
    }
    notes: dict[str, Any] = {
        "texts": texts,
        "unknown_values": {column: values for column, values in unknown.items() if values},
        "odd_values": {column: values for column, values in odd.items() if values},
        "cameras": {"distinct": len(cameras), "examples": sorted(cameras)[:EXAMPLES]},
        "time_patterns": dict(islice(times.items(), EXAMPLES)),
        "models": {"distinct": len(models), "examples": sorted(models)[:EXAMPLES]},
        "counts": published_counts("veri-wild", _sizes(index)),
        "lists": {name: {"images": n, "vehicles": v} for name, (n, v) in index.list_sizes().items()},
        "list_overlaps": overlaps,
        "list_membership": MEMBERSHIP,
        "pictures_outside_image_folders": {"count": stray, "examples": examples},
        **counts,
    }
    surprises = [f"{what} '{value}' x {n}" for what, values in (unknown | odd).items() for value, n in values.items()]
    surprises += [f"{pair} share {amount(n, 'image')}" for pair, n in overlaps.items() if n]
    counts["pictures_outside_image_folders"] = stray
    return notes, [*surprises, *counted(counts)]


def _sizes(index: VeriWildIndex) -> dict[str, tuple[int, int]]:
    """Images and vehicles that are there, and those that each list names, under the name of the list's purpose."""
    sizes = {"all": index.size()}
    for name, size in index.list_sizes().items():
        part = name.rpartition("/")[2].removesuffix(".txt").replace("_id", "")
        if not name.endswith(INFO_NAME):
            sizes["train" if part.startswith("train") else part] = size
    return sizes


def _overlaps(index: VeriWildIndex) -> dict[str, int]:
    """Images that a gallery shares with its query list, or a test list with the training list (0 is reported too)."""
    names = [name for name in index.list_sizes() if not name.endswith(INFO_NAME)]
    overlaps = {}
    for name in names:
        short = name.rpartition("/")[2]
        for other in names:
            other_short = other.rpartition("/")[2]
            gallery_and_query = other_short == short.replace(".txt", "_query.txt")
            train_and_test = short.startswith("train") and "test" in other_short
            if name != other and (gallery_and_query or train_and_test):
                overlaps[f"{short} and {other_short}"] = index.shared_images(name, other)
    return overlaps
