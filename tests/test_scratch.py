"""Throw-away tables: large ones lie on disk, all of them leave nothing behind."""

import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pfcvr.scratch import temporary_tables

BLOB = bytes(10_000)


def nameless_file_bytes() -> int:
    """Bytes in the files that this process holds open and no folder names; logs of the test run may grow beside."""
    total = 0
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            found = os.fstat(int(name))
            total += found.st_size if stat.S_ISREG(found.st_mode) and found.st_nlink == 0 else 0
    return total


def in_another_thread(ask: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(ask).result()


def test_many_rows_go_to_a_file_without_a_name_that_vanishes_when_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    before = nameless_file_bytes()
    with closing(temporary_tables("CREATE TABLE a (body BLOB); CREATE TABLE b (body BLOB)")) as tables:
        tables.executemany("INSERT INTO a VALUES (?)", ((BLOB,) for _ in range(2_000)))
        tables.execute("INSERT INTO b SELECT body FROM a WHERE rowid <= 7")
        assert tables.execute("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)").fetchone() == (2_000, 7)
        assert nameless_file_bytes() - before > 10_000_000
        assert list(tmp_path.iterdir()) == []
    assert nameless_file_bytes() == before


def test_two_openings_know_nothing_of_each_other() -> None:
    script = "CREATE TABLE row (key TEXT PRIMARY KEY)"
    with closing(temporary_tables(script)) as one, closing(temporary_tables(script)) as other:
        one.execute("INSERT INTO row VALUES ('7')")
        assert other.execute("SELECT count(*) FROM row").fetchone() == (0,)


def test_another_thread_may_ask_only_where_that_was_agreed() -> None:
    script = "CREATE TABLE row (key TEXT)"
    with closing(temporary_tables(script)) as own, closing(temporary_tables(script, across_threads=True)) as shared:
        count = "SELECT count(*) FROM row"
        assert in_another_thread(lambda: shared.execute(count).fetchone()) == (0,)
        with pytest.raises(sqlite3.ProgrammingError, match="thread"):
            in_another_thread(lambda: own.execute(count))
