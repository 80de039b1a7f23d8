"""Opens an exported data set for training and evaluation: its splits, what can be wrong with them, who is who.

The only place where identities become labels 0..K-1. Pixels and parts are read row by row when needed; the columns
that say which image is whose are held in memory.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pfcvr.config import Protocol
from pfcvr.errors import DataError, first_line
from pfcvr.files import sha256_file, sha256_json
from pfcvr.hub import HUB_NAME
from pfcvr.identity_draw import carve_validation
from pfcvr.model.hub_data import full_cache_stops, load_hub_tables
from pfcvr.model.part_masks import NO_PARTS, PartLayers, layers_of_grid, layers_of_instances

DEFAULT_COVERAGE = 0.5  # of data sets that do not carry the recipe of their grids
NEEDED_COLUMNS = ("image", "image_id", "vehicle_id", "captions")
KNOWN_SPLITS = ("train", "val", "test")


class Rows:
    """The images of one split, in order. ``rows`` below are positions 0..len-1."""

    def __init__(self, table: Any, where: str) -> None:
        self._table = table
        self._arrow = table.with_format("arrow")
        self.where = where

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def image_ids(self) -> list[str]:
        return self._texts("image_id")

    @cached_property
    def vehicle_ids(self) -> list[str]:
        return self._texts("vehicle_id")

    @cached_property
    def camera_ids(self) -> list[str | None]:
        return self._column("camera_id")

    @cached_property
    def captions(self) -> list[list[str]]:
        """The captions of each image that hold any text; raises DataError where they are not a list of texts."""
        column = self._column("captions")
        if not all(texts is None or isinstance(texts, list) for texts in column):
            raise DataError(
                f"{self.where}: column captions holds single values; expected a list of texts for each image"
            )
        return [[text for text in texts or () if text and text.strip()] for texts in column]

    @cached_property
    def part_texts(self) -> list[dict[str, str]]:
        """What is said of the parts of each image, by part; a part without a phrase is left out.

        Raises DataError where a row has no names of parts.
        """
        phrases = self._column("part_texts")
        if not all(row is None or isinstance(row, dict) for row in phrases):
            raise DataError(f"{self.where}: column part_texts has no names of parts; expected a text for each of them")
        return [{part: text for part, text in (row or {}).items() if text and text.strip()} for row in phrases]

    def image_hashes(self) -> list[str]:
        """SHA-256 of each image file: as the data set states it, else of the bytes it holds."""
        stated = self._column("sha256")
        return [value or hashlib.sha256(self.image_bytes(row)).hexdigest() for row, value in enumerate(stated)]

    def duplicates(self) -> int:
        """How many images repeat the file of an earlier one."""
        hashes = [value for value in self._column("sha256") if value]
        return len(hashes) - len(set(hashes))

    def image_bytes(self, row: int) -> bytes:
        """The image file of ``row``; raises DataError when the data set holds none."""
        (image,) = self._values(self._arrow[row], "image")
        content = image.get("bytes") if isinstance(image, dict) else None
        if not content:
            raise DataError(
                f"{self.where}: image '{self.image_ids[row]}' has no pixels; export the data set with images"
            )
        return bytes(content)

    def parts(self, row: int) -> PartLayers:
        """Where each part of ``row`` is: masks, boxes of instances without a mask, else the stored patch grid."""
        if not self._parts_table.column_names:
            return NO_PARTS
        table = self._parts_table[row]
        record = {name: self._values(table, name)[0] for name in table.column_names}
        try:
            if record.get("parts"):
                return layers_of_instances(record["parts"], (record.get("height"), record.get("width")))
            grid = np.array(record.get("part_grid") or [], dtype=bool)
            return layers_of_grid(grid) if grid.any() else NO_PARTS
        except (ValueError, TypeError, KeyError) as error:
            image = f"{self.where}: image '{self.image_ids[row]}'"
            raise DataError(f"{image} has damaged parts ({error}); export the data set again") from None

    def has_parts(self) -> bool:
        """Whether any image shows a part; reads no further than the first that does."""
        return any(self.parts(row).parts for row in range(len(self)))

    def select(self, rows: Iterable[int]) -> "Rows":
        """Some of the rows, in the order given."""
        return Rows(self._table.select(list(rows)), self.where)

    def joined(self, other: "Rows") -> "Rows":
        """The rows of both."""
        from datasets import concatenate_datasets

        return Rows(concatenate_datasets([self._table, other._table]), self.where)

    @cached_property
    def _parts_table(self) -> Any:
        names = [name for name in ("parts", "part_grid", "width", "height") if name in self._table.column_names]
        return self._arrow.select_columns(names)

    def _column(self, name: str) -> list[Any]:
        if name not in self._table.column_names:
            return [None] * len(self)
        return self._values(self._arrow.select_columns([name])[:], name)

    def _values(self, table: Any, name: str) -> list[Any]:
        """Column ``name`` of an Arrow table; raises DataError where bytes of the file changed, which shows in texts."""
        try:
            values: list[Any] = table.column(name).to_pylist()
        except ValueError as error:
            raise DataError(
                f"{self.where}: column {name} is damaged ({first_line(error)}); export the data set again"
            ) from None
        return values

    def _texts(self, name: str) -> list[str]:
        values = self._column(name)
        wrong = next((row for row, value in enumerate(values) if not isinstance(value, str) or not value), None)
        if wrong is not None:
            raise DataError(
                f"{self.where}: row {wrong} has {name} {values[wrong]!r}; expected text, export the data again"
            )
        return values


@dataclass(frozen=True)
class VehicleData:
    """An opened data set: where it came from, what it is (``fingerprint``), its splits, and its grids' coverage."""

    source: str
    fingerprint: str
    splits: dict[str, Rows]
    coverage: float

    def split(self, name: str) -> Rows:
        """The images of split ``name``, or of all splits for ``all``; raises DataError when there are none."""
        if name == "all" and self.splits:
            first, *others = self.splits.values()
            for rows in others:
                first = first.joined(rows)
            return first
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise DataError(f"{self.source}: no split '{name}' or no image in it; splits here: {known}")
        return self.splits[name]


@dataclass(frozen=True)
class TrainSplits:
    """What a run learns from and what it chooses its best weights on; ``note`` says where the latter came from."""

    train: Rows
    selection: Rows
    selection_name: str
    note: str

    @property
    def can_choose(self) -> bool:
        """Whether some weights can be better than others: with one vehicle alone every answer is right."""
        return len(set(self.selection.vehicle_ids)) > 1


def open_data(source: str) -> VehicleData:
    """Open a folder written by ``pfcvr-data export``, or a data set of the Hub by its name.

    Raises:
        DataError: nothing there, not such a data set, or a needed column is missing.
        HubError: the Hub has no data set of that name, or was not reached.
        StageStopped: the disk is full.
    """
    folder = Path(source)
    if folder.exists():
        tables, fingerprint, manifest = _open_folder(folder)
    elif HUB_NAME.fullmatch(source):
        tables, fingerprint, manifest = load_hub_tables(source)
    else:  # asking the Hub anyway would retry for half a minute
        raise DataError(
            f"{source}: no such folder; give a folder written by pfcvr-data export, or a Hub name OWNER/NAME"
        )
    splits = {}
    for name in sorted(tables, key=_split_order):
        missing = [column for column in NEEDED_COLUMNS if column not in tables[name].column_names]
        if missing:
            raise DataError(_lacks_columns(source, name, missing, tables[name].column_names))
        if len(tables[name]):
            splits[name] = Rows(tables[name], f"{source} ({name})")
    return VehicleData(source, fingerprint, splits, DEFAULT_COVERAGE if manifest is None else _coverage(manifest))


def training_splits(data: VehicleData, protocol: Protocol, share: float, seed: int) -> TrainSplits:
    """Train and selection images under ``protocol``.

    ``clean``: the val split, or, where there is none, ``share`` of the train identities carved by ``seed`` with the
    rule that ``pfcvr-data split`` uses. ``published``: train and val together, selection on test.

    Raises:
        DataError: a needed split is missing or has no caption, or fewer than two identities with one remain in train.
    """
    train = data.split("train")
    if protocol == "published":
        note = "weights chosen on test, as the published tables did"
        if "val" in data.splits:
            train = train.joined(data.splits["val"])
            note += "; val images are trained on"
        chosen = TrainSplits(train, data.split("test"), "test", note)
    elif "val" in data.splits:
        chosen = TrainSplits(train, data.splits["val"], "val", "weights chosen on the val split")
    else:
        chosen = _carved(data, train, share, seed)
    _check_trainable(data.source, chosen)
    if not chosen.can_choose:
        alone = f"{chosen.note}; they show one vehicle alone, so every answer is right: the last weights are kept"
        chosen = replace(chosen, note=alone)
    return chosen


def identity_labels(vehicle_ids: Sequence[str]) -> dict[str, int]:
    """Label 0..K-1 of each vehicle, in order of vehicle_id."""
    return {vehicle_id: label for label, vehicle_id in enumerate(sorted(set(vehicle_ids)))}


def _carved(data: VehicleData, train: Rows, share: float, seed: int) -> TrainSplits:
    held_out = set(carve_validation(train.vehicle_ids, share, seed))
    of_val = [vehicle_id in held_out for vehicle_id in train.vehicle_ids]
    if not any(of_val) or all(of_val):
        raise DataError(_too_few(data.source, len(set(train.vehicle_ids))))
    note = (
        f"{data.source} has no val split: {len(held_out)} train identities ({sum(of_val)} images) were set aside with "
        f"seed {seed} to choose the weights on"
    )
    rows = range(len(train))
    kept, carved = train.select(r for r in rows if not of_val[r]), train.select(r for r in rows if of_val[r])
    return TrainSplits(kept, carved, "val", note)


def _check_trainable(source: str, splits: TrainSplits) -> None:
    identities = len(set(splits.train.vehicle_ids))
    if identities < 2:
        raise DataError(_too_few(source, identities))
    for name, rows in (("train", splits.train), (splits.selection_name, splits.selection)):
        if not any(rows.captions):
            raise DataError(
                f"{source}: no image of split '{name}' has a caption; run pfcvr-data caption and export again"
            )
    columns = zip(splits.train.vehicle_ids, splits.train.captions, strict=True)
    described = len({vehicle_id for vehicle_id, captions in columns if captions})
    if described < 2:
        raise DataError(
            f"{source}: {described} of {identities} identities in train has a caption, which is too few to tell "
            "vehicles apart, at least 2 must; run pfcvr-data caption and export again"
        )


def _too_few(source: str, identities: int) -> str:
    return (
        f"{source}: {identities} identity in train is too few to tell vehicles apart, at least 2 must remain beside "
        "val; add vehicles or change the split"
    )


def _lacks_columns(source: str, split: str, missing: list[str], columns: list[str]) -> str:
    if missing == ["image"] and "sha256" in columns:
        return (
            f"{source}: holds annotations without pixels; join them with your own copy of the images first: "
            "pfcvr-data rebuild ANNOTATIONS --images ROOT --out OUT"
        )
    wanted = ", ".join(missing)
    return f"{source}: split '{split}' has no column {wanted}; expected a data set written by pfcvr-data export"


def _split_order(name: str) -> tuple[int, str]:
    return (KNOWN_SPLITS.index(name) if name in KNOWN_SPLITS else len(KNOWN_SPLITS), name)


def _open_folder(folder: Path) -> tuple[dict[str, Any], str, Path | None]:
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    shards: dict[str, list[str]] = {}
    for path in sorted(folder.glob("data/*-*.parquet")):
        shards.setdefault(path.name.partition("-")[0], []).append(str(path))
    if not shards:
        raise DataError(f"{folder}: no data/SPLIT-*.parquet here; give a folder written by pfcvr-data export")
    disable_progress_bars()
    try:
        with full_cache_stops(str(folder)):
            tables = load_dataset("parquet", data_files=shards)
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{folder}: cannot be read ({_last_line(error)}); export the data set again") from error
    manifest = folder / "pfcvr.json"
    if not manifest.is_file():
        hashes = {path: sha256_file(Path(path)) for paths in shards.values() for path in paths}
        names = {str(Path(path).relative_to(folder)): value for path, value in hashes.items()}
        return tables, sha256_json(names), None
    return tables, sha256_file(manifest), manifest


def _coverage(manifest: Path) -> float:
    """The share of a cell that a part must cover in the grids of the data set."""
    try:
        grid = json.loads(manifest.read_bytes()).get("grid") or {}
        coverage = grid.get("coverage", DEFAULT_COVERAGE)
    except (ValueError, AttributeError):
        raise DataError(f"{manifest}: not a manifest of pfcvr-data export; export the data set again") from None
    if not isinstance(coverage, float | int) or not 0 < coverage <= 1:
        raise DataError(
            f"{manifest}: grid.coverage is {coverage!r}, expected a share above 0 and not above 1; export the data set "
            "again"
        )
    return float(coverage)


def _last_line(error: BaseException) -> str:
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return lines[0]
