"""Which tool wrote a file of edits, told from its first bytes and keys."""

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from pfcvr.errors import SourceError
from pfcvr.pipeline.caption_rows import CAPTION_KEYS
from pfcvr.pipeline.json_stream import JsonStream
from pfcvr.pipeline.sources.text_lines import refuse_utf_16
from pfcvr.records import EditForm

EXPECTED = (
    "captions as JSON, JSON Lines, CSV or TSV, or parts as a COCO file, a Label Studio JSON export or a CVAT XML export"
)
FORM_OF_SUFFIX = {".csv": "its name ends in .csv", ".tsv": "its name ends in .tsv"}


def recognise(path: Path) -> tuple[EditForm, str]:
    """The form of the file ``path`` and why; raises SourceError where it is none that can be merged."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file of edits; expected {EXPECTED}")
    refuse_utf_16(path)
    with path.open("rb") as raw:
        start = raw.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"PK"):
        raise SourceError(f"{path}: is a zip archive; unpack it and merge the annotation file that it holds")
    if path.suffix.lower() in FORM_OF_SUFFIX:
        return "captions", FORM_OF_SUFFIX[path.suffix.lower()]
    if start.startswith(b"<"):
        return "cvat", "it is XML"
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        try:
            found = _of_json(file, path)
        except ValueError as error:
            what = "".join(str(error).splitlines()[:1])
            raise SourceError(f"{path}: not readable as JSON ({what}); expected {EXPECTED}") from None
    if found is None:
        raise SourceError(f"{path}: nothing here says what it is; expected {EXPECTED}")
    return found


def _of_json(file: IO[str], path: Path) -> tuple[EditForm, str] | None:
    stream = JsonStream(file)
    if stream.peek() == "[":
        item = next(stream.items(), None)
        return _of_item(item, path) if isinstance(item, dict) else None
    keys: set[str] = set()
    for key in stream.object_keys():
        if key in ("images", "annotations", "categories") and stream.peek() == "[":
            return "coco", f"it has a list '{key}' at its top"
        stream.value()
        keys.add(key)
    return _of_caption_keys(keys)


def _of_item(item: dict[str, Any], path: Path) -> tuple[EditForm, str] | None:
    if "annotations" in item and "data" in item:
        return "label-studio", "its items have 'data' and 'annotations'"
    if "annotation_id" in item or "annotator" in item:
        raise SourceError(f"{path}: is Label Studio's JSON-MIN, which says too little; export it as JSON")
    return _of_caption_keys(item)


def _of_caption_keys(keys: Iterable[str]) -> tuple[EditForm, str] | None:
    found = sorted(set(keys) & {*CAPTION_KEYS, "part_texts"})
    return ("captions", f"its rows have '{found[0]}'") if found else None
