"""A data set that pfcvr exported, from a folder or from the Hub: pictures are unpacked, annotations kept beside.

The unpacked folder holds the image files, ``captions.jsonl``, ``parts.jsonl`` and ``source.json``; the stages caption,
parts and split take theirs from it (``--captioner import``, ``--detector import``, ``--from-source``). Importing again
reads the pixels of those rows alone whose file is not there as it was unpacked.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from pfcvr.errors import HubError, SourceError
from pfcvr.files import atomic_write, read_object, write_json
from pfcvr.hub import HUB_NAME
from pfcvr.pipeline.dataset_manifest import absent_shards, stated_splits
from pfcvr.pipeline.images import IMAGE_SUFFIXES
from pfcvr.pipeline.sources import SourceImage, SourceListing
from pfcvr.pipeline.sources.hub_set import find_hub_set
from pfcvr.pipeline.sources.image_table import ImageTable
from pfcvr.pipeline.sources.published import counts_beside
from pfcvr.pipeline.sources.tar_rows import tar_rows, tar_shards
from pfcvr.pipeline.sources.terms import DESCRIPTION, MANIFEST, described_by_manifest, described_on_hub
from pfcvr.pipeline.sources.tree import is_plain_name
from pfcvr.pipeline.sources.unpacking import KNOWN_FILES, UnpackedFiles
from pfcvr.records import SPLITS, Split
from pfcvr.wording import amount

SEE_CARD = "see the card of the data set"
CAPTIONS, PARTS_FILE = "captions.jsonl", "parts.jsonl"
ROWS_AT_A_TIME = 100
SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}
Row = dict[str, Any]
Pixels = Callable[[], bytes | None]


class PfcvrSet:
    """Importer of ``pfcvr.json`` with ``data/*.parquet`` or ``*.tar``, or of a name on the Hub."""

    def recognise(self, source: Path) -> str | None:
        return f"found {MANIFEST}" if (source / MANIFEST).is_file() and _has_rows(source) else None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        from_hub = not source.exists() and HUB_NAME.fullmatch(str(source)) is not None
        if not from_hub and not _has_rows(source):
            expected = "a folder with data/*.parquet or *.tar, or a Hub name"
            raise SourceError(f"{source}: no data set of pfcvr; expected {expected}")
        there = find_hub_set(str(source)) if from_hub else None
        manifest = there.manifest if there else read_object(source / MANIFEST)
        if manifest.get("format") == "annotations":
            raise SourceError(f"{source}: annotations without pixels; {_how_to_join(source, from_hub)}")
        described = described_on_hub(there) if there else described_by_manifest(source / MANIFEST)
        unpacked.mkdir(parents=True, exist_ok=True)
        write_json(unpacked / DESCRIPTION, {"name": source.name, "licence": SEE_CARD} | described)
        table = ImageTable(unpacked.resolve())
        local = local_rows if _shards(source) else tar_rows
        rows = hub_rows(str(source), there.origin.commit) if there else local(source)
        rows_of: Counter[str] = Counter()
        with ExitStack() as opened:
            captions = opened.enter_context(atomic_write(unpacked / CAPTIONS))
            parts = opened.enter_context(atomic_write(unpacked / PARTS_FILE))
            record = opened.enter_context(atomic_write(unpacked / KNOWN_FILES))
            files = opened.enter_context(closing(UnpackedFiles(table.root, record)))
            for number, (split, row, pixels) in enumerate(rows, start=1):
                rows_of[split] += 1
                image_id = _unpack(table, files, split, row, pixels, f"{split}:row {number}")
                if image_id is not None:
                    _write_annotations(image_id, row, captions, parts)
        texts = [table.root / CAPTIONS, table.root / PARTS_FILE]
        stated = stated_splits(manifest)
        absent = [] if from_hub else absent_shards(source, manifest)
        notes = {
            "captions_file": CAPTIONS,
            "unpacked_from": str(source),
            "counts": counts_beside(table.sizes(), stated),
            "absent_shards": absent,
        }
        return table.listing("pfcvr", texts, notes, [*map(_is_absent, absent), *_other_counts(rows_of, stated)])


def _has_rows(source: Path) -> bool:
    return bool(_shards(source) or tar_shards(source))


def _how_to_join(source: Path, from_hub: bool) -> str:
    """The commands that make a data set of published annotations."""
    folder = "FOLDER" if from_hub else str(source)
    fetch = f"hf download {source} --repo-type dataset --local-dir {folder}, then " if from_hub else ""
    return f"join them with your own copy of the images: {fetch}pfcvr-data rebuild {folder} --images ROOT --out OUT"


def _is_absent(shard: str) -> str:
    return f"{shard} is named by {MANIFEST} and not there"


def _other_counts(rows_of: Counter[str], stated: dict[str, tuple[int, int]]) -> list[str]:
    """Splits that have more or fewer rows than the manifest says; none where it says nothing."""
    images_of = {split: stated.get(split, (0, 0))[0] for split in (*stated, *rows_of)} if stated else {}
    return [
        f"split {split}: {amount(rows_of[split], 'row')}, {MANIFEST} says {images:,}"
        for split, images in images_of.items()
        if rows_of[split] != images
    ]


def _shards(source: Path) -> list[Path]:
    return sorted((source / "data").glob("*.parquet"))


def local_rows(source: Path) -> Iterator[tuple[str, Row, Pixels]]:
    """(split, row without pixels, what reads its pixels) of every shard; raises SourceError for one that is damaged."""
    import pyarrow.parquet as parquet

    for path in _shards(source):
        split = path.name.partition("-")[0]
        with _reading(path), parquet.ParquetFile(path) as shard:
            columns = [name for name in shard.schema_arrow.names if name != "image"] + ["image.path"]
            for group in range(shard.num_row_groups):
                pixels = _GroupPixels(path, shard, group)
                batches = shard.iter_batches(batch_size=ROWS_AT_A_TIME, row_groups=[group], columns=columns)
                rows = (row for batch in batches for row in batch.to_pylist())
                for number, row in enumerate(rows):
                    yield split, row, partial(pixels.of, number)


class _GroupPixels:
    """The pictures of one row group of a shard, read as far as they are asked for, in order."""

    def __init__(self, path: Path, shard: Any, group: int) -> None:
        self._path, self._shard, self._group = path, shard, group
        self._pictures: Iterator[bytes | None] | None = None
        self._next = 0

    def of(self, number: int) -> bytes | None:
        """The bytes of row ``number``, which lies behind those that were asked for; None where it has none."""
        with _reading(self._path):
            if self._pictures is None:
                self._pictures = self._read()
            skipped, self._next = number - self._next, number + 1
            return next(islice(self._pictures, skipped, None), None)

    def _read(self) -> Iterator[bytes | None]:
        batches = self._shard.iter_batches(batch_size=ROWS_AT_A_TIME, row_groups=[self._group], columns=["image.bytes"])
        for batch in batches:
            for row in batch.to_pylist():
                yield _fields(row, "image").get("bytes")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        what = " ".join(str(error).split())[:120]
        raise SourceError(f"{path}: cannot be read as Parquet ({what}); get the file anew") from None


def hub_rows(name: str, commit: str | None = None) -> Iterator[tuple[str, Row, Pixels]]:
    """As ``local_rows``, of a data set on the Hub; raises HubError where it cannot be loaded."""
    from datasets import Image, load_dataset

    try:
        splits = load_dataset(name, revision=commit)
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise HubError(
            f"{name}: the data set cannot be loaded from the Hub ({what}); check the name and the token"
        ) from error
    for split, table in splits.items():
        if "image" in table.column_names:
            table = table.cast_column("image", Image(decode=False))
        for row in table:
            yield split, row, partial(_fields(row, "image").get, "bytes")


def _unpack(table: ImageTable, files: UnpackedFiles, split: str, row: Row, pixels: Pixels, place: str) -> str | None:
    """Take over one row and its picture; its image_id, or None where it was refused."""
    image_id, vehicle_id = row.get("image_id"), row.get("vehicle_id")
    named = isinstance(image_id, str) and isinstance(vehicle_id, str) and is_plain_name(image_id)
    if not named or not vehicle_id or not str(image_id).removesuffix("/").startswith(f"{vehicle_id}/"):
        detail = "a row needs an image_id that is its vehicle_id, a slash and a name"
        table.refuse(place, "malformed_line", detail)
        return None
    image_id, vehicle_id = str(image_id), str(vehicle_id)
    if "/" in vehicle_id:
        table.refuse(place, "no_identity", f"{image_id}: a vehicle_id has no '/'")
        return None
    path, stated = _own_path(table, files, _fields(row, "image").get("path")), row.get("sha256")
    sha256 = str(stated)
    is_there = path is not None and files.holds(path, sha256)
    content = None if is_there else pixels()
    if not is_there and not content:
        detail = f"{image_id}: the data set holds no pixels of this image; see pfcvr-data rebuild"
        table.refuse(place, "missing_file", detail)
        return None
    if content:
        sha256 = hashlib.sha256(content).hexdigest()
        if stated and stated != sha256:
            table.refuse(place, "changed_file", f"{image_id}: its bytes are not those whose sha256 its row names")
            return None
    path = path or _path_of(image_id, content or b"")
    own_split: Split | None = next((known for known in SPLITS if known == split), None)
    if not files.has_room(path):
        table.refuse(place, "bad_name", f"{image_id}: its name is too long for a file here")
        return None
    stated_of = {key: row.get(key) for key in ("camera_id", "timestamp", "color", "type", "model")}
    known = {key: None if value is None else str(value) for key, value in stated_of.items()}
    if not table.add(SourceImage(image_id, vehicle_id, path, **known, source_split=own_split), place):
        return None
    if content:
        files.put(path, content)
    files.remember(path, sha256)
    return image_id


def _write_annotations(image_id: str, row: Row, captions: IO[bytes], parts: IO[bytes]) -> None:
    """What JSON has no word for becomes null; the stages that read the files name what is lacking."""
    spoken = {part: text for part, text in _fields(row, "part_texts").items() if text}
    stated = {name: value for name, value in _fields(row, "attributes").items() if value}
    said = {"captions": row.get("captions") or [], "part_texts": spoken, "attributes": stated}
    captions.write(json.dumps({"image_id": image_id, **said}, default=_nothing).encode() + b"\n")
    found = {"parts": row.get("parts"), "part_grid": row.get("part_grid")}
    parts.write(json.dumps({"image_id": image_id, **found}, default=_nothing).encode() + b"\n")


def _nothing(_: Any) -> None:
    return None


def _fields(row: Row, column: str) -> Row:
    """The fields of a column of objects; none where it is absent or something else."""
    value = row.get(column)
    return value if isinstance(value, dict) else {}


def _own_path(table: ImageTable, files: UnpackedFiles, path: Any) -> str | None:
    """The path that the image had where it was exported, if that is free and inside the root."""
    steps = PurePosixPath(path).parts if isinstance(path, str) and is_plain_name(path) else ()
    taken = (CAPTIONS, PARTS_FILE, KNOWN_FILES, DESCRIPTION)
    if not steps or steps[0] in ("/", *taken) or ".." in steps or "\\" in str(path):
        return None
    own = str(PurePosixPath(*steps))
    is_image = PurePosixPath(own).suffix.lower() in IMAGE_SUFFIXES
    return own if is_image and not table.has_image(own) and files.has_room(own) else None


def _path_of(image_id: str, content: bytes) -> str:
    """A path from the image_id, for an image that has none of its own."""
    suffix = next((ending for start, ending in SIGNATURES.items() if content.startswith(start)), ".png")
    return "images/" + "/".join(quote(step, safe=" ") for step in image_id.split("/", 1)) + suffix
