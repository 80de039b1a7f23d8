"""A data set that pfcvr exported, from a folder or from the Hub: pictures are unpacked, annotations kept beside.

The unpacked folder holds the image files, ``captions.jsonl``, ``parts.jsonl`` and ``source.json``; the stages caption,
parts and split take theirs from it (``--captioner import``, ``--detector import``, ``--from-source``).
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from pfcvr.errors import HubError, SourceError
from pfcvr.files import atomic_write, write_json
from pfcvr.pipeline.images import IMAGE_SUFFIXES
from pfcvr.pipeline.sources import HUB_NAME, SourceImage, SourceListing
from pfcvr.pipeline.sources.image_table import ImageTable
from pfcvr.pipeline.sources.tree import is_plain_name
from pfcvr.records import SPLITS, Split

MANIFEST = "pfcvr.json"
KIND = "pfcvr-dataset"
CAPTIONS, PARTS_FILE = "captions.jsonl", "parts.jsonl"
ROWS_AT_A_TIME = 100
LONGEST_NAME = 255  # bytes; what most disks take
SIGNATURES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}
Row = dict[str, Any]


class PfcvrSet:
    """Importer of ``pfcvr.json`` with ``data/*.parquet``, or of a name on the Hub."""

    def recognise(self, source: Path) -> str | None:
        return f"found {MANIFEST}" if (source / MANIFEST).is_file() and _shards(source) else None

    def read(self, source: Path, unpacked: Path) -> SourceListing:
        from_hub = not source.exists() and HUB_NAME.fullmatch(str(source)) is not None
        if not from_hub and not _shards(source):
            raise SourceError(f"{source}: no data set of pfcvr; expected a folder with data/*.parquet, or a Hub name")
        unpacked.mkdir(parents=True, exist_ok=True)
        _write_terms(source, unpacked)
        table = ImageTable(unpacked.resolve())
        rows = hub_rows(str(source)) if from_hub else local_rows(source)
        with ExitStack() as opened:
            captions = opened.enter_context(atomic_write(unpacked / CAPTIONS))
            parts = opened.enter_context(atomic_write(unpacked / PARTS_FILE))
            for number, (split, row) in enumerate(rows, start=1):
                _unpack(table, split, row, f"{split}:row {number}", (captions, parts))
        texts = [table.root / CAPTIONS, table.root / PARTS_FILE]
        return table.listing("pfcvr", texts, {"captions_file": CAPTIONS, "unpacked_from": str(source)})


def _shards(source: Path) -> list[Path]:
    return sorted((source / "data").glob("*.parquet"))


def local_rows(source: Path) -> Iterator[tuple[str, Row]]:
    """(split, row) of every shard; raises SourceError for one that is damaged."""
    import pyarrow
    import pyarrow.parquet as parquet

    for path in _shards(source):
        split = path.name.partition("-")[0]
        try:
            with parquet.ParquetFile(path) as shard:
                for batch in shard.iter_batches(batch_size=ROWS_AT_A_TIME):
                    for row in batch.to_pylist():
                        yield split, row
        except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
            what = " ".join(str(error).split())[:120]
            raise SourceError(f"{path}: cannot be read as Parquet ({what}); get the file anew") from None


def hub_rows(name: str) -> Iterator[tuple[str, Row]]:
    """(split, row) of a data set on the Hub, pictures as their files; raises HubError where it cannot be loaded."""
    from datasets import Image, load_dataset

    try:
        splits = load_dataset(name)
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise HubError(
            f"{name}: the data set cannot be loaded from the Hub ({what}); check the name and the token"
        ) from error
    for split, table in splits.items():
        if "image" in table.column_names:
            table = table.cast_column("image", Image(decode=False))
        for row in table:
            yield split, row


def _unpack(table: ImageTable, split: str, row: Row, place: str, files: tuple[IO[bytes], IO[bytes]]) -> None:
    image_id, vehicle_id = row.get("image_id"), row.get("vehicle_id")
    named = isinstance(image_id, str) and isinstance(vehicle_id, str) and is_plain_name(image_id)
    if not named or not vehicle_id or not str(image_id).removesuffix("/").startswith(f"{vehicle_id}/"):
        detail = "a row needs an image_id that is its vehicle_id, a slash and a name"
        table.refuse(place, "malformed_line", detail)
        return
    image_id, vehicle_id = str(image_id), str(vehicle_id)
    if "/" in vehicle_id:
        table.refuse(place, "no_identity", f"{image_id}: a vehicle_id has no '/'")
        return
    picture = row.get("image") or {}
    content: bytes | None = picture.get("bytes")
    if not content:
        table.refuse(image_id, "missing_file", "the data set holds no pixels of this image; see pfcvr-data rebuild")
        return
    path = _path_for(table, image_id, picture.get("path"), content)
    own_split: Split | None = next((known for known in SPLITS if known == split), None)
    if not _has_room(table.root / path):
        table.refuse(image_id, "bad_name", "its name is too long for a file here")
        return
    stated_of = {key: row.get(key) for key in ("camera_id", "timestamp", "color", "type", "model")}
    known = {key: None if value is None else str(value) for key, value in stated_of.items()}
    if not table.add(SourceImage(image_id, vehicle_id, path, **known, source_split=own_split), place):
        return
    file = table.root / path
    if not file.is_file() or file.read_bytes() != content:
        file.write_bytes(content)
    captions, parts = files
    spoken = {part: text for part, text in (row.get("part_texts") or {}).items() if text}
    stated = {name: value for name, value in (row.get("attributes") or {}).items() if value}
    said = {"captions": row.get("captions") or [], "part_texts": spoken, "attributes": stated}
    captions.write(json.dumps({"image_id": image_id, **said}).encode() + b"\n")
    found = {"parts": row.get("parts"), "part_grid": row.get("part_grid")}
    parts.write(json.dumps({"image_id": image_id, **found}).encode() + b"\n")


def _path_for(table: ImageTable, image_id: str, path: Any, content: bytes) -> str:
    """The path that the image had where it was exported, if that is free and inside the root; else one of its id."""
    steps = PurePosixPath(path).parts if isinstance(path, str) and is_plain_name(path) else ()
    taken = (CAPTIONS, PARTS_FILE, "source.json")
    if steps and steps[0] not in ("/", *taken) and ".." not in steps and "\\" not in str(path):
        own = str(PurePosixPath(*steps))
        is_image = PurePosixPath(own).suffix.lower() in IMAGE_SUFFIXES
        if is_image and not table.has_image(own) and _has_room(table.root / own):
            return own
    suffix = next((ending for start, ending in SIGNATURES.items() if content.startswith(start)), ".png")
    return "images/" + "/".join(quote(step, safe=" ") for step in image_id.split("/", 1)) + suffix


def _has_room(file: Path) -> bool:
    """Whether a file can lie there; its folder is made. Not where a file is in a folder's place or the other way."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return not os.path.isdir(file) and len(os.fsencode(file.name)) <= LONGEST_NAME
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
            return False
        raise


def _write_terms(source: Path, unpacked: Path) -> None:
    """What the exporter's manifest says of its sources, as the ``source.json`` of the unpacked folder."""
    try:
        manifest: Any = json.loads((source / MANIFEST).read_bytes())
        sources = [own for own in manifest["sources"] if isinstance(own, dict)]
    except (OSError, ValueError, KeyError, TypeError):
        sources = []
    described = {
        "name": " + ".join(str(own.get("name")) for own in sources) or source.name,
        "licence": "; ".join(dict.fromkeys(str(own.get("licence")) for own in sources if own.get("licence")))
        or "see the card of the data set",
        "redistribute_images": bool(sources) and all(own.get("redistribute_images") is True for own in sources),
        "description": " ".join(dict.fromkeys(str(own.get("terms")) for own in sources if own.get("terms"))),
    }
    write_json(unpacked / "source.json", described)
