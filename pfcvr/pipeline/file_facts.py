"""What was found in image files before, so that importing again reads only the files that are new or changed.

A file counts as unchanged while its size and its times of modification and of change are those at which it was read.
Kept in ``import/files.sqlite``, a cache: without it, everything is read again.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pfcvr.pipeline.images import ImageFacts, inspect_image

TABLES = """
CREATE TABLE IF NOT EXISTS fact (path TEXT PRIMARY KEY, state TEXT, sha256 TEXT, width INTEGER, height INTEGER)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last (image_id TEXT PRIMARY KEY, path TEXT, sha256 TEXT) WITHOUT ROWID;
"""
FACTS_PER_COMMIT = 2000


class FileFacts:
    """The cache in ``path``; a damaged one is begun anew. Threads may share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._uncommitted = 0
        try:
            self._db = self._open(path)
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
            self._db = self._open(path)

    def _open(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.executescript(TABLES)
        return connection

    def inspect(self, path: Path) -> ImageFacts:
        """What ``inspect_image`` finds, without reading a file that has not changed since; raises as that does."""
        state = _state(path)
        with self._lock:
            row = self._db.execute("SELECT state, sha256, width, height FROM fact WHERE path = ?", (str(path),))
            known = row.fetchone()
        if known is not None and state is not None and known[0] == state:
            return ImageFacts(*known[1:])
        facts = inspect_image(path)
        with self._lock:
            values = (str(path), state, facts.sha256, facts.width, facts.height)
            self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?, ?, ?, ?)", values)
            self._uncommitted += 1
            if self._uncommitted >= FACTS_PER_COMMIT:
                self._db.commit()
                self._uncommitted = 0
        return facts

    def last_images(self) -> Iterator[tuple[str, str, str]]:
        """image_id, path and hash of every image of the last finished import, in order of the image_id."""
        with self._lock:
            rows = self._db.execute("SELECT image_id, path, sha256 FROM last ORDER BY image_id").fetchall()
        yield from rows

    def remember_images(self, images: Iterable[tuple[str, str, str]]) -> None:
        """Replace what ``last_images`` gives."""
        with self._lock:
            self._db.execute("DELETE FROM last")
            self._db.executemany("INSERT INTO last VALUES (?, ?, ?)", images)
            self._db.commit()

    def close(self) -> None:
        with suppress(sqlite3.DatabaseError):
            self._db.commit()
        self._db.close()


def _state(path: Path) -> str | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
