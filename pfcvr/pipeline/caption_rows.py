"""Rows of a captions file, whatever its form: a JSON list, JSON Lines, CSV or TSV. A bad row costs only itself."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, AnyStr

from pfcvr.errors import SourceError
from pfcvr.pipeline.json_stream import JsonStream
from pfcvr.pipeline.sources.text_lines import UNDECODABLE, refuse_utf_16

NAME_KEYS = ("image_id", "file_path", "img_path", "filename", "file_name", "path", "image")
CAPTION_KEYS = ("captions", "caption")
MAX_ROW = 1 << 22  # bytes or characters: a row that is read takes many times its length in memory


@dataclass(frozen=True)
class CaptionRow:
    """One row by its keys; ``place`` is ``FILE:LINE``, or ``FILE:item N`` in a JSON list."""

    place: str
    values: dict[str, Any]

    def name(self) -> str | None:
        """What the row calls its image, or None."""
        for key in NAME_KEYS:
            value = self.values.get(key)
            if isinstance(value, str) and value.strip():
                return value.strip()
        own_id = self.values.get("id")
        return own_id.strip() if isinstance(own_id, str) and own_id.strip() else None

    def captions(self) -> list[Any]:
        """Every value that stands where a caption should, good or not."""
        found: list[Any] = []
        for key in CAPTION_KEYS:
            value = self.values.get(key)
            if value is not None:
                found += value if isinstance(value, list) else [value]
        return found


@dataclass(frozen=True)
class MalformedRow:
    place: str
    detail: str


def without_fraction(identity: str) -> str:
    """``identity``, but ``2`` for ``2.0``, which is how tools write whole numbers in a column where one is missing."""
    whole, point, fraction = identity.partition(".")
    return whole if point and whole.isdecimal() and fraction and not fraction.strip("0") else identity


def read_caption_rows(path: Path) -> Iterator[CaptionRow | MalformedRow]:
    """The rows of ``path`` one by one, with flat memory; raises SourceError for no file and for UTF-16."""
    if not path.is_file():
        raise SourceError(f"{path}: no such captions file; expected a JSON list, JSON Lines, CSV or TSV file")
    refuse_utf_16(path)
    reader = _READERS.get(path.suffix.lower(), _json_list if _starts_with_bracket(path) else _json_lines)
    return reader(path)


def _starts_with_bracket(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _json_lines(path: Path) -> Iterator[CaptionRow | MalformedRow]:
    with path.open("rb") as file:
        for number, line in enumerate(_bounded_lines(file, (b"\n",)), start=1):
            place = f"{path.name}:{number}"
            if line is None:
                yield MalformedRow(place, f"the line is longer than {MAX_ROW:,} bytes")
            elif line.strip():
                try:
                    value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    yield MalformedRow(place, f"not a line of JSON in UTF-8: {error}")
                    continue
                yield _row(place, value)


def _bounded_lines(file: IO[AnyStr], ends: tuple[AnyStr, ...]) -> Iterator[AnyStr | None]:
    """The lines of ``file``, which end in one of ``ends``; None for one that is longer than a row may be."""
    while line := file.readline(MAX_ROW + 1):
        if len(line) <= MAX_ROW:
            yield line
            continue
        while line and not line.endswith(ends):
            line = file.readline(MAX_ROW)
        yield None


def _json_list(path: Path) -> Iterator[CaptionRow | MalformedRow]:
    number = 0
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        items = JsonStream(file, max_value=MAX_ROW).items()
        while True:
            number += 1
            place = f"{path.name}:item {number}"
            try:
                yield _row(place, next(items))
            except StopIteration:
                return
            except ValueError:
                detail = f"the JSON is cut off, malformed or one row of more than {MAX_ROW:,} characters here"
                yield MalformedRow(place, f"{detail}; nothing after this place can be read")
                return


class _CountedLines(Iterator[str]):
    """The lines of ``file`` for the csv module, with the ``number`` of the last one; csv.Error for one too long."""

    def __init__(self, file: IO[str]) -> None:
        self._lines = _bounded_lines(file, ("\n", "\r"))
        self.number = 0

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        if line is None:
            raise csv.Error(f"the line is longer than {MAX_ROW:,} characters")
        return line


def _delimited(path: Path, delimiter: str) -> Iterator[CaptionRow | MalformedRow]:
    """Rows under a header of known columns; without such a header, column 1 is the path and column 2 the caption."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = _CountedLines(file)
        reader = csv.reader(lines, delimiter=delimiter)
        header: list[str] | None = None
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield MalformedRow(f"{path.name}:{lines.number}", f"not a row of fields: {error}")
                continue
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = [field.strip().lower() for field in fields]
                if {*NAME_KEYS, "id"} & set(header) and set(CAPTION_KEYS) & set(header):
                    continue
                header = ["file_path", "caption"]
            yield _delimited_row(f"{path.name}:{lines.number}", header, fields, delimiter)


def _delimited_row(place: str, header: list[str], fields: list[str], delimiter: str) -> CaptionRow | MalformedRow:
    if any(UNDECODABLE in field for field in fields):
        return MalformedRow(place, "not UTF-8 text")
    last = len(header) - 1
    if len(fields) > len(header) and header[last] in CAPTION_KEYS:
        # An unquoted caption may hold the delimiter.
        fields = [*fields[:last], delimiter.join(fields[last:])]
    if len(fields) != len(header):
        return MalformedRow(place, f"{len(fields)} fields instead of {len(header)}")
    values: dict[str, Any] = dict(zip(header, fields, strict=True))
    if values.get("captions", "").lstrip().startswith("["):
        try:
            values["captions"] = json.loads(values["captions"])
        except (ValueError, RecursionError):
            return MalformedRow(place, "the captions field starts like a JSON list and is none")
    return CaptionRow(place, values)


def _row(place: str, value: Any) -> CaptionRow | MalformedRow:
    if UNDECODABLE in str(value):
        return MalformedRow(place, "not UTF-8 text")
    if isinstance(value, dict):
        return CaptionRow(place, value)
    return MalformedRow(place, f"expected an object with an image and its captions, found {type(value).__name__}")


_READERS: dict[str, Callable[[Path], Iterator[CaptionRow | MalformedRow]]] = {
    ".jsonl": _json_lines,
    ".csv": lambda path: _delimited(path, ","),
    ".tsv": lambda path: _delimited(path, "\t"),
}
