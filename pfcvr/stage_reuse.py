"""Results that still hold when the images of a workspace have grown or changed: those of rows that are as they were.

A stage whose results each follow from their own row seals ``rows.jsonl`` beside its records: of every row a digest.
When only the images differ from then, ``--overwrite`` keeps the results of unchanged rows and works on the others.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pfcvr.files import atomic_write, canonical_json, write_json
from pfcvr.jsonl import parse_line, record_line, whole_lines
from pfcvr.records import Record, Rejected
from pfcvr.scratch import temporary_tables
from pfcvr.stage_files import DRAFT, REJECTED, REJECTED_RUNNING, RUNNING
from pfcvr.stage_plan import Row, StagePlan

IMAGES_INPUTS = frozenset({"import", "select"})
DIGESTS = "rows.jsonl"
TABLES = """
CREATE TABLE old (key TEXT PRIMARY KEY, digest TEXT) WITHOUT ROWID;
CREATE TABLE same (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""


def only_images_differ(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether two fingerprints differ in nothing but which images there are."""
    old, new = found.get("inputs", {}), wanted["inputs"]
    differing = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    return found.get("settings") == wanted["settings"] and differing <= IMAGES_INPUTS


def write_digests(folder: Path, plan: StagePlan[Row]) -> None:
    """Seal which rows the results were made of."""
    with atomic_write(folder / DIGESTS) as file:
        for key, digest in _digests(plan.rows(), plan):
            file.write(canonical_json([key, digest]).encode() + b"\n")


def keep_unchanged(folder: Path, parts: Iterable[str], plan: StagePlan[Row]) -> None:
    """Lay the results of the rows that are as they were ready for a run; ``parts`` are the sealed files they are in."""
    with closing(temporary_tables(TABLES)) as rows:
        old = (tuple(json.loads(line)) for _, line in whole_lines(folder / DIGESTS))
        rows.executemany("INSERT OR REPLACE INTO old VALUES (?, ?)", old)
        same = "INSERT OR IGNORE INTO same SELECT key FROM old WHERE key = ? AND digest = ?"
        rows.executemany(same, _digests(plan.rows(), plan))

        def is_same(key: str) -> bool:
            return rows.execute("SELECT 1 FROM same WHERE key = ?", (key,)).fetchone() is not None

        with atomic_write(folder / RUNNING) as file:
            for name in parts:
                file.writelines(_lines_of(folder / name, plan.kind, is_same))
        with atomic_write(folder / REJECTED_RUNNING) as file:
            file.writelines(_lines_of(folder / REJECTED, Rejected, is_same))
    write_json(folder / DRAFT, {"fingerprint": plan.fingerprint, "total": plan.total})


def _digests(rows: Iterable[Row], plan: StagePlan[Row]) -> Iterator[tuple[str, str]]:
    for row in rows:
        content = record_line(row) if isinstance(row, Record) else repr(row).encode()
        yield plan.key(row), hashlib.sha256(content).hexdigest()[:32]


def _lines_of(path: Path, kind: type[Record], is_wanted: Callable[[str], bool]) -> Iterator[bytes]:
    for _, line in whole_lines(path):
        if is_wanted(parse_line(line, kind, path).key):
            yield line
