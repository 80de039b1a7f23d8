"""The folder into which the pictures of a data set are unpacked, and which of them lie there already.

``.files.jsonl`` names every file that was unpacked with its hash and the size and times it then had. A file that still
has these is not read again, nor is its picture.
"""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pfcvr.pipeline.file_facts import file_state
from pfcvr.scratch import temporary_tables

KNOWN_FILES = ".files.jsonl"
LONGEST_NAME = 255  # bytes; what most disks take
TABLES = "CREATE TABLE known (path TEXT PRIMARY KEY, sha256 TEXT, state TEXT) WITHOUT ROWID;"


class UnpackedFiles:
    """The files below ``root``, as an earlier import left them; ``record`` is the next ``.files.jsonl``."""

    def __init__(self, root: Path, record: IO[bytes]) -> None:
        self.root, self._record = root, record
        self._known = temporary_tables(TABLES)
        self._known.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?)", _known(root / KNOWN_FILES))

    def holds(self, path: str, sha256: str) -> bool:
        """Whether the file ``path`` was unpacked before with this hash, and has not changed since."""
        found = self._known.execute("SELECT sha256, state FROM known WHERE path = ?", (path,)).fetchone()
        return found is not None and found == (sha256, file_state(self.root / path))

    def has_room(self, path: str) -> bool:
        """Whether a file can lie there; its folder is made. Not where a file is in a folder's place or the reverse."""
        file = self.root / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return not os.path.isdir(file) and len(os.fsencode(file.name)) <= LONGEST_NAME
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
                return False
            raise

    def put(self, path: str, content: bytes) -> None:
        """Write the file unless it has this content."""
        file = self.root / path
        if not file.is_file() or file.read_bytes() != content:
            file.write_bytes(content)

    def remember(self, path: str, sha256: str) -> None:
        """Take the file, which has this hash, for one that the next import need not read."""
        line = {"path": path, "sha256": sha256, "state": file_state(self.root / path)}
        self._record.write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        self._known.close()


def _known(path: Path) -> Iterator[tuple[str, str, str]]:
    """Path, hash and state of each line; what is missing or damaged only costs time."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                own = json.loads(line)
                yield str(own["path"]), str(own["sha256"]), str(own["state"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return
