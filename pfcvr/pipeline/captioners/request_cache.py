"""Answers that were paid for, kept by what they depend on, so that none is paid for twice.

One SQLite file in the workspace. It outlives the stage it serves: making captions again after another selection, or
judging them anew by better rules, asks for nothing that was answered before.
"""

import errno
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from pfcvr.errors import StageStopped, WorkspaceError
from pfcvr.files import sha256_json
from pfcvr.pipeline.captioners.chat_reply import Reply

OTHER_FILE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


class RequestCache:
    """Replies by the request they answer. Safe to use from several threads; one process at a time.

    Raises WorkspaceError when ``path`` is damaged, OSError when the disk is full, StageStopped when it fails otherwise.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise self._explained(error) from error
        try:
            # With an exclusive lock the write-ahead log needs no shared memory, which network file systems lack.
            self._run("PRAGMA locking_mode = EXCLUSIVE")
            self._run("PRAGMA journal_mode = WAL")
            self._run("PRAGMA synchronous = NORMAL")
            self._run("CREATE TABLE IF NOT EXISTS reply (request BLOB PRIMARY KEY, reply TEXT) WITHOUT ROWID")
        except BaseException:
            self._db.close()
            raise

    def get(self, request: dict[str, Any]) -> Reply | None:
        """The reply to ``request`` (all that it depends on, JSON values), or None when it was never answered."""
        found = self._run("SELECT reply FROM reply WHERE request = ?", (_digest(request),))
        return Reply(**json.loads(found[0][0])) if found else None

    def put(self, request: dict[str, Any], reply: Reply) -> None:
        """Keep ``reply``; it is on its way to the disk when this returns, and outlives a kill of this process."""
        self._run("INSERT OR REPLACE INTO reply VALUES (?, ?)", (_digest(request), json.dumps(reply.as_dict())))

    def __len__(self) -> int:
        """Number of kept answers."""
        ((count,),) = self._run("SELECT count(*) FROM reply")
        return int(count)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.DatabaseError) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, "no space left", str(self._path))
        if code in OTHER_FILE:
            return WorkspaceError(
                f"{self._path}: the kept answers are damaged ({error}); move the file away, "
                "its answers will be asked for again"
            )
        return StageStopped(
            f"{self._path}: answers cannot be kept ({error}); mend the cause and run the same command to continue"
        )


def _digest(request: dict[str, Any]) -> bytes:
    return bytes.fromhex(sha256_json(request))
