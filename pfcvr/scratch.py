"""Throw-away SQLite tables, so that matching, sorting and counting rows takes memory that does not grow with them."""

import sqlite3


def temporary_tables(script: str, across_threads: bool = False) -> sqlite3.Connection:
    """Tables that ``script`` creates in an unnamed file, gone when the connection is closed or the process ends.

    They are one open transaction without a journal: nothing is committed, nothing can be rolled back. With
    ``across_threads`` several threads may use the connection, one at a time; the caller holds a lock.
    """
    # An empty name makes SQLite spill to an unnamed temporary file once its small page cache is full.
    tables = sqlite3.connect("", isolation_level=None, check_same_thread=not across_threads)
    tables.execute("PRAGMA journal_mode = OFF")
    tables.executescript(script)
    tables.execute("BEGIN")
    return tables
