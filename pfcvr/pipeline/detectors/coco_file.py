"""A COCO file as a stream: its three lists go item by item into a temporary SQLite file, whatever the order of keys."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pfcvr.errors import SourceError
from pfcvr.pipeline.json_stream import JsonStream
from pfcvr.pipeline.sources.text_lines import refuse_utf_16

REQUIRED_LISTS = ("images", "annotations", "categories")


class CocoFile:
    """The lists of one COCO file, read back item by item in the order of the file.

    Raises SourceError for a file that is missing, no JSON, or lacks a list.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._db = database
        self._db.execute("CREATE TABLE item (list TEXT, number INTEGER, body TEXT, PRIMARY KEY (list, number))")
        try:
            refuse_utf_16(path)
            with path.open(encoding="utf-8-sig", newline="") as file:
                lists = self._read(file)
        except FileNotFoundError:
            raise SourceError(f"{path}: there is no such annotation file; check --annotations") from None
        except IsADirectoryError:
            raise SourceError(f"{path}: is a folder; give the COCO file itself with --annotations") from None
        except ValueError as error:
            what = "".join(str(error).splitlines()[:1])
            raise SourceError(f"{path}: not readable as JSON ({what}); the file may be cut off, get it anew") from None
        for name in REQUIRED_LISTS:
            if name not in lists:
                raise SourceError(
                    f"{path}: not a COCO annotation file, it has no list '{name}'; "
                    f"expected {', '.join(REQUIRED_LISTS)} in one object"
                )

    def items(self, name: str) -> Iterator[Any]:
        """The items of the list ``name``, whatever they are."""
        for (body,) in self._db.execute("SELECT body FROM item WHERE list = ? ORDER BY number", (name,)):
            yield json.loads(body)

    def _read(self, file: IO[str]) -> set[str]:
        """Keep the items of the required lists; returns which of them are there. Of equal keys the last one counts."""
        lists: set[str] = set()
        stream = JsonStream(file)
        if stream.peek() != "{":
            stream.value()
            stream.finish()
            return lists
        for key in stream.object_keys():
            if key in REQUIRED_LISTS:
                self._db.execute("DELETE FROM item WHERE list = ?", (key,))
                lists.discard(key)
            if stream.peek() != "[":
                stream.value()
                continue
            for number, item in enumerate(stream.items()):
                if key in REQUIRED_LISTS:
                    self._db.execute("INSERT INTO item VALUES (?, ?, ?)", (key, number, json.dumps(item)))
            if key in REQUIRED_LISTS:
                lists.add(key)
        if not lists and stream.peek() == "{":
            return lists  # JSON Lines, of which one object is read
        stream.finish()
        return lists
