"""What could not be used of a file of captions or parts: kept in a SQLite table while the file is read, told after."""

import sqlite3
import threading
from collections.abc import Iterator

from pfcvr.records import Rejected

PAGE_ROWS = 500


def problem_rows(db: sqlite3.Connection, lock: threading.Lock, stage: str) -> Iterator[Rejected]:
    """The rows of table ``problem`` (number, subject, reason, detail) by number, read in pages under ``lock``."""
    query, last = "SELECT number, subject, reason, detail FROM problem WHERE number > ? ORDER BY number LIMIT ?", 0
    while True:
        with lock:
            page = db.execute(query, (last, PAGE_ROWS)).fetchall()
        for _, subject, reason, detail in page:
            yield Rejected(stage=stage, subject=subject, reason=reason, detail=detail)
        if len(page) < PAGE_ROWS:
            return
        last = page[-1][0]
