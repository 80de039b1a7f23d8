"""``--format official``: the tree and the JSON that the released PFCVR code reads, whose keys and limits are its own.

Its rules are those of the released loader: part masks of 24 x 24 cells, the six category names, ``image/`` exactly once
in a path, whole numbers as identities, and at least one part on every train image, since it ends on an empty list. What
it calls ``val`` is what it tests on, which is our ``test``; our ``val`` goes to its ``train`` unless ``--keep-val``.
"""

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfcvr import geometry
from pfcvr.clip_vocabulary import CLIP_LENGTH, clip_bpe, token_counts
from pfcvr.config import ExportConfig
from pfcvr.files import sha256_file, write_json
from pfcvr.jsonl import lines_at
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.file_names import FileNames, safe_name
from pfcvr.pipeline.exporters.official_pixels import COPIES, RECIPE, copies_of, plain_pixels
from pfcvr.pipeline.exporters.read_back import Tally, reading_back
from pfcvr.pipeline.exporters.shards import SplitCounts
from pfcvr.pipeline.joined import JoinedImage
from pfcvr.pipeline.json_stream import JsonStream
from pfcvr.records import PARTS, ImageParts, PatchGrid, Split
from pfcvr.row_index import RowIndex

ANNOTATIONS = "reid_with_mask_prompt_and_boxes_filepath_prefixid_idsplit_70_30.json"
VEHICLE_IDS = "vehicle_ids.json"
SPILLED = "entries.partial"
CELLS = 24  # rows and columns: 384 px / 16 px (paper, section V-B)
LONGEST_NUMBER = 15  # digits that every JSON reader keeps
SPLIT_OF: dict[Split, Split] = {"train": "train", "val": "train", "test": "val"}


class OfficialExporter:
    """See the module."""

    needed_stages = ("parts",)

    def __init__(self, config: ExportConfig) -> None:
        self._config = config
        self._names = FileNames()

    def refuse(self, joined: JoinedImage) -> Refusal | None:
        """Train images without parts, names that another image has or that are too long for a file."""
        assert joined.split is not None
        if self._split(joined.split) == "train" and not official_grid(joined).any():
            return Refusal(
                "no_parts", "no part was found on it, and the released loader fails on a train image without"
            )
        return self._names.refuse(joined.image)

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """The tree; returns counts under the names that it uses, and what was rewritten or is too long.

        Everything but ``left_out.jsonl`` is read back and compared.
        """
        for name in ("image", "boxes", *(RECIPE if self._config.copies else ())):
            (folder / name).mkdir()
        tree = _Tree(folder, self._config)
        with closing(tree):
            for item in items:
                tree.add(item, self._split(item.split))
            tree.write_lists()
        verify_tree(folder, tree.meant)
        named = (ANNOTATIONS, VEHICLE_IDS)
        grid = facts.grid.model_dump(exclude={"cells"}) | {"rows": CELLS, "cols": CELLS}
        return {
            "splits": tree.counts.as_dict(),
            "grid": grid,
            "files": {name: sha256_file(folder / name) for name in named},
            "official": tree.facts() | {"split_of": {split: self._split(split) for split in SPLIT_OF}},
        }

    def _split(self, split: Split) -> Split:
        return split if self._config.keep_val else SPLIT_OF[split]


class _Tree:
    """The files below ``image``, ``boxes`` and the folders of copies, the lists, and the counts of what was written.

    The list of entries is in order of the file names, which an export that is imported and exported again keeps.
    ``meant`` is every file but the lists, and every entry with the vehicle_id behind its number.
    """

    def __init__(self, folder: Path, config: ExportConfig) -> None:
        self._folder, self._config = folder, config
        self._tokenizer = clip_bpe()
        self._too_long = self._rewritten = 0
        self._entries = (folder / SPILLED).open("w+b")
        self._order = RowIndex()
        self._vehicles: set[str] = set()
        self.counts, self.meant = SplitCounts(), Tally()

    def add(self, item: ExportItem, split: Split) -> None:
        """One image with its part file, its copies and its entry in the list."""
        vehicle_id, name, grid = item.image.vehicle_id, safe_name(item.image), official_grid(item.joined)
        pixels = plain_pixels(item.pixels)
        file_path, boxes = f"image/{name}{pixels.ending}", f"boxes/{name}.json"
        files = {file_path: pixels.content, boxes: json.dumps(part_entries(item.joined.parts, grid)).encode()}
        if self._config.copies and split == "train":
            copies = copies_of(pixels, item.image.image_id, self._config.copies_seed)
            files |= {_copy_path(file_path, begins): content for begins, content in copies.items()}
        for path, content in files.items():
            (self._folder / path).write_bytes(content)
            self.meant.add(path, content)
        texts = list(item.caption.texts)
        if self._tokenizer is not None:
            self._too_long += sum(count > CLIP_LENGTH for count in token_counts(self._tokenizer, texts))
        self._rewritten += pixels.rewritten
        entry = {
            "file_path": file_path,
            "captions": texts,
            "split": split,
            "boxes": boxes,
            "mask": grid.max(axis=0).tolist(),
            "prompt": ", ".join(f"car {part}" for part, own in zip(PARTS, grid, strict=True) if own.any()) or "car",
        }
        line = json.dumps([vehicle_id, entry]).encode()
        self.meant.add("entry", line)
        self._order.add(name, self._entries.tell(), rejected=False)
        self._entries.write(line + b"\n")
        self._vehicles.add(vehicle_id)
        self.counts.add(split, vehicle_id, len(texts))

    def write_lists(self) -> None:
        """The number of every vehicle that is in it, and the list of all entries, each on a line of its own."""
        numbers = vehicle_numbers(self._vehicles)
        write_json(self._folder / VEHICLE_IDS, numbers)
        with (self._folder / ANNOTATIONS).open("wb") as file:
            separator = b"[\n"
            for line in lines_at(self._entries, self._order.offsets(rejected=False)):
                vehicle_id, entry = json.loads(line)
                file.write(separator + json.dumps({"id": numbers[vehicle_id], **entry}).encode())
                separator = b",\n"
            file.write(b"\n]\n" if separator == b",\n" else b"[]\n")

    def close(self) -> None:
        self._entries.close()
        self._order.close()
        (self._folder / SPILLED).unlink()

    def facts(self) -> dict[str, Any]:
        """What the manifest says of this form."""
        return {
            "captions_over_77_tokens": None if self._tokenizer is None else self._too_long,
            "rewritten_images": self._rewritten,
            "vehicle_ids": "numbers" if _are_numbers(vehicle_numbers(self._vehicles)) else "mapped",
            "copies": {"seed": self._config.copies_seed, **RECIPE} if self._config.copies else None,
        }


def _copy_path(file_path: str, begins: str) -> str:
    """Where the released code looks for a copy: ``image/`` replaced by what the copy's path begins with."""
    return file_path.replace("image/", begins, 1)


def vehicle_numbers(vehicle_ids: Iterable[str]) -> dict[str, int]:
    """A whole number for each vehicle: its own where all are different numbers, else 1, 2, ... in order of the text."""
    ordered = sorted(set(vehicle_ids))
    if all(text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER for text in ordered):
        numbers = {text: int(text) for text in ordered}
        if len(set(numbers.values())) == len(ordered):
            return numbers
    return {text: number for number, text in enumerate(ordered, start=1)}


def _are_numbers(numbers: dict[str, int]) -> bool:
    return all(text.lstrip("0") == str(number).lstrip("0") for text, number in numbers.items())


def official_grid(joined: JoinedImage) -> NDArray[np.uint8]:
    """0/1 [6, 24, 24] in PARTS order: the stored grid, or, where that has other cells, one from masks and boxes."""
    parts, image = joined.parts, joined.image
    if parts is None:
        return np.zeros((len(PARTS), CELLS, CELLS), np.uint8)
    grid: PatchGrid = parts.grid
    if (grid.rows, grid.cols) != (CELLS, CELLS):
        grid = geometry.patch_grid(parts.instances, (image.height, image.width), CELLS, CELLS, grid.coverage)
    return geometry.grid_array(grid)


def part_entries(parts: ImageParts | None, grid: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """One entry for each part that has a cell: all its instances together, with the best of their scores."""
    entries = []
    for part, cells in zip(PARTS, grid, strict=True):
        if cells.any():
            own = [one.score for one in (parts.instances if parts is not None else ()) if one.part == part]
            entries.append({"category": part, "score": max(own, default=1.0), "mask": cells.tolist()})
    return entries


def verify_tree(folder: Path, meant: Tally) -> None:
    """Read the lists back, and every file that an entry means: all of it must be what was ``meant``.

    Raises WorkspaceError where it is not.
    """
    found = Tally()
    with reading_back(folder), (folder / ANNOTATIONS).open(encoding="ascii", newline="") as file:
        vehicles = {number: own for own, number in json.loads((folder / VEHICLE_IDS).read_bytes()).items()}
        stream = JsonStream(file)
        for entry in stream.items():
            copies = [_copy_path(entry["file_path"], begins) for begins in COPIES]
            there = [path for path in copies if (folder / path).exists()]
            for path in (entry["file_path"], entry["boxes"], *there):
                found.add(path, (folder / path).read_bytes())
            found.add("entry", json.dumps([vehicles[entry.pop("id")], entry]).encode())
        stream.finish()
    meant.check(found, folder)
