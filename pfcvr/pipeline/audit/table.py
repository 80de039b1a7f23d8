"""A throw-away table of all images and captions, so that audits compare them in memory that does not grow."""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from pfcvr.pipeline.joined import JoinedImage
from pfcvr.scratch import temporary_tables

WORD = re.compile(r"\w+")


class AuditTable:
    """SQLite in an unnamed temporary file: table ``image`` (image_id, vehicle, split, sha256, fingerprint, thumbnail)
    and table ``caption`` (image_id, vehicle, words: a hash of the caption's words in lower case)."""

    def __init__(self) -> None:
        self._rows = temporary_tables(
            "CREATE TABLE image (image_id TEXT, vehicle TEXT, split TEXT, sha256 TEXT, "
            "fingerprint INTEGER, thumbnail BLOB); CREATE TABLE caption (image_id TEXT, vehicle TEXT, words BLOB)"
        )

    def add(self, joined: JoinedImage, fingerprint: int | None, thumbnail: bytes | None) -> None:
        image = joined.image
        row = (image.image_id, image.vehicle_id, joined.split, image.sha256, fingerprint, thumbnail)
        self._rows.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?)", row)
        for text in joined.caption.texts if joined.caption is not None else ():
            words = hashlib.sha256(" ".join(WORD.findall(text.lower())).encode()).digest()
            self._rows.execute("INSERT INTO caption VALUES (?, ?, ?)", (image.image_id, image.vehicle_id, words))

    def select(self, query: str) -> Iterator[tuple[Any, ...]]:
        yield from self._rows.execute(query)

    def close(self) -> None:
        self._rows.close()
