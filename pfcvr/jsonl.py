"""JSON Lines files that survive a kill: read records, find and cut a torn last line, walk lines by offset."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from pydantic import ValidationError

from pfcvr.errors import WorkspaceError
from pfcvr.records import Record

RecordT = TypeVar("RecordT", bound=Record)
BLOCK_BYTES = 1 << 16


def record_line(record: Record) -> bytes:
    """``record`` as one line of UTF-8 JSON."""
    return record.model_dump_json().encode() + b"\n"


def parse_line(line: bytes, kind: type[RecordT], path: Path, number: int | None = None) -> RecordT:
    """The record on ``line``; raises WorkspaceError naming the file (and line ``number``) when it is damaged."""
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        where = f"{path}:{number}" if number is not None else str(path)
        what = " ".join([".".join(map(str, problem["loc"])), problem["msg"]]).strip()
        raise WorkspaceError(f"{where}: damaged record ({what}); remove the stage's folder and run it again") from None


def read_records(path: Path, kind: type[RecordT]) -> Iterator[RecordT]:
    """The records of one file, one by one; raises WorkspaceError when it is gone or damaged."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise WorkspaceError(f"{path}: the file is gone; rerun the stage with --overwrite") from None
    with file:
        for number, line in enumerate(file, start=1):
            yield parse_line(line, kind, path, number)


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Byte offset and bytes of each complete line; nothing for a file that does not exist."""
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


def lines_at(file: IO[bytes], offsets: Iterable[int]) -> Iterator[bytes]:
    """The line that starts at each of ``offsets``."""
    for offset in offsets:
        file.seek(offset)
        yield file.readline()


def cut_torn_line(path: Path) -> None:
    """Drop what follows the last line break: the piece of a row that a kill let through."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(end - BLOCK_BYTES, 0)
            file.seek(start)
            line_break = file.read(end - start).rfind(b"\n")
            if line_break >= 0:
                end = start + line_break + 1
                break
            end = start
        if end < size:
            file.truncate(end)
