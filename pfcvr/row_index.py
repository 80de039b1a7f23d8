"""Which rows of a running stage are done and where their lines lie, in memory that does not grow with their number."""

from collections.abc import Iterator

from pfcvr.scratch import temporary_tables


class RowIndex:
    """Keys with the byte offset of their line, kept in a temporary SQLite file that vanishes when closed."""

    def __init__(self) -> None:
        self._rows = temporary_tables(
            "CREATE TABLE row (key TEXT PRIMARY KEY, place INTEGER, rejected INTEGER) WITHOUT ROWID"
        )

    def add(self, key: str, offset: int, rejected: bool) -> None:
        """Remember that ``key`` is done; a later line of the same key replaces an earlier one."""
        self._rows.execute("INSERT OR REPLACE INTO row VALUES (?, ?, ?)", (key, offset, rejected))

    def __contains__(self, key: str) -> bool:
        return self._rows.execute("SELECT 1 FROM row WHERE key = ?", (key,)).fetchone() is not None

    def __len__(self) -> int:
        return sum(self.counts())

    def counts(self) -> tuple[int, int]:
        """Number of kept and of rejected rows."""
        found = dict(self._rows.execute("SELECT rejected, count(*) FROM row GROUP BY rejected"))
        return found.get(0, 0), found.get(1, 0)

    def offsets(self, rejected: bool) -> Iterator[int]:
        """Offsets of the kept or of the rejected lines, in order of their key (by code point)."""
        query = "SELECT place FROM row WHERE rejected = ? ORDER BY key"
        for (offset,) in self._rows.execute(query, (rejected,)):
            yield offset

    def close(self) -> None:
        self._rows.close()
