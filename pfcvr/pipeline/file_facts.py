"""What was found in image files before, so that importing again reads only the files that are new or changed.

A file counts as unchanged while its size and its times of modification and of change are those at which it was read.
Kept in ``import/files.sqlite``, a cache: without it, everything is read again.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pfcvr.errors import StageStopped
from pfcvr.pipeline.images import ImageFacts, inspect_image

TABLES = """
CREATE TABLE IF NOT EXISTS fact (path TEXT PRIMARY KEY, state TEXT, sha256 TEXT, width INTEGER, height INTEGER)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS last (image_id TEXT PRIMARY KEY, sha256 TEXT) WITHOUT ROWID;
CREATE TEMP TABLE present (image_id TEXT PRIMARY KEY, sha256 TEXT) WITHOUT ROWID;
"""
FACTS_PER_COMMIT = 2000
EXAMPLES = 5


class FileFacts:
    """The cache in ``path``; a damaged one is begun anew. Threads may share it.

    Whatever writes it raises StageStopped where the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self._uncommitted = 0
        try:
            self._db = self._open(path)
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
            with self._writing():
                self._db = self._open(path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StageStopped(
                f"{self._path}: what was read of the images cannot be kept ({error}); free some space and run the same "
                "command to continue"
            ) from error

    def _open(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.executescript(TABLES)
        return connection

    def inspect(self, path: Path) -> ImageFacts:
        """What ``inspect_image`` finds, without reading a file that has not changed since; raises as that does."""
        state = file_state(path)
        with self._lock:
            row = self._db.execute("SELECT state, sha256, width, height FROM fact WHERE path = ?", (str(path),))
            known = row.fetchone()
        if known is not None and state is not None and known[0] == state:
            return ImageFacts(*known[1:])
        facts = inspect_image(path)
        with self._lock, self._writing():
            values = (str(path), state, facts.sha256, facts.width, facts.height)
            self._db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?, ?, ?, ?)", values)
            self._uncommitted += 1
            if self._uncommitted >= FACTS_PER_COMMIT:
                self._db.commit()
                self._uncommitted = 0
        return facts

    def is_current(self, path: Path, sha256: str) -> bool:
        """Whether the file was read before, had this hash, and has not changed since."""
        # What is no link is known by its path as it stands, which spares looking at every folder above it.
        return self._knows(str(path), sha256) or self._knows(os.path.realpath(path), sha256)

    def _knows(self, path: str, sha256: str) -> bool:
        with self._lock:
            row = self._db.execute("SELECT state, sha256 FROM fact WHERE path = ?", (path,)).fetchone()
        return row is not None and tuple(row) == (file_state(Path(path)), sha256)

    def absent(self, present: Iterable[str]) -> tuple[int, list[str]]:
        """How many images of the last finished import are not among the image_ids ``present``, and the first ones."""
        with self._lock:
            self._fill("present", ((image_id, "") for image_id in present))
            return self._difference("last", "present")

    def compare_and_remember(self, images: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """How ``images``, (image_id, hash) each, differ from those of the last finished import; then they are the last.

        Empty after the first import.
        """
        with self._lock:
            self._fill("present", images)
            (known,) = self._db.execute("SELECT count(*) FROM last").fetchone()
            added, _ = self._difference("present", "last")
            vanished, examples = self._difference("last", "present")
            joined = "present JOIN last USING (image_id) WHERE present.sha256 <> last.sha256"
            (changed,) = self._db.execute(f"SELECT count(*) FROM {joined}").fetchone()
            with self._writing():
                self._db.execute("DELETE FROM last")
                self._db.execute("INSERT INTO last SELECT * FROM present")
                self._db.commit()
        return {"added": added, "changed": changed, "vanished": vanished, "examples": examples} if known else {}

    def _fill(self, table: str, images: Iterable[tuple[str, str]]) -> None:
        self._db.execute(f"DELETE FROM {table}")
        self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", images)

    def _difference(self, table: str, other: str) -> tuple[int, list[str]]:
        """How many images of ``table`` are not in ``other``, and the first ones."""
        missing = f"FROM {table} WHERE image_id NOT IN (SELECT image_id FROM {other})"
        (count,) = self._db.execute(f"SELECT count(*) {missing}").fetchone()
        shown = self._db.execute(f"SELECT image_id {missing} ORDER BY image_id LIMIT ?", (EXAMPLES,))
        return count, [image_id for (image_id,) in shown]

    def close(self) -> None:
        with suppress(sqlite3.DatabaseError):
            self._db.commit()
        self._db.close()


def file_state(path: Path) -> str | None:
    """Size and times of a file, which change when it does; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"
