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
from pfcvr.errors import WorkspaceError
from pfcvr.files import sha256_file, write_json
from pfcvr.jsonl import lines_at
from pfcvr.pipeline.exporters import ExportFacts, ExportItem, Refusal
from pfcvr.pipeline.exporters.file_names import FileNames, official_name
from pfcvr.pipeline.exporters.official_pixels import RECIPE, copies_of, plain_pixels
from pfcvr.pipeline.exporters.shards import SplitCounts
from pfcvr.pipeline.joined import JoinedImage
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
        self._names = FileNames(official_name)

    def refuse(self, joined: JoinedImage) -> Refusal | None:
        """Train images without parts, names that another image has or that are too long for a file."""
        assert joined.split is not None
        if self._split(joined.split) == "train" and not official_grid(joined).any():
            return Refusal(
                "no_parts", "no part was found on it, and the released loader fails on a train image without"
            )
        return self._names.refuse(joined.image)

    def write(self, items: Iterable[ExportItem], facts: ExportFacts, folder: Path) -> dict[str, Any]:
        """The tree; returns counts under the names that it uses, and what was rewritten or is too long."""
        for name in ("image", "boxes", *(RECIPE if self._config.copies else ())):
            (folder / name).mkdir()
        numbers = vehicle_numbers(facts.vehicle_ids)
        write_json(folder / VEHICLE_IDS, {vehicle_id: numbers[vehicle_id] for vehicle_id in facts.vehicle_ids})
        tree = _Tree(folder, numbers, self._config)
        with closing(tree):
            for item in items:
                tree.add(item, self._split(item.split))
            tree.write_list(folder / ANNOTATIONS)
        _verify(folder, tree.counts)
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
    """The files below ``image``, ``boxes`` and the folders of copies, the list, and the counts of what was written.

    The list is in order of the file names, which an export that is imported and exported again keeps.
    """

    def __init__(self, folder: Path, numbers: dict[str, int], config: ExportConfig) -> None:
        self._folder, self._numbers, self._config = folder, numbers, config
        self._tokenizer = clip_bpe()
        self._too_long = self._rewritten = 0
        self._entries = (folder / SPILLED).open("w+b")
        self._order = RowIndex()
        self.counts = SplitCounts()

    def add(self, item: ExportItem, split: Split) -> None:
        """One image with its part file, its copies and its entry in the list."""
        name, grid = official_name(item.image), official_grid(item.joined)
        pixels = plain_pixels(item.pixels)
        file_name = f"{name}{pixels.ending}"
        (self._folder / "image" / file_name).write_bytes(pixels.content)
        self._rewritten += pixels.rewritten
        if self._config.copies and split == "train":
            for place, content in copies_of(pixels, item.image.image_id, self._config.copies_seed).items():
                (self._folder / f"{place}{file_name}").write_bytes(content)
        boxes = json.dumps(part_entries(item.joined.parts, grid))
        (self._folder / "boxes" / f"{name}.json").write_text(boxes, encoding="ascii")
        texts = list(item.caption.texts)
        if self._tokenizer is not None:
            self._too_long += sum(count > CLIP_LENGTH for count in token_counts(self._tokenizer, texts))
        entry = {
            "id": self._numbers[item.image.vehicle_id],
            "file_path": f"image/{file_name}",
            "captions": texts,
            "split": split,
            "boxes": f"boxes/{name}.json",
            "mask": grid.max(axis=0).tolist(),
            "prompt": ", ".join(f"car {part}" for part, own in zip(PARTS, grid, strict=True) if own.any()) or "car",
        }
        self._order.add(name, self._entries.tell(), rejected=False)
        self._entries.write(json.dumps(entry).encode() + b"\n")
        self.counts.add(split, item.image.image_id, item.image.vehicle_id, len(texts))

    def write_list(self, path: Path) -> None:
        """The list of all entries, each on a line of its own."""
        with path.open("wb") as file:
            separator = b"[\n"
            for line in lines_at(self._entries, self._order.offsets(rejected=False)):
                file.write(separator + line.rstrip(b"\n"))
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
            "vehicle_ids": "numbers" if _are_numbers(self._numbers) else "mapped",
            "copies": {"seed": self._config.copies_seed, **RECIPE} if self._config.copies else None,
        }


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


def _verify(folder: Path, counts: SplitCounts) -> None:
    """Read the list back, an entry a line: as many of each split as were written, each with its files."""
    found: dict[str, int] = {}
    with (folder / ANNOTATIONS).open(encoding="ascii") as lines:
        for line in lines:
            if not line.startswith("{"):
                continue
            entry = json.loads(line.rstrip(",\n"))
            found[entry["split"]] = found.get(entry["split"], 0) + 1
            if not (folder / entry["file_path"]).is_file() or not (folder / entry["boxes"]).is_file():
                raise WorkspaceError(f"{folder}: {entry['file_path']} was not written whole; run the export again")
    if found != {split: own["images"] for split, own in counts.as_dict().items()}:
        raise WorkspaceError(f"{folder}: the entries read back are not those written; run the export again")
